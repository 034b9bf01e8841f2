"""What chance does to scores: resamples, intervals and tests, on arrays of label numbers. Knows no task and no table.

Every text has random numbers of its own, which depend on the seed and its id alone. So the same text is drawn equally
often in every prompt, language and model, and whatever is compared is compared in pairs, also where two languages share
a part of their texts; texts with different ids are independent.

To resample texts is to say nothing about texts unlike them: of 300 right answers every resample is 100% right. So each
cell gets one text more, which is answered wrongly for the lower limit of its interval and rightly for the upper one. It
counts for little where a model is sometimes right; near 0 and 100% it gives what is left open, some 3 texts in N (and
keeps 95% intervals at 95% there: see the tests).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from scipy import optimize, stats
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from ia_lib.randomness import permuted, uniforms

RESAMPLES = 2000
# How often a text stands in a resample is Poisson with mean 1, the limit of drawing as many texts as there are.
_POISSON = stats.poisson.cdf(np.arange(15), 1)
_TINY = 1e-12  # instead of dividing by nothing


class Examples:
    """N texts with their true labels as numbers below `labels`, and what is drawn for them.

    `names` are the texts' ids, each once; all arrays are in their order.
    """

    def __init__(self, names: Sequence[str], gold: np.ndarray, labels: int, seed: int):
        self.gold, self.labels, self.seed = np.asarray(gold), labels, seed
        self._ids = np.array([_number(name) for name in names], dtype=np.uint64)

    def _uniforms(self, what: str) -> np.ndarray:
        return uniforms((self.seed, what), self._ids, RESAMPLES)

    @cached_property
    def weights(self) -> np.ndarray:
        """[N, RESAMPLES]: how often each text stands in each resample."""
        return np.searchsorted(_POISSON, self._uniforms("bootstrap"), side="right").astype(np.float32)

    @cached_property
    def one_more(self) -> np.ndarray:
        """[RESAMPLES, 1, 1]: how often the added text stands in each resample, in every cell alike."""
        u = uniforms((self.seed, "one more"), np.zeros(1), RESAMPLES)
        return np.searchsorted(_POISSON, u[0], side="right")[:, None, None]

    @cached_property
    def chance(self) -> dict[str, np.ndarray]:
        """Scores [RESAMPLES] of uniformly random guesses. A text is guessed alike wherever it occurs: who knows nothing
        may still answer a sentence in the same way under every prompt and in every language."""
        guessed = (self._uniforms("guess") * self.labels).astype(np.int64)
        return _scored(confusion(self.gold[:, None], guessed, self.labels))

    @cached_property
    def constant(self) -> dict[str, np.ndarray]:
        """Scores [labels] of each label as the only answer."""
        answers = np.tile(np.arange(self.labels), (len(self.gold), 1))
        return _scored(confusion(self.gold[:, None], answers, self.labels))

    @cached_property
    def dealt(self) -> np.ndarray:
        """[N, RESAMPLES]: the true labels dealt out to the texts anew."""
        return self.gold[np.argsort(self._uniforms("shuffle"), axis=0)]


class Answers:
    """The predictions [N] of one model for N texts, as numbers of labels, and what follows from them alone.

    `majority` is the number of the label that the majority baseline answers with, None if there is no such baseline.
    """

    def __init__(self, examples: Examples, predicted: np.ndarray, names: Sequence[str], majority: int | None = None):
        self.examples, self.predicted, self.majority = examples, predicted, majority
        self.names = names  # of the labels
        self.counts = Counter(names[i] for i in predicted)

    @cached_property
    def points(self) -> dict[str, float]:
        """Every metric in percent, by scikit-learn."""
        gold, predicted = self.examples.gold, self.predicted
        precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, zero_division=0)
        found = {
            "accuracy": accuracy_score(gold, predicted),
            "weighted_f1": np.average(f1, weights=support),
            "macro_f1": f1.mean(),
            "macro_precision": precision.mean(),
            "macro_recall": recall.mean(),
            # the recall of a label that no text has says nothing
            "balanced_accuracy": recall[support > 0].mean(),
        }
        return {name: 100 * float(value) for name, value in found.items()}

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The metrics of `RESAMPLED` over resampled texts: [2, RESAMPLES] each, for the lower and the upper limit."""
        gold, labels = self.examples.gold, self.examples.labels
        cells = np.eye(labels**2, dtype=np.float32)[gold * labels + self.predicted]
        # whole numbers far below 2**24: exact, in whatever order they are added up
        counts = (self.examples.weights.T @ cells).astype(float).reshape(-1, labels, labels)
        share = np.bincount(gold, minlength=labels)[:, None] / len(gold)
        wrong, right = share * (1 - np.eye(labels)) / max(1, labels - 1), share * np.eye(labels)
        low, high = (_scored(counts + self.examples.one_more * added) for added in (wrong, right))
        return {name: np.stack([low[name], high[name]]) for name in RESAMPLED}

    @cached_property
    def blind(self) -> np.ndarray:
        """[RESAMPLES]: weighted F1 when the true labels are dealt out anew: what a model gets that gives each answer as
        often, but does not read the text."""
        gold, given = (np.bincount(x, minlength=self.examples.labels) for x in (self.examples.gold, self.predicted))
        value = 200 * gold / np.maximum(gold + given, 1) / len(self.predicted)
        return np.where(self.examples.dealt == self.predicted[:, None], value[self.predicted][:, None], 0).sum(0)


