"""Carrying out a table's stages: Snakemake runs the jobs side by side, one of them at a time has the table's lock."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ia_lib.paths import root
from ia_lib.workflow import progress
from ia_lib.workflow.graph import Table
from ia_lib.workflow.stages import Stage, StageFailed, write_json

COMMAND = (sys.executable, "-m", "ia_lib.runs")


def execute(table: Table, runs: list[str] | None = None, cores: int | None = None) -> list[str]:
    """Let Snakemake do what is missing, rows side by side, and make the report; returns what failed, a line each.

    A failing row does not stop the others.
    """
    for name in runs or []:
        table.run(name)
    table.check(runs)
    table.settle(runs)
    failed = make(table, [stage for stage in table.stages(runs) if not stage.done], runs, cores)
    report = table.report(finished_only=True)
    if report.needs and not report.done:
        command = [*COMMAND, "stage", str(table.path.resolve()), "-", "report", "--outputs", str(table.outputs)]
        answer = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
        failed += [answer.stderr.strip().splitlines()[-1]] if answer.returncode else []
    return failed


def make(
    table: Table,
    todo: list[Stage],
    runs: list[str] | None = None,
    cores: int | None = None,
    report: bool = True,
) -> list[str]:
    """Let Snakemake do the stages in `todo`, which are those not done of `runs`; returns what failed."""
    if not todo:
        return []
    jobs = table.folder / ".jobs"
    config = {"table": str(table.path.resolve()), "outputs": str(table.outputs), "runs": ",".join(runs or [])}
    with _alone(jobs, f"another run of {table.path} is at work in {table.folder}") as lock:
        log = jobs / "snakemake.log"
        watch = progress.Watch(todo)
        print(f"{table.path}: {len(todo)} stages to do; what Snakemake says goes to {log}", flush=True)
        try:
            code = _snakemake(jobs, {**config, "report": report}, cores, lock, watch.look)
        finally:
            watch.close()
    unfinished = [stage for stage in todo if not stage.done]
    if code and not unfinished:
        return [f"Snakemake ended with code {code}: see {log}"]
    return [
        f"{stage} failed: {stage.failure()} (see {stage.notebook('failed')})"
        if stage.notebook("failed").is_file()
        else f"{stage}: not done, see {log}"
        for stage in unfinished
    ]


@contextlib.contextmanager
def _alone(folder: Path, otherwise: str) -> Iterator[FileLock]:
    """Hold the lock of a table's jobs. Raises StageFailed, saying `otherwise`, while it is held by another process."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=5)  # one that has just been ended may hold it for a moment yet
    except Timeout:
        with contextlib.suppress(OSError):
            otherwise += f" (Snakemake is process {(folder / 'pid').read_text()})"
        raise StageFailed(otherwise) from None
    (folder / "pid").unlink(missing_ok=True)
    try:
        yield lock
    finally:
        lock.release()


def _snakemake(
    folder: Path, config: dict[str, Any], cores: int | None, lock: FileLock, look: Callable[[], None]
) -> int:
    """Let Snakemake carry out a table's jobs in `folder`, calling `look` every second; returns its exit code.

    It holds the lock as well: if this process is killed, Snakemake lives on, and no second one may begin beside it.
    """
    write_json(folder / "config.json", config)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root() / "Snakefile")]
    command += ["--profile", str(root() / "profiles" / "default"), "--directory", str(folder)]
    command += ["--cores", str(cores)] if cores else []
    command += ["--configfile", str(folder / "config.json")]
    # a lock on a file ends when the last process that has the file open does
    shared = {"pass_fds": [lock._context.lock_file_fd]} if os.name == "posix" else {}
    with open(folder / "snakemake.log", "w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=root(), start_new_session=True, **shared
        )
    (folder / "pid").write_text(str(process.pid))
    try:
        while process.poll() is None:
            look()
            time.sleep(1)
        look()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    return process.returncode
