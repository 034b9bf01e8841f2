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

from ia_lib.paths import root
from ia_lib.workflow import ending
from ia_lib.workflow.stages import CHANGES, Stage

# Set for processes whose notebook has opened the stage and finishes it.
OPENED = "IA_OPENED"
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
    one log.

    Raises ValueError for more processes than GPUs, where there are any, RuntimeError with the error of the process that
    failed, and KeyboardInterrupt where a signal stopped them.
    """
    import psutil
    import torch

    from ia_lib.training.trainer import Stop

    if torch.cuda.is_available() and stage.run.train.processes > torch.cuda.device_count():
        raise ValueError(
            f"processes: found {stage.run.train.processes}; allowed: {torch.cuda.device_count()} at most, the GPUs here"
        )
    run, log = stage.run, stage.folder.with_name("tune.processes.log")
    name, changes = stage.asked or (run.name, {})
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(run.train.processes), "-m"]
    command = [sys.executable, "-m", *launcher, "ia_lib.runs", "stage", str(stage.table.resolve()), name, "tune"]
    more = {OPENED: "1", ending.PARENT: str(os.getpid()), CHANGES: json.dumps(changes)}
    more |= {"OMP_NUM_THREADS": str(run.threads), "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as file, Stop() as stop:
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
    if asked and process.returncode:
        raise KeyboardInterrupt("stopped")
    if process.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [match[1] for line in lines if (match := _ERROR.match(line.strip())) and not _LEFT.search(line)]
        raise RuntimeError(f"{found[0] if found else 'one of the processes was killed'} (see {log})")
    log.unlink()


def _tell(stage: Stage, told: int, steps: int, on_log: Callable[[dict], None] | None) -> int:
    """Hand on the log's records behind the first `told`; returns how many there are."""
    log = stage.part / "log.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    lines = [line for line in lines if line.endswith("\n")]
    for line in lines[told:] if on_log else ():
        on_log({**json.loads(line), "of": steps})
    return len(lines)
