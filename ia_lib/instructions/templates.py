"""The papers' prompt templates, verbatim, a user's own, and how their slots are filled.

Source of the templates: InstructAlign, appendix A, Tables 4-10; first version: Table 1. A wording is how classification
prompts are put: their templates, and what labels, tasks and `or` are called in them."""

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ia_lib.data import yaml_files
from ia_lib.data.addresses import Told
from ia_lib.data.yaml_files import Refusal, Text
from ia_lib.paths import params

# A template's answer begins at one of these slots and ends the template.
ANSWER_SLOTS = {
    **{"tlm": "LABEL_TEXT", "mt": "TARGET_TEXT", "xss": "LABEL", "mlm": "TARGET_TEXT"},
    **{"word": "LABEL_TEXT", "span": "LABEL_TEXT", "classification": "LABELS_CHOICE"},
}
# The kit's own templates.
TEMPLATES = ("instructalign", "ia1")
# The slots without which a template of a kind does not ask for what it is for, and those that it may have besides.
_ESSENTIAL = {
    **dict.fromkeys(("tlm", "word", "span"), ("INPUT_TEXT", "CONTEXT")),
    **{"mt": ("SOURCE_TEXT",), "xss": ("SOURCE_TEXT", "TARGET_TEXT"), "mlm": ("SOURCE_TEXT",)},
    "classification": ("INPUT",),
}
_FURTHER = {
    **dict.fromkeys(("tlm", "word", "span"), ("INPUT_LANG", "CONTEXT_LANG")),
    **{"mt": ("SOURCE_LANG", "TARGET_LANG"), "xss": ("SOURCE_LANG", "TARGET_LANG"), "mlm": ("SOURCE_LANG",)},
    "classification": ("TASK", "OPTIONS"),
}
SLOTS = {kind: {*_ESSENTIAL[kind], *_FURTHER[kind], slot} for kind, slot in ANSWER_SLOTS.items()}
_SLOT = re.compile(r"\[([A-Z_]+)\]")
# What somebody may have meant for a slot: letters, digits, blanks, hyphens and underscores in square brackets.
_LIKE_A_SLOT = re.compile(r"\[([\w\s-]*\w[\w\s-]*)\]")


class PromptError(Told, ValueError):
    """A prompt file that cannot be used; the message says where and what is allowed."""


