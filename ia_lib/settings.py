"""The table of settings: YAML rows, validated before any work starts.

A table is a YAML 1.2 file with `defaults` (fields for all rows), `runs` (a list of rows, each with a `name`) and
optionally `seeds` (every row is run once per seed, as `name-s1`, `name-s2`, ...). Every wrong field is refused with
one sentence that names file, line, run, field, what was found and what is allowed.
"""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

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
            raise _Refusal("", "no shares", "a share above 0 for at least one of sentiment, mt, xss, mlm")
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
            raise _Refusal("heads", self.heads, f"a divisor of hidden ({self.hidden})")
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
            raise _Refusal("revision", self.revision, "nothing, unless the model has a name")
        return self


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
            raise _Refusal("name", self.name, "letters, digits and . _ + -")
        seen: dict[str, str] = {}
        for field in ("known", "taught", "unseen"):
            for code in getattr(self, field):
                if code not in languages.NAMES:
                    raise _Refusal(field, code, f"a known language code ({', '.join(languages.NAMES)})")
                if code not in languages.NUSAX:
                    raise _Refusal(
                        field, code, f"a language of the corpus {self.corpus} ({', '.join(languages.NUSAX)})"
                    )
                if self.corpus == "minilab" and field == "known" and code not in languages.NUSAX[:2]:
                    raise _Refusal(field, code, "eng and ind, the languages of the mini lab's grammar")
                if code in seen:
                    raise _Refusal(field, code, f"each language in one group once; it is also in {seen[code]}")
                seen[code] = field
        if not self.pivots or any(code not in self.known for code in self.pivots):
            raise _Refusal("pivots", self.pivots, f"at least one of the known languages ({', '.join(self.known)})")
        parts = self.objective.split("+")
        if self.objective != "none" and (set(parts) - set(OBJECTIVES) or len(set(parts)) < len(parts)):
            raise _Refusal("objective", self.objective, f"none, or some of {', '.join(OBJECTIVES)} joined by +")
        if self.uses_new and not self.taught:
            raise _Refusal("taught", self.taught, f"at least one language, since the objective is {self.objective}")
        if self.uses_old and self.past is None:
            raise _Refusal(
                "past", "nothing", f"a source of past data (run, file or mixture), since replay is {self.replay}"
            )
        mixture = self.past.mixture if self.past else None
        if mixture and len(self.known) < 2 and mixture.mt + mixture.xss:
            raise _Refusal("known", self.known, "two languages at least, since the past has mt or xss in them")
        if self.trains and not self.steps:
            raise _Refusal("steps", 0, "at least 1 for a run that trains")
        if self.model.new and not self.trains:
            raise _Refusal("model", "new", "a trained model, since the run itself trains on nothing")
        if self.uses_new and self.uses_old and self.new_per_step != self.old_per_step:
            raise _Refusal("old_per_step", self.old_per_step, f"new_per_step ({self.new_per_step}): a batch alternates")
        rows = self.new_per_step * self.uses_new + self.old_per_step * self.uses_old
        unit = 2 if self.uses_new and self.uses_old else 1
        if rows % (self.accumulation * unit):
            raise _Refusal(
                "accumulation", self.accumulation, f"a divisor of {rows // unit}, so that every part alternates"
            )
        return self


class _Refusal(ValueError):
    """A value that a rule over several fields refuses."""

    def __init__(self, field: str, found: Any, allowed: str):
        super().__init__(f"found {found!r}; allowed: {allowed}")
        self.field = field


_FIELDS = [field for field in Settings.model_fields if field != "row"]


def load(path: str | Path, row: str | None = None, changes: dict[str, Any] | None = None) -> list[Settings]:
    """All runs of a table, in order; `changes` overrides fields of the row named `row`.

    Raises SettingsError for anything that is wrong, before any work.
    """
    path = Path(path)
    if changes is not None and (not isinstance(changes, dict) or {"name", "row"} & set(changes)):
        raise SettingsError(f"changes: found {changes!r}; allowed: fields with their values, but not name")
    table = _read(path)
    for key in table:
        if key not in ("defaults", "runs", "seeds"):
            raise SettingsError(_where(path, table, key) + _unknown(key, ["defaults", "runs", "seeds"]))
    defaults, rows, seeds = table.get("defaults") or {}, table.get("runs"), table.get("seeds")
    if not isinstance(rows, list) or not rows:
        raise SettingsError(_where(path, table, "runs") + f", field 'runs': found {rows!r}; allowed: a list of rows")
    if not isinstance(defaults, dict):
        raise SettingsError(
            _where(path, table, "defaults") + f", field 'defaults': found {defaults!r}; allowed: fields"
        )
    if seeds is not None and not (isinstance(seeds, list) and seeds and all(type(s) is int for s in seeds)):
        raise SettingsError(
            _where(path, table, "seeds") + f", field 'seeds': found {seeds!r}; allowed: a list of numbers"
        )
    runs = []
    for i, entry in enumerate(rows):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            where = f"{path}, line {rows.lc.item(i)[0] + 1}, run {i + 1}"
            raise SettingsError(f"{where}, field 'name': found {_plain(entry)!r}; allowed: a row with a name")
        for holder in (entry, defaults):
            if "row" in holder:
                raise SettingsError(_where(path, holder, "row") + f", run {entry['name']!r}" + _unknown("row", _FIELDS))
        changed = (changes or {}) if entry["name"] == row else {}
        for seed in seeds or [None]:
            values = {**_plain(defaults), **_plain(entry), "row": entry["name"]}
            if seed is not None:
                values |= {"seed": seed, "name": f"{entry['name']}-s{seed}"}
            values |= changed
            try:
                run = Settings.model_validate(values)
            except ValidationError as error:
                raise SettingsError(_explain(error, path, defaults, entry, changed)) from None
            runs.append(_at_seed(run, seed) if seed is not None else run)
    _check_references(path, rows, runs)
    return runs


