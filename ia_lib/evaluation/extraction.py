"""Tasks of the kind `extract`: questions on passages become answers in words, and counts of how many of them are right.

Three rules say what is the same answer: SQuAD's, which XQuAD is scored by everywhere; MLQA's, which knows the
punctuation and articles of seven languages; and MLQA's for every language, with words found by ICU in scripts without
blanks ("corrected"). The tests hold them against published implementations.
"""

import re
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import pandas as pd
from datasets import Dataset

from ia_lib.data.files import CorpusWarning
from ia_lib.evaluation.answering import COUNTS
from ia_lib.evaluation.generation import continued
from ia_lib.evaluation.measures import PREDICTION_COLUMNS
from ia_lib.evaluation.resampling import KINDS, RULES
from ia_lib.evaluation.tasks import Extract
from ia_lib.instructions import code_mixing
from ia_lib.models import encoding

# Articles that MLQA's script leaves out, by its languages; the other ones that it knows have none.
_ARTICLES = {
    "eng": r"\b(a|an|the)\b",
    "spa": r"\b(un|una|unos|unas|el|la|los|las)\b",
    "vie": r"\b(của|là|cái|chiếc|những)\b",
    "deu": r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "arb": r"\sال^|ال",
    "hin": None,
    "zho": None,
}
# Two-letter codes, and what else these languages are called.
_CALLED = {"en": "eng", "es": "spa", "vi": "vie", "de": "deu", "ar": "arb", "ara": "arb", "hi": "hin", "zh": "zho"}
_ASCII = str.maketrans("", "", string.punctuation)
_HAN = re.compile(r"[\u4e00-\u9fa5]")
_NUMBER = re.compile(r"\d[\d.,]*")
_SENTENCE = re.compile(r"(?<=[.!?।])\s+")


def has_rule(rule: str, language: str) -> bool:
    """Whether a rule says what is the same in a language."""
    return rule != "mlqa" or _CALLED.get(language, language) in _ARTICLES


