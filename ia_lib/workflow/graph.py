"""From a table of settings to finished artefacts: the graph of stages, Snakemake, and the command line.

python -m ia_lib.runs plan TABLE            what each run would do, and what is finished
python -m ia_lib.runs run TABLE [RUN ...]   do what is missing, then print the results
python -m ia_lib.runs show TABLE [RUN]      the results, or one run's settings and artefacts
"""

import argparse
import os
import signal
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from ia_lib.data.downloads import SourceError
from ia_lib.data.files import CorpusError
from ia_lib.instructions.templates import PromptError
from ia_lib.paths import locate, root
from ia_lib.workflow import console, inputs, tables
from ia_lib.workflow.settings import DataSettings, EvaluateSettings, New, Refusal, Settings, SettingsError, TuneSettings
from ia_lib.workflow.stages import (
    JOB,
    NOTEBOOKS,
    REDO,
    STAGE_VERSION,
    Stage,
    StageFailed,
    alone,
    digest,
    execute,
    hash_file,
    hash_folder,
    lab_hash,
    snakemake,
)

# Fields that change how a stage is carried out and not what it makes.
_NO_MATTER = {"save_steps", "log_steps", "data_dir", "mirror", "offline", "batch_tokens", "share_text"}
_BOTH = {"threads", "chat"}
_FIELDS = {
    "data": set(DataSettings.model_fields),
    "tune": set(TuneSettings.model_fields)
    | _BOTH
    | {"steps", "new_epochs", "new_per_step", "old_per_step", "max_length", "end_of_sequence", "cut"},
    "evaluate": set(EvaluateSettings.model_fields) | _BOTH | {"corpus", "lab", "known", "taught", "unseen"},
}
_COMMAND = (sys.executable, "-m", "ia_lib.runs")


