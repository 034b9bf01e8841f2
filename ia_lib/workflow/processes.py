"""Training in several processes: each computes its share of every batch, and all take the same step.

The notebook starts them by torch's launcher on this machine; `accelerate launch` or `torchrun` starts them on several
machines, of the command `stage TABLE RUN tune`. Their place among the others stands in the environment, as those
launchers put it there.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ia_lib.paths import root
from ia_lib.workflow import ending
from ia_lib.workflow.stages import CHANGES, Stage

if TYPE_CHECKING:
    from ia_lib.training.trainer import Stop

# Set for processes whose notebook has opened the stage and finishes it.
OPENED = "IA_OPENED"
# In how many parts they compute their examples of a batch, if not in as many as their row says.
PARTS = "IA_PARTS"
_PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ERROR = re.compile(r"(?:\[rank\d+\]: )?(?:[a-z_]\w*\.)*(\w*(?:Error|Exception|Refusal): .*)")
# What the others say when one is gone: no cause.
_LEFT = re.compile(r"DistBackendError|onnection (?:closed|reset)|ChildFailedError|Broken pipe")


def here() -> int:
    """How many processes this one is among; 1, if no launcher has started it."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_first() -> bool:
    """Whether this process writes what all have made."""
    return os.environ.get("RANK", "0") == "0"


def leave() -> None:
    """Go on alone: what is started from here on is none of several processes."""
    for name in _PLACE:
        os.environ.pop(name, None)


def train(stage: Stage, steps: int, on_log: Callable[[dict], None] | None = None) -> None:
    """Train the opened `stage` for `steps` in as many processes as its row says; `on_log` gets the records of their
    one log. Where one of them runs out of memory, all begin again behind the last checkpoint, with their examples of a
    batch in twice as many parts.

    Raises ValueError for more processes than GPUs, where there are any, RuntimeError with the error of the process that
    failed, and KeyboardInterrupt where a signal stopped them.
    """
    import torch

    from ia_lib.training.trainer import Stop

    run, log = stage.run, stage.folder.with_name("tune.processes.log")
    if torch.cuda.is_available() and run.train.processes > torch.cuda.device_count():
        raise ValueError(
            f"processes: found {run.train.processes}; allowed: {torch.cuda.device_count()} at most, the GPUs here"
        )
    rows, parts = run.per_step // run.train.processes, run.train.accumulation
    with Stop() as stop:
        while (failed := _together(stage, steps, parts, log, stop, on_log)) is not None:
            if stop.asked:
                raise KeyboardInterrupt("stopped")
            size = -(-rows // parts)
            if not failed.startswith("OutOfMemoryError") or size == 1:
                raise RuntimeError(f"{failed} (see {log})")
            parts = -(-rows // (size // 2))
            print(f"memory is too small for {size} examples at once: from now on {size // 2}, the batch stays the same")
    log.unlink()


def _together(
    stage: Stage, steps: int, parts: int, log: Path, stop: "Stop", on_log: Callable[[dict], None] | None
) -> str | None:
    """Start the processes and wait for them; returns None, or the error of the one that failed."""
    import psutil

    run, (name, changes) = stage.run, stage.asked or (stage.run.name, {})
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(run.train.processes), "-m"]
    command = [sys.executable, "-m", *launcher, "ia_lib.runs", "stage", str(stage.table.resolve()), name, "tune"]
    more = {OPENED: "1", PARTS: str(parts), ending.PARENT: str(os.getpid()), CHANGES: json.dumps(changes)}
    more |= {"OMP_NUM_THREADS": str(run.threads), "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*command, "--outputs", str(stage.outputs)],
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=root(),
            env={**os.environ, **more},
        )
        told, asked = 0, False
        try:
            while process.poll() is None:
                if stop.asked and not asked:
                    asked = True
                    # not the launcher, which would give them half a minute
                    for worker in psutil.Process(process.pid).children():
                        worker.terminate()
                try:
                    process.wait(0.5)
                except subprocess.TimeoutExpired:
                    told = _tell(stage, told, steps, on_log)
        finally:
            if process.poll() is None:
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
    _tell(stage, told, steps, on_log)
    if not process.returncode:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    found = [match[1] for line in lines if (match := _ERROR.match(line.strip())) and not _LEFT.search(line)]
    return found[0] if found else "one of the processes was killed"


def _tell(stage: Stage, told: int, steps: int, on_log: Callable[[dict], None] | None) -> int:
    """Hand on the log's records behind the first `told`; returns how many there are."""
    log = stage.part / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    lines = [line for line in lines if line.endswith("\n")]
    for line in lines[told:] if on_log else ():
        on_log({**json.loads(line), "of": steps})
    return len(lines)
