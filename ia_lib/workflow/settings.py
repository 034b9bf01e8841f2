"""One run's settings, validated: every field with its kind, its default and the rules over several fields."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ia_lib.data import corpora, languages
from ia_lib.instructions import templates
from ia_lib.paths import locate
from ia_lib.workflow.fidelity import filled

OBJECTIVES = ("tlm", "mt", "xss", "mlm", "word", "span")
Count = Annotated[int, Field(ge=1, strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


class SettingsError(ValueError):
    """A table that cannot be used; the message says where and what is allowed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Lab(_Part):
    """Sizes of the mini lab, in sentences."""

    base: Count = 6000
    train: Count = 2000
    valid: Count = 100
    test: Count = 400


class Mixture(_Part):
    """Past data for a model trained from scratch: shares in percent (see `minilab.mixture`)."""

    sentiment: Number = Field(0, ge=0)
    mt: Number = Field(0, ge=0)
    xss: Number = Field(0, ge=0)
    mlm: Number = Field(0, ge=0)
    rows: Count = 60000
    split: str = "base"
    xss_negatives: Literal["random", "hard", "mixed"] = "random"

    @model_validator(mode="after")
    def _has_shares(self):
        if not self.sentiment + self.mt + self.xss + self.mlm:
            raise Refusal("", "no shares", "a share above 0 for at least one of sentiment, mt, xss, mlm")
        return self


class Past(_Part):
    """Where the model's old instruction data comes from: exactly one of run, file, url, xp3 and mixture."""

    run: str | None = None  # what that run of the table was trained on
    file: str | None = None  # a JSONL or parquet file with the two fields below
    url: str | None = None  # a JSONL file too large to download: rows are drawn from random parts of it
    xp3: list[str] | None = Field(None, min_length=1)  # languages of xP3, by its two-letter codes; drawn from as a url
    prompt: str | None = None
    answer: str | None = None
    stream: bool = False  # read a large local file line by line, holding only the rows that are drawn
    blocks: Count = 2000
    mixture: Mixture | None = None

    @property
    def fields(self) -> dict[str, str]:
        """Column of the pool -> the file's field."""
        names = {"prompt": "inputs", "answer": "targets"} if self.xp3 else {"prompt": "prompt", "answer": "answer"}
        return {**names, **{name: getattr(self, name) for name in names if getattr(self, name)}}

    @model_validator(mode="after")
    def _one_source(self):
        _exactly_one(self, ("run", "file", "url", "xp3", "mixture"))
        if self.stream and not self.file:
            raise Refusal("stream", True, "nothing, unless there is a local file")
        return self


class Parallel(_Part):
    """A user's own parallel text: one file with a column per language, or one text file per language."""

    file: str | None = None  # CSV, TSV, JSONL, parquet, XLSX or TMX
    columns: dict[str, str] = {}  # language code -> the file's column (in TMX: language); default: the code itself
    id: str | None = None  # the file's column with the sentences' ids
    lines: dict[str, str] | None = None  # language code -> a text file; line n of one translates line n of the others

    @model_validator(mode="after")
    def _one_source(self):
        _exactly_one(self, ("file", "lines"))
        return self


class Test(_Part):
    """A user's own labelled texts in one language."""

    file: str  # CSV, TSV, JSONL, parquet or XLSX
    language: str
    labels: list[str] = Field(min_length=2)
    task: str = "sentiment"
    text: str = "text"
    label: str = "label"
    id: str | None = None


class New(_Part):
    """An untrained BLOOM and its tokenizer, trained on the past data."""

    hidden: Count = 64
    layers: Count = 2
    heads: Count = 4
    vocabulary: int = Field(2500, ge=300, strict=True)

    @model_validator(mode="after")
    def _divisible(self):
        if self.hidden % self.heads:
            raise Refusal("heads", self.heads, f"a divisor of hidden ({self.hidden})")
        return self


class Model(_Part):
    """The model to begin with: exactly one of the three."""

    new: New | None = None
    run: str | None = None  # the model that this run of the table ended with
    name: str | None = None  # a Hub name or a local folder
    revision: str | None = None

    @model_validator(mode="after")
    def _one_source(self):
        _exactly_one(self, ("new", "run", "name"))
        if self.revision and not self.name:
            raise Refusal("revision", self.revision, "nothing, unless the model has a name")
        return self


PARTS = {"past": Past, "model": Model, "new": New, "mixture": Mixture, "lab": Lab, "parallel": Parallel, "tests": Test}