class Table:
    """A table of settings with its folder of outputs."""

    def __init__(self, path: str | Path, outputs_dir: str | Path = "outputs"):
        self.path = locate(path)
        self.runs = tables.load(self.path)
        # runs that `add` made: their name -> the run they came from and what was changed
        self.changed: dict[str, tuple[str, dict[str, Any]]] = {}
        outputs = Path(outputs_dir).expanduser()
        self.outputs = outputs if outputs.is_absolute() else root() / outputs
        # a table in a folder below params/ has its outputs in a folder of that name
        home, path = root() / "params", self.path.resolve()
        self.folder = self.outputs / (
            path.relative_to(home).with_suffix("") if path.is_relative_to(home) else path.stem
        )

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
        names = [run.name for run in self.runs]  # it names the runs that are missing, too
        inputs = [stage.key for stage in needs]
        key = digest({"stage": "report", "version": STAGE_VERSION["report"], "runs": names, "inputs": inputs})
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
            label += f"~{digest(changes)[:6]}"
        changed = changed.model_copy(update={"name": f"{run.name}~{label}"})
        self.changed[changed.name] = (run.name, changes)
        self.runs.append(changed)
        self.__dict__.pop("by_name", None)
        return changed

    def execute(self, runs: list[str] | None = None, cores: int | None = None) -> list[str]:
        """Let Snakemake do what is missing, rows side by side, and make the report; returns what failed, a line each.

        A failing row does not stop the others.
        """
        for name in runs or []:
            self.run(name)
        self.check(runs)
        for what, run in self.to_download(runs).items():
            if run.offline:
                raise SettingsError(
                    f"{run.place}, run {run.name!r}: {what} is not on this machine, and offline is set; "
                    "run once with internet and without offline"
                )
        failed = self.make([stage for stage in self.stages(runs) if not stage.done], runs, cores)
        report = self.report(finished_only=True)
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
        config = {"table": str(self.path.resolve()), "outputs": str(self.outputs), "runs": ",".join(runs or [])}
        with alone(jobs, f"another run of {self.path} is at work in {self.folder}") as lock:
            log = jobs / "snakemake.log"
            watch = console.Watch(todo)
            print(f"{self.path}: {len(todo)} stages to do; what Snakemake says goes to {log}", flush=True)
            try:
                code = snakemake(jobs, {**config, "report": report}, cores, lock, watch.look)
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

    def check(self, runs: list[str] | None = None) -> None:
        """Look at all that the runs will read from local files, before any work. Raises SettingsError."""
        for run in dict.fromkeys(stage.run.name for stage in self.stages(runs)):
            settings = self.by_name[run]
            try:
                inputs.check(settings, self.lab(settings), self.past(settings))
            except Refusal as error:
                raise tables.refused(self.path, settings, error) from None
            except (CorpusError, SourceError, PromptError) as error:
                raise SettingsError(f"{settings.place}, run {run!r}: {error}") from None

    def to_download(self, runs: list[str] | None = None) -> dict[str, Settings]:
        """What the unfinished stages of the runs need that is not on this machine yet, and the first run that does."""
        found: dict[str, Settings] = {}
        for stage in self.stages(runs):
            run, owner = stage.run, self._owner(stage.run)
            if stage.done:
                continue
            for what in inputs.to_download(run, self.lab(run), stage.name):
                found.setdefault(what, run)
            if owner.model.name:
                name, revision = _outside(owner)
                # whole or in parts; that a config is there says nothing of the weights
                files = (f"{n}{end}" for n in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
                here = (isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in files)
                if not Path(name).is_dir() and not any(here):
                    found.setdefault(f"the model {name}", owner)
        return found

    def lab(self, run: Settings) -> Path:
        """The folder that `inputs` reads from: the mini lab's files, made once per seed and size, or the real data."""
        if run.corpus == "minilab":
            # its own code and words too: after a change there is another lab
            size = digest([run.lab.model_dump(), run.known, run.taught, run.unseen, lab_hash()])[:8]
            return self.folder / "lab" / f"seed{run.seed}-{size}"
        folder = run.folder().expanduser()
        return folder if folder.is_absolute() else root() / folder

    def past(self, run: Settings) -> Path | None:
        """The file of the run's past instruction data; None if it has none or it is a mixture yet to be made."""
        if run.past and run.past.run:
            return self.stage(run.past.run, "data").folder / "replay.parquet"
        return inputs.find_file(run, self.lab(run), run.past.file) if run.past and run.past.file else None

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

    def origin(self, run: Settings) -> str | New:
        """The model at the beginning of the run's chain: its name or folder, or what a new one looks like."""
        owner = self._owner(run)
        return owner.model.new or _outside(owner)[0]

    def _owner(self, run: Settings) -> Settings:
        """The run at the beginning of the chain, whose model is new or comes from outside."""
        while run.model.run:
            run = self.by_name[run.model.run]
        return run

    def finished(self) -> tuple[list, list[str], dict[str, dict], dict[str, str]]:
        """What `report.write` needs: (settings, folder) of evaluated runs, names of the others, manifests by stage, and
        the model that each run's chain began with."""
        stages = {run.name: self.stage(run.name, "evaluate") for run in self.runs}
        evaluated = [(stage.run, stage.folder) for stage in stages.values() if stage.done]
        missing = [name for name, stage in stages.items() if not stage.done]
        manifests = {str(stage): stage.manifest for stage in self.stages([r.name for r, _ in evaluated]) if stage.done}
        origins = {run.name: self._owner(run).model.name or "" for run, _ in evaluated}
        return evaluated, missing, manifests, origins

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
        # which texts are left out, and which are held out and measured
        if name == "data" and run.drop_test_overlap and run.corpus != "minilab":
            parts["tests"] = [values["tasks"], values["tests"], values["test_split"]]
        if name == "evaluate" and run.measures_held_out:
            parts["held_out"] = {k: v for k, v in values.items() if k in _FIELDS["data"] - _NO_MATTER - {"past"}}
        if name == "data":
            parts["tokenizer"] = values["model"]["new"] and values["model"]["new"]["vocabulary"]
        return Stage(name, run, self, self.folder / run.name / name, digest(parts), needs)

    def _files(self, run: Settings, name: str) -> dict[str, Any]:
        """What the stage depends on from outside: hashes of files, and the name of the model the chain began with."""
        files: dict[str, Any] = {}
        if name in ("data", "evaluate"):
            try:
                read = inputs.read_files(run, self.lab(run), name)
            except Refusal as error:
                raise tables.refused(self.path, run, error) from None
            for entry, path in read.items():
                if path is not None and not path.is_file():
                    raise SettingsError(
                        f"{run.place}, run {run.name!r}: {path}: there is no such file, nor beside the table, in the "
                        "data folder or in the kit's folder"
                    )
                # what is to be fetched is pinned, or recorded at its first download
                files[entry] = hash_file(path) if path else "fetched"
        owner = self._owner(run)
        if owner.model.name:
            source, revision = _outside(owner)
            files["model"] = [owner.model.name, revision, hash_folder(Path(source)) if Path(source).is_dir() else None]
        return files


def _outside(run: Settings) -> tuple[str, str | None]:
    """A model's name as a folder's path, if there is such a folder, or as a Hub name; and its revision."""
    path = locate(run.model.name, run.home)
    if run.model.name.startswith(("/", ".", "~")) and not path.is_dir():
        raise SettingsError(f"{run.place}, run {run.name!r}, field 'model.name': {path}: there is no such folder")
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
        if JOB not in os.environ:
            for line in made.make([s for s in made.stages() if not s.done], report=False):
                print(line)
        return made.report(finished_only=True).open()
    settings = made.run(run)
    if changes:
        settings = made.add(settings, changes)
    if stage != "evaluate" and not settings.trains:
        raise SettingsError(f"{made.path}, run {run!r}: it trains on nothing, so it has no {stage}; allowed: evaluate")
    wanted = made.stage(settings.name, stage)
    for needed in made.missing(wanted) if JOB not in os.environ else []:
        print(f"first {needed}, which is {needed.status} ...", flush=True)
        execute(needed)
    return wanted.open()


def _cores(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number, at least 1")
    return int(text)


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
            command.add_argument("--cores", type=_cores, metavar="N", help="default: all there are")
            command.add_argument("--changed", action="store_true", help="also redo stages whose code has changed")
    options = parser.parse_args(arguments)
    # who ends the run ends its jobs too
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        table = Table(options.table, options.outputs)
        if options.command == "plan":
            table.check(options.runs)
            console.print_plan(table, options.runs)
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
            console.print_run(table, options.runs)
        else:
            if options.command == "run" and options.changed:
                os.environ[REDO] = "1"  # for the jobs, too
            failed = table.execute(options.runs, options.cores) if options.command == "run" else []
            os.environ.pop(REDO, None)
            console.print_results(table)
            for line in failed:
                print(line, file=sys.stderr)
            return 1 if failed else 0
    except (SettingsError, StageFailed, CorpusError, SourceError, PromptError) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
