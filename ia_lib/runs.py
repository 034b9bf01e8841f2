"""From a table of settings to finished artefacts: paths, manifests, papermill, Snakemake, and the command line.

    python -m ia_lib.runs plan TABLE            what each run would do, and what is finished
    python -m ia_lib.runs run TABLE [RUN ...]   do what is missing, then print the results
    python -m ia_lib.runs show TABLE [RUN]      the results, or one run's settings and artefacts

A stage is one notebook for one run. It writes into `<stage>.part`, and only when everything is there, with
manifest.json written last, is that folder renamed to `<stage>`: a folder with a manifest is finished, anything else is
rubbish. What a killed stage can continue from (checkpoints) lies in `<stage>.part` and is used if the stage's key is
still the same.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ia_lib import settings as tables
from ia_lib.settings import Settings, SettingsError

NOTEBOOKS = {"data": "1_data", "tune": "2_tune", "evaluate": "3_evaluate", "report": "4_figures"}
# Raised by hand when a stage's artefacts change their meaning, so that old ones are made anew.
STAGE_VERSION = {"data": 1, "tune": 1, "evaluate": 1, "report": 1}
# The modules whose change may change a stage's artefacts; `plan` says so, and `run --changed` acts on it.
STAGE_CODE = {
    "data": ("languages", "corpora", "noise", "prompts", "alignment", "replay", "minilab"),
    "tune": ("prompts", "replay", "tuning", "minilab"),
    "evaluate": ("languages", "corpora", "prompts", "tuning", "scoring", "evaluation", "minilab"),
    "report": ("figures", "report", "languages", "evaluation"),
}
# Fields that change how a stage is carried out and not what it makes.
_NO_MATTER = {"save_steps", "log_steps", "data_dir", "batch_tokens"}
_FIELDS = {
    "data": set(tables.DataSettings.model_fields),
    "tune": set(tables.TuneSettings.model_fields) | {"threads", "steps", "new_per_step", "old_per_step", "max_length"},
    "evaluate": set(tables.EvaluateSettings.model_fields) | {"corpus", "lab", "known", "taught", "unseen", "threads"},
}
_PACKAGES = (
    "ia_lib",
    "torch",
    "transformers",
    "datasets",
    "tokenizers",
    "accelerate",
    "bitsandbytes",
    "numpy",
    "pandas",
)

_COMMAND = (sys.executable, "-m", "ia_lib.runs")
# What lies in a stage's folder only while it is being made.
_SCAFFOLDING = {"key", "progress.json", "checkpoints"}
# Set while a stage's notebook is run as a job: what it needs is there or has failed, and it must not be made again.
_JOB = "IA_JOB"


def root() -> Path:
    """The project's folder: the nearest one, from here upwards, that holds notebooks/ and params/."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parent.parent):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


