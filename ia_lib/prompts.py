"""The papers' prompt templates, verbatim, how their slots are filled, and how a filled one becomes tokens.

Source of the templates: InstructAlign, appendix A, Tables 4-10; first version: Table 1.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path

from jinja2 import TemplateError
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
    own = sorted(path.stem for path in (_params_folder() / "prompts").glob("*.yaml"))
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


def encode(
    tokenizer,
    prompts: Sequence[str],
    answers: Sequence[str],
    max_length: int,
    *,
    chat: bool = False,
    encoder_decoder: bool = False,
    end_of_sequence: bool = True,
    cut: str = "prompt",
) -> tuple[list[dict], int]:
    """Tokenise prompts with their answers and the token that ends an answer.

    A row becomes `input_ids`, prompt and answer in one list, and `answer_start`, the index of its first answer token.
    Prompt + answer is tokenised as one string, with the end-of-sequence token behind it: a token belongs to the answer
    if it holds at least one of the answer's characters. With `chat` the string is the conversation as `in_chat` gives
    it, and the answer ends with the template's end of turn. With `encoder_decoder` prompt and answer are two texts,
    each with its own end-of-sequence token: the encoder reads the one, the decoder gives the other.

    A row longer than `max_length` tokens loses the beginning of its prompt's own text, never its beginning-of-sequence
    token, what the chat template adds, or its answer, unless the answer finds no room without the prompt's text: then
    the answer's end is cut, and the second value returned counts such rows. With `cut` "end" it loses its end instead,
    so that of a long row's answer nothing may be left, and without `end_of_sequence` nothing ends an answer: the
    released code's ways.

    Raises ValueError for a tokenizer without end-of-sequence token, an answer without a token, a `max_length` that
    leaves an answer no room, and what `in_chat` refuses.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token; give it one (tokenizer.eos_token)")
    rows, shortened = [], 0
    pieces = _two_texts if encoder_decoder else _one_text
    for opening, own, closing, answer in pieces(tokenizer, prompts, answers, chat) if prompts else ():
        if not end_of_sequence and answer[-1] == tokenizer.eos_token_id:
            answer = answer[:-1]
        if cut == "end":
            start = len(opening) + len(own) + len(closing)
            ids = [*opening, *own, *closing, *answer]
            shortened += len(ids) > max_length
            rows.append({"input_ids": ids[:max_length], "answer_start": min(start, max_length)})
            continue
        room = max_length - len(opening) - len(closing)
        if room < 1:
            raise ValueError(
                f"max_length: found {max_length}; allowed: more than {max_length - room}, "
                "the tokens that stand around prompt and answer"
            )
        if len(answer) > room:
            answer, shortened = answer[:room], shortened + 1
        kept = min(len(own), room - len(answer))
        prompt = [*opening, *own[len(own) - kept :], *closing]
        rows.append({"input_ids": prompt + answer, "answer_start": len(prompt)})
    return rows, shortened


