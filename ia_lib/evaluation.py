"""Zero-shot evaluation: predictions from label scores, metrics, and what they must be compared with.

Every score stands beside uniform chance, the majority label and a 95% interval. scikit-learn's definitions are used
throughout (`tests/test_evaluation.py` holds them against it); the resampling counts confusion matrices itself because
it needs a thousand of them per cell.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from ia_lib import prompts as templates
from ia_lib.corpora import LABELS
from ia_lib.scoring import apply_rule, label_logprobs

# The columns of scores.parquet: one line per example, prompt and label.
SCORE_COLUMNS = [
    "task",
    "language",
    "example",
    "prompt",
    "label",
    "gold",
    "label_tokens",
    "label_chars",
    "label_logprob",
    "prompt_tokens",
    "prompt_logprob",
]
RESAMPLES = 1000


def save(
    folder: Path, scores: pd.DataFrame, training_labels: dict[str, tuple[list[str], str]], settings
) -> pd.DataFrame:
    """Write scores.parquet and metrics.csv; returns the metrics. `training_labels` is `inputs.training_labels`."""
    majority = {task: majority_label(labels) for task, (labels, _) in training_labels.items()}
    scores.to_parquet(folder / "scores.parquet", index=False)
    table = metrics(scores, settings.groups, majority, settings.seed)
    table.round(4).to_csv(folder / "metrics.csv", index=False)
    return table


def score(
    model,
    tokenizer,
    data: Dataset,
    labels: dict[str, list[str]],
    wordings: Sequence[str] = ("english",),
    *,
    chat: bool = False,
    prompt_logprob: bool = False,
    max_length: int = 1024,
    batch_tokens: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Score every label of every text of `data` under each prompt of each wording.

    `data` and `labels` are `inputs.labelled` and `inputs.task_labels`; `wordings` as in
    `prompts.classification_prompts`. A task's name may begin with its corpus (nusax/sentiment).

    Returns a table with `SCORE_COLUMNS`; `prompt` is the template's number from 1, counted on through the wordings,
    `gold` the text's true label and `label` the one that was scored, whatever the wording calls it.
    """
    frames = []
    for task in sorted(set(data["task"])):
        rows = data.filter(lambda row, task=task: row["task"] == task).to_pandas()
        names, kind = labels[task], task.rpartition("/")[2]
        asked = [
            [(p, w) for w in wordings for p in templates.classification_prompts(text, kind, names, w)]
            for text in rows["text"]
        ]
        per_text = len(asked[0])
        words = {w: templates.label_words(names, w) for w in wordings}
        scores = label_logprobs(
            model,
            tokenizer,
            [prompt for row in asked for prompt, _ in row],
            [words[w] for row in asked for _, w in row],
            chat=chat,
            prompt_logprob=prompt_logprob,
            max_length=max_length,
            batch_tokens=batch_tokens,
            on_progress=on_progress,
        )
        index = np.repeat(np.arange(len(rows)), per_text * len(names))
        frame = rows[["task", "language", "example"]].iloc[index].reset_index(drop=True)
        frame["prompt"] = np.tile(np.repeat(np.arange(1, per_text + 1), len(names)), len(rows))
        frame["label"] = np.tile(names, len(rows) * per_text)
        frame["gold"] = rows["label"].iloc[index].to_numpy()
        for name in ("label_tokens", "label_chars", "label_logprob", "prompt_tokens", "prompt_logprob"):
            values = getattr(scores, name)
            frame[name] = np.nan if values is None else values.reshape(-1)
        frames.append(frame[SCORE_COLUMNS])
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=SCORE_COLUMNS)


def predictions(scores: pd.DataFrame, rule: str = "label_sum") -> pd.DataFrame:
    """One line per example and prompt: `task, language, example, prompt, gold, predicted`.

    The prediction is the label with the highest score under `rule` (as in `scoring.LabelScores.scores`); of equal
    ones the first in the task's order.
    """
    value = apply_rule(rule, scores["label_logprob"], scores["label_tokens"], scores["label_chars"])
    if value.isna().any():
        raise ValueError("some scores are not numbers: the model's training has diverged; try a lower learning_rate")
    best = value.groupby([scores[c] for c in ("task", "language", "example", "prompt")], sort=False).idxmax()
    frame = scores.loc[best, ["task", "language", "example", "prompt", "gold", "label"]]
    return frame.rename(columns={"label": "predicted"}).reset_index(drop=True)


