"""The graph of a table's stages: what each needs, its key, and what of all that is finished."""

import json
import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from ia_lib.data.addresses import shown
from ia_lib.data.downloads import SourceError
from ia_lib.data.files import CorpusError
from ia_lib.data.yaml_files import Refusal, listed, meant, told
from ia_lib.evaluation.tasks import TaskError
from ia_lib.instructions.templates import PromptError
from ia_lib.paths import locate, params, root, unmounted
from ia_lib.recipes.fields import Shared
from ia_lib.workflow import preflight, tables
from ia_lib.workflow.inputs import Inputs
from ia_lib.workflow.settings import Settings, SettingsError
from ia_lib.workflow.sources import Address, Gguf, HubModel, Source
from ia_lib.workflow.stages import STAGE_VERSION, Stage, digest, write_json
from ia_lib.workflow.weights import trained

STAGES = ("data", "tune", "evaluate", "judge")


class Table:
    """A table of settings with its folder of outputs."""

    def __init__(self, path: str | Path, outputs_dir: str | Path = "outputs"):
        # what is nowhere is told as it was asked for
        self.path = found if (found := locate(path)).exists() else Path(path)
        self.runs = tables.load(self.path)
        # runs that `add` made: their name -> the run they came from and what was changed
        self.changed: dict[str, tuple[str, dict[str, Any]]] = {}
        outputs = Path(outputs_dir).expanduser()
        self.outputs = outputs if outputs.is_absolute() else root() / outputs
        # a table in a folder below params/ has its outputs in a folder of that name
        home, path = root() / params().name, self.path.resolve()
        name = path.relative_to(home).with_suffix("") if path.is_relative_to(home) else path.stem
        self.folder = self.outputs / name
        self._check_folder()
        self._made: dict[tuple[str, str], Stage] = {}

    @property
    def _stamp(self) -> Path:
        return self.folder / ".table.json"

    def _check_folder(self) -> None:
        """Raises SettingsError if the folder of outputs is that of another table, or none can be."""
        if drive := unmounted(self.folder):
            said = f"found {self.outputs} for its outputs, and Google Drive is not mounted there"
            raise SettingsError(
                f"{self.path}: {said}; first run: from google.colab import drive; drive.mount({str(drive)!r})"
            )
        for folder in (self.folder, *self.folder.parents):
            if folder.exists() and not folder.is_dir():
                raise SettingsError(f"{self.path}: found {folder} for its outputs, a file; allowed: a folder")
        theirs = [name for name in (run.name for run in self.runs) if (self.folder / name / self._stamp.name).exists()]
        if theirs:
            said = f"found the run {theirs[0]!r}, whose folder {self.folder / theirs[0]} is that of another table"
            raise SettingsError(f"{self.path}: {said}; allowed: another name")
        if not self._stamp.exists():
            if any((self.folder / stage).is_dir() for stage in STAGES):
                said = f"found {self.folder} for its outputs, which has those of another table's run"
                raise SettingsError(f"{self.path}: {said}; allowed: another folder (outputs), or another file name")
            return
        try:
            stamp = json.loads(self._stamp.read_text(encoding="utf-8"))
            # a folder that was moved or copied with its table is still the table's
            others = {Path(stamp["table"]).resolve(), (self.folder / stamp["beside"]).resolve()}
        except (ValueError, TypeError, KeyError):
            said = f"{self._stamp} does not say whose outputs these are: it is damaged"
            raise SettingsError(f"{self.path}: {said}; delete it if they are this table's") from None
        if self.path.resolve() not in others and Path(stamp["table"]).is_file():
            said = f"found {self.folder} for its outputs, which are those of {stamp['table']}"
            raise SettingsError(f"{self.path}: {said}; allowed: another folder (outputs), or another file name")

    def claim(self) -> None:
        """Make the folder of outputs this table's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = self.path.resolve()
        write_json(self._stamp, {"table": str(mine), "beside": os.path.relpath(mine, self.folder.resolve())})

    @cached_property
    def by_name(self) -> dict[str, Settings]:
        return {run.name: run for run in self.runs}

    def run(self, name: str) -> Settings:
        """The run of that name; for a table with seeds also the row's name, which means its first seed."""
        if found := self.by_name.get(name) or next((run for run in self.runs if run.row == name), None):
            return found
        known = list(self.by_name)
        raise SettingsError(
            f"{self.path}: found no run {told(name)}; {meant(name, known)}allowed: {listed(known, name)}"
        )

    def stages(self, runs: list[str] | None = None) -> list[Stage]:
        """The stages of the given runs (default: all) and of those they build on, in order, without the report."""
        wanted: set[str] = set()
        for name in runs or list(self.by_name):
            self._collect(self.run(name), wanted)
        return [
            self.stage(name, stage)
            for name in self.by_name
            if name in wanted
            for stage in self.stages_of(self.by_name[name])
        ]

    def stages_of(self, run: Settings) -> list[str]:
        """The stages that a run has: one that trains on nothing is only evaluated, and what is judged are free
        answers."""
        judged = run.judge.judges and self.stage(run.name, "evaluate").inputs.judged
        return [*(STAGES[:2] if run.trains else ()), "evaluate", *(["judge"] if judged else ())]

    def stage(self, run: str, name: str) -> Stage:
        """The stage `name` of `run`, with its key and its inputs."""
        if (run, name) not in self._made:
            self._made[run, name] = self._make(self.by_name[run], name)
        return self._made[run, name]

    def report(self, finished_only: bool = False) -> Stage:
        """The report over all runs, or over those that are finished."""
        needs = [self.stage(run.name, name) for run in self.runs for name in self.stages_of(run) if name in STAGES[2:]]
        if finished_only:
            needs = [stage for stage in needs if stage.done]
        # a run that reproduces published numbers, if there is one, since the report then reads those
        run = next((run for run in self.runs if run.reproduces), self.runs[0])
        inputs = Inputs([run], "report", self.folder)
        names = [run.name for run in self.runs]  # it names the runs that are missing, too
        parts = {"stage": "report", "version": STAGE_VERSION["report"], "runs": names, "sources": inputs.identities()}
        key = digest({**parts, "inputs": [stage.key for stage in needs]})
        without = [name for name in names if name not in {stage.run.name for stage in needs}]
        return Stage("report", None, inputs, self.path, self.outputs, self.folder / "report", key, needs, None, without)

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
        exact = ",".join(f"{k}={v}" for k, v in sorted(shown(changes).items()))
        label = "".join(c if c.isalnum() or c in "_.+=,-" else "_" for c in exact)[:60]
        if label != exact:
            label += f"~{digest(changes)[:6]}"
        changed = changed.changed(name=f"{run.name}~{label}")
        self.changed[changed.name] = (run.name, changes)
        self.runs.append(changed)
        self.__dict__.pop("by_name", None)
        return changed

    def check(self, runs: list[str] | None = None, without: bool = False) -> None:
        """Look at all that the runs will read from local files, before any work, or `without` those of the user's that
        are not here. Raises SettingsError."""
        seen: set = set()
        for stage in self.stages(runs):
            try:
                preflight.check(stage.inputs, seen, without)
            except Exception as error:
                raise self._said(stage.run, error) from None

    def absent(self, runs: list[str] | None = None) -> dict[str, Settings]:
        """The files that the runs need and only the user can bring here, and the first run that does."""
        return self._told(self.stages(runs), lambda one: one.absent())

    def check_here(self, runs: list[str] | None = None) -> None:
        """Raise SettingsError for the first of the user's files that is not here."""
        for source, run in self._read(self.stages(runs)):
            try:
                source.check()
            except SourceError as error:
                raise self._said(run, error) from None

    def check_offline(self, runs: list[str] | None = None) -> None:
        """Raise SettingsError for what would have to be fetched where a row is offline."""
        for what, run in self.to_download(runs).items():
            if run.machine.offline:
                what, _, remedy = what.partition("; without internet: ")
                raise SettingsError(
                    f"{run.place}, run {run.name!r}: {what} is not on this machine, and offline is set; "
                    f"{remedy + ', or ' if remedy else ''}run once with internet and without offline"
                )

    def settle(self, runs: list[str] | None = None) -> None:
        """What `check` and `check_offline` do, and refuse endpoints without keys; then fix what is not pinned (the
        commits of models on the Hub) for all of the table's rows, and ask once whether the addresses of old
        instructions answer. Raises SettingsError."""
        self.check(runs)
        self.check_offline(runs)
        self._check_folder()
        asked = set()
        for stage in self.stages(runs):
            if stage.name == "judge" and not stage.done:
                try:
                    preflight.check_keys(stage.inputs)
                except CorpusError as error:
                    raise self._said(stage.run, error) from None
            for source in stage.inputs.sources.values():
                if isinstance(source, HubModel | Gguf) or (isinstance(source, Address) and not stage.done):
                    try:
                        if source not in asked:
                            source.settle()
                    except (SourceError, CorpusError) as error:
                        raise self._said(stage.run, error) from None
                    asked.add(source)
        self.claim()
        self._made.clear()

    def to_download(self, runs: list[str] | None = None) -> dict[str, Settings]:
        """What the unfinished stages of the runs need that is not on this machine yet, and the first run that does."""
        return self._told((stage for stage in self.stages(runs) if not stage.done), lambda one: one.missing())

    def _told(self, stages: Iterable[Stage], ask: Callable[[Source], str | None]) -> dict[str, Settings]:
        found: dict[str, Settings] = {}
        for source, run in self._read(stages):
            if what := ask(source):
                found.setdefault(what, run)
        return found

    def _read(self, stages: Iterable[Stage]) -> list[tuple[Source, Settings]]:
        """What stages read, each source once, with the first run that does."""
        found: dict[Source, Settings] = {}
        for stage in stages:
            for source in stage.inputs.sources.values():
                found.setdefault(source, stage.run)
        return [*found.items()]

    def _chain(self, run: Settings) -> list[Settings]:
        """The run, the run that is its base, and so on."""
        return [run, *(self._chain(self.by_name[run.model.run]) if run.model.run else [])]

    def _collect(self, run: Settings, wanted: set[str]) -> None:
        for name in tables.needs(run):
            self._collect(self.by_name[name], wanted)
        wanted.add(run.name)

    def _needs(self, run: Settings, name: str) -> list[Stage]:
        """The stages whose artefacts a stage reads."""
        needs = []
        if name == "judge":
            return [self.stage(run.name, "evaluate")]
        if name == "data":
            if run.data.past and run.data.past.run and tables.drawn(run):
                needs.append(self.stage(run.data.past.run, "data"))
        else:
            if run.trains and name == "tune":
                needs.append(self.stage(run.name, "data"))
            chain = self._chain(run)
            parts = [
                chain[1:] if name == "tune" else chain,
                *([chain[2:]] if run.model.interpolate is not None else []),
            ]
            needs += [self.stage(one.name, "tune") for part in parts for one in trained(part)]
        owner = self._chain(run)[-1]
        if owner.model.new and (name != "data" or owner is not run):
            needs.append(self.stage(owner.name, "data"))  # whose tokenizer it is
        return list({str(stage): stage for stage in needs}.values())

    def _make(self, run: Settings, name: str) -> Stage:
        inputs, needs = Inputs(self._chain(run), name, self.folder), self._needs(run, name)
        try:
            identities = inputs.identities()
            of_its_own = name == "evaluate" and bool(inputs.translations or inputs.answered)
        except Exception as error:
            raise self._said(run, error) from None
        block = "train" if name == "tune" else name
        shared = run.model_dump(mode="json", include=set(Shared.model_fields))
        settings = {"shared": shared, block: getattr(run, block).model_dump(mode="json")}
        if of_its_own:
            settings["data"] = run.data.model_dump(mode="json")
        if run.model.interpolate is not None:
            settings["interpolate"] = run.model.interpolate
        if run.data.past and "data" in settings:
            # what a run or file is called is no setting: what it holds is in the keys of inputs and sources
            settings["data"]["past"] |= {"run": None, "file": None}
        if run.model.new and name != "evaluate":
            settings["new"] = run.model.new.vocabulary if name == "data" else run.model.new.model_dump()
        parts = {"stage": name, "version": STAGE_VERSION[name], "settings": settings, "sources": identities}
        key = digest({**parts, "inputs": [stage.key for stage in needs]})
        asked = self.changed.get(run.name)
        return Stage(name, run, inputs, self.path, self.outputs, self.folder / run.name / name, key, needs, asked)

    def _said(self, run: Settings, error: Exception) -> Exception:
        """An error about what a run reads, with where the run stands; any other stays what it is."""
        if isinstance(error, Refusal):
            return tables.refused(self.path, run, error)
        if isinstance(error, CorpusError | SourceError | PromptError | TaskError):
            return SettingsError(f"{run.place}, run {told(run.name)}: {error}")
        if isinstance(error, OSError) and error.filename:  # as a name that is too long for the system
            said = f"found {told(str(error.filename))}, which cannot be looked for ({error.strerror})"
            return SettingsError(f"{run.place}, run {told(run.name)}: {said}; allowed: a file or folder")
        return error
