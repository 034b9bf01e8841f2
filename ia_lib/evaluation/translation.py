"""What can be measured where a language has no labelled test: held-out translation, similarity and loss.

Every number stands beside what costs nothing: copying the source for chrF, a coin for similarity, a uniform guess over
the vocabulary for the loss.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas as pd
from datasets import Dataset
from sacrebleu.metrics import CHRF
from scipy.stats import binomtest

from ia_lib.evaluation.generation import answers
from ia_lib.evaluation.scoring import label_logprobs
from ia_lib.instructions import cross_lingual, templates
from ia_lib.instructions.cross_lingual import Plan
from ia_lib.models.encoding import encode
from ia_lib.randomness import generator

COLUMNS = ["metric", "source", "target", "value", "low", "high", "baseline", "baseline_is", "examples"]
RESAMPLES = 1000


def measure(
    model,
    tokenizer,
    held_out: Dataset,
    plan: Plan,
    encoding: dict,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure a model on sentences it was not trained on, between each pivot and each taught language.

    `held_out` is parallel text (the second part of `cross_lingual.split_off`), `plan` says languages and templates and
    `encoding` holds the keyword arguments of `encode`. One line per metric and direction, columns `COLUMNS`:

    - chrF (0 to 100; sacrebleu's chrF2): greedy translations under the first MT template, beside the source itself;
    - similarity (percent): whether two sentences mean the same, half of them hard or random others, beside a coin;
    - answer loss (nats a token): of those translations' true texts, beside a uniform guess.

    `low` and `high` bound the 95% interval: bootstrap over sentences, for similarity Wilson's.
    """
    pairs = [
        pair
        for code in plan.taught
        for pivot in plan.pivots
        if code != pivot
        for pair in ((pivot, code), (code, pivot))
    ]
    lines = []
    for done, (source, target) in enumerate(pairs):
        lines += _translation(model, tokenizer, held_out, plan, encoding, source, target)
        lines.append(_similarity(model, tokenizer, held_out, plan, encoding, source, target))
        if on_progress:
            on_progress(done + 1, len(pairs))
    return pd.DataFrame(lines, columns=COLUMNS)


def _translation(model, tokenizer, held_out, plan, encoding, source, target) -> list[dict]:
    sources, targets = held_out[source][:], held_out[target][:]
    names = {"SOURCE_LANG": plan.name(source), "TARGET_LANG": plan.name(target)}
    asked = [
        templates.fill("mt", 0, plan.templates, **names, SOURCE_TEXT=s, TARGET_TEXT=t)
        for s, t in zip(sources, targets, strict=True)
    ]
    rows, _ = encode(tokenizer, [p for p, _ in asked], targets, **encoding)
    longest = max(len(row["input_ids"]) - row["answer_start"] for row in rows)
    said = answers(model, tokenizer, rows, tokens=max(1, min(2 * longest, 256)))["model"].tolist()
    chrf = CHRF()
    found = chrf.corpus_score(said, [targets]).score
    copied = chrf.corpus_score(sources, [targets]).score
    # sacrebleu gives no percentiles of its bootstrap; the counts of its sentences do
    counts = np.array(chrf._extract_corpus_statistics(said, [targets]))
    rng = np.random.default_rng(_number(plan.seed, source, target))
    draws = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=RESAMPLES)
    low, high = np.percentile([chrf._compute_f_score(row.tolist()) for row in draws @ counts], [2.5, 97.5])
    scores = label_logprobs(
        model,
        tokenizer,
        [p for p, _ in asked],
        [[t] for t in targets],
        chat=encoding.get("chat", False),
        progress=False,
    )
    lost, tokens = -scores.label_logprob[:, 0], scores.label_tokens[:, 0]
    losses = (draws @ lost) / (draws @ tokens)
    pair = {"source": source, "target": target, "examples": len(targets)}
    return [
        {
            **pair,
            "metric": "chrF",
            "value": found,
            "low": low,
            "high": high,
            "baseline": copied,
            "baseline_is": "the source copied",
        },
        {
            **pair,
            "metric": "answer loss",
            "value": lost.sum() / tokens.sum(),
            "low": np.percentile(losses, 2.5),
            "high": np.percentile(losses, 97.5),
            "baseline": math.log(len(tokenizer)),
            "baseline_is": "a uniform guess",
        },
    ]


def _similarity(model, tokenizer, held_out, plan, encoding, source, target) -> dict:
    asked = replace(plan, objective="xss", xss_negatives="mixed", pivots=[source], taught=[target])
    count = 2 * len(held_out)
    made = (row for row in cross_lingual.stream(held_out, 2 * count, asked) if row["source_language"] == source)
    rows = list(islice(made, count))
    texts, chat = [row["prompt"] for row in rows], encoding.get("chat", False)
    scores = label_logprobs(model, tokenizer, texts, ["yes", "no"], chat=chat, progress=False)
    said = np.where(scores.scores().argmax(1) == 0, "yes", "no")
    right = int((said == np.array([row["answer"] for row in rows])).sum())
    interval = binomtest(right, len(rows)).proportion_ci(method="wilson")
    return {
        "metric": "similarity",
        "source": source,
        "target": target,
        "value": 100 * right / len(rows),
        "low": 100 * interval.low,
        "high": 100 * interval.high,
        "baseline": 50.0,
        "baseline_is": "a coin",
        "examples": len(rows),
    }


def _number(*key: object) -> int:
    return int(generator(*key, "bootstrap").random() * 2**53)
