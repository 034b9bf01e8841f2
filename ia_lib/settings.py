"""One run's settings, validated: every field with its kind, its default and the rules over several fields."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ia_lib import languages

OBJECTIVES = ("tlm", "mt", "xss", "mlm")
Count = Annotated[int, Field(ge=1, strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


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
    xss_negatives: Literal["random", "hard"] = "random"

    @model_validator(mode="after")
    def _has_shares(self):
        if not self.sentiment + self.mt + self.xss + self.mlm:
            raise Refusal("", "no shares", "a share above 0 for at least one of sentiment, mt, xss, mlm")
        return self


class Past(_Part):
    """Where the model's old instruction data comes from: exactly one of the three."""

    run: str | None = None  # what that run of the table was trained on
    file: str | None = None  # a JSONL or parquet file with these two fields
    prompt: str = "prompt"
    answer: str = "answer"
    mixture: Mixture | None = None

    @property
    def fields(self) -> dict[str, str]:
        """The names of the file's fields, for `corpora.past`."""
        return {"prompt": self.prompt, "answer": self.answer} if self.file else {}

    @model_validator(mode="after")
    def _one_source(self):
        _exactly_one(self, ("run", "file", "mixture"))
        return self


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


# The parts a row can have, by the fields that hold them.
PARTS = (Past, Model, New, Mixture, Lab)


class DataSettings(_Part):
    """What the data stage depends on."""

    corpus: Literal["minilab", "nusax"] = "minilab"
    data_dir: str | None = None
    lab: Lab = Lab()
    known: list[str] = ["eng", "ind"]
    taught: list[str] = ["sun", "jav", "ban", "min", "bug", "ace", "bjn"]
    unseen: list[str] = ["bbc", "mad", "nij"]
    pivots: list[str] = ["eng", "ind"]
    objective: str = "none"
    noise_probability: Share = 0.2
    mask: str = Field("___", min_length=1)
    xss_negatives: Literal["random", "hard"] = "random"
    past: Past | None = None
    replay: Annotated[int, Field(ge=0, strict=True)] | Literal["all"] = 0
    steps: Annotated[int, Field(ge=0, strict=True)] = 2000
    new_per_step: Count = 16
    old_per_step: Count = 16
    validation_sentences: Count = 50
    validation_rows: Count = 256
    max_length: Annotated[int, Field(ge=16, strict=True)] = 256


class TuneSettings(_Part):
    """What tuning depends on, beside its data."""

    model: Model
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

    tasks: list[Literal["sentiment"]] = Field(["sentiment"], min_length=1)
    test_split: Literal["valid", "test"] = "test"
    examples: Count | None = None
    quantisation: Literal["none", "int8"] = "none"
    batch_tokens: Count = 8192
    score_max_length: Count = 1024


class Settings(DataSettings, TuneSettings, EvaluateSettings):
    """One run: a row of the table with its seed."""

    name: str
    row: str = ""  # the row's name in the table, without a seed
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
            "steps learning_rate warmup weight_decay accumulation loss loss_average precision "
            "log_steps validate_steps save_steps seed"
        )
        return {name: getattr(self, name) for name in names.split()}

    def folder(self) -> Path:
        """The folder of real data: `data_dir`, else the environment variable IA_DATA, else ../shared/data."""
        return Path(self.data_dir or os.environ.get("IA_DATA") or "../shared/data")

    @model_validator(mode="after")
    def _consistent(self):
        if not _NAME.fullmatch(self.name):
            raise Refusal("name", self.name, "letters, digits and . _ + -")
        seen: dict[str, str] = {}
        for field in ("known", "taught", "unseen"):
            for code in getattr(self, field):
                if code not in languages.NAMES:
                    raise Refusal(field, code, f"a known language code ({', '.join(languages.NAMES)})")
                if code not in languages.NUSAX:
                    raise Refusal(field, code, f"a language of the corpus {self.corpus} ({', '.join(languages.NUSAX)})")
                if self.corpus == "minilab" and field == "known" and code not in languages.NUSAX[:2]:
                    raise Refusal(field, code, "eng and ind, the languages of the mini lab's grammar")
                if code in seen:
                    raise Refusal(field, code, f"each language in one group once; it is also in {seen[code]}")
                seen[code] = field
        if not self.pivots or any(code not in self.known for code in self.pivots):
            raise Refusal("pivots", self.pivots, f"at least one of the known languages ({', '.join(self.known)})")
        parts = self.objective.split("+")
        if self.objective != "none" and (set(parts) - set(OBJECTIVES) or len(set(parts)) < len(parts)):
            raise Refusal("objective", self.objective, f"none, or some of {', '.join(OBJECTIVES)} joined by +")
        if self.uses_new and not self.taught:
            raise Refusal("taught", self.taught, f"at least one language, since the objective is {self.objective}")
        if self.uses_old and self.past is None:
            raise Refusal(
                "past", "nothing", f"a source of past data (run, file or mixture), since replay is {self.replay}"
            )
        mixture = self.past.mixture if self.past else None
        if mixture and len(self.known) < 2 and mixture.mt + mixture.xss:
            raise Refusal("known", self.known, "two languages at least, since the past has mt or xss in them")
        if self.trains and not self.steps:
            raise Refusal("steps", 0, "at least 1 for a run that trains")
        if self.model.new and not self.trains:
            raise Refusal("model", "new", "a trained model, since the run itself trains on nothing")
        if self.uses_new and self.uses_old and self.new_per_step != self.old_per_step:
            raise Refusal("old_per_step", self.old_per_step, f"new_per_step ({self.new_per_step}): a batch alternates")
        rows = self.new_per_step * self.uses_new + self.old_per_step * self.uses_old
        unit = 2 if self.uses_new and self.uses_old else 1
        if rows % (self.accumulation * unit):
            raise Refusal(
                "accumulation", self.accumulation, f"a divisor of {rows // unit}, so that every part alternates"
            )
        return self


def needs(run: Settings) -> list[str]:
    """The names of the runs that this one builds on."""
    names = [run.model.run, run.past.run if run.past else None]
    return [name for name in dict.fromkeys(names) if name]


class Refusal(ValueError):
    """A value that a rule over several fields refuses."""

    def __init__(self, field: str, found: Any, allowed: str):
        super().__init__(f"found {found!r}; allowed: {allowed}")
        self.field = field


def _exactly_one(part: BaseModel, fields: tuple[str, ...]) -> None:
    given = [field for field in fields if getattr(part, field) is not None]
    if len(given) != 1:
        raise Refusal("", given or "nothing", f"exactly one of {', '.join(fields)}")
