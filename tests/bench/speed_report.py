"""Turns the measurements of speed.py into text and a plot."""

import gpu_peaks
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, PEER, LIMIT = "#2a6f97", "#bc6c25", "#8d99ae"


def range_of(spread, digits):
    return f"{spread['min']:.{digits}f}..{spread['max']:.{digits}f}"


def table(header, rows):
    """Lines of columns, the first to the left and the others to the right."""
    cells = [header, *rows]
    first, *widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return ["  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]).rstrip() for row in cells]


# --- text --------------------------------------------------------------------------------------------------------

def steps(results):
    rows = [[f"Roundtable, {name}", f"{row['step']['median']:.4f}", range_of(row["step"], 4),
             f"{row['ratio']['median']:.2f}", range_of(row["ratio"], 2), f"{row['limit_ratio']['median']:.2f}",
             f"{row['block']['median']:.1f}", f"{row['block_ratio']['median']:.2f}"]
            for name, row in results["layouts"].items()]
    peer = results["auto-round"]
    how = ", torch.compile" if peer["compiled"] else ""
    rows.append([f"auto-round {peer['version']}{how}, {results['settings']['threads']} threads",
                 f"{peer['step']['median']:.4f}", range_of(peer["step"], 4), "", "",
                 f"{peer['limit_ratio']['median']:.2f}", f"{peer['block']['median']:.1f}", ""])
    for name, row in results["layouts"].items():
        rows.append([f"matrix products alone, {name}", f"{row['limit']['median']:.4f}", range_of(row["limit"], 4)]
                    + [""] * 5)
    header = ["", "s per step", "range", "auto-round / it", "range", "/ its limit", "s per block", "auto-round / it"]
    return table(header, rows)


def scaling(results):
    rows = [[str(row["ranks"]), f"{row['step']['median']:.4f}", f"{row['speedup']['median']:.2f}",
             range_of(row["speedup"], 2), f"{100 * row['efficiency']['median']:.0f} %"] for row in results["scaling"]]
    return table(["ranks of one thread", "s per step", "speed-up", "range", "efficiency"], rows)


def shares(results):
    return table(["", "s per step", "share"], [[row["part"], f"{row['seconds']:.4f}", f"{100 * row['share']:.1f} %"]
                                             for row in results["shares"]])


def kernels(results):
    header = ["", "weight", "microseconds", "GB/s", "copy, GB/s", "of the copy"]
    rows = [[k["kernel"], f"{k['rows']}x{k['columns']}", f"{1e6 * k['seconds']:.1f}", f"{k['gb_per_s']:.1f}",
             f"{k['copy_gb_per_s']:.1f}", f"{100 * k['share_of_copy']:.0f} %"] for k in results["kernels"]]
    if results["device"] == "cuda":  # a CPU's peak is not known
        header.append("of the memory's peak")
        for row, k in zip(rows, results["kernels"]):
            row.append(gpu_peaks.percent(k["share_of_peak"]))
    return table(header, rows)


def products(results):
    return table(["", "s", "TFLOP/s", "of the matrix peak"],
                 [[part, f"{row['seconds']:.4f}", f"{row['tflops']:.1f}", gpu_peaks.percent(row["share_of_peak"])]
                  for part, row in results["products"].items()])


def sums(results):
    def rate(row, key):
        return "-" if row[key] is None else f"{row[key]:.1f}"

    return table(["", "MB", "microseconds", "GB/s", "on the bus, GB/s"],
                 [[row["what"], f"{row['bytes'] / 1e6:.1f}", f"{1e6 * row['seconds']:.1f}", rate(row, "gb_per_s"),
                   rate(row, "bus_gb_per_s")] for row in results["sums"]["reductions"]])


def on_gpu(results):
    """The products and sums of `--device cuda`, and the peaks that percent refer to."""
    peaks, settings, lines = results["peaks"], results["settings"], []
    known = " and ".join(f"{value:g} {unit}" for value, unit in
                         ((peaks["memory_gb_per_s"], "GB/s"), (peaks["matrix_tflops"], "TFLOP/s")) if value)
    lines += ["", f"Peaks by the data sheet: {known or 'not known for this GPU; give --memory-peak and --matrix-peak'}",
              "", f"Matrix products of a step of Llama-3.1-8B's block, bf16, {settings['batch_size']} samples of "
              f"{settings['seqlen']} tokens (gemm_limit.py)", *products(results)]
    if results["sums"]:
        ranks = results["sums"]["ranks"]
        lines += ["", f"Sum of a block's gradients over {ranks} GPU{'s' * (ranks > 1)} by NCCL (nccl_bench.cc)"
                  + (": one GPU has no bus, and shows only what the calls cost" if ranks == 1 else ""), *sums(results)]
    return lines


def comparison(results):
    s = results["settings"]
    rate = results["flops_per_step"] / results["limit_seconds_per_step"] / 1e12
    return [f"W{s['bits']}, groups of {s['group_size']}, batch {s['batch_size']}, seqlen {s['seqlen']}, "
            f"{s['samples']} samples, {s['iters']} iterations; blocks 2 to {s['blocks']}; "
            f"{s['repeats']} round(s) of all in turns",
            "A step: seconds of the tuner over its iterations. A block: from the end of the one before to its own end.",
            "",
            *steps(results), "",
            f"The products alone run at {rate:.2f} TFLOP/s ({results['layout']}).", "",
            f"Where a step goes ({results['layout']}). This is not a profile: each part was timed alone, outside the",
            "program, in as many processes of as many threads. The program itself counts the waiting. The rest is the",
            "step less these parts: norms, softmax, activation, copies, and what the parts take longer inside it.",
            *shares(results), "",
            f"Ranks ({results['machine']['cores']} cores here)", *scaling(results)]


def text(results):
    machine = results["machine"]
    said = ("cpu", "gpu", "system", "roundtable", "mpi")
    title = ", ".join([*(machine[key] for key in said if machine[key]), f"torch {machine['torch']}"])
    lines = [title, *(comparison(results) if results["seconds_per_step"] else []), "",
             f"Kernels on {results['device']}, compared with a copy of as many bytes in the same run (kernels_bench)",
             *kernels(results), *(on_gpu(results) if results["device"] == "cuda" else [])]
    return "\n".join(lines)


# --- plot --------------------------------------------------------------------------------------------------------

def error_bars(spreads):
    """matplotlib's xerr or yerr: how far the least and the most are from the median."""
    return [[s["median"] - s["min"] for s in spreads], [s["max"] - s["median"] for s in spreads]]


def draw_steps(axes, results):
    layouts = results["layouts"]
    bars = ([(f"Roundtable\n{name}", row["step"], OURS) for name, row in layouts.items()]
            + [(f"auto-round\n{results['settings']['threads']} threads", results["auto-round"]["step"], PEER)]
            + [(f"products alone\n{name}", row["limit"], LIMIT) for name, row in layouts.items()])
    names, spreads, colours = zip(*bars)
    axes.barh(names, [s["median"] for s in spreads], xerr=error_bars(spreads), color=colours, capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel("seconds per step")


def draw_shares(axes, results):
    rows = results["shares"]
    axes.barh([row["part"] for row in rows], [100 * row["share"] for row in rows], color=OURS)
    axes.invert_yaxis()
    axes.set_xlabel(f"% of a step, {results['layout']}; parts timed alone")


def draw_scaling(axes, results):
    rows = results["scaling"]
    ranks = [row["ranks"] for row in rows]
    spreads = [row["speedup"] for row in rows]
    axes.errorbar(ranks, [s["median"] for s in spreads], yerr=error_bars(spreads), color=OURS, marker="o", capsize=3)
    cores = results["machine"]["cores"]
    axes.plot(ranks, [min(n, cores) for n in ranks], color=LIMIT, linestyle="--", label=f"ideal on {cores} cores")
    axes.set_xticks(ranks)
    axes.set_xlabel("ranks of one thread")
    axes.set_ylabel("speed-up")
    axes.legend()


def draw_kernels(axes, results):
    rows = results["kernels"]
    names = [f"{k['kernel']} {k['rows']}x{k['columns']}" for k in rows]
    axes.barh(names, [100 * k["share_of_copy"] for k in rows], color=OURS)
    axes.invert_yaxis()
    axes.axvline(100, color=LIMIT, linestyle="--")
    axes.set_xlabel(f"% of a copy's bytes per second, {results['device']}")


def draw(results, path):
    panels, edge = [draw_kernels], 1
    if results["seconds_per_step"]:
        panels, edge = [draw_steps, draw_shares, draw_scaling, draw_kernels], 2
    figure, axes = plt.subplots(edge, edge, figsize=(6 * edge, 4 * edge), squeeze=False, layout="constrained")
    for panel, place in zip(panels, axes.flat):
        panel(place, results)
    figure.savefig(path)
    plt.close(figure)
