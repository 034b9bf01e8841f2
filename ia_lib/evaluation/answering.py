"""Tasks of the kind `answer`: questions with true answers become counts of how much those surprise the model."""

import math
import warnings
from collections.abc import Callable

import pandas as pd
from datasets import Dataset

from ia_lib.data.files import CorpusWarning
from ia_lib.evaluation.scoring import label_logprobs
from ia_lib.evaluation.tasks import Answer

COUNTS = ["dataset", "task", "kind", "source", "language", "metric", "example", "counts", "baseline", "baseline_is"]


def surprise(
    model,
    tokenizer,
    task: Answer,
    questions: Dataset,
    language: str,
    chat: bool = False,
    progress: Callable[[int, int], None] | bool = False,
) -> pd.DataFrame:
    """The counts (columns `COUNTS`) of the answer loss, nats a token: [nats, tokens] of every true answer in
    `questions` (columns `prompt, answer`), whose `example` is its place from 1. Beside it stands chance, a guess over
    the vocabulary. `progress` is called with (questions done, questions in all)."""
    answers = shortened(model, tokenizer, questions["answer"][:], f"{task.name}, {language}")
    labels = [[answer] for answer in answers]
    scores = label_logprobs(model, tokenizer, questions["prompt"][:], labels, chat=chat, progress=progress)
    place = {"dataset": task.dataset, "task": task.task, "kind": task.kind, "source": "", "language": language}
    place |= {"metric": "answer loss", "baseline": math.log(len(tokenizer)), "baseline_is": "chance"}
    pairs = zip(-scores.label_logprob[:, 0], scores.label_tokens[:, 0].astype(float), strict=True)
    lines = [{**place, "example": str(i), "counts": list(map(float, pair))} for i, pair in enumerate(pairs, 1)]
    return pd.DataFrame(lines, columns=COUNTS)


def shortened(model, tokenizer, texts: list[str], of: str) -> list[str]:
    """The texts, those of more than half the tokens that the model reads at a time (512 at most) without their ends, so
    that a prompt has room, too; a warning tells of those."""
    tokens = min(512, (getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1024) // 2)
    found = []
    for text in texts:
        # no token is less than a byte, so that most texts need not be read
        while len(text.encode()) > tokens and len(tokenizer(text, add_special_tokens=False)["input_ids"]) > tokens:
            text = text[: len(text) * 3 // 4].rstrip()
        found.append(text)
    long = sum(a != b for a, b in zip(texts, found, strict=True))
    if long:
        said = f"{of}: {long:,} of {len(texts):,} true answers are longer than {tokens:,} tokens"
        warnings.warn(f"{said}; their answer loss is that of their beginnings", CorpusWarning, stacklevel=2)
    return found
