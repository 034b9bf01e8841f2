"""The papers' prompt templates, verbatim, how their slots are filled, and how a filled one becomes tokens.

Source of the templates: InstructAlign, appendix A, Tables 4-10; first version: Table 1.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ia_lib.paths import params

# A template's answer begins at one of these slots and ends the template.
ANSWER_SLOTS = {
    "tlm": "LABEL_TEXT",
    "mt": "TARGET_TEXT",
    "xss": "LABEL",
    "mlm": "TARGET_TEXT",
    "word": "LABEL_TEXT",
    "span": "LABEL_TEXT",
    "classification": "LABELS_CHOICE",
}
# The kit's own templates.
TEMPLATES = ("instructalign", "ia1")
_PAIR = {"SOURCE_LANG", "SOURCE_TEXT", "TARGET_LANG", "TARGET_TEXT"}
_DENOISING = {"INPUT_TEXT", "INPUT_LANG", "CONTEXT", "CONTEXT_LANG", "LABEL_TEXT"}
# The slots that a template of a kind may have.
SLOTS = {
    "tlm": _DENOISING,
    "mt": _PAIR,
    "xss": _PAIR | {"LABEL"},
    "mlm": {"SOURCE_LANG", "SOURCE_TEXT", "TARGET_TEXT"},
    "word": _DENOISING,
    "span": _DENOISING,
    "classification": {"INPUT", "TASK", "OPTIONS", "LABELS_CHOICE"},
}
# The slots without which a template of a kind does not ask for what it is for.
_ESSENTIAL = {
    "tlm": ("INPUT_TEXT", "CONTEXT"),
    "mt": ("SOURCE_TEXT",),
    "xss": ("SOURCE_TEXT", "TARGET_TEXT"),
    "mlm": ("SOURCE_TEXT",),
    "word": ("INPUT_TEXT", "CONTEXT"),
    "span": ("INPUT_TEXT", "CONTEXT"),
    "classification": ("INPUT",),
}
_SLOT = re.compile(r"\[([A-Z_]+)\]")
# What somebody may have meant for a slot: letters, digits, blanks, hyphens and underscores in square brackets.
_LIKE_A_SLOT = re.compile(r"\[([\w\s-]*\w[\w\s-]*)\]")


class PromptError(ValueError):
    """A prompt file that cannot be used; the message says where and what is allowed."""


@cache
def templates(kind: str, source: str = "instructalign") -> tuple[str, ...]:
    """The templates of `kind`: tlm, mt, xss, mlm (six each), word and span (one each, of the first version), or
    classification (three).

    `source` is "instructalign" (the paper), "ia1" (its first version: another wording of mt) or the path of a YAML
    file with lists of templates by kind; what it does not have is the paper's.

    Raises PromptError for a file that cannot be read, a kind there is not, and a template with something in square
    brackets that is no slot of its kind, without a slot that its kind cannot do without, or without its answer at the
    end.
    """
    published = _load(params() / "prompts" / "instructalign.yaml")
    first = published.pop("ia1")
    published |= {"word": first["conditional_denoising"], "span": first["conditional_denoising"]}
    if source == "ia1":
        published["mt"] = first["mt"]
    elif source != "instructalign":
        published |= _check(_load(Path(source)), Path(source))
    return tuple(published[kind])


def fill(kind: str, number: int, source: str = "instructalign", **slots: str) -> tuple[str, str]:
    """Fill template `number` (from 0) of `kind`; returns (prompt, answer).

    The prompt is everything before the answer, with the blank or line break that ends it, so that prompt + answer is
    the text as the template has it. Values are inserted as they are, even if they look like a slot.

    Raises KeyError if the template asks for a slot that was not given.
    """
    parts = _heads(kind, source)[number].copy()
    parts[1::2] = map(slots.__getitem__, parts[1::2])
    return "".join(parts), slots[ANSWER_SLOTS[kind]]


def classification_prompts(text: str, task: str, labels: Sequence[str], wording: str = "english") -> list[str]:
    """The prompts of one text under each template of a wording; the answer is one of `label_words`.

    `wording` is "english" (the papers' three), "indonesian" (three of the kit's own wording: those of the paper's
    first version were not published) or the path of a YAML file of the shape of params/prompts/indonesian.yaml.
    """
    words = _wording(wording)
    slots = {
        "INPUT": text,
        "TASK": words.get("tasks", {}).get(task, task),
        "OPTIONS": options(label_words(labels, wording), words.get("or", "or")),
    }
    return [_SLOT.sub(lambda match: slots[match[1]], _head(t, "classification")) for t in words["classification"]]


def label_words(labels: Sequence[str], wording: str = "english") -> list[str]:
    """What the labels are called in a wording; a label without a word of its own keeps its name."""
    words = _wording(wording).get("labels", {})
    return [words.get(label, label) for label in labels]


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


@cache
def _heads(kind: str, source: str) -> list[list[str]]:
    """Every template without its answer, cut at its slots: text, slot, text, slot, ..."""
    return [_SLOT.split(_head(template, kind)) for template in templates(kind, source)]


def _head(template: str, kind: str) -> str:
    return template.removesuffix(f"[{ANSWER_SLOTS[kind]}]")


@cache
def _wording(name: str) -> dict:
    if name == "english":
        return {"classification": templates("classification")}
    own = params() / "prompts" / f"{name}.yaml"
    path = own if own.is_file() else Path(name)
    words = _load(path)
    extra = {key: words.pop(key) for key in ("tasks", "labels", "or") if key in words}
    return {"classification": templates("classification"), **_check(words, path), **extra}


def _load(path: Path) -> dict:
    try:
        loaded = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "problem", None) or error
        raise PromptError(f"{path}: the prompt file cannot be read ({reason})") from None
    if not isinstance(loaded, dict):
        raise PromptError(f"{path}: found no lists of templates; allowed: lists under {', '.join(SLOTS)}")
    return loaded


def _check(lists: dict, path: Path) -> dict[str, list[str]]:
    """The lists of templates of a user's file, if there is nothing wrong with them."""
    for kind, found in lists.items():
        if kind not in SLOTS:
            raise PromptError(f"{path}: found templates of the kind {kind!r}; allowed: {', '.join(SLOTS)}")
        if not isinstance(found, list) or not found or not all(isinstance(template, str) for template in found):
            raise PromptError(f"{path}, {kind}: found {found!r}; allowed: a list of templates")
        for number, template in enumerate(found):
            where = f"{path}, {kind}, template {number}"
            allowed = ", ".join(f"[{slot}]" for slot in sorted(SLOTS[kind]))
            if unknown := [slot for slot in _LIKE_A_SLOT.findall(template) if slot not in SLOTS[kind]]:
                raise PromptError(f"{where}: found the slot [{unknown[0]}]; allowed: {allowed}")
            answer = f"[{ANSWER_SLOTS[kind]}]"
            if not template.endswith((f" {answer}", f"\n{answer}")) or template.count(answer) > 1:
                raise PromptError(
                    f"{where}: found {template[-30:]!r} at its end; allowed: {answer} behind a blank, once"
                )
            slots = _SLOT.findall(template)
            if missing := [f"[{slot}]" for slot in _ESSENTIAL[kind] if slot not in slots]:
                raise PromptError(
                    f"{where}: found {', '.join(f'[{slot}]' for slot in slots)} and no {' and no '.join(missing)}; "
                    f"allowed: templates with it, of the slots {allowed}"
                )
    return lists
