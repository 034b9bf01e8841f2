"""The papers' prompt templates, verbatim, how their slots are filled, and how a filled one becomes tokens.

Source of the templates: InstructAlign, appendix A, Tables 4-10; first version: Table 1.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

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
_SLOT = re.compile(r"\[([A-Z_]+)\]")


class PromptError(ValueError):
    """A prompt file that cannot be used; the message says where and what is allowed."""


@cache
def templates(kind: str, source: str = "instructalign") -> tuple[str, ...]:
    """The templates of `kind`: tlm, mt, xss, mlm (six each), word and span (one each, of the first version), or
    classification (three).

    `source` is "instructalign" (the paper), "ia1" (its first version: another wording of mt) or the path of a YAML
    file with lists of templates by kind; what it does not have is the paper's.

    Raises PromptError for a file that cannot be read, a kind there is not, and a template with an unknown slot or
    without its answer at the end.
    """
    published = _load(_params_folder() / "prompts" / "instructalign.yaml")
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
    head = _heads(kind, source)[number]
    return "".join(slots[part] if i % 2 else part for i, part in enumerate(head)), slots[ANSWER_SLOTS[kind]]


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
    own = _params_folder() / "prompts" / f"{name}.yaml"
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
            if unknown := [slot for slot in _SLOT.findall(template) if slot not in SLOTS[kind]]:
                raise PromptError(f"{where}: found the slot [{unknown[0]}]; allowed: {', '.join(sorted(SLOTS[kind]))}")
            answer = f"[{ANSWER_SLOTS[kind]}]"
            if not template.endswith((f" {answer}", f"\n{answer}")) or template.count(answer) > 1:
                raise PromptError(
                    f"{where}: found {template[-30:]!r} at its end; allowed: {answer} behind a blank, once"
                )
    return lists


def encode(tokenizer, prompts: Sequence[str], answers: Sequence[str], max_length: int) -> tuple[list[dict], int]:
    """Tokenise prompt + answer as one string, with the end-of-sequence token behind the answer.

    A row becomes `input_ids` and `answer_start`, the index of its first answer token: a token belongs to the answer
    if it holds at least one of the answer's characters. A row longer than `max_length` tokens loses the beginning of
    its prompt, never its answer, unless the answer alone is longer: then the answer's end is cut, and the second
    value returned counts such rows.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token; give it one (tokenizer.eos_token)")
    rows, cut = [], 0
    if not prompts:
        return rows, cut
    encoded = tokenizer(
        [p + a for p, a in zip(prompts, answers, strict=True)],
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    for prompt, ids, offsets in zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        start = next(i for i, (_, end) in enumerate(offsets) if end > len(prompt))
        if ids[-1] != tokenizer.eos_token_id:
            ids = [*ids, tokenizer.eos_token_id]
        if len(ids) - start > max_length:
            ids, start, cut = ids[start : start + max_length], 0, cut + 1
        elif len(ids) > max_length:
            ids, start = ids[-max_length:], start - (len(ids) - max_length)
        rows.append({"input_ids": ids, "answer_start": start})
    return rows, cut


def _params_folder() -> Path:
    """params/ beside the package in a checkout; in an installed wheel it lies inside the package."""
    beside = Path(__file__).parent.parent / "params"
    return beside if beside.is_dir() else Path(__file__).parent / "params"