class Average:
    """The average of cells, weighted by `shares` [cells], which add up to 1: `rows` holds for every seed its cells."""

    def __init__(self, rows: Sequence[Sequence[Answers]], shares: np.ndarray):
        self.rows, self.shares = rows, shares
        self.cells = [cell for row in rows for cell in row]

    def by_seed(self, value: Callable[[Answers], Any]) -> np.ndarray:
        """[seeds, ...]: the average of what `value` gives for each cell."""
        return np.array([sum(s * value(cell) for s, cell in zip(self.shares, row, strict=True)) for row in self.rows])

    def mean(self, value: Callable[[Answers], Any]) -> Any:
        return self.by_seed(value).mean(0)

    def points(self, metric: str) -> np.ndarray:
        """[seeds]"""
        return self.by_seed(lambda cell: cell.points[metric])

    def draws(self, metric: str) -> np.ndarray:
        """[seeds, 2, RESAMPLES], for the lower and the upper limit."""
        return self.by_seed(lambda cell: cell.draws[metric])


def confusion(gold: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """[draws, gold, predicted]: counts of predictions [N, draws]; `gold` is [N, 1] or of the same shape."""
    draws = predicted.shape[1]
    cells = np.arange(draws) * labels**2 + gold * labels + predicted
    return np.bincount(cells.ravel(), minlength=draws * labels**2).reshape(draws, labels, labels)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Accuracy in percent of confusion matrices [..., gold, predicted]."""
    return 100 * np.trace(counts, axis1=-2, axis2=-1) / np.maximum(counts.sum((-2, -1)), _TINY)


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """Weighted F1 in percent of confusion matrices [..., gold, predicted]; a label never predicted scores 0."""
    gold = counts.sum(-1)
    return 100 * (_f1(counts) * gold).sum(-1) / np.maximum(gold.sum(-1), _TINY)


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Macro F1 in percent of confusion matrices [..., gold, predicted], over the labels that are true or predicted
    somewhere, as scikit-learn has it."""
    there = counts.sum(-1) + counts.sum(-2) > 0
    return 100 * _f1(counts).sum(-1) / np.maximum(there.sum(-1), 1)


def _scored(counts: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value(counts) for name, value in RESAMPLED.items()}


def _f1(counts: np.ndarray) -> np.ndarray:
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    return 2 * right / np.maximum(counts.sum(-1) + counts.sum(-2), _TINY)


# The metrics that are resampled, and those of random guesses and constant answers.
RESAMPLED = {"accuracy": accuracy, "weighted_f1": weighted_f1, "macro_f1": macro_f1}


def over_seeds(points: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """[2, RESAMPLES]: draws of the mean over S seeds, from the seeds' values `points` [S] and resamples `draws`
    [S, 2, RESAMPLES].

    With one seed they are its resamples. With several the draws vary with the texts, as far as the seeds vary with them
    alike, and with the seeds by Student's t with S - 1 degrees of freedom on the seeds' own spread: to resample three
    numbers with replacement makes intervals that are much too short. What the texts do to each seed for itself is a
    part of that spread and not counted twice. Texts that differ from seed to seed may have the same ids or others.
    """
    count, mean = len(points), draws.mean(0)
    if count == 1:
        return mean
    own = (draws - mean).var(-1).sum(0) / (count - 1) / count
    alike = np.sqrt(np.clip(1 - own / np.maximum(mean.var(-1), _TINY), 0, None))
    ranks = permuted(("seeds",), np.arange(RESAMPLES), RESAMPLES)
    student = _spread(count).ppf((ranks + 0.5) / RESAMPLES) * points.std(ddof=1) / np.sqrt(count)
    return points.mean() + alike[:, None] * (mean - points.mean()) + student


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95% interval of draws [2, RESAMPLES]: the 2.5th percentile of the first, the 97.5th of the second."""
    return float(np.percentile(draws[0], 2.5)), float(np.percentile(draws[1], 97.5))


def p_value(difference: float, low: float, high: float, seeds: int = 1) -> float:
    """Two-sided p value of a difference being 0, from its 95% interval: below 5% where the interval, made even on both
    sides, leaves out 0. It is read off the normal distribution, or Student's t for several seeds, because counting
    resamples cannot give the small values that the correction of a large family needs."""
    spread = _spread(seeds)
    return float(2 * spread.sf(abs(difference) / (high - low) * 2 * spread.ppf(0.975)))


def detectable(low: float, high: float, seeds: int = 1) -> float:
    """The smallest difference that would be found with 80% power at the 5% level, from the 95% interval of the one that
    was found."""
    spread = _spread(seeds)
    return float((high - low) / 2 * (1 + spread.ppf(0.8) / spread.ppf(0.975)))


def _spread(seeds: int):
    return stats.t(seeds - 1) if seeds > 1 else stats.norm()


def mcnemar(first: int, second: int) -> float:
    """Two-sided p value of McNemar's test: `first` texts only one side has right, `second` only the other.

    Exact (binomial) below 25 such texts, chi-square with continuity correction from there on.
    """
    total = first + second
    if total < 25:
        return float(stats.binomtest(min(first, second), total).pvalue) if total else 1.0
    return float(stats.chi2.sf(max(0, abs(first - second) - 1) ** 2 / total, 1))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values adjusted for being a family (Holm's step-down method), in their order; what is not a number stays so."""
    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), np.nan)
    order = [i for i in np.argsort(given, kind="stable") if not np.isnan(given[i])]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def smallest_difference(examples: int, disagree: float, power: float = 0.8, level: float = 0.05) -> float:
    """The smallest difference in accuracy (points) that McNemar's test finds with this power at this level (two-sided).

    `disagree` is the percentage of the texts that exactly one of the two sides has right; the difference cannot be
    larger than that, and where even that would not be found, the answer is infinite.
    """
    share = disagree / 100
    at_level, at_power = stats.norm.ppf(1 - level / 2), stats.norm.ppf(power)

    def missing(difference: float) -> float:
        found = at_level * np.sqrt(share) + at_power * np.sqrt(max(0.0, share - difference**2))
        return found - difference * np.sqrt(examples)

    return 100 * float(optimize.brentq(missing, 0, share)) if share and missing(share) < 0 else np.inf


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
