"""Tasks of the kind `translate`: parallel text becomes translations, and counts from which scores are worked out.

Every count stands beside its baseline: copying the source for chrF, chance for similarity (half are right), and
for the loss a guess over the vocabulary. A score is a function of the counts' (weighted) sum over examples, so that
`measures` can draw examples again.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pandas as pd
from datasets import Dataset
from sacrebleu.metrics import CHRF

from ia_lib.evaluation.answering import COUNTS, shortened
from ia_lib.evaluation.generation import answers
from ia_lib.evaluation.measures import PREDICTION_COLUMNS
from ia_lib.evaluation.scoring import label_logprobs
from ia_lib.evaluation.tasks import Translate
from ia_lib.instructions import cross_lingual, templates
from ia_lib.instructions.cross_lingual import Plan
from ia_lib.models.encoding import encode


def directions(plan: Plan, languages: Collection[str]) -> list[tuple[str, str]]:
    """(source, target): both ways between each pivot and each taught language of `plan`, as far as `languages` has
    both."""
    return [
        pair
        for code in plan.taught
        for pivot in plan.pivots
        if code != pivot and {code, pivot} <= set(languages)
        for pair in ((pivot, code), (code, pivot))
    ]


def translate(
    model,
    tokenizer,
    task: Translate,
    parallel: Dataset,
    plan: Plan,
    encoding: dict,
    progress: Callable[[str, int], None] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Translate `parallel` in all `directions` that it has languages for; `progress` is told of every few sentences
    what was done with them ("translation", "loss", "similarity") and how many they are.

    `parallel` is what the task reads, or for held-out sentences the second part of `cross_lingual.split_off`; `plan`
    also says templates, names of languages and the seed; `encoding` holds the keyword arguments of `encode`.

    Returns predictions (`PREDICTION_COLUMNS`; `language` is the target, `example` the sentence's id, `prompt` counts
    from 1) and counts (columns `COUNTS`), a line for each example and metric:

    - chrF (0 to 100; sacrebleu's chrF2) of greedy translations: sacrebleu's statistics of a sentence
    - answer loss (nats a token) of the true translations: [nats, tokens]
    - similarity (percent), whether two sentences mean the same, half of them hard or random others: [right, asked]

    Several prompts of a task's own are added up in an example's counts.
    """

    def score(part: str, prompts: list[str], labels: list, each: int = 1):
        """How labels are scored here; `each` of the prompts are of one sentence."""
        done = 0

        def tell(here: int, _: int) -> None:
            nonlocal done
            if progress and here // each > done:
                progress(part, here // each - done)
                done = here // each

        more = {"chat": encoding.get("chat", False), "progress": tell}
        return label_logprobs(model, tokenizer, prompts, labels, **more)

    said, counted = [], []
    for source, target in directions(plan, parallel.column_names):
        place = {"dataset": task.dataset, "task": task.task, "kind": task.kind, "source": source, "language": target}
        predictions, counts = _translations(
            model, tokenizer, task, parallel, plan, encoding, source, target, score, progress
        )
        said += [{**place, **line} for line in predictions]
        counted += [{**place, **line} for line in counts + _similarity(parallel, plan, source, target, score)]
    return pd.DataFrame(said, columns=PREDICTION_COLUMNS), pd.DataFrame(counted, columns=COUNTS)


def _translations(model, tokenizer, task, parallel, plan, encoding, source, target, score, progress):
    sources, targets, ids = parallel[source][:], parallel[target][:], parallel["sentence_id"][:]
    names = {"SOURCE_LANG": plan.name(source), "TARGET_LANG": plan.name(target)}
    chrf = CHRF()
    predictions, statistics, lost, tokens = [], 0, 0.0, 0
    for number in range(len(task.prompts.mt) if task.prompts else 1):
        asked = [
            templates.fill("mt", number, task.prompts or plan.templates, **names, SOURCE_TEXT=s, TARGET_TEXT=t)[0]
            for s, t in zip(sources, targets, strict=True)
        ]
        rows, _ = encode(tokenizer, asked, targets, **encoding)
        longest = max(len(row["input_ids"]) - row["answer_start"] for row in rows)
        tell = partial(progress, "translation") if progress else None
        said = answers(model, tokenizer, rows, tokens=max(1, min(2 * longest, 256)), progress=tell)
        said = said["model"].tolist()
        predictions += [
            {"example": example, "prompt": number + 1, "gold": gold, "predicted": predicted}
            for example, gold, predicted in zip(ids, targets, said, strict=True)
        ]
        # the counts of sentences, of which sacrebleu shows no more than the score of their sum
        statistics += np.array(chrf._extract_corpus_statistics(said, [targets]))
        whole = shortened(model, tokenizer, targets, f"{task.name}, {target}")
        scores = score("loss", asked, [[text] for text in whole])
        lost, tokens = lost - scores.label_logprob[:, 0], tokens + scores.label_tokens[:, 0]
    found = {
        "chrF": (statistics, chrf.corpus_score(sources, [targets]).score, "the source copied"),
        "answer loss": (np.stack([lost, tokens], 1), math.log(len(tokenizer)), "chance"),
    }
    lines = [
        {"metric": metric, "example": example, "counts": counts.tolist(), "baseline": baseline, "baseline_is": what}
        for metric, (values, baseline, what) in found.items()
        for example, counts in zip(ids, values.astype(float), strict=True)
    ]
    return predictions, lines


def _similarity(parallel, plan, source, target, score) -> list[dict]:
    asked = replace(plan, objective="xss", xss_negatives="mixed", pivots=[source], taught=[target])
    count = 2 * len(parallel)
    made = (row for row in cross_lingual.stream(parallel, 2 * count, asked) if row["source_language"] == source)
    rows = list(islice(made, count))
    best = score("similarity", [row["prompt"] for row in rows], ["yes", "no"], 2).scores().argmax(1)
    counts = {row["source_id"]: [0.0, 0.0] for row in rows}
    for row, answer in zip(rows, best, strict=True):
        right, times = counts[row["source_id"]]
        counts[row["source_id"]] = [right + (("yes", "no")[answer] == row["answer"]), times + 1]
    coin = {"baseline": 50.0, "baseline_is": "chance"}
    return [{"metric": "similarity", "example": example, "counts": c, **coin} for example, c in counts.items()]