@dataclass
class Stage:
    """One stage of one run: its settings, where its inputs lie and where its artefacts go."""

    name: str
    run: Settings | None  # None for the report, which is the table's
    table: "Table"
    folder: Path
    key: str  # what the finished artefacts must have been made from
    needs: list["Stage"] = field(default_factory=list)
    _started: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"{self.run.name}: {self.name}" if self.run else self.name

    @property
    def part(self) -> Path:
        """Where the artefacts are written until all are there."""
        return self.folder.with_name(self.folder.name + ".part")

    @property
    def manifest(self) -> dict | None:
        """The manifest of the finished stage, None if there is none."""
        try:
            return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    @property
    def done(self) -> bool:
        """Whether the finished artefacts are those these settings and inputs would make."""
        return self.status == "finished"

    @property
    def status(self) -> str:
        """finished | missing | interrupted | settings changed | inputs changed"""
        manifest = self.manifest
        if manifest is None:
            return "interrupted" if (self.part / "key").is_file() else "missing"
        if manifest["key"] != self.key:
            return "settings changed"
        for needed in self.needs:
            if not needed.done or manifest["inputs"].get(str(needed)) != needed.manifest["digest"]:
                return "inputs changed"
        return "finished"

    @property
    def marker(self) -> Path:
        """The file that tells Snakemake that the stage is finished; its name carries the key, not its time."""
        run = f"{self.run.name}." if self.run else ""
        return self.table.folder / ".jobs" / f"{run}{self.name}.{self.key[:16]}"

    @property
    def code_changed(self) -> bool:
        """Whether the code of a finished stage has changed since."""
        manifest = self.manifest
        return manifest is not None and manifest["code"] != _code_hash(self.name)

    def open(self) -> "Stage":
        """Make ready for work: inputs must be finished; leftovers of other settings are removed.

        Raises RuntimeError if an input is missing or another process is at work on the stage.
        """
        for needed in self.needs:
            if not needed.done:
                raise RuntimeError(f"{self} needs {needed}, which is {needed.status}")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder.with_name(f".{self.folder.name}.lock"), is_singleton=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RuntimeError(f"another process is at work on {self} in {self.folder.parent}") from None
        if not self.done:
            # inputs that were made anew count too: a checkpoint must not go on with other data
            made_from = _hash([self.key, *(needed.manifest["digest"] for needed in self.needs)])
            stamp = self.part / "key"
            if not stamp.is_file() or stamp.read_text() != made_from:
                shutil.rmtree(self.part, ignore_errors=True)
                self.part.mkdir()
                stamp.write_text(made_from)
        self._started = time.time()
        return self

    def progress(self, done: float, total: float) -> None:
        """Tell who watches from outside how far the stage is; cheap enough to be called often."""
        now = time.monotonic()
        if now - getattr(self, "_told", 0) > 0.5 or done >= total:
            self._told = now
            _write_json(self.part / "progress.json", {"done": done, "total": total})

    def finish(self, device: str = "cpu") -> Path:
        """Write the manifest, put the artefacts in place and let go of the stage; returns their folder."""
        if not self.done:
            (self.part / "manifest.json").unlink(missing_ok=True)
            made = sorted(p for p in self.part.rglob("*") if p.is_file())
            files = {p.relative_to(self.part).as_posix(): _hash_file(p) for p in made}
            # what a killed stage would go on from stays until the rest is in place
            files = {name: value for name, value in files.items() if name.split("/")[0] not in _SCAFFOLDING}
            manifest = {
                "stage": self.name,
                "table": self.table.path.name,
                "run": self.run.name if self.run else None,
                "seed": self.run.seed if self.run else None,
                "settings": self.run.model_dump(mode="json") if self.run else None,
                "key": self.key,
                "inputs": {str(needed): needed.manifest["digest"] for needed in self.needs},
                # a log tells how fast it went, which is no part of what was made
                "digest": _hash({name: value for name, value in files.items() if name != "log.jsonl"}),
                "files": files,
                "code": _code_hash(self.name),
                "versions": {"python": platform.python_version(), **_versions()},
                "git_commit": _git_commit(),
                "device": device,
                "start": _time(self._started),
                "end": _time(time.time()),
                "seconds": round(time.time() - self._started, 1),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
            _write_json(self.part / "manifest.json", manifest)
            old = self.folder.with_name(self.folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            if self.folder.exists():
                os.replace(self.folder, old)
            os.replace(self.part, self.folder)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
            for name in _SCAFFOLDING - {"checkpoints"}:
                (self.folder / name).unlink(missing_ok=True)
        self._lock.release(force=True)
        return self.folder

    def notebook(self, kind: str = "") -> Path:
        """Where the executed notebook lies; `kind` is "running", "failed" or nothing."""
        return self.folder.with_name(f"{self.folder.name}{'.' * bool(kind)}{kind}.ipynb")

    def cost(self) -> float:
        """A rough share of the work, to tell how much time is left: seconds on one core for the mini lab."""
        if self.name == "report":
            return 15
        if self.name == "data":
            return 6
        if self.name == "evaluate":
            return 20
        run = self.run
        return 8 + run.steps * (run.new_per_step * run.uses_new * 2.5e-3 + run.old_per_step * run.uses_old * 1.2e-3)


class Table:
    """A table of settings with its folder of outputs."""

    def __init__(self, path: str | Path, outputs_dir: str | Path = "outputs"):
        self.path = _locate(path)
        self.runs = tables.load(self.path)
        # runs that `add` made: their name -> the run they came from and what was changed
        self.changed: dict[str, tuple[str, dict[str, Any]]] = {}
        outputs = Path(outputs_dir).expanduser()
        self.outputs = outputs if outputs.is_absolute() else root() / outputs
        self.folder = self.outputs / self.path.stem

    @cached_property
    def by_name(self) -> dict[str, Settings]:
        return {run.name: run for run in self.runs}

    def run(self, name: str) -> Settings:
        """The run of that name; for a table with seeds also the row's name, which means its first seed."""
        for run in self.runs:
            if name in (run.name, run.row):
                return run
        raise SettingsError(f"{self.path}: found no run {name!r}; allowed: {', '.join(self.by_name)}")

    def stages(self, runs: list[str] | None = None) -> list[Stage]:
        """The stages of the given runs (default: all) and of those they build on, in order, without the report."""
        wanted: list[str] = []
        for name in runs or list(self.by_name):
            self._collect(self.run(name), wanted)
        return [
            self.stage(name, stage)
            for name in self.by_name
            if name in wanted
            for stage in ("data", "tune", "evaluate")
            if stage == "evaluate" or self.by_name[name].trains
        ]

    def stage(self, run: str, name: str) -> Stage:
        """The stage `name` of `run`, with its key and its inputs."""
        if (run, name) not in self._made:
            self._made[run, name] = self._make(self.by_name[run], name)
        return self._made[run, name]

    def report(self, finished_only: bool = False) -> Stage:
        """The report over all runs, or over those that are finished."""
        needs = [self.stage(name, "evaluate") for name in self.by_name]
        if finished_only:
            needs = [stage for stage in needs if stage.done]
        key = _hash({"stage": "report", "version": STAGE_VERSION["report"], "inputs": [s.key for s in needs]})
        return Stage("report", None, self, self.folder / "report", key, needs)

    def missing(self, stage: Stage) -> list[Stage]:
        """What has to be finished before the stage can begin, in order."""
        found: dict[str, Stage] = {}
        for needed in stage.needs:
            for earlier in [*self.missing(needed), *([] if needed.done else [needed])]:
                found[str(earlier)] = earlier
        return list(found.values())

    def add(self, run: Settings, changes: dict[str, Any]) -> Settings:
        """A run of its own with some fields changed, named after the changes; returns it."""
        changed = next(r for r in tables.load(self.path, run.row, changes) if r.name == run.name)
        exact = ",".join(f"{k}={v}" for k, v in sorted(changes.items()))
        label = "".join(c if c.isalnum() or c in "_.+=,-" else "_" for c in exact)[:60]
        if label != exact:
            label += f"~{_hash(changes)[:6]}"
        changed = changed.model_copy(update={"name": f"{run.name}~{label}"})
        self.changed[changed.name] = (run.name, changes)
        self.runs.append(changed)
        self.__dict__.pop("by_name", None)
        return changed

    def execute(self, runs: list[str] | None = None, cores: int | None = None, changed: bool = False) -> list[str]:
        """Let Snakemake do what is missing, rows side by side, and make the report; returns what failed, a line each.

        A failing row does not stop the others. `changed` also redoes stages whose code has changed since.
        """
        for name in runs or []:
            self.run(name)
        for stage in self.stages(runs) if changed else []:
            if stage.code_changed:
                (stage.folder / "manifest.json").unlink()
        failed = self.make([stage for stage in self.stages(runs) if not stage.done], runs, cores)
        report = self.report(finished_only=True)
        if changed and report.code_changed:
            (report.folder / "manifest.json").unlink()
        if report.needs and not report.done:
            failed += self._report()
        return failed

    def _report(self) -> list[str]:
        command = [*_COMMAND, "stage", str(self.path), "-", "report", "--outputs", str(self.outputs)]
        answer = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
        return [answer.stderr.strip().splitlines()[-1]] if answer.returncode else []

    def make(
        self, todo: list[Stage], runs: list[str] | None = None, cores: int | None = None, report: bool = True
    ) -> list[str]:
        """Let Snakemake do the stages in `todo`, which are those not done of `runs`; returns what failed."""
        if not todo:
            return []
        jobs = self.folder / ".jobs"
        jobs.mkdir(parents=True, exist_ok=True)
        log = jobs / "snakemake.log"
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(root() / "Snakefile")]
        command += ["--profile", str(root() / "profiles" / "default"), "--directory", str(jobs)]
        command += ["--cores", str(cores)] if cores else []
        config = {"table": str(self.path.resolve()), "outputs": str(self.outputs), "runs": ",".join(runs or [])}
        _write_json(jobs / "config.json", {**config, "report": report})
        command += ["--configfile", str(jobs / "config.json")]
        lock = FileLock(jobs / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StageFailed(f"another run of {self.path} is at work in {self.folder}") from None
        watch = _Watch(todo)
        print(f"{self.path}: {len(todo)} stages to do; what Snakemake says goes to {log}", flush=True)
        with open(log, "w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, cwd=root(), start_new_session=True
            )
            try:
                while process.poll() is None:
                    watch.look()
                    time.sleep(1)
                watch.look()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
            finally:
                watch.close()
                lock.release()
        unfinished = [stage for stage in todo if not stage.done]
        if process.returncode and not unfinished:
            return [f"Snakemake ended with code {process.returncode}: see {log}"]
        return [
            f"{stage}: failed, see {stage.notebook('failed')}"
            if stage.notebook("failed").is_file()
            else f"{stage}: not done, see {log}"
            for stage in unfinished
        ]

    def lab(self, run: Settings) -> Path:
        """The folder of the corpus: the mini lab's files, made once per seed and size, or the real data."""
        if run.corpus == "minilab":
            # its own code and words too: after a change there is another lab
            size = _hash([run.lab.model_dump(), run.known, run.taught, run.unseen, _lab_hash()])[:8]
            return self.folder / "lab" / f"seed{run.seed}-{size}"
        folder = run.folder().expanduser()
        return (folder if folder.is_absolute() else root() / folder) / run.corpus

    def past(self, run: Settings) -> Path | None:
        """The file of the run's past instruction data; None if it has none or it is a mixture yet to be made."""
        if run.past and run.past.run:
            return self.stage(run.past.run, "data").folder / "replay.parquet"
        return _locate(run.past.file) if run.past and run.past.file else None

    def tokenizer(self, run: Settings) -> tuple[str, str | None]:
        """Where the run's tokenizer comes from, as (folder or Hub name, revision)."""
        owner = self._owner(run)
        if owner.model.new:
            return str(self.stage(owner.name, "data").folder / "tokenizer"), None
        return _outside(owner)

    def model(self, run: Settings) -> tuple[str, str | None]:
        """Where the model that the run begins with comes from, as (folder or Hub name, revision); not for a new one."""
        if not run.model.run:
            return _outside(run)
        start = self.by_name[run.model.run]
        return self.tuned_model(start)

    def tuned_model(self, run: Settings) -> tuple[str, str | None]:
        """Where the model that the run ends with lies: its own if it trains, else the one it began with."""
        return (str(self.stage(run.name, "tune").folder / "model"), None) if run.trains else self.model(run)

    def _owner(self, run: Settings) -> Settings:
        """The run at the beginning of the chain, whose model is new or comes from outside."""
        while run.model.run:
            run = self.by_name[run.model.run]
        return run

    def finished(self) -> tuple[list, list[str], dict[str, dict]]:
        """What `report.write` needs: (settings, folder) of evaluated runs, names of the others, manifests by stage."""
        stages = {run.name: self.stage(run.name, "evaluate") for run in self.runs}
        evaluated = [(stage.run, stage.folder) for stage in stages.values() if stage.done]
        missing = [name for name, stage in stages.items() if not stage.done]
        manifests = {str(stage): stage.manifest for stage in self.stages([r.name for r, _ in evaluated]) if stage.done}
        return evaluated, missing, manifests

    @cached_property
    def _made(self) -> dict[tuple[str, str], Stage]:
        return {}

    def _collect(self, run: Settings, wanted: list[str]) -> None:
        for name in tables.needs(run):
            self._collect(self.by_name[name], wanted)
        wanted.append(run.name)

    def _make(self, run: Settings, name: str) -> Stage:
        needs = []
        start = self.by_name[run.model.run] if run.model.run else None
        if name == "data":
            if run.past and run.past.run:
                needs.append(self.stage(run.past.run, "data"))
            owner = self._owner(run)
            if owner.model.new and owner is not run:
                needs.append(self.stage(owner.name, "data"))
        else:
            if run.trains:
                needs.append(self.stage(run.name, "data" if name == "tune" else "tune"))
            if start and start.trains and (name == "tune" or not run.trains):
                needs.append(self.stage(start.name, "tune"))
        needs = list({str(stage): stage for stage in needs}.values())
        values = run.model_dump(mode="json")
        parts = {
            "stage": name,
            "version": STAGE_VERSION[name],
            "seed": run.seed,
            "settings": {k: v for k, v in values.items() if k in _FIELDS[name] - _NO_MATTER},
            "inputs": [stage.key for stage in needs],
            "files": self._files(run, name),
        }
        # a run's name is no setting: what it made counts, and that is in the inputs' keys
        if "model" in parts["settings"]:
            parts["settings"]["model"] = {**values["model"], "run": None}
        if "past" in parts["settings"] and run.past:
            parts["settings"]["past"] = {**values["past"], "run": None, "file": None}
        if name == "data":
            parts["tokenizer"] = values["model"]["new"] and values["model"]["new"]["vocabulary"]
        return Stage(name, run, self, self.folder / run.name / name, _hash(parts), needs)

    def _files(self, run: Settings, name: str) -> dict[str, Any]:
        """What the stage depends on from outside: hashes of files, and the name of the model the chain began with."""
        files = {}
        if run.corpus != "minilab" and name in ("data", "evaluate"):
            files |= _hash_folder(self.lab(run))
        if name == "data" and run.past and run.past.file:
            files["past"] = _hash_file(_locate(run.past.file))
        owner = self._owner(run)
        if owner.model.name:
            source, revision = _outside(owner)
            files["model"] = [owner.model.name, revision, _hash_folder(Path(source)) if Path(source).is_dir() else None]
        return files


def _outside(run: Settings) -> tuple[str, str | None]:
    """A model's name as a folder's path, if there is such a folder, or as a Hub name; and its revision."""
    path = _locate(run.model.name)
    return (str(path.resolve()) if path.is_dir() else run.model.name), run.model.revision


def open_stage(
    stage: str,
    table: str,
    run: str | None = None,
    outputs_dir: str = "outputs",
    changes: dict[str, Any] | None = None,
) -> Stage:
    """What a notebook begins with: the stage, ready for work, with the stages before it finished.

    Missing earlier stages are made first (by papermill, without changes to this notebook). `changes` overrides fields
    of the table's rows for this run; its artefacts then go to a run folder of their own, named after the changes.
    """
    made = Table(table, outputs_dir)
    if stage == "report":
        if _JOB not in os.environ:
            for line in made.make([s for s in made.stages() if not s.done], report=False):
                print(line)
        return made.report(finished_only=True).open()
    settings = made.run(run)
    if changes:
        settings = made.add(settings, changes)
    if stage != "evaluate" and not settings.trains:
        raise SettingsError(f"{made.path}, run {run!r}: it trains on nothing, so it has no {stage}; allowed: evaluate")
    wanted = made.stage(settings.name, stage)
    for needed in made.missing(wanted) if _JOB not in os.environ else []:
        print(f"first {needed}, which is {needed.status} ...", flush=True)
        execute(needed)
    return wanted.open()


def execute(stage: Stage) -> None:
    """Run a stage's notebook by papermill; the executed notebook lies beside the stage's folder.

    Raises StageFailed with the notebook's error; then the notebook lies there as `<stage>.failed.ipynb`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running, failed = stage.notebook("running"), stage.notebook("failed")
    running.parent.mkdir(parents=True, exist_ok=True)
    # paths inside the project are given from its folder, where the kernel starts
    paths = {"table": stage.table.path.resolve(), "outputs_dir": stage.table.outputs}
    parameters = {k: str(p.relative_to(root()) if p.is_relative_to(root()) else p) for k, p in paths.items()}
    if stage.run:
        name, changes = stage.table.changed.get(stage.run.name, (stage.run.name, {}))
        parameters |= {"run": name, "changes": changes}
    os.environ[_JOB] = str(stage)
    try:
        papermill.execute_notebook(
            root() / "notebooks" / f"{NOTEBOOKS[stage.name]}.ipynb",
            running,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=False,
            cwd=root(),
        )
    except (PapermillExecutionError, DeadKernelError) as error:
        os.replace(running, failed)
        what = f"{error.ename}: {error.evalue}" if isinstance(error, PapermillExecutionError) else "its kernel died"
        raise StageFailed(f"{stage} failed: {what} (see {failed})") from None
    finally:
        del os.environ[_JOB]
    os.replace(running, stage.notebook())
    failed.unlink(missing_ok=True)
    if not stage.done:
        raise StageFailed(f"{stage} ended without its artefacts (see {stage.notebook()})")


class StageFailed(RuntimeError):
    """A stage's notebook raised an error."""


class _Watch:
    """One line that says how far a table's jobs are and about how much time is left."""

    def __init__(self, stages: list[Stage]):
        self.todo = stages
        self.begin = time.monotonic()
        self.told: dict[str, str] = {}
        self.next_line = 0.0
        self.busy = self.last = 0.0  # seconds that jobs were at work, taken together; when that was last counted
        self.before = sum(stage.cost() * self._share(stage) for stage in stages)  # what earlier tries had done

    def look(self) -> None:
        total = done = 0.0
        now, running, finished = {}, [], 0
        for stage in self.todo:
            share = self._share(stage)
            total, done = total + stage.cost(), done + stage.cost() * share
            finished += share == 1
            if share < 1 and stage.notebook("running").is_file():
                running.append(f"{stage} {share:.0%}")
            now[str(stage)] = "finished" if share == 1 else "failed" if self._failed(stage) else "not finished"
        for name, state in now.items():
            if state != self.told.get(name, "not finished"):
                self._print(f"{self._clock()}  {name} {state}", ends=True)
        self.told = now
        elapsed = time.monotonic() - self.begin
        self.busy, self.last = self.busy + len(running) * (elapsed - self.last), elapsed
        left = ""
        if done - self.before > 0.02 * total:
            # at the speed so far of one job, with as many side by side as there are cores
            seconds = (
                (total - done)
                * self.busy
                / (done - self.before)
                / min(os.cpu_count() or 1, len(self.todo) - finished or 1)
            )
            left = f"about {_minutes(seconds)} left"
        line = f"{self._clock()}  {finished}/{len(self.todo)} stages  {', '.join(running)}  {left}".rstrip()
        if sys.stdout.isatty():
            self._print(line, ends=False)
        elif elapsed >= self.next_line:
            self.next_line = elapsed + 20
            self._print(line, ends=True)

    def close(self) -> None:
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)

    def _share(self, stage: Stage) -> float:
        if stage.done:
            return 1.0
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            progress = json.loads((stage.part / "progress.json").read_text())
            return min(0.99, progress["done"] / progress["total"])
        return 0.0

    def _failed(self, stage: Stage) -> bool:
        path = stage.notebook("failed")
        return path.is_file() and path.stat().st_mtime > time.time() - (time.monotonic() - self.begin)

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.begin)
        return f"[{seconds // 60:02d}:{seconds % 60:02d}]"

    def _print(self, line: str, ends: bool) -> None:
        clear = "\r\033[K" if sys.stdout.isatty() else ""
        width = shutil.get_terminal_size().columns - 1
        print(clear + (line if ends else line[:width]), end="\n" if ends else "", flush=True)


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min" if seconds > 45 else f"{max(5, round(seconds / 5) * 5)} s"


