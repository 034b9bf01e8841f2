"""Kills at random moments: does a table that was cut off again and again end as one that was left in peace?

    .venv/bin/python tests/campaign.py --kills 30

Each kill sends SIGKILL, SIGTERM or SIGINT to the runner, Snakemake, a stage's process, its kernel, or all of them.
After it the same command is started again, with no step by hand.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from conftest import TABLE
from filelock import FileLock

from ia_lib.paths import root
from ia_lib.randomness import generator

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
# Of a process, what stands in its command and who it is; the first that fits counts.
KINDS = {"ia_lib.workflow.kernel": "kernel", "ia_lib.runs stage": "stage", "snakemake": "snakemake"}
WHO = ["runner", *KINDS.values(), "all"]
# Of the report's manifest, what tells of times, and of pages that do.
TIMES = {"start", "end", "seconds", "peak_memory_mb", "seal", "files", "bytes"}


def start(table: Path, outputs: Path) -> psutil.Popen:
    command = [sys.executable, "-m", "ia_lib.runs", "run", str(table), "--outputs", str(outputs)]
    with open(outputs.with_suffix(".log"), "a") as log:
        return psutil.Popen(command, cwd=root(), stdout=log, stderr=log, start_new_session=True)


def tree(runner: psutil.Popen) -> list[tuple[str, psutil.Process]]:
    """The processes of a run, each with who it is."""
    found = [("runner", runner)]
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = runner.children(recursive=True)
    for process in children:
        try:
            said = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        found += [(kind, process) for part, kind in KINDS.items() if part in said][:1]
    return found


def strike(runner: psutil.Popen, who: str, number: int) -> list[psutil.Process]:
    """Send a signal to those of a run that are called so; returns all processes of the run."""
    found = tree(runner)
    for kind, process in found:
        if who in (kind, "all"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
    return [process for _, process in found]


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether all the processes end within so many seconds."""
    end = time.monotonic() + seconds
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def made(folder: Path) -> dict[str, str]:
    """What a table's stages have made: the hash of every file that a manifest lists, and what the report's says."""
    found = {}
    for path in sorted(folder.rglob("manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for name in manifest["files"]:
            if name == "index.html" or name.startswith("notebooks/"):
                continue  # pages that tell how fast it went
            data = (path.parent / name).read_bytes()
            if name == "log.jsonl":  # it tells how fast it went, too
                records = [json.loads(line) for line in data.splitlines()]
                data = repr([{**record, "tokens_per_second": 0} for record in records]).encode()
            found[str((path.parent / name).relative_to(folder))] = hashlib.sha256(data).hexdigest()
        if manifest["stage"] == "report":
            kept = {name: value for name, value in manifest.items() if name not in TIMES}
            found |= {f"report: {name}": json.dumps(value, sort_keys=True) for name, value in kept.items()}
    return found


def left(folder: Path) -> list[str]:
    """What should not be there when all is done: half-written files, held locks, missing notebooks."""
    found = []
    for path in [*folder.glob("*"), *folder.glob("*/*")]:
        if path.name.endswith((".part", ".old", ".running.ipynb", ".failed.ipynb")) or path.suffix[1:].isdecimal():
            found.append(f"{path} is left")
    for path in folder.rglob("*lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
            lock.release()
        except TimeoutError:
            found.append(f"{path} is held")
    for path in folder.rglob("manifest.json"):
        if not path.parent.with_name(f"{path.parent.name}.ipynb").is_file():
            found.append(f"{path.parent} has no notebook")
        found += [f"{path.parent / name} is left" for name in ("checkpoints", "key") if (path.parent / name).exists()]
    return found


def campaign(table: Path, outputs: Path, peace: Path, kills: int, seed: int, longest: float) -> list[str]:
    """Kill the carrying out of a table so often, each time at most `longest` seconds after it was begun, then let it
    end; returns what went wrong. What is finished is compared with `peace`, a table's folder, and begun again."""
    random, wrong, told, every, whole = generator(seed, "campaign"), [], Counter(), [], 0
    while sum(told.values()) < kills:
        who, number = WHO[int(random.random() * len(WHO))], SIGNALS[int(random.random() * len(SIGNALS))]
        runner = start(table, outputs)
        end = time.monotonic() + random.random() * longest
        # who is to be hit may not be there yet
        while runner.poll() is None and (time.monotonic() < end or who not in {"all", *dict(tree(runner))}):
            time.sleep(0.02)
        if runner.poll() is None:
            hit = strike(runner, who, number)
            every += hit
            begun = time.monotonic()
            if who in ("runner", "all") and not gone(hit, 40):
                wrong.append(f"{who} by {number.name}: not all had ended after 40 s")
            try:
                runner.wait(300)  # if another was hit the rest goes on, and ends by itself
            except psutil.TimeoutExpired:
                wrong.append(f"{who} by {number.name}: the run had not ended after 300 s")
                runner.kill()
            told[f"{who} {number.name}"] += 1
            print(f"{who} by {number.name}: ended after {time.monotonic() - begun:.1f} s", flush=True)
        elif runner.returncode:
            wrong.append(f"a run failed that was not cut off: see {outputs.with_suffix('.log')}")
            break
        else:
            wrong += left(outputs / table.stem) + compare(peace, outputs / table.stem)
            shutil.rmtree(outputs)
            whole += 1
    if start(table, outputs).wait():
        wrong.append(f"the last run failed: see {outputs.with_suffix('.log')}")
    if not gone(every, 10):
        wrong.append("a process of a killed run is still there")
    print(f"{whole + 1} tables; {dict(told)}")
    return wrong + left(outputs / table.stem) + compare(peace, outputs / table.stem)


def compare(peace: Path, fire: Path) -> list[str]:
    """The files that differ between two folders of a table."""
    first, second = made(peace), made(fire)
    return [f"{name} differs" for name in sorted(first | second) if first.get(name) != second.get(name)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--longest", type=float, default=25, help="seconds from a start to its kill")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    table = folder / "tiny.yaml"
    table.write_text(TABLE)
    print(f"in {folder}", flush=True)
    if start(table, folder / "peace").wait():
        sys.exit("the undisturbed run failed")
    wrong = campaign(table, folder / "fire", folder / "peace" / "tiny", options.kills, options.seed, options.longest)
    print("\n".join(wrong) or f"{options.kills} kills: everything is as in the undisturbed run")
    sys.exit(bool(wrong))
