"""The papers' prompt templates, verbatim, how their slots are filled, and how a filled one becomes tokens.

Source of the templates: InstructAlign, appendix A, Tables 4-10.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ruamel.yaml import YAML

# A template's answer begins at one of these slots and ends the template.
ANSWER_SLOTS = {
    "tlm": "LABEL_TEXT",
    "mt": "TARGET_TEXT",
    "xss": "LABEL",
    "mlm": "TARGET_TEXT",
    "classification": "LABELS_CHOICE",
}
_SLOT = re.compile(r"\[([A-Z_]+)\]")


@cache
def templates(kind: str) -> tuple[str, ...]:
    """The published templates of `kind`: tlm, mt, xss, mlm (six each) or classification (three)."""
    text = (_params_folder() / "prompts" / "instructalign.yaml").read_text(encoding="utf-8")
    return tuple(YAML(typ="safe").load(text)[kind])


def fill(kind: str, number: int, **slots: str) -> tuple[str, str]:
    """Fill template `number` (from 0) of `kind`; returns (prompt, answer).

    The prompt is everything before the answer, with the blank or line break that ends it, so that prompt + answer is
    the text as the template has it. Values are inserted as they are, even if they look like a slot.

    Raises KeyError if the template asks for a slot that was not given.
    """
    template = templates(kind)[number]
    answer_slot = ANSWER_SLOTS[kind]
    head = template.removesuffix(f"[{answer_slot}]")
    return _SLOT.sub(lambda match: slots[match[1]], head), slots[answer_slot]


def classification_prompts(text: str, task: str, labels: list[str]) -> list[str]:
    """The prompts of one text under each of the three published templates; the answer is one of `labels`."""
    slots = {"INPUT": text, "TASK": task, "OPTIONS": options(labels), "LABELS_CHOICE": ""}
    return [fill("classification", i, **slots)[0] for i in range(len(templates("classification")))]


def options(labels: list[str]) -> str:
    """Labels as the papers write them: `a or b`, `a, b, or c`."""
    return " or ".join(labels) if len(labels) < 3 else ", ".join(labels[:-1]) + f", or {labels[-1]}"


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
