"""What a run costs beside its work: processes, imports, papermill and its kernels, Snakemake, manifests.

    python benchmarks/overhead.py [TABLE]

TABLE (default: params/mini.yaml, some 8 minutes on two idle cores; params/taste.yaml takes two) is run for real, as
`python -m ia_lib.runs run` does it, into a folder that is removed afterwards. Every Python process of the run times
what it does while it does it, and every second belongs to one thing alone, to the innermost:

- work: making rows, and what is counted and checked about them (`work.make_data`); laying out batches and training
  (`batches.lay_out`, `trainer.tune`, `trainer.save`); scoring and measuring (`choice.score`, `translation.translate`,
  `measures.save`); the report (`page.write`)
- manifests: opening and finishing a stage, which reads all of its inputs and writes the hashes of all that it made
  (`Stage.open`, `Stage.finish`, `Stage.damage`)
- imports: every module that is loaded, wherever that happens; of the kit's own also their hashes
- Python: from a process's start to its first line, of a job and of its kernel
- papermill: what is left of a job's time: papermill, its kernel, loading models, and what notebooks show, the loss
  curve that is drawn while a model trains among it
- Snakemake: when no job is at work: the command itself and Snakemake

All but work is overhead. Seconds are those of the clock, of jobs side by side each for itself; they grow with whatever
else the machine does. Processor seconds, of all processes with their children, do so far less. Those of Snakemake are
all that no job has: the command looks after the run all the time.

Measured on two idle cores, params/mini.yaml (412 s): overhead was 23.2% of 687 seconds of jobs and 22.3% of 669
processor seconds. Of the former 92 s were imports, 47 papermill with what belongs to it, 15 Python, 5 Snakemake and 0.6
manifests. Tuning had 13.3%, data 48%, evaluation 44%, and the report took 11.7 s. A job's 6 s of imports are nearly all
those of torch, transformers, peft and bitsandbytes. They are the same whatever the work: some 10 s of overhead a job.
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STAGES = ["data", "tune", "evaluate", "report"]
WORK = {
    "ia_lib.workflow.work": ["_make_data"],
    "ia_lib.training.batches": ["lay_out"],
    "ia_lib.training.trainer": ["tune", "save"],
    "ia_lib.evaluation.choice": ["score"],
    "ia_lib.evaluation.translation": ["translate"],
    "ia_lib.evaluation.measures": ["save"],
    "ia_lib.report.page": ["write"],
}
MANIFESTS = {"ia_lib.workflow.stages": ["Stage.open", "Stage.finish", "Stage.damage"]}
SHOWN = {"ia_lib.report.figures": ["LiveLoss.__call__"]}
PARTS = ["work", "manifests", "imports", "Python"]
FOLDER = "IA_OVERHEAD"  # where the processes write their times


def main() -> None:
    table = sys.argv[1] if len(sys.argv) > 1 else "params/mini.yaml"
    with tempfile.TemporaryDirectory() as folder:
        # Python loads a module of this name before all others
        shutil.copy(__file__, f"{folder}/overhead.py")
        Path(folder, "sitecustomize.py").write_text("import overhead\n\noverhead.watch()\n")
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "ia_lib.runs", "run", table, "--outputs", f"{folder}/outputs"]
        begin = time.time()
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": path, FOLDER: folder}, check=False).returncode
        wall, spent = time.time() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        if code:
            sys.exit("the table could not be run")
        told = [json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")]
    processor = spent.ru_utime + spent.ru_stime
    jobs = [one for one in told if one["is"] == "job"]
    kernels = [one for one in told if one["is"] == "kernel"]
    assert len(jobs) == len(kernels), "a process did not tell its times"
    alone = wall - _covered([(job["begin"], job["end"]) for job in jobs])
    rows = {kind: _row(*([one for one in side if one["stage"] == kind] for side in (jobs, kernels)))
            for kind in STAGES}  # fmt: skip
    rows["Snakemake"] = {"jobs": 0, "seconds": alone, **dict.fromkeys(PARTS, 0.0), "papermill": 0.0, "processor": 0.0}
    rows["Snakemake"]["processor"] = processor - sum(job["processor"] for job in jobs)
    rows["Snakemake"]["working"] = 0.0
    rows["all"] = {name: sum(row[name] for row in rows.values()) for name in rows["Snakemake"]}
    for row in rows.values():
        row["overhead"] = 100 * (1 - row["work"] / row["seconds"]) if row["seconds"] else 0.0
        row["of_processor"] = 100 * (1 - row["working"] / row["processor"]) if row["processor"] else 0.0
    names = ["jobs", "seconds", *PARTS, "papermill", "overhead", "processor", "working", "of_processor"]
    print("\nseconds of the clock; overhead in percent; processor seconds, those of work, and the rest in percent")
    print(f"{'':10}" + "".join(f"{name:>13}" for name in names))
    for kind, row in rows.items():
        print(f"{kind:10}" + "".join(f"{row[name]:13.{0 if name == 'jobs' else 1}f}" for name in names))
    result = {
        "benchmark": "overhead",
        "table": Path(table).name,
        "overhead_percent": round(rows["all"]["overhead"], 1),
        "overhead_percent_of_processor_time": round(rows["all"]["of_processor"], 1),
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "stages": {kind: {name: round(row[name], 1) for name in names} for kind, row in rows.items()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
    }
    print(json.dumps(result))


def _row(jobs: list[dict], kernels: list[dict]) -> dict[str, float]:
    """What the jobs of one kind of stage took, with their kernels."""
    row = {"jobs": len(jobs), "seconds": sum(job["end"] - job["begin"] for job in jobs)}
    row |= {part: sum(one["seconds"].get(part, 0.0) for one in (*jobs, *kernels)) for part in PARTS}
    row["papermill"] = row["seconds"] - sum(row[part] for part in PARTS)
    # a job's own time has that of its kernel, which it has waited for
    row["processor"] = sum(job["processor"] for job in jobs)
    return row | {"working": sum(one["working"] for one in kernels)}


def _covered(spans: list[tuple[float, float]]) -> float:
    """How many seconds lie in at least one of the spans."""
    total, reached = 0.0, 0.0
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def watch() -> None:
    """Time what this process does, if it is a job or a kernel; its times are written when it ends."""
    import atexit
    import functools
    import importlib._bootstrap as bootstrap
    import threading
    from importlib.machinery import PathFinder

    import psutil

    words = sys.orig_argv[1:]
    if words[:3] == ["-m", "ia_lib.runs", "stage"]:
        told = {"is": "job", "stage": words[5]}
    elif words[:2] == ["-m", "ia_lib.workflow.kernel"]:
        told = {"is": "kernel", "stage": os.environ["IA_JOB"].rpartition(": ")[2]}
    else:
        return
    begin = psutil.Process().create_time()
    seconds = {"Python": time.time() - begin}
    told |= {"begin": begin, "seconds": seconds, "working": 0.0}
    inner: list[list[float]] = []  # of each timed thing at work, what those inside it have taken

    def processor() -> float:
        # of children too: a browser draws the report's pictures
        return sum(os.times()[:4])

    def timed(function, part: str):
        @functools.wraps(function)
        def run(*values, **named):
            if threading.current_thread() is not threading.main_thread():
                return function(*values, **named)
            clock, spent = time.perf_counter(), processor()
            inner.append([0.0, 0.0])
            try:
                return function(*values, **named)
            finally:
                took = time.perf_counter() - clock, processor() - spent
                inside = inner.pop()
                seconds[part] = seconds.get(part, 0.0) + took[0] - inside[0]
                told["working"] += (took[1] - inside[1]) * (part == "work")
                if inner:
                    inner[-1] = [sum(pair) for pair in zip(inner[-1], took, strict=True)]

        return run

    parts = {"work": WORK, "manifests": MANIFESTS, "shown": SHOWN}

    class Finder:
        """Finds the modules whose functions are timed, and wraps those as soon as they are there."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if not any(name in some for some in parts.values()):
                return None
            spec = PathFinder.find_spec(name, path, target)
            load = spec.loader.exec_module

            def exec_module(module):
                load(module)
                for part, some in parts.items():
                    for function in some.get(name, []):
                        owner, _, own = function.rpartition(".")
                        place = getattr(module, owner) if owner else module
                        setattr(place, own, timed(getattr(place, own), part))

            spec.loader.exec_module = exec_module
            return spec

    def tell() -> None:
        told.update(end=time.time(), processor=processor())
        Path(os.environ[FOLDER], f"{os.getpid()}.json").write_text(json.dumps(told), encoding="utf-8")

    sys.meta_path.insert(0, Finder)
    bootstrap._find_and_load = timed(bootstrap._find_and_load, "imports")
    atexit.register(tell)


if __name__ == "__main__":
    main()