class Prompts(BaseModel):
    """A file of prompts: templates by kind (those it does not have are the paper's), and how a wording speaks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tlm: list[str] | None = Field(None, min_length=1)
    mt: list[str] | None = Field(None, min_length=1)
    xss: list[str] | None = Field(None, min_length=1)
    mlm: list[str] | None = Field(None, min_length=1)
    word: list[str] | None = Field(None, min_length=1)
    span: list[str] | None = Field(None, min_length=1)
    classification: list[str] | None = Field(None, min_length=1)
    conjunction: Text = Field("or", alias="or")
    tasks: dict[Text, Text] = {}
    labels: dict[Text, Text] = {}

    @field_validator(*SLOTS)
    @classmethod
    def _templates(cls, templates: list[str] | None, info: Any) -> list[str] | None:
        kind = info.field_name
        allowed = ", ".join(f"[{slot}]" for slot in sorted(SLOTS[kind]))
        answer = f"[{ANSWER_SLOTS[kind]}]"
        for number, template in enumerate(templates or ()):
            slots = _SLOT.findall(template)
            if unknown := [slot for slot in _LIKE_A_SLOT.findall(template) if slot not in SLOTS[kind]]:
                raise Refusal(str(number), f"[{unknown[0]}]", f"the slots {allowed}")
            if not template.endswith((f" {answer}", f"\n{answer}")) or template.count(answer) > 1:
                raise Refusal(str(number), template[-30:], f"at its end {answer} behind a blank, once")
            if missing := [f"[{slot}]" for slot in _ESSENTIAL[kind] if slot not in slots]:
                raise Refusal(str(number), template, f"a template with {' and '.join(missing)}")
        return templates


def templates(kind: str, source: str | Prompts = "instructalign") -> Sequence[str]:
    """The templates of `kind` (see `SLOTS`) in "instructalign" (the paper), "ia1" (its first version: another wording
    of mt), the path of a YAML file of `Prompts`, or these themselves; what they do not have is the paper's. Raises
    PromptError for a file that cannot be read and what `Prompts` refuse: something in square brackets that is no slot
    of its kind, a template without a slot that its kind cannot do without, or without its answer at the end."""
    own = _read(source) if source not in TEMPLATES else None
    return getattr(own, kind, None) or _published(source == "ia1")[kind]


def fill(kind: str, number: int, source: str | Prompts = "instructalign", **slots: str) -> tuple[str, str]:
    """Fill template `number` (from 0) of `kind`; returns (prompt, answer), together the text as the template has it.
    Values are inserted as they are, even if they look like a slot. Raises KeyError for a slot that was not given."""
    return _filled(templates(kind, source)[number], kind, slots), slots[ANSWER_SLOTS[kind]]


def classification_prompts(
    text: str, task: str, labels: Sequence[str], wording: str | Prompts = "english"
) -> list[str]:
    """The prompts of one text under each template of a wording; the answer is one of `label_words`. `wording` is
    "english" (the papers' three), "indonesian" (three of the kit's own: those of the paper's first version were not
    published), the path of a YAML file of `Prompts`, or these."""
    words = _read(wording)
    named = options(label_words(labels, wording), words.conjunction)
    slots = {"INPUT": text, "TASK": words.tasks.get(task, task), "OPTIONS": named}
    return [_filled(template, "classification", slots) for template in templates("classification", words)]


def label_words(labels: Sequence[str], wording: str | Prompts = "english") -> list[str]:
    """What the labels are called in a wording; a label without a word of its own keeps its name. Raises PromptError for
    two labels that are called the same."""
    called = _read(wording).labels
    words = [called.get(label, label) for label in labels]
    for i, word in enumerate(words):
        if (first := words.index(word)) < i:
            where = f"the wording {wording}, field 'labels'" if isinstance(wording, str) else "labels"
            said = f"found {word!r} for {str(labels[first])!r} and for {str(labels[i])!r}"
            raise PromptError(f"{where}: {said}; allowed: a word for each")
    return words


def options(labels: Sequence[str], conjunction: str = "or") -> str:
    """Labels as the papers write them: `a or b`, `a, b, or c`."""
    if len(labels) < 3:
        return f" {conjunction} ".join(labels)
    return ", ".join(labels[:-1]) + f", {conjunction} {labels[-1]}"


def is_file(name: str) -> bool:
    """Whether `templates` or a wording is a file of the user's and not one of the kit's."""
    return name not in TEMPLATES and name not in wordings()


def wordings() -> list[str]:
    """The kit's own wordings of the classification prompts."""
    own = sorted(path.stem for path in (params() / "prompts").glob("*.yaml"))
    return ["english", *(name for name in own if name not in TEMPLATES)]


def files(names: Iterable[str]) -> list[Path]:
    """The prompt files that templates or wordings of these names are read from: the paper's, and then their own."""
    return list(dict.fromkeys([_path("instructalign"), *map(_path, names)]))


def _path(name: str) -> Path:
    name = "instructalign" if name in (*TEMPLATES, "english") else name
    own = params() / "prompts" / f"{name}.yaml"
    return own if own.is_file() else Path(name)


@cache
def _published(first: bool) -> dict[str, list[str]]:
    """The paper's templates by kind, those of mt in its first version's wording if that is asked for."""
    found = dict(yaml_files.plain(yaml_files.read(_path("instructalign"), "prompt file", PromptError)))
    ia1 = found.pop("ia1")
    found |= dict.fromkeys(("word", "span"), ia1["conditional_denoising"])
    return found | ({"mt": ia1["mt"]} if first else {})


def _read(source: str | Prompts) -> Prompts:
    return source if isinstance(source, Prompts) else _file(source)


@cache
def _file(name: str) -> Prompts:
    """The prompts of a file; of the paper's the kit keeps the templates apart (`_published`)."""
    if name == "english":
        return Prompts()
    path = _path(name)
    if not path.exists():
        known = ", ".join([*wordings(), *TEMPLATES])
        raise PromptError(f"{path}: there is no such prompt file; allowed: {known}, or the path of a YAML file")
    return yaml_files.validated(Prompts, path, yaml_files.read(path, "prompt file", PromptError), PromptError)


def _filled(template: str, kind: str, slots: dict[str, str]) -> str:
    """The template without its answer, its slots filled."""
    parts = _cut(template.removesuffix(f"[{ANSWER_SLOTS[kind]}]")).copy()
    parts[1::2] = map(slots.__getitem__, parts[1::2])
    return "".join(parts)


@lru_cache(2**10)
def _cut(head: str) -> list[str]:
    """A template cut at its slots: text, slot, text, slot, ..."""
    return _SLOT.split(head)