class DataSettings(_Part):
    """What the data stage depends on."""

    corpus: Literal["minilab", "nusax", "nusatranslation", "flores", "own"] = "minilab"
    parallel: Parallel | None = None
    sentences: Count | None = None
    data_dir: str | None = None
    mirror: str | None = None
    offline: bool = False
    lab: Lab = Lab()
    languages: dict[str, str] = {}
    known: list[str] = ["eng", "ind"]
    taught: list[str] = ["sun", "jav", "ban", "min", "bug", "ace", "bjn"]
    unseen: list[str] = ["bbc", "mad", "nij"]
    pivots: list[str] = ["eng", "ind"]
    teach_known: bool = False
    objective: str = "none"
    templates: str = "instructalign"
    noise: Literal["mixture", "infilling", "deletion", "permutation"] = "mixture"
    noise_tokens: Literal["words", "nltk"] = "words"
    noise_probability: Share = 0.2
    mask: str = Field("___", min_length=1)
    tlm_names: Literal["own", "swapped"] = "own"
    xss_negatives: Literal["random", "hard", "mixed", "corrupted"] = "mixed"
    drop_test_overlap: bool = True
    hold_out: Literal["sentence", "row"] = "sentence"
    past: Past | None = None
    replay: Annotated[int, Field(ge=0, strict=True)] | Literal["all"] = 0
    replay_sampling: Literal["uniform", "released"] = "uniform"
    replay_stratify: str | None = None
    steps: Annotated[int, Field(ge=0, strict=True)] | None = None
    new_epochs: Annotated[Number, Field(gt=0)] | None = None
    new_per_step: Count = 16
    old_per_step: Count = 16
    validation_sentences: Count = 50
    validation_rows: Count = 256
    max_length: Annotated[int, Field(ge=16, strict=True)] = 256
    end_of_sequence: bool = True
    cut: Literal["prompt", "end"] = "prompt"
    chat: bool = False
    share_text: bool = True


class TuneSettings(_Part):
    """What tuning depends on, beside its data."""

    model: Model
    alternation: Literal["strict", "shuffled"] = "strict"
    learning_rate: Number = Field(1e-5, gt=0)
    warmup: Share = 0.0
    weight_decay: Number = Field(0.0, ge=0)
    accumulation: Count = 1
    loss: Literal["answer", "all"] = "answer"
    loss_average: Literal["example", "token"] = "token"
    length_window: Count = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    log_steps: Count = 50
    validate_steps: Count = 500
    save_steps: Count = 500


class EvaluateSettings(_Part):
    """What evaluation depends on, beside the model."""

    tasks: Annotated[list[str], Field(min_length=1)] | None = None
    tests: list[Test] = []
    held_out: bool | None = None
    test_split: Literal["valid", "test"] = "test"
    examples: Count | None = None
    wordings: list[str] = Field(["english"], min_length=1)
    label_order: Literal["documented", "shuffled"] = "documented"
    scoring_rule: Literal["label_sum", "joint", "mean", "label_mean", "label_per_char", "calibrated"] = "label_sum"
    prompt_logprob: bool = False
    majority_of: Literal["train", "test"] = "train"
    quantisation: Literal["none", "int8", "nf4"] = "none"
    score_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: Count | None = None
    score_max_length: Count = 1024


