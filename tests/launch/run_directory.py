"""A run directory as the program leaves it, made up: for the tests of launch/report.py."""

import json
import pathlib
import random
import struct

LAYERS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
          "mlp.down_proj"]


def journal_record(record):
    payload = json.dumps(record).encode()
    return struct.pack("<IIQ", len(payload), len(payload) ^ 0xFFFFFFFF, 0) + payload


def block_event(block, stage, group, end, iterations, seconds, layers):
    draw = random.Random(block)
    first = 1e-4 * 1.15 ** block
    losses = [first * (0.55 + 0.45 * 0.97 ** i) * draw.uniform(0.93, 1.07) for i in range(iterations)]
    losses[:1] = [first] * bool(losses)
    best = min(losses, default=0)
    errors = {}
    for name in layers:
        nearest = 0.002 * draw.uniform(0.5, 3)
        errors[name] = {"nearest": nearest, "tuned": nearest * draw.uniform(0.4, 0.9)}
    return {"time": end, "event": "block", "stage": stage, "block": block, "group": group,
            "files": [{"name": "model.safetensors", "digest": "0", "bytes": 1}], "first_loss": losses[0] if losses else 0, "best_loss": best,
            "best_iteration": losses.index(best) if losses else 0, "seconds": seconds, "losses": losses,
            "layer_errors": errors}


def make(path, blocks=30, groups=2, ranks=4, iterations=200, finished=True, pause=7200, layers=LAYERS):
    """Writes the directory and returns its path. A pause stands in the middle: the run was started twice."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    time = 1.7e9
    plan = {"ranks": ranks, "groups": groups, "shards": ranks // groups, "expert_parts": 1, "stages": groups, "blocks": blocks,
            "finished_blocks": 0, "warnings": [], "layers_in_16_bits": []}
    events = [{"time": time, "event": "start"} | plan,
              {"time": time + 30, "event": "phase", "phase": "calibrate", "seconds": 29.5}]
    journal = [{"type": "run"}]
    per_group = blocks // groups
    for place in range(per_group):
        if place == per_group // 2:
            time += pause
            events.append({"time": time, "event": "start"} | plan)
        for group in range(groups):
            end = time + 30 + (place + 1) * 40 + group
            block = group * per_group + place
            event = block_event(block, group, group, end, iterations, 40, layers)
            events.append(event)
            journal.append({k: v for k, v in event.items() if k not in ("losses", "layer_errors", "time", "event")}
                           | {"type": "block"})
    if finished:
        end = time + 40 + per_group * 40
        for name, seconds in (("tune", (per_group - per_group // 2) * 40), ("assemble", 4), ("prove", 2), ("evaluate", 50)):
            end += seconds if name != "tune" else 0
            events.append({"time": end, "event": "phase", "phase": name, "seconds": seconds})
        summary = {"output": "out", "seconds": {"tune": 1}, "perplexity": {"float": 44.48, "quantized": 47.6, "tokens": 32704},
                   "divergence": {"mean": 0.06254, "p99": 0.5127, "same_top": 0.8934},
                   "peak_bytes": {name: [int(3.4e9 * f + 1e7 * rank) for rank in range(ranks)]
                                  for name, f in (("plan", .1), ("calibrate", .6), ("tune", 1), ("evaluate", .7))},
                   "bytes": {"before": 269100000, "after": 114000000}}
        journal.append({"type": "summary", "summary": summary})
        events.append({"time": end, "event": "summary"} | summary)
    (path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (path / "journal").write_bytes(b"".join(map(journal_record, journal)))
    (path / "config.yaml").write_text("model:\n  path: demo/model\ntuning:\n  iters: 200\n" + "".join(
        f"  key_{i}: a value that is rather long, for the width of a phone, {i}\n" for i in range(12)))
    return path
