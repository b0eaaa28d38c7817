"""TensorBoard's event files of a run, for launch/report.py --tensorboard: one curve per block, the losses of all blocks over
their number, the time of each phase, perplexity."""

import shutil

from exit_codes import MachineFailure
from report_record import number, numbers, table


def writer_class():
    """tensorboardX needs no framework; torch's own needs the package tensorboard."""
    try:
        from tensorboardX import SummaryWriter
        return SummaryWriter
    except ImportError:
        pass
    try:
        from torch.utils.tensorboard import SummaryWriter
        return SummaryWriter
    except ImportError:
        raise MachineFailure("--tensorboard needs a package that is not installed; fix: pip install tensorboardX") from None


def write(run, directory):
    """Replaces `directory`, so that a second call does not draw every curve twice."""
    make = writer_class()
    shutil.rmtree(directory, ignore_errors=True)
    with make(str(directory)) as out:
        for block, record in run.blocks.items():
            end = number(record.get("time"))
            for i, loss in enumerate(numbers(record.get("losses"))):
                if loss is not None:
                    out.add_scalar(f"loss/block_{block:03d}", loss, i, walltime=end)
            for name in ("first_loss", "best_loss", "seconds"):
                if (value := number(record.get(name))) is not None:
                    out.add_scalar(f"blocks/{name}", value, block, walltime=end)
        for event in run.of("phase"):
            if (value := number(event.get("seconds"))) is not None:
                out.add_scalar(f"seconds/{event.get('phase')}", value, 0, walltime=number(event["time"]))
        for name in ("float", "quantized"):
            if (value := number(table((run.summary or {}).get("perplexity")).get(name))) is not None:
                out.add_scalar(f"perplexity/{name}", value, 0)
        for name in ("mean", "p99", "same_top"):
            if (value := number(table((run.summary or {}).get("divergence")).get(name))) is not None:
                out.add_scalar(f"divergence/{name}", value, 0)
        out.add_text("config", "    " + run.config.replace("\n", "\n    "))
    return directory
