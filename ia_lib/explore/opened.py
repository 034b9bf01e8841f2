"""Two runs of a table, and what the panels read of them when they need it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import ipywidgets as widgets
import pandas as pd

from ia_lib.data.addresses import Told
from ia_lib.data.yaml_files import listed, told
from ia_lib.evaluation.blind import PROMPT
from ia_lib.explore import panel as panels
from ia_lib.explore.panel import Tell
from ia_lib.models import load
from ia_lib.workflow import judging, scheduler, work
from ia_lib.workflow.graph import Table
from ia_lib.workflow.notebook import check_parameters, without_bars_of_loading
from ia_lib.workflow.settings import Settings, SettingsError
from ia_lib.workflow.stages import Stage

# Where a panel has something to show, if no row of the table is so: table, run, other.
TASTE, COMMIT = ("taste", "tlm", "base"), ("commit_mini", "commit-jav-s1", "base-s1")
ALPACA = "taste_alpaca", "multilingual", "base"
_ELSEWHERE = 'table = "params/{}.yaml", run = "{}" and other = "{}"'


class Opened:
    """Two runs of a table with all that the panels need. What is missing is made first, and progress is shown.

    Raises SettingsError, in one sentence and without a traceback in a notebook, for a table, run or folder that is not
    there, for one run twice, and where a run cannot be made (offline, or it failed).
    """

    def __init__(self, table: str, run: str, other: str, outputs_dir: str = "outputs"):
        try:
            self._open(table, run, other, outputs_dir)
        except Told as error:
            # IPython shows these lines in place of the traceback
            lines = [f"{type(error).__name__}: {error}"]
            error._render_traceback_ = lambda: lines
            raise

    def _open(self, table: str, run: str, other: str, outputs_dir: str) -> None:
        check_parameters()
        without_bars_of_loading()
        self.made = made = Table(table, outputs_dir)
        # by its name, a row's name for its first seed
        self.runs: dict[str, Settings] = {found.name: found for found in map(made.run, (run, other))}
        if len(self.runs) == 1:
            others = [name for name in made.by_name if name not in self.runs]
            allowed = listed(others) if others else "another table, since this one has one run only"
            raise SettingsError(f"parameters, other: found {told(other)}, which is the run itself; allowed: {allowed}")
        made.settle([*self.runs])
        if failed := scheduler.make(made, [*self.runs]):
            raise SettingsError(f"{made.path}: {'; '.join(failed)}")
        self.run = next(iter(self.runs.values()))
        self.device = load.computing_device(self.run.threads)

    # ------------------------------------------------------------------ what the panels read, when they need it

    @cached_property
    def models(self) -> dict:
        """By a run's name its model and tokenizer, of those that were asked something."""
        return {}

    def model(self, name: str, tell: Tell) -> tuple:
        """A run's model and tokenizer, loaded when they are first needed."""
        if name not in self.models:
            tell(f"loading the model of {name}")
            inputs = self.evaluated(name).inputs
            with self._readable("model", name):
                model = load.load_model(*inputs.tuned_model, device=self.device)
            with self._readable("tokenizer", name):
                self.models[name] = model.eval(), load.load_tokenizer(*inputs.tokenizer)
        return self.models[name]

    @contextmanager
    def _readable(self, what: str, name: str) -> Iterator[None]:
        """What cannot be read raises whatever its library does: here it becomes one sentence, which says what to do."""
        try:
            yield
        except (OSError, RuntimeError, MemoryError, ImportError):  # which say what is wrong
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}"[:200]
            mend = f"python -m ia_lib.runs run {self.made.path} --verify"
            raise Told(
                f"The {what} of {name} cannot be read ({said}); if this table made it, and it is damaged, `{mend}` "
                "makes it again."
            ) from error

    def evaluated(self, name: str) -> Stage:
        return self.made.stage(name, "evaluate")

    @cached_property
    def chats(self) -> dict[str, bool]:
        """Whether a run is asked in its chat template."""
        return {name: run.chat for name, run in self.runs.items()}

    @cached_property
    def scores(self) -> dict[str, pd.DataFrame]:
        """scores.parquet of the runs that have one."""
        files = {name: self.evaluated(name).folder / "scores.parquet" for name in self.runs}
        return {name: pd.read_parquet(file) for name, file in files.items() if file.is_file()}

    @cached_property
    def said(self) -> dict[str, pd.DataFrame]:
        """predictions.parquet of both runs."""
        return {name: pd.read_parquet(self.evaluated(name).folder / "predictions.parquet") for name in self.runs}

    @cached_property
    def tokenizer(self):
        with self._readable("tokenizer", self.run.name):
            return load.load_tokenizer(*self.evaluated(self.run.name).inputs.tokenizer)

    @cached_property
    def parallel(self):
        """The run's parallel text; None, if it reads none."""
        inputs = self.made.stage(self.run.name, "data").inputs if self.run.trains else None
        return inputs.usable() if inputs and inputs.reads_parallel and self.run.paired_codes else None

    @cached_property
    def rows(self) -> list[dict]:
        """The examples that the run is trained on, in their order."""
        if not self.run.trains:
            return []
        stage = self.made.stage(self.run.name, "tune")
        two_parts = not self.run.model.new and load.is_encoder_decoder(*stage.inputs.model[:2])
        with self._readable("tokenizer", self.run.name):
            tokenizer = load.load_tokenizer(*stage.inputs.tokenizer)
        return work.laid_out(stage, tokenizer, two_parts)[0]

    @cached_property
    def labels(self) -> dict[str, list[str]]:
        return self.evaluated(self.run.name).inputs.labels

    @cached_property
    def texts(self) -> pd.DataFrame:
        return self.evaluated(self.run.name).inputs.tests(every=False).to_pandas()

    @cached_property
    def dictionaries(self) -> dict:
        """The run's dictionaries by language; none, if it mixes nothing."""
        if not (self.run.trains and hasattr(self.run.method, "dictionaries")):
            return {}
        return self.run.method.dictionaries(self.run, self.made.stage(self.run.name, "data").inputs)

    @cached_property
    def before(self) -> str:
        """The first text that the run mixes words into, as it was before; of an instruction its first part."""
        examples = pd.read_parquet(self.made.stage(self.run.name, "tune").inputs.examples)
        text = examples["before"].iloc[0] if "before" in examples and len(examples) else ""
        return text.rpartition("### Instruction:\n")[2].partition("\n\n###")[0]

    @cached_property
    def answers(self) -> dict[str, pd.DataFrame]:
        """Of all finished runs that are asked the same: their free answers, with marks."""
        if not self.evaluated(self.run.name).inputs.opened:
            return {}
        stages = (self.evaluated(one.name) for one in self.made.runs)
        return {
            stage.run.name: _judged(self.made, stage)
            for stage in stages
            if stage.done and stage.inputs.opened and stage.run.machine.share_text
        }

    @cached_property
    def passages(self) -> dict[tuple[str, str], pd.DataFrame]:
        """By task and language the questions on passages that the run is asked."""
        inputs = self.evaluated(self.run.name).inputs
        return {
            (task.name, code): inputs.asked(task, code).to_pandas()
            for task in inputs.extracted
            for code in inputs.tested(task)
        }

    # ------------------------------------------------------------------ what does not apply

    def nothing(self, why: str, runs: list[str], elsewhere: tuple[str, str, str]) -> widgets.Widget:
        """One sentence: why the row has nothing to show here, and what to set to see something."""
        runs = [name for name in runs if name != self.run.name]
        to_set = f"run = one of {listed(runs)} in the first cell" if runs else _ELSEWHERE.format(*elsewhere)
        return panels.nothing(f"The row {self.run.name!r} {why}; to see this panel set {to_set}.")

    def having(self, kind: str) -> list[str]:
        """The runs of the table that have a task of a kind: choices, extracted, opened."""
        return [run.name for run in self.made.runs if getattr(self.evaluated(run.name).inputs, kind)]


def _judged(table: Table, stage: Stage) -> pd.DataFrame:
    """The free answers of a run (`judged.ITEMS`), with the `marks` of its judges: (judge, mark) each."""
    found = judging.items(stage)
    found["marks"] = [()] * len(found)
    judge = table.stage(stage.run.name, "judge") if stage.inputs.judged else None
    if judge and judge.done:
        marks = pd.read_parquet(judge.folder / "marks.parquet").query("run == @stage.run.name")
        pairs = marks.groupby(list(PROMPT), sort=False)[["judge", "mark"]].apply(
            lambda part: list(map(tuple, part.to_numpy()))
        )
        found["marks"] = [pairs[key] for key in zip(*(found[name] for name in PROMPT), strict=True)]
    return found