@cache
def words(text: str, rule: str, language: str) -> tuple[str, ...]:
    """The words of an answer that are compared under a rule: in small letters, without punctuation and articles."""
    if rule == "squad":
        return tuple(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_ASCII)).split())
    language = _CALLED.get(language, language)
    kept = "".join(c for c in text.lower() if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    if articles := _ARTICLES.get(language):
        kept = re.sub(articles, " ", kept)
    if rule == "mlqa":
        # in Chinese every character is a word
        return tuple((_HAN.sub(lambda found: f" {found.group()} ", kept) if language == "zho" else kept).split())
    return tuple(part for some in kept.split() for part in _unspaced(some))


def _unspaced(word: str) -> list[str]:
    if not code_mixing.UNSPACED.search(word):
        return [word]
    return [part for part, _ in code_mixing.pieces(word) if part.strip()]


def agreement(said: str, true: Sequence[str], rule: str, language: str) -> tuple[float, float]:
    """Exact match and F1 over words (0 to 1) of an answer with the best of the true ones; of a question that has none,
    whether nothing was said."""
    mine = words(said, rule, language)
    found = [(float(mine == other), _f1(mine, other)) for other in (words(one, rule, language) for one in true or [""])]
    return max(exact for exact, _ in found), max(f1 for _, f1 in found)


def _f1(mine: tuple[str, ...], other: tuple[str, ...]) -> float:
    if not mine or not other:
        return float(mine == other)
    return 2 * (Counter(mine) & Counter(other)).total() / (len(mine) + len(other))


def first_number(context: str) -> str:
    """The first number of a passage; nothing, if it has none."""
    found = _NUMBER.search(context)
    return found.group() if found else ""


def nearest_sentence(context: str, question: str) -> str:
    """The sentence of a passage that has most of the question's words (by SQuAD's rule); of several the first."""
    asked = set(words(question, "squad", ""))
    return max(_SENTENCE.split(context), key=lambda sentence: len(asked & set(words(sentence, "squad", ""))))


def extract(
    model,
    tokenizer,
    task: Extract,
    questions: Dataset,
    language: str,
    *,
    chat: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the model answer the questions on passages (as `questions.read` has them) in one language: greedily, up to
    the first new line. Where a prompt is longer than the model reads, the context loses its end and the question stays;
    a CorpusWarning tells how many did. `progress` is told of every few questions, how many they are.

    Returns predictions (`PREDICTION_COLUMNS`; of several true answers the first is `gold`) and counts (`COUNTS`): how
    right an answer is (0 to 1), of 1 question, for exact match and F1 under each rule. Beside each stands the best of
    the baselines: no answer, the context's first number, the sentence nearest to the question.
    """
    contexts, asked = questions["context"][:], questions["question"][:]
    true, ids = questions["answers"][:], questions["id"][:]
    prompts = _fitting(model, tokenizer, task, language, contexts, asked, chat)
    ends = encoding.ends(tokenizer, asked[0], chat=chat, encoder_decoder=model.config.is_encoder_decoder)
    said = continued(model, tokenizer, prompts, task.max_new_tokens, ends, stop="\n", progress=progress)
    said = [answer.strip() for answer in said]
    place = {"dataset": task.dataset, "task": task.task, "kind": task.kind, "source": "", "language": language}
    predictions = [
        {**place, "example": i, "prompt": 1, "gold": gold[0] if gold else "", "predicted": answer}
        for i, gold, answer in zip(ids, true, said, strict=True)
    ]
    best, lines = baselines(questions, language), []
    for metric, scores in scored(said, true, language).items():
        beside = {"metric": metric, **dict(zip(("baseline", "baseline_is"), best[metric], strict=True))}
        lines += [{**place, "example": ids[i], "counts": [score, 1.0], **beside} for i, score in scores.items()]
    return pd.DataFrame(predictions, columns=PREDICTION_COLUMNS), pd.DataFrame(lines, columns=COUNTS)


def baselines(questions: Dataset, language: str) -> dict[str, tuple[float, str]]:
    """Metric -> the baseline (percent), the best of what needs no model, and what that is."""
    contexts, asked, true = (questions[name][:] for name in ("context", "question", "answers"))
    without = {
        "no answer": [""] * len(true),
        "the first number": list(map(first_number, contexts)),
        "the nearest sentence": list(map(nearest_sentence, contexts, asked)),
    }
    found: dict[str, tuple[float, str]] = {}
    for name, answers in without.items():
        for metric, scores in scored(answers, true, language).items():
            score = 100 * sum(scores.values()) / len(scores)
            if metric not in found or score > found[metric][0]:
                found[metric] = score, name
    return found


def scored(answers: Sequence[str], true: Sequence[Sequence[str]], language: str) -> dict[str, dict[int, float]]:
    """Metric -> number of the question -> how right its answer is (0 to 1). Where some questions have no true answer,
    exact matches of the others and of theirs also stand apart."""
    found: dict[str, dict[int, float]] = {}
    for rule in RULES:
        if has_rule(rule, language):
            pairs = [agreement(said, some, rule, language) for said, some in zip(answers, true, strict=True)]
            for metric, scores in zip(("exact match", "F1"), zip(*pairs, strict=True), strict=True):
                found[f"{metric}, {rule}"] = dict(enumerate(scores))
    if not all(true):
        for kind, there in zip(KINDS, (True, False), strict=True):
            exact = found["exact match, corrected"].items()
            if own := {i: score for i, score in exact if bool(true[i]) == there}:
                found[f"exact match, {kind}"] = own
    return found


def _fitting(model, tokenizer, task, language, contexts, questions, chat) -> list[list[int]]:
    """The prompts' tokens, of contexts without their ends where the model could read no more than that."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    room = max(1, positions - task.max_new_tokens) if positions else None

    def read(context: str, question: str) -> list[int]:
        return encoding.asked(
            tokenizer, [task.prompt(language, context, question)], chat=chat, encoder_decoder=decodes
        )[0]

    decodes, found, cut = model.config.is_encoder_decoder, [], 0
    for context, question in zip(contexts, questions, strict=True):
        ids, whole = read(context, question), len(context)
        while room and len(ids) > room and context:
            # what is too much in tokens, in characters, and a little more
            context = context[: -max(1, len(context) * (len(ids) - room) // len(ids))].rstrip()
            ids = read(context, question)
        cut += len(context) < whole or bool(room and len(ids) > room)
        # a question that is too long by itself loses its beginning
        found.append(ids[-room:] if room else ids)
    if cut:
        told = f"{cut:,} of {len(found):,} prompts are longer than the {room:,} tokens that the model can read here"
        warnings.warn(f"{task.name}, {language}: {told}; their contexts lost their ends", CorpusWarning, stacklevel=3)
    return found