def _locate(path: str | Path) -> Path:
    """A path as given from here, or from the project's folder."""
    path = Path(path).expanduser()
    return path if path.is_absolute() or path.exists() else root() / path


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def _hash_folder(folder: Path) -> dict[str, str]:
    """Hashes of a folder's text and weights files, by their path in it."""
    kinds = (".csv", ".tsv", ".yaml", ".json", ".txt", ".model", ".safetensors")
    return {p.relative_to(folder).as_posix(): _hash_file(p) for p in sorted(folder.rglob("*")) if p.suffix in kinds}


@cache
def _code_hash(stage: str) -> str:
    package = Path(__file__).parent
    paths = [package / f"{name}.py" for name in STAGE_CODE[stage]]
    paths.append(root() / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb")
    prompts = _hash_folder(root() / "params" / "prompts") if stage in ("data", "evaluate") else None
    return _hash([[_hash_file(path) for path in paths], prompts, _lab_hash() if stage == "data" else None])


@cache
def _lab_hash() -> str:
    package = Path(__file__).parent
    return _hash([_hash_file(package / "minilab.py"), _hash_folder(package / "minilab_data")])


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _git_commit() -> str | None:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root(), capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _write_json(path: Path, value: Any) -> None:
    """Write a JSON file at once: who reads it sees the old or the new one, never half."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(part, path)


def _print_plan(table: Table, runs: list[str] | None) -> None:
    print(f"{table.path}: {len(table.runs)} runs, outputs in {table.folder}")
    for stage in [*table.stages(runs), *([] if runs else [table.report()])]:
        note = "   (its code has changed since; `run --changed` makes it anew)" if stage.code_changed else ""
        print(f"  {stage!s:<28} {stage.status}{note}   {_what(stage)}")


def _what(stage: Stage) -> str:
    run = stage.run
    if stage.name == "data":
        return f"objective {run.objective}, replay {run.replay}"
    if stage.name == "tune":
        rows = run.new_per_step * run.uses_new + run.old_per_step * run.uses_old
        return f"{run.steps:,} steps of {rows} rows"
    if stage.name == "evaluate":
        return f"{', '.join(run.tasks)} in {sum(map(len, run.groups.values()))} languages"
    return ""


def _print_results(table: Table) -> None:
    import pandas as pd

    path = table.folder / "report" / "results.csv"
    if not path.is_file():
        print("no results yet")
        return
    frame = pd.read_csv(path)
    frame = frame[(frame["language"] == "all") & (frame["prompt"] == "all")]
    width = max(len(name) for name in frame["run"]) + 2
    print("weighted F1 in percent, averaged over prompts and languages, with 95% interval; * = within chance\n")
    groups = list(dict.fromkeys(zip(frame["group"], frame["group_name"], strict=True)))
    print(" " * width + "".join(f"{f'{group} {name}':<26}" for group, name in groups))
    for run, part in frame.groupby("run", sort=False):
        by_group = {line.group: line for line in part.itertuples()}
        cells = [_cell(by_group.get(group)) for group, _ in groups]
        print(f"{run:<{width}}" + "".join(f"{cell:<26}" for cell in cells))
    for name in ("chance", "majority"):
        cells = [f"{frame[frame['group'] == group][name].mean():5.1f}" for group, _ in groups]
        print(f"{name:<{width}}" + "".join(f"{cell:<26}" for cell in cells))
    if not table.report(finished_only=True).done:
        print("\nnot up to date: the table, its inputs or its runs have changed since; `run` makes it anew")
    print(f"\nreport: {table.folder / 'report' / 'index.html'}")


def _cell(line) -> str:
    if line is None:
        return ""
    return f"{line.weighted_f1:5.1f} [{line.low:.1f}, {line.high:.1f}]{'*' if line.within_chance else ''}"


def _print_run(table: Table, name: str) -> None:
    run = table.run(name)
    print(json.dumps(run.model_dump(mode="json"), indent=1))
    for stage in table.stages([run.name]):
        if stage.run.name == run.name:
            manifest = stage.manifest or {}
            facts = ", ".join(
                f"{k} {manifest[k]}" for k in ("end", "seconds", "peak_memory_mb", "device") if k in manifest
            )
            print(f"{stage.name}: {stage.status} {stage.folder} {facts}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ia_lib.runs", description="Carry out a table of settings.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("plan", "what each run would do, and what is finished"),
        ("run", "do what is missing, then print the results"),
        ("show", "the results, or one run's settings and artefacts"),
        ("stage", "run one stage's notebook (what Snakemake's jobs call)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("table", help="a table of settings, for example params/mini.yaml")
        if name == "stage":
            command.add_argument("run")
            command.add_argument("stage", choices=NOTEBOOKS)
        else:
            command.add_argument("runs", nargs="?" if name == "show" else "*", metavar="run", help="default: all")
        command.add_argument("--outputs", default="outputs", metavar="FOLDER", help="default: outputs")
        if name == "run":
            command.add_argument("--cores", type=int, help="default: all there are")
            command.add_argument("--changed", action="store_true", help="also redo stages whose code has changed")
    options = parser.parse_args(arguments)
    # who ends the run ends its jobs too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        table = Table(options.table, options.outputs)
        if options.command == "plan":
            _print_plan(table, options.runs)
        elif options.command == "stage":
            stage = (
                table.report(finished_only=True)
                if options.stage == "report"
                else table.stage(options.run, options.stage)
            )
            if not stage.done:
                execute(stage)
            stage.marker.parent.mkdir(parents=True, exist_ok=True)
            stage.marker.touch()
        elif options.command == "show" and options.runs:
            _print_run(table, options.runs)
        else:
            failed = table.execute(options.runs, options.cores, options.changed) if options.command == "run" else []
            _print_results(table)
            for line in failed:
                print(line, file=sys.stderr)
            return 1 if failed else 0
    except (SettingsError, StageFailed) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