def needs(run: Settings) -> list[str]:
    """The names of the runs that this one builds on."""
    names = [run.model.run, run.past.run if run.past else None]
    return [name for name in dict.fromkeys(names) if name]


def _read(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: the table cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: the table is not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        table = YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SettingsError(f"{path}, line {line}: this is not valid YAML ({problem})") from None
    if not isinstance(table, dict):
        raise SettingsError(f"{path}, line 1: found no table; allowed: defaults, runs and seeds")
    return table


def _plain(value: Any) -> Any:
    """ruamel's containers and scalars as plain Python ones."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _at_seed(run: Settings, seed: int) -> Settings:
    """References to other runs of the table mean those of the same seed."""
    update: dict[str, Any] = {}
    if run.model.run:
        update["model"] = run.model.model_copy(update={"run": f"{run.model.run}-s{seed}"})
    if run.past and run.past.run:
        update["past"] = run.past.model_copy(update={"run": f"{run.past.run}-s{seed}"})
    return run.model_copy(update=update)


def _check_references(path: Path, rows: list, runs: list[Settings]) -> None:
    by_name: dict[str, Settings] = {}
    lines = {row["name"]: rows.lc.item(i)[0] + 1 for i, row in enumerate(rows)}
    for run in runs:
        where = f"{path}, line {lines[run.row]}, run {run.row!r}"
        if run.name in by_name or run.name in ("report", "lab"):
            raise SettingsError(
                f"{where}, field 'name': found {run.name!r}; allowed: a name no other run or folder has"
            )
        for needed in needs(run):
            if needed not in by_name:
                field = "model" if needed == run.model.run else "past"
                above = ", ".join(by_name) or "none"
                raise SettingsError(
                    f"{where}, field '{field}.run': found {needed!r}; allowed: a run above it ({above})"
                )
            earlier = by_name[needed]
            if run.past and run.past.run == needed and not earlier.uses_old:
                raise SettingsError(f"{where}, field 'past.run': found {needed!r}; allowed: a run that has past data")
            for field in ("corpus", "seed", "lab") if run.corpus == "minilab" else ():
                # another lab would test on sentences that the earlier run was trained on
                if getattr(run, field) != getattr(earlier, field):
                    found, allowed = _short(getattr(run, field)), _short(getattr(earlier, field))
                    raise SettingsError(
                        f"{where}, field '{field}': found {found}; allowed: {allowed}, as in the run {needed!r}"
                    )
        by_name[run.name] = run


def _short(value: Any) -> str:
    return repr(value.model_dump()) if isinstance(value, BaseModel) else repr(value)


def _exactly_one(part: BaseModel, fields: tuple[str, ...]) -> None:
    given = [field for field in fields if getattr(part, field) is not None]
    if len(given) != 1:
        raise _Refusal("", given or "nothing", f"exactly one of {', '.join(fields)}")


def _explain(error: ValidationError, path: Path, defaults: dict, row: dict, changes: dict) -> str:
    """The first problem as one sentence."""
    problem = error.errors()[0]
    location = [
        str(part) for part in problem["loc"] if not str(part).startswith(("constrained-", "function-", "literal["))
    ]
    location = [part for part in location if part not in ("int", "str", "float", "list[str]")]
    refusal = problem.get("ctx", {}).get("error")
    if isinstance(refusal, _Refusal):
        location += [refusal.field] if refusal.field else []
        text = str(refusal)
    elif problem["type"] == "extra_forbidden":
        inside: Any = Settings
        for part in location[:-1]:
            inside = next((a for a in (Past, Model, New, Mixture, Lab) if a.__name__.lower() == part), inside)
        text = _unknown(location[-1], [f for f in inside.model_fields if f != "row"]).removeprefix(
            f", field {location[-1]!r}: "
        )
    elif problem["type"] == "missing":
        text = "found nothing; allowed: a value for it, in the row or in defaults"
    else:
        allowed = "; or ".join(dict.fromkeys(_allowed(e) for e in error.errors() if e["loc"][:1] == problem["loc"][:1]))
        text = f"found {problem['input']!r}; allowed: {allowed}"
    top = location[0] if location else "name"
    field = ".".join(location)
    if top in changes:
        return f"changes, run {row['name']!r}, field {field!r}: {text}"
    holder: Any = row if top in row or top not in defaults else defaults
    key = top
    for part in location[1:]:
        if isinstance(holder.get(key), dict) and part in holder[key]:
            holder, key = holder[key], part
    return f"{_where(path, holder, key)}, run {row['name']!r}, field {field!r}: {text}"


def _allowed(problem: dict) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        kinds = (Past, Model, New, Mixture, Lab)
        part = next((k for k in kinds if k.__name__.lower() == problem["loc"][-1]), None)
        return f"some of {', '.join(part.model_fields)} with their values" if part else "fields with their values"
    text = problem["msg"].removeprefix("Input should be ")
    text = text.replace("a valid integer", "a whole number").replace("a valid string", "text")
    return text.replace("a valid number", "a number").replace("greater than or equal to", "at least")


def _unknown(key: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f", field {key!r}: found an unknown field; {hint}allowed: {', '.join(known)}"


def _where(path: Path, holder: Any, key: Any) -> str:
    """File and line of a key, or of its holder if the key is not there."""
    try:
        line = holder.lc.key(key)[0]
    except (AttributeError, KeyError, TypeError):
        # a key that is not there itself, or that a merge key brought in
        line = getattr(getattr(holder, "lc", None), "line", 0) or 0
    return f"{path}, line {line + 1}"
