"""Prompt and answer as tokens: as plain text, as a conversation, or apart for an encoder and a decoder."""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate

from jinja2 import TemplateError

# What templates call the switch of a model's thinking; a template overlooks the names that it does not know.
_NO_THINKING = {"enable_thinking": False, "thinking": False, "thinking_mode": "off"}
# What nobody writes but to mark something: </think>, <tool_call>, <|end|>, [INST].
_MARK = re.compile(r"</?\|?[\w:-]+\|?>|\[/?[A-Z][A-Z_]+\]")
# The date that Llama's templates fall back to; without it a prompt would change from day to day.
_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


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

    An example becomes `input_ids`, prompt and answer in one list, and `answer_start`, the index of its first answer
    token. Prompt + answer is tokenised as one string, with the end-of-sequence token behind it: a token belongs to the
    answer if it holds at least one of the answer's characters. With `chat` the string is the conversation as `in_chat`
    gives it. With `encoder_decoder` prompt and answer are two texts, each with its own end-of-sequence token.

    One longer than `max_length` tokens loses the beginning of its prompt's own text, never its beginning-of-sequence
    token or what the chat template adds; if the answer finds no room even so, its end is cut, and the second value
    returned counts such examples. As the released code does it: with `cut` "end" an example loses its end instead, and
    of its answer nothing may be left; without `end_of_sequence` nothing ends an answer.

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
            allowed = f"more than {max_length - room}, the tokens that stand around prompt and answer"
            raise ValueError(f"max_length: found {max_length}; allowed: {allowed}")
        if len(answer) > room:
            answer, shortened = answer[:room], shortened + 1
        kept = min(len(own), room - len(answer))
        prompt = [*opening, *own[len(own) - kept :], *closing]
        rows.append({"input_ids": prompt + answer, "answer_start": len(prompt)})
    return rows, shortened


def asked(tokenizer, prompts: Sequence[str], *, chat: bool = False, encoder_decoder: bool = False) -> list[list[int]]:
    """The tokens that a model is given to answer each prompt: behind the tokenizer's beginning-of-sequence token, if it
    has one; with `chat` up to the end of the assistant's header; for an encoder with the end-of-sequence token. Raises
    ValueError as `encode` does."""
    if encoder_decoder:
        return [[*own, *closing] for _, own, closing, _ in _two_texts(tokenizer, prompts, ["."] * len(prompts), chat)]
    turns = in_chat(tokenizer, prompts, ["."] * len(prompts)) if chat else [("", prompt) for prompt in prompts]
    found = [ids for ids, *_ in tokenised(tokenizer, [parts[:3] for parts in turns], add_special_tokens=not chat)]
    # some tokenizers end every text
    end = tokenizer.eos_token_id
    return [ids[:-1] if not chat and len(ids) > 1 and ids[-1] == end else ids for ids in found]


def ends(tokenizer, prompt: str, *, chat: bool = False, encoder_decoder: bool = False) -> set[int]:
    """The tokens with which an answer to a prompt ends: the tokenizer's own, and its turn's, which may be another."""
    (row,), _ = encode(tokenizer, [prompt], ["."], 10**9, chat=chat, encoder_decoder=encoder_decoder)
    return {tokenizer.eos_token_id, row["input_ids"][-1]}


def _one_text(tokenizer, prompts, answers, chat) -> Iterator[tuple[list[int], list[int], list[int], list[int]]]:
    """The tokens before a prompt's own text, of that text, between it and the answer, and of the answer."""
    pairs = zip(prompts, answers, strict=True)
    texts = in_chat(tokenizer, prompts, answers) if chat else [("", p, "", a, "") for p, a in pairs]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # a chat template writes the beginning-of-sequence token itself
    for text, (ids, offsets, _) in zip(texts, tokenised(tokenizer, texts, add_special_tokens=not chat), strict=True):
        *borders, last = accumulate(len(part) for part in text[:4])
        # a token belongs to the part that holds its last character; one the tokenizer adds has none, and stays outside
        ends = [end for _, end in offsets]
        own, closing, answer = (next((i for i, end in enumerate(ends) if end > border), len(ids)) for border in borders)
        behind = next((i for i in range(answer, len(ids)) if offsets[i][0] >= last), len(ids))
        if answer >= behind:
            raise ValueError(f"the answer {text[3]!r:.80} to the prompt {text[1][-60:]!r} has no token")
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
    read = tokenised(tokenizer, [("", prompt) for prompt in prompts])
    told = tokenised(tokenizer, [("", answer) for answer in answers], "text_target")
    for prompt, answer, (asked, *_), (answered, *_) in zip(prompts, answers, read, told, strict=True):
        if not set(answered) - {end}:
            raise ValueError(f"the answer {answer!r:.80} to the prompt {prompt[-60:]!r} has no token")
        asked, answered = ([*ids, end] if ids[-1:] != [end] else ids for ids in (asked, answered))
        yield [], asked[:-1], asked[-1:], answered


