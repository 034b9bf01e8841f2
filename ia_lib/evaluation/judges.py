"""Judges: open answers become marks of 1 to 3 (the Alpaca study, section 3.2), by a rule, an endpoint, or a model here.

A mark is what a judge says and nothing else: whether the answer is in the language of its question is for the language
gate. A reply that is no mark is asked for once more and then has none (NaN); it is never scored as if it were one."""

import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ia_lib.data.files import HALF, CorpusError
from ia_lib.instructions.judging import Wording

ITEM = ("dataset", "task", "language", "language_name", "example", "question", "answer", "reference")
MARKED = ("mark", "reply", "tries", "requests", "tokens_in", "tokens_out", "cost")
_LABELS = ("1", "2", "3")
# What makes an item another one for an endpoint.
_ASKED = ("question", "answer", "language", "language_name")
# Tokens that a model here may take to say its mark, and tokens that it reads at most.
_NEW, _READ = 16, 8192

# Numbers that say what marks there are: `2 out of 3`, `2/3`, `on a scale of 1 to 3`.
_OF_THREE = re.compile(r"(?<=\d)[*_(\s]*(?:/|\bout of\b)\s*3(?![\w%/]|[.,]\d)", re.IGNORECASE)
_SCALE = re.compile(r"\bscale\s+(?:of|from)\s+1\s*(?:to|-|–)\s*3(?![\w%/]|[.,]\d)", re.IGNORECASE)
_WORD = re.compile(r"[\w.,+\-/%]+")
# What stands before a mark, if anything does: a name for it and a colon, or words that give one.
_NAMES = "score|mark|rating|grade|evaluation|verdict|judge?ment"
_FILLED = "it|this|that|the|an?|my|answer|response|reply|score|mark|rating|grade|of|as|is|solid|clear"
# what a response gives, and what an answer is, may be anything
_GIVEN = f"(?:{_NAMES})\\s+(?:is|of|would be)|rated?|give|given|awards?|assign|deserves?|gets?|earns?"
_NAMED = f"(?:{_NAMES}|points|result|answer)\\b\\W*[:=>]|(?:score|mark|rating|grade)\\s"
_BEFORE = re.compile(rf"\b(?:{_NAMED}|(?:{_GIVEN})\b(?:\s+(?:{_FILLED}))*\s)\W*$", re.IGNORECASE)
# A sentence that denies what it names.
_DENIED = re.compile(r"(?:\b(?:not|never|cannot|no|neither|without)\b|n['’]t\b)[^.!?\n]*$", re.IGNORECASE)
# And behind it: nothing, or something that begins again.
_AFTER = re.compile(
    r"[*_\"'’”`)\]}]*(?:\s*$|\s*[.,;:!()\[\]}<–—|-]|\s*\n|\s+(?:points|because|since|as|for)\b)", re.IGNORECASE
)
# What a list of remarks begins with.
_FIRST = re.compile(r"\W*1[.)]\s+\w")
_NEAR = 80  # characters in which these are looked for


class JudgeWarning(UserWarning):
    """Answers that were not marked, or not as a whole."""


def parsed(reply: str) -> int | None:
    """The mark that a reply gives: 1, 2 or 3, alone (`2`, `2.`, `**2**`), with a name (`Score: 2`) or in a sentence (`I
    would give 2 out of 3`), with words behind it or not. None for a reply without a mark, with another number
    (`5`, `23`, `2.5`, `2/5`) or with several (`2 or 3`), and for one whose number may count something else."""
    text = unicodedata.normalize("NFKC", reply).replace("\0", " ").rpartition("</think>")[2]
    text = _SCALE.sub("scale", _OF_THREE.sub("\0", text)).strip()
    if _FIRST.match(text):
        return None
    numbers = [word for word in _WORD.finditer(text) if re.search(r"\d", word[0])]
    # a full stop, comma or dash behind a number is none of its own
    said = {number[0].rstrip(".,-").strip("_") for number in numbers}
    if len(said) != 1 or "<think>" in text or not re.fullmatch(r"\d", one := said.pop()) or not 1 <= int(one) <= 3:
        return None
    for number in numbers:
        begin = number.start() + number[0].index(one)
        before, after = text[:begin], text[begin + 1 : begin + 1 + _NEAR]
        # nobody but who gives a mark says what it is out of
        given = after[:1] == "\0" or not re.search(r"[^\W_]", before) or _BEFORE.search(before[-_NEAR:])
        if given and not _DENIED.search(before[-_NEAR:]) and _AFTER.match(after.removeprefix("\0")):
            return int(one)
    return None


