"""Carrying out a table's stages: Snakemake runs the jobs side by side, one of them at a time has the table's lock."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

from ia_lib import paths
from ia_lib.paths import root
from ia_lib.workflow import duration, ending, locks, progress
from ia_lib.workflow.graph import Table
from ia_lib.workflow.stages import Stage, write_json

COMMAND = (sys.executable, "-m", "ia_lib.runs")
# What Snakemake says of every failure, and where in a file it was.
_EMPTY = (
    'File "',
    'in "',
    "Shutting down",
    "Exiting because",
    "Complete log",
    "At least one job",
    "Removing output",
    "WorkflowError:",
    "Elapsed time",
    "Will exit after",
)


def execute(
    table: Table, runs: list[str] | None = None, cores: int | None = None, profile: Path | None = None
) -> list[str]:
    """Let Snakemake do what is missing, rows side by side, and make the report; returns what failed, a line each.

    A failing row does not stop the others. While another process is at work on the table, it is waited for. `profile`
    is a folder that says where jobs run (default: `profiles/default`, this machine).
    """
    for name in runs or []:
        table.run(name)
    table.settle(runs)
    report = table.report(finished_only=True)
    if report.damage():
        # it is what everyone reads, and soon made again
        (report.folder / "manifest.json").unlink(missing_ok=True)
    stages = [*table.stages(runs), *([report] if report.needs else [])]
    if all(stage.complete for stage in stages):
        for stage in stages:
            stage.clear()
        return []
    with _alone(table) as lock:
        failed = _make(table, lock, runs, cores, profile=profile)
        report = table.report(finished_only=True)
        report.clear()
        if report.needs and not report.complete:
            command = [*COMMAND, "stage", str(table.path.resolve()), "-", "report", "--outputs", str(table.outputs)]
            watch = progress.Watch([], duration.Machine(1, 1), report)
            if _carry_out(command, report.log, watch.look, lock):
                failed.append(_last_line(report.log) or f"{report}: not done, see {report.log}")
            watch.close()
    return failed


def make(table: Table, runs: list[str] | None = None) -> list[str]:
    """Let Snakemake do what is missing, without the report; returns what failed, a line each."""
    if all(stage.complete for stage in table.stages(runs)):
        return []
    with _alone(table) as lock:
        return _make(table, lock, runs, report=False)


def kept(table: Table, runs: list[str] | None = None) -> str:
    """What a run that is stopped leaves to go on from, as the beginning of a sentence."""
    stages = table.stages(runs)
    done = sum(stage.done for stage in stages)
    begun = []
    for stage in stages:
        steps = [int(path.name.split("-")[1]) for path in stage.part.glob("checkpoints/checkpoint-*[0-9]")]
        begun += [f"{stage} up to step {max(steps)}"] if steps and not stage.done else []
    return f"kept: {', '.join([f'{done} of {len(stages)} stages', *begun])}; "


def _make(
    table: Table,
    lock: FileLock,
    runs: list[str] | None = None,
    cores: int | None = None,
    report: bool = True,
    profile: Path | None = None,
) -> list[str]:
    jobs = _jobs(table)
    stages = table.stages(runs)
    for stage in stages:
        stage.clear()
    todo = [stage for stage in stages if not stage.complete]
    if not todo:
        return []
    for stage in todo:
        stage.log.unlink(missing_ok=True)
    config = {"table": str(table.path.resolve()), "outputs": str(table.outputs), "runs": ",".join(runs or [])}
    write_json(jobs / "config.json", {**config, "report": report})
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root() / "Snakefile")]
    command += ["--profile", str(profile or root() / "profiles" / "default"), "--directory", str(jobs)]
    command += ["--cores", str(cores)] if cores else []
    command += ["--configfile", str(jobs / "config.json")]
    log = jobs / "snakemake.log"
    watch = progress.Watch(todo, duration.machine(cores), table.report() if report and not runs else None)
    print(f"{table.path}: {len(todo)} stages to do; what Snakemake says goes to {log}", flush=True)
    try:
        # Snakemake waits for jobs, which the same signal ends, but for a cluster's, which it ends only on SIGINT
        code = _carry_out(command, log, watch.look, lock, signal.SIGINT if profile else signal.SIGTERM)
    finally:
        watch.close()
    unfinished = [stage for stage in todo if not stage.complete]
    said = f"Snakemake was ended by signal {-code}; {ending.GOES_ON}" if code < 0 else f"{_last_line(log)} (see {log})"
    return [_why(stage, said) for stage in unfinished]


def _why(stage: Stage, otherwise: str) -> str:
    """Why a stage is not finished, in one line: what it said, or what Snakemake did."""
    if stage.notebook("failed").is_file():
        return f"{stage} failed: {stage.failure()} (see {stage.notebook('failed')})"
    for needed in stage.needs:
        if not needed.done:
            return f"{stage}: not done, since {needed} is not"
    return f"{stage}: not done: {_last_line(stage.log) or otherwise}"


def _last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    lines = [line.strip() for line in lines if line.strip() and not line.strip().startswith(_EMPTY)]
    return lines[-1] if lines else ""


def _jobs(table: Table) -> Path:
    return table.folder / ".jobs"


@contextlib.contextmanager
def _alone(table: Table) -> Iterator[FileLock]:
    """Hold the lock of a table's jobs; while another process does, wait for it and say so."""
    _jobs(table).mkdir(parents=True, exist_ok=True)
    lock = paths.lock(_jobs(table) / "lock")
    locks.acquire(lock, f"another run of {table.path} is at work in {table.folder}")
    try:
        yield lock
    finally:
        lock.release()


def _carry_out(
    command: list[str],
    log: Path,
    look: Callable[[], None] = lambda: None,
    lock: FileLock | None = None,
    end: int = signal.SIGTERM,
) -> int:
    """Carry out a command, calling `look` every second; returns its exit code.

    It is ended with this process: in order, by the signal `end`, with time to save what it has, or at once if this one
    is killed. It holds `lock` as well: until it has ended, too, no other run may begin.
    """
    more = {"start_new_session": True} if os.name == "posix" else {}
    # a lock on a file ends when the last process that has the file open does
    more |= {"pass_fds": [lock._context.lock_file_fd]} if lock and os.name == "posix" else {}
    with open(log, "w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=root(),
            env={**os.environ, ending.PARENT: str(os.getpid())},
            **more,
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            look()
            if process.returncode is not None:
                return process.returncode
    except BaseException:
        _signal(process, end)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait()
        raise


def _signal(process: subprocess.Popen, number: int) -> None:
    """Send a signal to all processes that the command has started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()