def metrics(
    scores: pd.DataFrame,
    groups: dict[str, list[str]],
    majority: dict[str, str],
    seed: int = 1,
    base: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Accuracy and weighted F1 (percent), each beside its baselines and its interval.

    Lines: every language under every prompt, every language averaged over prompts, and every group (L1, L2, L3)
    averaged over prompts and then languages, as InstructAlign does. `groups` maps a group to its languages,
    `majority` a task to the most frequent label of its training texts; `base` holds the scores of the model to compare
    with, for the same examples.

    Columns: `task, group, language ("all" for a group), prompt ("all" for the average), examples, accuracy,
    weighted_f1, low, high` (95% interval of weighted F1: bootstrap over examples, the same examples in all prompts
    and languages, because NusaX is parallel), `chance_accuracy, chance` (weighted F1 of a uniformly random guess, mean
    of as many draws), `majority_accuracy, majority, one_label` (the share of predictions that are the most frequent
    predicted label, percent), `within_chance` (whether `low` is not above the 97.5th percentile of random guesses),
    `majority_label`, and `difference, difference_low, difference_high` (weighted F1 minus that of `base`, points, with
    a paired interval over the same examples; empty without a base).
    """
    lines = []
    predicted = predictions(scores)
    reference = predictions(base) if base is not None else None
    for task, frame in predicted.groupby("task", sort=False):
        cells = _cells(frame, task, majority[task], seed)
        if reference is not None:
            others = _cells(reference[reference["task"] == task], task, majority[task], seed)
            for key, cell in cells.items():
                # a difference is paired, so it needs the very same examples
                if key in others and others[key].examples == cell.examples:
                    cell.base = others[key]
        for group, languages in groups.items():
            present = [language for language in languages if any(key[0] == language for key in cells)]
            numbers = sorted({prompt for _, prompt in cells})
            for language in present:
                for prompt in numbers:
                    lines.append(_line(task, group, language, prompt, [cells[language, prompt]]))
                lines.append(_line(task, group, language, "all", [cells[language, p] for p in numbers]))
            if present:
                members = [cells[language, p] for language in present for p in numbers]
                lines.append(_line(task, group, "all", "all", members))
    return pd.DataFrame(lines)


def _cells(frame: pd.DataFrame, task: str, majority: str, seed: int) -> dict[tuple[str, int], "_Cell"]:
    """(language, prompt) -> its cell; examples in one order, so that the same draw means the same examples."""
    cells = {}
    for (language, prompt), part in frame.groupby(["language", "prompt"]):
        part = part.sort_values("example")
        cells[language, prompt] = _Cell(part["gold"], part["predicted"], LABELS[task], majority)
        cells[language, prompt].examples = list(zip(part["example"], part["gold"], strict=True))
    weights = {n: _resamples(n, seed) for n in {cell.size for cell in cells.values()}}
    guesses = {n: np.random.default_rng([seed, n]).integers(len(LABELS[task]), size=(RESAMPLES, n)) for n in weights}
    for cell in cells.values():
        cell.resample(weights[cell.size], guesses[cell.size])
    return cells


def majority_label(labels: Iterable[str]) -> str:
    """The most frequent of `labels`; of equally frequent ones the first in alphabetical order."""
    counts = pd.Series(list(labels)).value_counts()
    return min(counts.index[counts == counts.max()])


class _Cell:
    """The predictions of one language under one prompt, as numbers, with their resampled scores."""

    def __init__(self, gold: pd.Series, predicted: pd.Series, labels: list[str], majority: str):
        number = {label: i for i, label in enumerate(labels)}
        self.labels = len(labels)
        self.gold = gold.map(number).to_numpy()
        self.predicted = predicted.map(number).to_numpy()
        self.majority = np.full(len(gold), number[majority])
        self.majority_label = majority
        self.size = len(gold)
        self.base: _Cell | None = None

    def confusion(self, predicted: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """[draws, gold, predicted] counts; `weights` [draws, examples] says how often each example was drawn."""
        cells = np.eye(self.labels**2)[self.gold * self.labels + predicted]
        # cells: [draws, examples, cells], or [examples, cells] for one set of predictions
        counts = cells.sum(-2) if weights is None else weights @ cells
        return counts.reshape(-1, self.labels, self.labels)

    def resample(self, weights: np.ndarray, guesses: np.ndarray) -> None:
        self.draws = weighted_f1(self.confusion(self.predicted, weights))
        self.chance = self.confusion(guesses)


def weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Weighted F1 in percent of confusion matrices [..., gold, predicted]; a label never predicted scores 0."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    gold, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * right / np.maximum(gold + predicted, 1e-12)
    return 100 * (f1 * gold).sum(-1) / gold.sum(-1)


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return 100 * np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum((-2, -1))


def _resamples(n: int, seed: int) -> np.ndarray:
    """[RESAMPLES, n]: how often each of n examples is drawn when n are drawn with replacement."""
    return np.random.default_rng([seed, n]).multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)


def _line(task: str, group: str, language: str, prompt: int | str, cells: list[_Cell]) -> dict:
    observed = [cell.confusion(cell.predicted) for cell in cells]
    draws = np.mean([cell.draws for cell in cells], axis=0)
    chance = np.mean([weighted_f1(cell.chance) for cell in cells], axis=0)
    majority = [cell.confusion(cell.majority) for cell in cells]
    low, high = np.percentile(draws, [2.5, 97.5])
    share = np.bincount(np.concatenate([cell.predicted for cell in cells]), minlength=cells[0].labels)
    difference = dict.fromkeys(("difference", "difference_low", "difference_high"), np.nan)
    if all(cell.base is not None for cell in cells):
        bases = [cell.base for cell in cells]
        drawn = np.mean([cell.draws - cell.base.draws for cell in cells], axis=0)
        before = np.mean([weighted_f1(cell.confusion(cell.predicted)) for cell in bases])
        difference["difference"] = np.mean([weighted_f1(c) for c in observed]) - before
        difference["difference_low"], difference["difference_high"] = np.percentile(drawn, [2.5, 97.5])
    return {
        "task": task,
        "group": group,
        "language": language,
        "prompt": str(prompt),
        "examples": max(cell.size for cell in cells),
        "accuracy": np.mean([_accuracy(c) for c in observed]),
        "weighted_f1": np.mean([weighted_f1(c) for c in observed]),
        "low": low,
        "high": high,
        "chance_accuracy": 100 / cells[0].labels,
        "chance": chance.mean(),
        "majority_accuracy": np.mean([_accuracy(c) for c in majority]),
        "majority": np.mean([weighted_f1(c) for c in majority]),
        "one_label": 100 * share.max() / share.sum(),
        "within_chance": bool(low <= np.percentile(chance, 97.5)),
        "majority_label": cells[0].majority_label,
        **difference,
    }
