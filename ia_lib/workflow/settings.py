"""One run's settings, validated: what all stages share, and a block for each stage (see `recipes.fields`).

A row of a table is flat, since every field's name is there once; `Settings.of` puts each field into its block.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, Field, create_model, model_validator

from ia_lib import recipes
from ia_lib.data import languages
from ia_lib.data.addresses import Told
from ia_lib.data.yaml_files import Refusal, listed, meant, told
from ia_lib.instructions import templates
from ia_lib.paths import locate
from ia_lib.recipes import FIDELITY, fields

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = ("data", "train", "evaluate", "judge", "machine")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
# What lies beside the runs' folders, or cannot be a folder's name on some machines; in any case, with any ending.
_TAKEN = re.compile(
    r"(report|lab|revisions|con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(part|old|lock)|.*\.", re.IGNORECASE
)
_ROWS = 10**8  # examples that a run can be trained on; they are made before
_CODE = re.compile(r"[\w-]+")
# What tables of results and data sets call their own columns and averages.
_WORDS = ("all", "sentence_id", "place", "example", "task", "language", "text", "label", "prompt", "answer", "model")
OURS = ("row", "home", "place")  # fields that no row has: they are filled in from where it stands


class SettingsError(Told, ValueError):
    """A table that cannot be used; the message says where and what is allowed."""


class Settings(fields.Shared):
    """One run: a row of the table with its seed. Its blocks are those of its recipe."""

    name: str
    row: str = ""  # the row's name in the table, without a seed
    fidelity: Literal["paper", "released", "corrected"] = "corrected"
    reproduces: list[str] = Field([])  # in words; such runs stand beside the papers' cells of their model and objective
    home: str = Field("", exclude=True)  # the table's folder, beside which its files are looked for first
    place: str = Field("", exclude=True)  # the table's file and line where the row begins
    model: fields.Model
    data: fields.Data
    train: fields.Train
    evaluate: fields.Evaluate
    judge: fields.Judging
    machine: fields.Machine

    @classmethod
    def of(cls, **values: Any) -> "Settings":
        """The settings of a flat row, what it does not say filled in as its reading has it.

        Raises pydantic.ValidationError; a location in it begins with the field's block.
        """
        known = kind(values.get("recipe"))
        values = _filled(_flat(values), known)
        inside = {block: {} for block in BLOCKS}
        for name, value in values.items():
            inside.get(blocks(known).get(name), inside.setdefault("", {}))[name] = value
        return known.model_validate({**inside.pop(""), **inside})

    def changed(self, **values: Any) -> Self:
        """The same settings with some fields changed, by their flat names; nothing is checked."""
        update: dict[str, Any] = {}
        for name, value in values.items():
            block = blocks(type(self)).get(name)
            holder = update.setdefault(block, {}) if block else update
            holder[name] = value
        for block in set(update) & set(BLOCKS):
            update[block] = getattr(self, block).model_copy(update=update[block])
        return self.model_copy(update=update)

    @property
    def method(self) -> ModuleType:
        """The recipe's module."""
        return recipes.load(self.recipe)

    @property
    def streams(self) -> list:
        """What training reads, in turn (`training.streams.Stream`)."""
        return self.method.streams(self)

    def language(self, code: str) -> str:
        """What prompts call a language."""
        return self.languages.get(code) or languages.name(code)

    @property
    def trains(self) -> bool:
        return bool(self.streams)

    @property
    def per_step(self) -> int:
        """Examples of a batch."""
        return sum(stream.per_step for stream in self.streams)

    @property
    def parallel_codes(self) -> list[str]:
        """The languages whose parallel text the recipe trains on; none, if it needs none."""
        return self.method.parallel(self) if hasattr(self.method, "parallel") else []

    @property
    def paired_codes(self) -> list[str]:
        """The languages whose parallel text the run reads wherever it reads some: the pivots and what is taught."""
        return self.parallel_codes or list(dict.fromkeys([*self.pivots, *self.taught]))

    @property
    def tested_codes(self) -> list[str]:
        """The languages that tasks are tested in; those of parallel text have pairs of theirs."""
        asked = self.evaluate.test_languages
        return [code for code in self.codes if asked is None or code in asked]

    @property
    def templates(self) -> str:
        """The templates of instructions, a user's own file by its path."""
        return self.locate(self.data.templates) if templates.is_file(self.data.templates) else self.data.templates

    @property
    def wordings(self) -> list[str]:
        """The wordings of evaluation prompts, a user's own file by its path."""
        return [self.locate(name) if templates.is_file(name) else name for name in self.evaluate.wordings]

    def locate(self, path: str, *folders: Path) -> str:
        """A user's file: beside the table, in `folders`, from here, or in the kit's folder."""
        return str(locate(path, self.home, *folders))

    def encoding(self, encoder_decoder: bool = False) -> dict[str, Any]:
        """The keyword arguments of `encoding.encode` for a model of that kind.

        Raises SettingsError for what an encoder-decoder model cannot do.
        """
        refused = {
            "chat": (self.chat, self.chat),
            "loss": (self.train.loss, self.train.loss == "all"),
            "scoring_rule": (self.evaluate.scoring_rule, self.evaluate.scores_prompts),
        }
        for name, (found, holds) in refused.items() if encoder_decoder else ():
            if holds:
                raise SettingsError(
                    f"run {self.name!r}, field {name!r}: found {found!r}, which an encoder-decoder model "
                    "cannot do; allowed: chat: false, loss: answer, and a scoring rule over the label alone"
                )
        same = self.data.model_dump(include={"max_length", "end_of_sequence", "cut"})
        return {**same, "chat": self.chat, "encoder_decoder": encoder_decoder}

    def shown(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """`frame` as notebooks and reports may show it: with `share_text: false` every text in it is replaced by its
        number of words, since whoever it belongs to has not agreed to its being passed on."""
        if self.machine.share_text:
            return frame
        hidden = [
            name
            for name in frame
            if name in ("prompt", "answer", "before", "text", "model", "translation", *self.codes)
        ]
        return frame.assign(**{name: [f"({len(str(text).split())} words)" for text in frame[name]] for name in hidden})

    @property
    def measures_held_out(self) -> bool:
        """Whether held-out parallel text is measured too; unless the row says, where there is no labelled test."""
        asked = self.evaluate
        without = self.corpus == "own" and asked.tasks is None and not asked.tests
        return without if asked.held_out is None else asked.held_out

    @property
    def named_tasks(self) -> dict[str, str]:
        """The row's tasks: what each is called in results -> its name or file (`evaluation.tasks.load`)."""
        if self.evaluate.tasks == [] or (self.evaluate.tasks is None and self.corpus == "own"):
            return {}
        own = self.corpus if self.corpus in ("minilab", "nusax", "nusatranslation") else "nusax"
        names = self.evaluate.tasks or ["sentiment"]
        return {name: name if "/" in name or "." in name else f"{own}/{name}" for name in names}

    @model_validator(mode="after")
    def _consistent(self):
        if not _NAME.fullmatch(self.name):
            raise Refusal("name", self.name, "letters, digits and . _ + -, 100 at most")
        if _TAKEN.fullmatch(self.name):
            allowed = "a name that is no folder's of the kit's own (report, lab, *.part, *.old) or of the system's"
            raise Refusal("name", self.name, allowed)
        self._check_languages()
        if self.data.past and self.data.past.mixture:
            mixture = self.data.past.mixture
            if self.corpus not in ("minilab", "nusax"):
                raise Refusal("past.mixture", "a mixture", "another source of old instructions, with this corpus")
            if mixture.passages and (self.corpus != "minilab" or "ind" not in self.known):
                allowed = "none, unless the corpus is minilab and ind is known"
                raise Refusal("past.mixture.passages", "questions on passages", allowed)
            if len(self.known) < 2 and mixture.mt + mixture.xss:
                raise Refusal("known", self.known, "two languages at least, since the past has mt or xss in them")
        if hasattr(self.method, "check"):
            self.method.check(self)
        if self.measures_held_out and getattr(self.data, "hold_out", "sentence") == "row":
            raise Refusal("hold_out", "row", "sentence, since held-out sentences are measured")
        if self.measures_held_out and self.data.validation_sentences < 2:
            raise Refusal("validation_sentences", self.data.validation_sentences, "2 at least, to be measured")
        self._check_batches()
        return self

    def _check_languages(self) -> None:
        if self.corpus == "minilab" and (other := [c for c in self.known if c not in languages.NUSAX[:2]]):
            raise Refusal("known", other[0], "eng and ind, the languages of the mini lab's grammar")
        seen: dict[str, str] = {}
        for field in ("known", "taught", "unseen"):
            for code in getattr(self, field):
                if not _CODE.fullmatch(code) or code.casefold() in _WORDS:
                    allowed = f"letters, digits, _ and -, and none of the words {', '.join(_WORDS)}"
                    raise Refusal(field, code, allowed)
                if code not in languages.NAMES and code not in self.languages:
                    known = listed(languages.NAMES)
                    allowed = f"a known language code ({known}), or one with a name in languages"
                    names = {**languages.NAMES, **self.languages}
                    called = {name: known for known, name in names.items()}
                    raise Refusal(field, code, allowed, {**called, **{known: known for known in names}})
                if code in seen:
                    raise Refusal(field, code, f"each language in one group once; it is also in {seen[code]}")
                seen[code] = field
        names = {code: self.languages.get(code) or languages.NAMES[code] for code in seen}
        for code, name in names.items():
            if same := next((one for one in names if one != code and names[one].casefold() == name.casefold()), None):
                raise Refusal("languages", name, f"a name of its own for each language; {same} is called so, too")
        for field, given in (
            ("pivots", self.pivots),
            ("wordings", self.evaluate.wordings),
            ("tasks", self.evaluate.tasks),
            ("test_languages", self.evaluate.test_languages),
        ):
            if len(set(given or ())) < len(given or ()):
                raise Refusal(field, given, "each of them once")
        if other := [code for code in self.evaluate.test_languages or () if code not in seen]:
            raise Refusal("test_languages", other[0], f"one of the row's languages ({', '.join(seen)})", [*seen])
        if not self.known and self.parallel_codes:
            raise Refusal("known", self.known, "at least one language, to and from which the others are taught")
        if (not self.pivots and self.parallel_codes) or any(code not in self.known for code in self.pivots):
            raise Refusal("pivots", self.pivots, f"at least one of the known languages ({', '.join(self.known)})")
        if self.corpus in languages.CORPORA:
            have = languages.CORPORA[self.corpus]
            allowed = f"a language of the corpus {self.corpus} ({', '.join(have)})"
            if other := [code for code in self.parallel_codes if code not in have]:
                raise Refusal("pivots" if other[0] in self.pivots else "taught", other[0], allowed)
            if self.corpus == "minilab" and (other := [c for c in seen if c not in have]):
                raise Refusal(seen[other[0]], other[0], allowed)
        if self.data.parallel and self.corpus != "own":
            raise Refusal("parallel", "a part parallel", "nothing, unless corpus is own")
        if not self.data.parallel and self.corpus == "own" and (self.parallel_codes or self.measures_held_out):
            raise Refusal(
                "parallel", None, "parallel text, where corpus is own and the row trains on it or is tested on it"
            )

    def _check_batches(self) -> None:
        if self.trains and self.data.steps == 0:
            raise Refusal("steps", 0, "at least 1 for a run that trains")
        if (steps := self.data.steps or 0) * self.per_step > _ROWS:
            raise Refusal("steps", steps, f"{_ROWS // self.per_step:,} at most, with {self.per_step:,} examples a step")
        if self.trains and self.train.keep == "best" and (self.data.steps or 10**9) < self.train.validate_steps:
            allowed = f"{self.data.steps} at most, the steps, where keep is best: what is not validated cannot be best"
            raise Refusal("validate_steps", self.train.validate_steps, allowed)
        if self.train.adapter and self.model.new:
            raise Refusal("adapter", "an adapter", "nothing, for a new model, whose layers know nothing yet")
        if self.model.interpolate is not None and self.trains:
            raise Refusal("model.interpolate", self.model.interpolate, "nothing, for a run that trains")
        if self.model.interpolate is not None and self.evaluate.quantisation != "none":
            raise Refusal("quantisation", self.evaluate.quantisation, "none, for weights between two models")
        if self.model.new and not self.trains:
            raise Refusal("model", "new", "a trained model, since the run itself trains on nothing")
        unit = len(self.streams) or 1
        processes, accumulation = self.train.processes, self.train.accumulation
        if processes > 1 and self.per_step % (processes * unit):
            allowed = f"a divisor of {self.per_step // unit}, so that every process's part of a batch alternates"
            raise Refusal("processes", processes, allowed)
        if accumulation > 1 and self.per_step % (accumulation * processes * unit):
            allowed = f"a divisor of {self.per_step // processes // unit}, so that every part alternates"
            raise Refusal("accumulation", accumulation, allowed)


def kind(recipe: Any = None) -> type[Settings]:
    """The class of a recipe's rows. Raises SettingsError for a recipe that there is not, or that cannot be read."""
    name = fields.Shared.model_fields["recipe"].default if recipe is None else recipe
    if not isinstance(name, str) or name not in recipes.names():
        known = recipes.names()
        raise SettingsError(f"found {told(name)}; {meant(name, known)}allowed: {', '.join(known)}")
    try:
        return _kind(name)
    except Exception as error:  # what the module raises when it is read
        raise SettingsError(f"found {name!r}, which cannot be read: {type(error).__name__}: {error}") from None


@cache
def _kind(name: str) -> type[Settings]:
    module = recipes.load(name)
    if not hasattr(module, "Data") or not hasattr(module, "streams") or not hasattr(module, "examples"):
        raise AttributeError("a recipe has Data, streams and examples")
    classes = {block: {"judge": "Judging"}.get(block, block.capitalize()) for block in BLOCKS}
    own = {block: getattr(module, name, getattr(fields, name)) for block, name in classes.items()}
    return create_model("Settings", __base__=Settings, **{block: (part, ...) for block, part in own.items()})


@cache
def blocks(known: type[Settings]) -> dict[str, str]:
    """Field -> its block, of all fields that stand in one."""
    return {name: block for block in BLOCKS for name in known.model_fields[block].annotation.model_fields}


@cache
def row(known: type[Settings]) -> type[BaseModel]:
    """All fields of a recipe's rows side by side, as a table has them."""
    parts = [known, *(known.model_fields[block].annotation for block in BLOCKS)]
    found = {name: field for part in parts for name, field in part.model_fields.items()}
    asked = {name: (field.annotation, field) for name, field in found.items() if name not in (*BLOCKS, *OURS)}
    return create_model("Row", **asked)


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """A row whose fields may stand in their blocks, without them; what stands outside counts."""
    inside = {name: values[name] for name in BLOCKS if isinstance(values.get(name), dict)}
    found = {name: value for part in inside.values() for name, value in part.items()}
    return found | {name: value for name, value in values.items() if name not in inside}


def _filled(values: dict[str, Any], known: type[Settings]) -> dict[str, Any]:
    """A row with what it does not say itself as its reading has it, and with defaults that depend on others."""
    if all(values.get(name) is None for name in ("new_epochs", "epochs")):
        values = {"steps": 2000, **values}
    if values.get("corpus") == "own" and values.get("past") is None and values.get("replay", 0) != 0:
        values = {**values, "past": {"xp3": ["en"]}}
    if values.get("fidelity", "corrected") not in FIDELITY:
        return values
    recipe = recipes.load(values.get("recipe") or fields.Shared.model_fields["recipe"].default)
    number = FIDELITY.index(values.get("fidelity", "corrected"))
    found = {name: reading[number] for name, reading in getattr(recipe, "READINGS", {}).items()}
    found = {name: value(values) if callable(value) else value for name, value in found.items()}
    speaks = values.get("known", known.model_fields["known"].default)
    if isinstance(speaks, list):
        pivots = found.get("pivots", known.model_fields["pivots"].default)
        found["pivots"] = [code for code in pivots if code in speaks] or speaks[:1]
    return {**found, **values}


def flat(values: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Each field of a row with its value, a part's fields behind its name and a dot."""
    parts = values.items() if isinstance(values, dict) else ()
    if isinstance(values, list) and any(isinstance(one, dict) for one in values):
        parts = enumerate(values, 1)
    for name, value in parts:
        yield from flat(value, f"{field}.{name}" if field else str(name))
    if not parts:
        plain = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False)
                 for one in (values if isinstance(values, list) else [values])]  # fmt: skip
        yield field, f"[{', '.join(plain)}]" if isinstance(values, list) else plain[0]