class Settings(DataSettings, TuneSettings, EvaluateSettings):
    """One run: a row of the table with its seed."""

    name: str
    row: str = ""  # the row's name in the table, without a seed
    fidelity: Literal["paper", "released", "corrected"] = "corrected"
    reproduces: list[str] = []  # in words; such runs are put beside the papers' cells of their model and objective
    home: str = Field("", exclude=True)  # the table's folder, beside which its files are looked for first
    place: str = Field("", exclude=True)  # the table's file and line where the row begins
    seed: int = Field(1, ge=0, strict=True)
    threads: Count = 1

    @property
    def groups(self) -> dict[str, list[str]]:
        """L1, L2, L3 -> language codes."""
        return {"L1": self.known, "L2": self.taught, "L3": self.unseen}

    @property
    def uses_new(self) -> bool:
        """Whether the run trains on instructions in the taught languages."""
        return self.objective != "none"

    @property
    def uses_old(self) -> bool:
        return self.replay != 0

    @property
    def trains(self) -> bool:
        return self.uses_new or self.uses_old

    def training(self) -> dict[str, Any]:
        """The keyword arguments of `tuning.tune` that are settings of their own."""
        names = (
            "learning_rate warmup weight_decay accumulation loss loss_average precision "
            "log_steps validate_steps save_steps seed"
        )
        return {name: getattr(self, name) for name in names.split()}

    def encoding(self, encoder_decoder: bool = False) -> dict[str, Any]:
        """The keyword arguments of `encode` for a model of that kind.

        Raises SettingsError for what an encoder-decoder model cannot do.
        """
        refused = {"chat": self.chat, "loss": self.loss == "all", "scoring_rule": self.scores_prompts}
        for name, holds in refused.items() if encoder_decoder else ():
            if holds:
                raise SettingsError(
                    f"run {self.name!r}, field {name!r}: found {getattr(self, name)!r}, which an encoder-decoder model "
                    "cannot do; allowed: chat: false, loss: answer, and a scoring rule over the label alone"
                )
        same = self.model_dump(include={"max_length", "end_of_sequence", "cut", "chat"})
        return {**same, "encoder_decoder": encoder_decoder}

    def plan(self) -> dict[str, Any]:
        """The keyword arguments of `alignment.Plan`."""
        names = "objective pivots seed noise noise_tokens noise_probability mask xss_negatives tlm_names"
        source = str(locate(self.templates, self.home)) if templates.is_file(self.templates) else self.templates
        partners = [code for code in self.known if code not in self.pivots] if self.teach_known else []
        return {
            **{name: getattr(self, name) for name in names.split()},
            "taught": [*partners, *self.taught],
            "names": self.languages,
            "templates": source,
        }

    def asked(self) -> list[str]:
        """The wordings of evaluation prompts, as `templates.classification_prompts` takes them."""
        return [str(locate(name, self.home)) if templates.is_file(name) else name for name in self.wordings]

    @property
    def per_step(self) -> int:
        """Rows of a batch: new and old ones."""
        return self.new_per_step * self.uses_new + self.old_per_step * self.uses_old

    @property
    def scores_prompts(self) -> bool:
        """Whether the prompts' own log-probabilities are needed, which costs the vocabulary at every position."""
        return self.prompt_logprob or self.scoring_rule in ("joint", "mean")

    @property
    def measures_held_out(self) -> bool:
        """Whether held-out parallel text is measured too; unless the row says, where there is no labelled test."""
        without = self.corpus == "own" and not self.tasks and not self.tests
        return without if self.held_out is None else self.held_out

    def evaluates(self) -> list[tuple[str, str, str]]:
        """The named tests: (task's name in results, corpus, task)."""
        if not self.tasks and self.corpus == "own":
            return []
        own = self.corpus if self.corpus in ("minilab", "nusax", "nusatranslation") else "nusax"
        parts = [(name, *name.rpartition("/")[::2]) for name in self.tasks or ["sentiment"]]
        return [(name, corpus or own, task) for name, corpus, task in parts]

    def folder(self) -> Path:
        """The folder of real data: `data_dir`, else the environment variable IA_DATA, else ../shared/data."""
        return Path(self.data_dir or os.environ.get("IA_DATA") or "../shared/data")

    @model_validator(mode="before")
    @classmethod
    def _reading(cls, values: Any) -> Any:
        return filled(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _consistent(self):
        if not _NAME.fullmatch(self.name):
            raise Refusal("name", self.name, "letters, digits and . _ + -, 100 at most")
        self._check_languages()
        self._check_tests()
        parts = self.objective.split("+")
        if self.objective != "none" and (set(parts) - set(OBJECTIVES) or len(set(parts)) < len(parts)):
            raise Refusal("objective", self.objective, f"none, or some of {', '.join(OBJECTIVES)} joined by +")
        if self.uses_new and not self.taught:
            raise Refusal("taught", self.taught, f"at least one language, since the objective is {self.objective}")
        self._check_past()
        self._check_batches()
        return self

    def _check_languages(self) -> None:
        if self.corpus == "minilab" and (other := [c for c in self.known if c not in languages.NUSAX[:2]]):
            raise Refusal("known", other[0], "eng and ind, the languages of the mini lab's grammar")
        seen: dict[str, str] = {}
        for field in ("known", "taught", "unseen"):
            for code in getattr(self, field):
                if code not in languages.NAMES and code not in self.languages:
                    raise Refusal(
                        field,
                        code,
                        f"a known language code ({', '.join(languages.NAMES)}), or one with a name in languages",
                    )
                if code in seen:
                    raise Refusal(field, code, f"each language in one group once; it is also in {seen[code]}")
                seen[code] = field
        if self.corpus in languages.CORPORA:
            have = languages.CORPORA[self.corpus]
            for field in ("pivots", "taught"):
                codes = self.plan()["taught"] if field == "taught" else self.pivots
                if self.uses_new and (other := [c for c in codes if c not in have]):
                    raise Refusal(field, other[0], f"a language of the corpus {self.corpus} ({', '.join(have)})")
            if self.corpus == "minilab" and (other := [c for c in seen if c not in have]):
                raise Refusal(seen[other[0]], other[0], f"a language of the corpus minilab ({', '.join(have)})")
        if (not self.pivots and self.uses_new) or any(code not in self.known for code in self.pivots):
            raise Refusal("pivots", self.pivots, f"at least one of the known languages ({', '.join(self.known)})")
        if (self.parallel is None) != (self.corpus != "own"):
            found = "nothing" if self.parallel is None else "a part parallel"
            raise Refusal("parallel", found, "a part parallel with corpus: own, and only there")

    def _check_tests(self) -> None:
        for name, corpus, task in self.evaluates():
            try:
                corpora.labels(corpus, task)
            except ValueError as error:
                raise Refusal("tasks", name, f"<task> or <corpus>/<task> ({error})") from None
            if not any(code in languages.CORPORA[corpus] for group in self.groups.values() for code in group):
                raise Refusal("tasks", name, f"a corpus with one of the run's languages; {corpus} has none of them")
        codes = [code for group in self.groups.values() for code in group]
        labels: dict[str, list[str]] = {}
        places = set()
        for test in self.tests:
            if test.language not in codes:
                raise Refusal("tests", test.language, f"one of the run's languages ({', '.join(codes)})")
            if len(set(test.labels)) < len(test.labels):
                raise Refusal("tests", test.labels, "each label once")
            if labels.setdefault(test.task, test.labels) != test.labels:
                raise Refusal("tests", test.labels, f"the same labels in all tests of {test.task}")
            if not test.id and (test.task, test.language) in places:
                raise Refusal(
                    "tests", test.file, "an id column, since another file has texts of that task and language"
                )
            places.add((test.task, test.language))
        if self.measures_held_out and self.hold_out == "row":
            raise Refusal("hold_out", "row", "sentence, since held-out sentences are measured")
        if self.measures_held_out and self.validation_sentences < 2:
            raise Refusal("validation_sentences", self.validation_sentences, "2 at least, to be measured")

    def _check_past(self) -> None:
        if self.uses_old and self.past is None:
            raise Refusal(
                "past",
                "nothing",
                f"a source of past data (run, file, url, xp3 or mixture), since replay is {self.replay}",
            )
        mixture = self.past.mixture if self.past else None
        if mixture and self.corpus not in ("minilab", "nusax"):
            raise Refusal("past.mixture", "a mixture", "another source of past data, with this corpus")
        if mixture and len(self.known) < 2 and mixture.mt + mixture.xss:
            raise Refusal("known", self.known, "two languages at least, since the past has mt or xss in them")
        if self.replay == "all" and self.past and (self.past.url or self.past.xp3):
            raise Refusal("replay", "all", "a number: a pool that is not downloaded cannot be replayed whole")
        if self.replay_sampling == "released" and self.past and len(self.past.xp3 or []) > 1:
            raise Refusal("past.xp3", self.past.xp3, "one language, where replay_sampling is released")
        if self.replay_stratify and self.past and self.past.stream:
            raise Refusal("replay_stratify", self.replay_stratify, "nothing, with a past that is read as a stream")
        if self.replay_sampling == "released" and self.replay_stratify:
            raise Refusal("replay_stratify", self.replay_stratify, "nothing, where replay_sampling is released")

    def _check_batches(self) -> None:
        if self.trains and (self.steps is None) == (self.new_epochs is None):
            found = "nothing" if self.steps is None else "steps and new_epochs"
            raise Refusal("steps", found, "exactly one of steps and new_epochs for a run that trains")
        if self.new_epochs and not self.uses_new:
            raise Refusal("new_epochs", self.new_epochs, "steps, for a run without new instructions")
        if self.trains and self.steps == 0:
            raise Refusal("steps", 0, "at least 1 for a run that trains")
        if self.model.new and not self.trains:
            raise Refusal("model", "new", "a trained model, since the run itself trains on nothing")
        if self.uses_new and self.uses_old and self.new_per_step != self.old_per_step:
            raise Refusal("old_per_step", self.old_per_step, f"new_per_step ({self.new_per_step}): a batch alternates")
        unit = 2 if self.uses_new and self.uses_old else 1
        if self.per_step % (self.accumulation * unit):
            raise Refusal(
                "accumulation",
                self.accumulation,
                f"a divisor of {self.per_step // unit}, so that every part alternates",
            )


class Refusal(ValueError):
    """A value that a rule over several fields refuses."""

    def __init__(self, field: str, found: Any, allowed: str):
        super().__init__(f"found {found!r}; allowed: {allowed}")
        self.field = field


def _exactly_one(part: BaseModel, fields: tuple[str, ...]) -> None:
    given = [field for field in fields if getattr(part, field) is not None]
    if len(given) != 1:
        raise Refusal("", given or "nothing", f"exactly one of {', '.join(fields)}")