def _one_text(tokenizer, prompts, answers, chat) -> Iterator[tuple[list[int], list[int], list[int], list[int]]]:
    """The tokens before a prompt's own text, of that text, between it and the answer, and of the answer."""
    texts = in_chat(tokenizer, prompts, answers) if chat else [("", p, "", a, "") for p, a in _pairs(prompts, answers)]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # a chat template writes the beginning-of-sequence token itself
    encoded = tokenizer(
        ["".join(text) for text in texts],
        add_special_tokens=not chat,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        *borders, last = accumulate(len(part) for part in text[:4])
        # a token belongs to the part that holds its last character; one the tokenizer adds has none, and stays outside
        own, closing, answer = (
            next((i for i, (_, end) in enumerate(offsets) if end > border), len(ids)) for border in borders
        )
        behind = next((i for i in range(answer, len(ids)) if offsets[i][0] >= last), len(ids))
        if answer >= behind:
            raise ValueError(f"the answer {text[3]!r} to the prompt {text[1][-60:]!r} has no token")
        # the answer ends with the template's end of turn, and what stands behind that (a line break) is not the model's
        end = next((i for i in range(behind, len(ids)) if ids[i] in special), None)
        told = ids[answer : behind if end is None else end + 1]
        if end is None and told[-1] != tokenizer.eos_token_id:
            told = [*told, tokenizer.eos_token_id]
        yield ids[:own], ids[own:closing], ids[closing:answer], told


def _two_texts(tokenizer, prompts, answers, chat) -> Iterator[tuple[list[int], list[int], list[int], list[int]]]:
    """The same for an encoder's prompt and a decoder's answer; the prompt's closing token stays however it is cut."""
    if chat:
        raise ValueError("chat: found true; allowed: false for an encoder-decoder model, which has no turns")
    end = tokenizer.eos_token_id
    read = tokenizer(list(prompts), return_attention_mask=False)["input_ids"]
    told = tokenizer(text_target=list(answers), return_attention_mask=False)["input_ids"]
    for (prompt, answer), asked, answered in zip(_pairs(prompts, answers), read, told, strict=True):
        if not set(answered) - {end}:
            raise ValueError(f"the answer {answer!r} to the prompt {prompt[-60:]!r} has no token")
        asked, answered = ([*ids, end] if ids[-1:] != [end] else ids for ids in (asked, answered))
        yield [], asked[:-1], asked[-1:], answered


def _pairs(prompts, answers) -> Iterator[tuple[str, str]]:
    return zip(prompts, answers, strict=True)


def in_chat(tokenizer, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    """Each prompt and answer as a conversation of two turns in the tokenizer's chat template.

    Returns for each what stands before the prompt, the prompt, what stands between it and the answer (up to the end
    of the assistant's header), the answer, and what stands behind it. Blanks and line breaks at the ends of prompt and
    answer are dropped, since half of all templates do so. Thinking is switched off where the template can do that, and
    a template that asks for the date is told one and the same on every day.

    The whole conversation must begin with what the model is given before it answers. Of a template that switches
    thinking off, the mark that says so may stand in that alone (Gemma 4): then it stays there.

    Raises ValueError if the tokenizer has no chat template, the template refuses a conversation of a user and an
    assistant, writes more or less before an answer than the model is given (a thinking block), or changes the texts.
    """
    if not tokenizer.chat_template:
        raise ValueError("chat: found true; allowed: false, since the tokenizer has no chat template")
    template = tokenizer.get_chat_template()
    # private characters: no template writes them itself or takes them for blanks
    user, assistant = "\ue000", "\ue001"
    given = _render(tokenizer, template, user)
    whole = _render(tokenizer, template, user, assistant)
    start, found, behind = whole.partition(assistant)
    before, asked, between = given.partition(user)
    switches = any(re.search(rf"\b{name}\b", template) for name in _NO_THINKING)
    if not (asked and found and start.startswith(before + user)):
        raise ValueError("the chat template does not write the prompt and the answer into the conversation")
    if start != given and not (switches and given.startswith(start)):
        raise ValueError(
            f"the chat template writes {start[-60:]!r} before an answer in a conversation, but gives the model "
            f"{given[-60:]!r} before it answers; allowed: the same in both"
        )
    history = start.removeprefix(before + user)
    texts = []
    for prompt, answer in _pairs(prompts, answers):
        prompt, answer = prompt.strip(), answer.strip()
        if _render(tokenizer, template, prompt, answer) != before + prompt + history + answer + behind:
            raise ValueError(
                f"the chat template changes the prompt {prompt[-60:]!r} or its answer {answer[:60]!r}; allowed: texts "
                "that it writes as they are"
            )
        texts.append((before, prompt, between, answer, behind))
    return texts


# What templates call the switch of a model's thinking; a template overlooks the names that it does not know.
_NO_THINKING = {"enable_thinking": False, "thinking": False, "thinking_mode": "off"}
# The date that Llama's templates fall back to; without it a prompt would change from day to day.
_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


def _render(tokenizer, template: str, prompt: str, answer: str | None = None) -> str:
    """The conversation with its answer, or what the model is given to answer."""
    turns = [{"role": "user", "content": prompt}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    try:
        return tokenizer.apply_chat_template(
            turns, chat_template=_DATE + template, tokenize=False, add_generation_prompt=answer is None, **_NO_THINKING
        )
    except TemplateError as error:
        raise ValueError(f"the chat template refuses a user's turn with an assistant's answer: {error}") from None


def _params_folder() -> Path:
    """params/ beside the package in a checkout; in an installed wheel it lies inside the package."""
    beside = Path(__file__).parent.parent / "params"
    return beside if beside.is_dir() else Path(__file__).parent / "params"