def tokenised(
    tokenizer, texts: Sequence[Sequence[str]], kind: str = "text", add_special_tokens: bool = True
) -> Iterator[tuple[list[int], list[tuple[int, int]], list[int]]]:
    """Each text as its tokens, the characters that each of them stands for, and whether the tokenizer itself has added
    it. A text comes in parts, as `in_chat` gives them: every second one is somebody's own words.

    A special token is real where a template or the tokenizer has written it. In somebody's own words, or across their
    end, what reads like one (`</s>`, `<|im_end|>`) is read as the ordinary characters that it is; so is what a template
    of these texts uses as a mark (`<think>`). `kind` "text_target" is for a decoder's texts. A tokenizer that is not
    fast has no characters to a token and gives empty lists of them.
    """
    whole = ["".join(parts) for parts in texts]
    options = {"add_special_tokens": add_special_tokens, "return_attention_mask": False}
    if not tokenizer.is_fast:
        encoded = tokenizer(**{kind: whole}, split_special_tokens=True, **options)["input_ids"]
        yield from ((ids, [], []) for ids in encoded)
        return
    encoded = tokenizer(**{kind: whole}, return_offsets_mapping=True, return_special_tokens_mask=True, **options)
    frame = "".join(texts[0][::2]) if texts else ""
    # those of the vocabulary's own and those, special or not, that look like marks or that a template writes
    control = {
        token: added.content.strip()
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.special or _MARK.fullmatch(added.content) or (added.content.strip() and added.content in frame)
    }
    columns = (encoded[name] for name in ("input_ids", "offset_mapping", "special_tokens_mask"))
    for parts, text, *row in zip(texts, whole, *columns, strict=True):
        if not control.keys().isdisjoint(row[0]):
            borders = list(accumulate(map(len, parts)))
            own = list(zip(borders[::2], borders[1::2], strict=False))
            row = _with_ordinary(tokenizer, text, own, control, *row)
        yield tuple(row)


def _with_ordinary(tokenizer, text, own, control, ids, offsets, added):
    """The same lists, with ordinary tokens in place of the special ones that stand in the spans `own` of the text."""
    found = []
    for token, (begin, end), extra in zip(ids, offsets, added, strict=True):
        read = text[begin:end].strip()
        # some take the blanks around them along, which may be a template's
        first = begin + text[begin:end].find(read)
        mine = read and any(first < b and first + len(read) > a for a, b in own)
        # a special token also stands for what the tokenizer does not know
        if mine and token in control and _reads(tokenizer, read, control[token]):
            found += [(i, (begin + a, begin + b), 0) for i, a, b in _ordinary(tokenizer, text[begin:end], control)]
        else:
            found.append((token, (begin, end), extra))
    return map(list, zip(*found, strict=True))


def _reads(tokenizer, read: str, content: str) -> bool:
    """Whether a text reads like a token, to people or to the tokenizer, which may put a text in another form first."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    forms = [str] if normalizer is None else [str, normalizer.normalize_str]
    return any(form(read).strip().casefold() == form(content).strip().casefold() for form in forms)


def _ordinary(tokenizer, text: str, control: dict[int, str]) -> list[tuple[int, int, int]]:
    """A special token's own characters as tokens: (token, begin, end)."""
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
    encoded = tokenizer(text, **options)
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    # some pieces are special tokens even so, and some begin with the mark of a blank that is not there
    if control.keys().isdisjoint(encoded["input_ids"]) and names[0][0] not in "\u2581":
        return [(i, a, b) for i, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]
    ids = ((place, tokenizer.convert_tokens_to_ids(letter.replace(" ", "\u2581"))) for place, letter in enumerate(text))
    return [(i, place, place + 1) for place, i in ids if i is not None]


def in_chat(tokenizer, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[str, str, str, str, str]]:
    """Each prompt and answer as a conversation of two turns in the tokenizer's chat template.

    Returns for each what stands before the prompt, the prompt, what stands between it and the answer (up to the end
    of the assistant's header), the answer, and what stands behind it. Blanks and line breaks at the ends of prompt and
    answer are dropped, since half of all templates do so. Thinking is switched off where the template can do that; the
    mark that says so may stand in what the model is given before it answers alone (Gemma 4), and then stays there.

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
        said = f"writes {start[-60:]!r} before an answer in a conversation, but gives the model {given[-60:]!r}"
        raise ValueError(f"the chat template {said} before it answers; allowed: the same in both")
    history = start.removeprefix(before + user)
    texts = []
    for prompt, answer in zip(map(str.strip, prompts), map(str.strip, answers), strict=True):
        if _render(tokenizer, template, prompt, answer) != before + prompt + history + answer + behind:
            said = f"the chat template changes the prompt {prompt[-60:]!r} or its answer {answer[:60]!r}"
            raise ValueError(f"{said}; allowed: texts that it writes as they are")
        texts.append((before, prompt, between, answer, behind))
    return texts


def _render(tokenizer, template: str, prompt: str, answer: str | None = None) -> str:
    """The conversation with its answer, or what the model is given to answer."""
    said = {"user": prompt, "assistant": answer}
    turns = [{"role": role, "content": text} for role, text in said.items() if text is not None]
    options = {"tokenize": False, "add_generation_prompt": answer is None, **_NO_THINKING}
    try:
        return tokenizer.apply_chat_template(turns, chat_template=_DATE + template, **options)
    except (TemplateError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ValueError(f"the chat template refuses a user's turn with an assistant's answer: {error}") from None
