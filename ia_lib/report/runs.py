"""One run as its artefacts tell it: settings, answers, marks. A report reads nothing else."""

import json
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ia_lib.data.files import own_csv
from ia_lib.data.languages import NAMES
from ia_lib.evaluation import measures
from ia_lib.evaluation.measures import Answered
from ia_lib.evaluation.resampling import LABEL_METRICS

STAGES = ("data", "tune", "evaluate")


class Run:
    """A run, as the folder of its evaluate stage and those beside it tell it."""

    def __init__(self, folder: str | Path, said: dict | None = None, judged: Path | None = None):
        """`said` are settings that the table has changed since, which no artefact depends on; `judged` is the folder of
        its judge stage, if there is one."""
        self.folder, self.judged = Path(folder), judged
        places = {stage: self.folder.parent / stage / "manifest.json" for stage in STAGES}
        places |= {"judge": judged / "manifest.json"} if judged else {}
        self.stages = {stage: read_json(path) for stage, path in places.items() if path.is_file()}
        self.manifest = self.stages["evaluate"]
        settings = self.settings = {**self.manifest["settings"], **(said or {})}
        if judged:
            # judges may have come later
            settings["judge"] = self.stages["judge"]["settings"]["judge"]
        self.name, self.row, self.seed = settings["name"], settings["row"], settings["seed"]
        self.groups = {"L1": settings["known"], "L2": settings["taught"], "L3": settings["unseen"]}
        self.base, self.rule = settings["model"]["run"], settings["evaluate"]["scoring_rule"]
        self._begins = settings["model"]
        if self.between is not None:
            # it is compared with what its model lies between
            tuned = read_json(self.folder.parents[1] / self.base / "tune" / "manifest.json")
            self._begins = tuned["settings"]["model"]
            self.base = self._begins["run"]
        self.objective = settings["data"].get("objective", settings["recipe"])
        self.replay = settings["data"].get("replay", settings["data"].get("rows", ""))
        if self.retention in ("ewc", "ssu"):
            self.replay = 0  # the old instructions are looked at, and none is trained on
        self._answers: dict[tuple, Answered] = {}
        self._opened = str(folder), json.dumps(said or {}), judged and str(judged)

    def __reduce__(self):
        # another process reads its artefacts by itself
        return _reopened, self._opened

    @property
    def between(self) -> float | None:
        """How far its weights are from one model to another, if they lie between two."""
        return self.settings["model"].get("interpolate")

    @property
    def retention(self) -> str:
        """What is done against forgetting, beside replay; "none" if nothing is."""
        if self.between is not None:
            return f"interpolation {self.between:g}"
        asked, adapter = self.settings["data"].get("retention"), self.settings["train"].get("adapter")
        found = [*([asked["method"]] if asked else []), *(["adapter"] if adapter else [])]
        return ", ".join(found if "tune" in self.stages else []) or "none"

    @property
    def began_with(self) -> str:
        """What model it begins with: a row of the table, a model's name, or "new"."""
        model = self._begins
        if self.base and self.name != self.row:
            return self.base.removesuffix(f"-s{self.seed}")
        return self.base or model["name"] or "new"

    def language(self, code: str) -> str:
        return self.settings["languages"].get(code) or NAMES.get(code, code)

    @property
    def budget(self) -> str:
        """What of a set of instructions it was tuned on, in the Alpaca study."""
        return self.settings["data"].get("budget", "") if "tune" in self.stages else ""

    @property
    def trained_on(self) -> str:
        """The one language of the budget mono."""
        data = self.settings["data"]
        return (data["language"] or self.settings["taught"][0]) if self.budget == "mono" else ""

    @property
    def tuning(self) -> str:
        """Whether adapters were trained or all weights; "" of a run that trains on nothing."""
        if "tune" not in self.stages:
            return ""
        return "lora" if self.settings["train"].get("adapter") else "full"

    @property
    def tested(self) -> bool:
        return bool(self.settings["evaluate"]["tasks"] != [] or self.settings["evaluate"]["tests"])

    @cached_property
    def scores(self) -> pd.DataFrame:
        return self._read("scores.parquet")

    @cached_property
    def scored(self) -> list[str]:
        """The columns of its scores; none of a run without labels."""
        path = self.folder / "scores.parquet"
        file = pq.ParquetFile(path) if path.is_file() else None
        return file.schema_arrow.names if file and file.metadata.num_rows else []

    @cached_property
    def kinds(self) -> set[str]:
        """The kinds of tasks that it was tested on and has results of."""
        counted = set(self._counts["kind"]) if "kind" in self._counts else {"translate"} if len(self._counts) else set()
        return counted | ({"choose"} if self.scored else set())

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens by stage: as estimated for training, as counted for scoring."""
        found = {"tune": self.data.get("estimated", {}).get("tokens")}
        if self.scored:
            # the prompt is read once for all its labels
            keys = [c for c in ("dataset", "task", "language", "example", "prompt") if c in self.scored]
            read = self.scores.drop_duplicates(keys)["prompt_tokens"].sum()
            found["evaluate"] = int(read + self.scores["label_tokens"].sum())
        return {stage: tokens for stage, tokens in found.items() if tokens}

    @cached_property
    def data(self) -> dict:
        """The report of its data stage; empty without one."""
        path = self.folder.parent / "data" / "report.json"
        return read_json(path) if path.is_file() else {}

    @property
    def words_in_dictionary(self) -> dict[str, float]:
        """Language -> how many words of what was mixed its dictionary has, in percent."""
        found = self.data.get("code_mixing", {})
        return {code: rates["words_in_dictionary"] for code, rates in found.items() if rates["words_changed"]}

    @cached_property
    def majority(self) -> dict[str, dict]:
        """`majority_label` and `majority_of`, each (data set, task) -> value, as measures.csv has them."""
        known = lines_in(self.folder / "measures.csv").dropna(subset="majority_of").groupby(["dataset", "task"])
        return {name: known[name].first().to_dict() for name in ("majority_label", "majority_of")}

    def answers(self, kind: str, rule: str | None = None, seed: int | None = None) -> Answered:
        """What `choices` or `counted` of `measures` make of its answers of a kind, under a rule (default: the run's),
        drawn with a seed (default: the run's); empty if it has none."""
        rule, seed, found = rule or self.rule, seed or self.seed, {}
        if (kind, rule, seed) in self._answers:
            return self._answers[kind, rule, seed]
        counts = pd.DataFrame() if kind == "choose" else self._counts
        if len(counts):
            # a cell's third part is its kind
            found = {cell: counted for cell, counted in measures.counted(counts, seed).items() if cell[2] == kind}
        elif kind == "choose" and self.scored:
            majority = self.majority["majority_label"]
            majority = "test" if self.settings["evaluate"]["majority_of"] == "test" else majority
            # under another rule the headline is all that is looked at
            metrics = LABEL_METRICS if rule == self.rule else (measures.HEADLINE,)
            found = self._laid_out.choices(rule, seed, majority, metrics)
        self._answers[kind, rule, seed] = found
        return found

    @cached_property
    def _laid_out(self) -> measures.Scored:
        return measures.Scored(self.scores)

    @cached_property
    def marks(self) -> pd.DataFrame:
        """What judges said of its free answers; empty, if nobody was asked."""
        return self._read("marks.parquet", self.judged)

    @cached_property
    def checks(self) -> pd.DataFrame:
        """What judges said of answers whose mark is known beforehand."""
        path = self.judged / "checks.csv" if self.judged else None
        return own_csv(path) if path and path.is_file() else pd.DataFrame()

    @cached_property
    def _counts(self) -> pd.DataFrame:
        found = [self._read("counts.parquet", folder) for folder in (self.folder, self.judged)]
        found = [frame for frame in found if len(frame)]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    def _read(self, name: str, folder: Path | None = None) -> pd.DataFrame:
        path = (folder or self.folder) / name
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


@lru_cache(maxsize=12)
def _reopened(folder: str, said: str, judged: str | None) -> Run:
    return Run(folder, json.loads(said), Path(judged) if judged else None)


def lines_in(path: Path) -> pd.DataFrame:
    """A CSV file whose column `dataset` may be empty."""
    return own_csv(path).astype({"dataset": object}).fillna({"dataset": ""})


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