def marks(
    judge,
    items: pd.DataFrame,
    store: Path,
    *,
    wording: Wording,
    load: Callable[[], tuple] | None = None,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """The marks that a `fields.Judge`, if it is not people, gives to `items` (columns `ITEM`; `reference` is "" where
    there is none).

    Returns, in the order and with the index of the items, the columns `MARKED`: the mark (1, 2, 3, or NaN where the
    judge gave none, of which a JudgeWarning tells), what it replied at last, how often it was asked (at most twice),
    the requests that were sent for it (those that failed among them), and what these took: tokens as the endpoint
    claims them (NaN: it does not) and the cost in the currency of its prices (NaN without prices or tokens). Equal
    answers to equal questions are asked about once, and only the first of them has tries, requests, tokens and a cost,
    so that sums are what was paid. A reply that is in the folder `store` is not asked for again, so a second call gives
    the same. `load` gives a local judge's model and tokenizer. `progress` is told of every few items how many they are.

    Raises CorpusError for an item without an answer's or question's text, or without a reference if a rule judges;
    EndpointError as `endpoint.ask` does, ValueError and ScoringError as models here do.
    """
    if missing := [name for name in ITEM if name not in items.columns]:
        raise ValueError(f"items: found no column {missing[0]!r}; allowed: {', '.join(ITEM)}")
    rows = items.to_dict("records")
    for row in rows:
        for name in ("question", "answer", "reference", "language", "language_name"):
            if not isinstance(row[name], str):
                raise CorpusError(f"{_place(row)}: found {row[name]!r:.80} as {name}; allowed: text")
            row[name] = HALF.sub("\ufffd", row[name])  # half of a letter, which cannot be sent
    how = {"rule": _by_rule, "endpoint": _by_endpoint, "model": _by_model}
    by = next(by for name, by in how.items() if getattr(judge, name) is not None)
    found = by(judge, rows, store=Path(store), wording=wording, load=load, progress=progress or (lambda _: None))
    marked = pd.DataFrame(found, columns=list(MARKED), index=items.index)
    whole = ("tries", "requests")
    marked = marked.astype({name: int if name in whole else float for name in MARKED if name != "reply"})
    if none := int(marked["mark"].isna().sum()):
        # a reply may repeat somebody's sentence, so it is not told
        said = f"{none:,} of {len(marked):,} answers have no mark, since the judge's replies are none"
        warnings.warn(said, JudgeWarning, stacklevel=2)
    return marked


def _line(mark: float | None, reply: str, tries: int = 1, **taken: float) -> dict:
    return {
        "mark": math.nan if mark is None else mark,
        "reply": reply,
        "tries": tries,
        "requests": 0,
        "cost": 0.0,
        **taken,
    }


def _place(row: dict) -> str:
    return f"{row['dataset']}/{row['task']}, {row['language']}, example {row['example']}"


def _by_rule(judge, rows: list[dict], *, progress, **_) -> list[dict]:
    """3 for the reference, 2 where its words and the answer's have an F1 of one half, else 1."""
    from ia_lib.evaluation.extraction import agreement

    found = []
    for row in rows:
        if not row["reference"].strip():
            raise CorpusError(
                f"{_place(row)}: found no reference; allowed for the judge 'overlap': one for each answer"
            )
        exact, f1 = agreement(row["answer"], [row["reference"]], "corrected", row["language"])
        mark = 1 if not row["answer"].strip() else 3 if exact else 2 if f1 >= 0.5 else 1
        found.append(_line(mark, str(mark), tokens_in=0, tokens_out=0))
    progress(len(rows))
    return found


def _by_endpoint(judge, rows: list[dict], *, store, wording, progress, **_) -> list[dict]:
    from ia_lib.evaluation.endpoint import ask
    from ia_lib.evaluation.replies import Replies

    at, same = judge.endpoint, {}
    for i, row in enumerate(rows):
        same.setdefault(tuple(row[name] for name in _ASKED), []).append(i)
    got: dict[tuple, list] = {one: [] for one in same}

    def finished(one: tuple) -> bool:
        return len(got[one]) == 2 or any(parsed(reply.reply) for reply in got[one])

    def asked(one: tuple) -> dict:
        how = {"wording": wording.model_dump_json(), "max_tokens": at.max_tokens, "try": len(got[one]) + 1}
        return {**dict(zip(_ASKED, one, strict=True)), **how}

    def take(one: tuple, reply) -> None:
        got[one].append(reply)
        if finished(one):
            progress(len(same[one]))

    with Replies(store, at.base_url, at.model) as replies:
        for again in (False, True):
            left = []
            for one in same:
                if finished(one):
                    continue
                if kept := replies.get(asked(one)):
                    take(one, kept)
                else:
                    question, answer, _, language = one
                    left.append((one, wording.ask(question, answer, language, again)))
            for one, reply in ask(at, left) if left else ():
                replies.keep(asked(one), reply)
                take(one, reply)

    found, prices = [{}] * len(rows), [_number(price) for price in (at.price_in, at.price_out)]
    for one, places in same.items():
        last, mark = got[one][-1].reply, parsed(got[one][-1].reply)
        columns = ("requests", "tokens_in", "tokens_out")
        requests, *tokens = (sum(_number(getattr(reply, name)) for reply in got[one]) for name in columns)
        taken = dict(zip(columns, (requests, *tokens), strict=True))
        taken["cost"] = sum(price * count for price, count in zip(prices, tokens, strict=True)) / 1e6
        for i in places:
            found[i] = _line(mark, last, 0, tokens_in=0, tokens_out=0)
        found[places[0]] = _line(mark, last, len(got[one]), **taken)
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _by_model(judge, rows: list[dict], *, wording, load, progress, **_) -> list[dict]:
    if not rows:
        return []
    if load is None:
        raise ValueError("load: found nothing; allowed: what gives the judge's model and tokenizer")
    model, tokenizer = load()
    by = _by_labels if judge.model.by == "labels" else _by_generation
    return by(model, tokenizer, rows, wording, judge.model.chat, progress)


def _by_labels(model, tokenizer, rows, wording, chat, progress) -> list[dict]:
    """The mark that is the likeliest to follow."""
    from ia_lib.evaluation.scoring import label_logprobs

    prompts = _fitting(model, tokenizer, rows, wording, chat)
    done = 0

    def tell(number: int, _: int) -> None:
        nonlocal done
        progress(number - done)
        done = number

    # in a plain text the mark stands behind a blank
    prompts = prompts if chat else [f"{prompt} " for prompt in prompts]
    found = label_logprobs(model, tokenizer, prompts, _LABELS, chat=chat, max_length=_READ, progress=tell)
    lines = []
    for scores, read in zip(found.scores(), found.prompt_tokens[:, 0], strict=True):
        # a model may rule out all of them
        label = _LABELS[scores.argmax()] if scores.max() > -math.inf else ""
        lines.append(_line(int(label) if label else None, label, tokens_in=int(read), tokens_out=0))
    return lines


def _by_generation(model, tokenizer, rows, wording, chat, progress) -> list[dict]:
    """The mark that the model says, asked twice at most."""
    from ia_lib.evaluation.generation import continued
    from ia_lib.models import encoding

    decodes, lines = model.config.is_encoder_decoder, [{}] * len(rows)
    for number in (1, 2):
        left = [i for i, line in enumerate(lines) if not line or math.isnan(line["mark"])]
        if not left:
            break
        prompts = _fitting(model, tokenizer, [rows[i] for i in left], wording, chat, again=number == 2)
        how = {"chat": chat, "encoder_decoder": decodes}
        asked = encoding.asked(tokenizer, prompts, **how)
        said = continued(model, tokenizer, asked, _NEW, encoding.ends(tokenizer, prompts[0], **how))
        for i, ids, reply in zip(left, asked, said, strict=True):
            counts = {"tokens_in": len(ids), "tokens_out": len(tokenizer(reply, add_special_tokens=False)["input_ids"])}
            counts = {name: count + lines[i].get(name, 0) for name, count in counts.items()}
            lines[i] = _line(parsed(reply), reply.strip(), number, **counts)
        progress(sum(number == 2 or not math.isnan(lines[i]["mark"]) for i in left))
    return lines


def _fitting(model, tokenizer, rows: Sequence[dict], wording: Wording, chat: bool, again: bool = False) -> list[str]:
    """The prompts, of answers without their ends where the model could read no more than that."""
    from ia_lib.models import encoding

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _READ
    room, decodes = min(positions, _READ) - _NEW, model.config.is_encoder_decoder

    def long(prompts: list[str]) -> list[int]:
        return list(map(len, encoding.asked(tokenizer, prompts, chat=chat, encoder_decoder=decodes)))

    answers = [row["answer"] for row in rows]
    prompts = [wording.ask(row["question"], row["answer"], row["language_name"], again) for row in rows]
    cut = 0
    for i, tokens in enumerate(long(prompts)):
        cut += tokens > room
        while tokens > room:
            if not answers[i]:
                said = f"the question and the judge's wording have {tokens:,} tokens"
                raise CorpusError(f"{_place(rows[i])}: {said}; allowed for this judge: {room:,}")
            # what is too much in tokens, in characters, and a little more
            answers[i] = answers[i][: -max(1, len(answers[i]) * (tokens - room) // tokens)].rstrip()
            prompts[i] = wording.ask(rows[i]["question"], answers[i], rows[i]["language_name"], again)
            (tokens,) = long([prompts[i]])
    if cut and not again:
        said = (
            f"{cut:,} of {len(rows):,} answers are longer than the judge can read, and were judged without their ends"
        )
        warnings.warn(said, JudgeWarning, stacklevel=2)
    return prompts
