"""What chance does to scores: resamples, intervals and tests. Knows no task and no data frame.

Every example brings a vector of counts, and a score is a function of their sum: a text with one label its place in the
confusion matrix, a translation how many n-grams it shares with the true text, an answer its loss and its tokens. So one
bootstrap does for all: examples are drawn again, and what they count is added up.

Every example has random numbers of its own, which depend on the seed and its id alone. So the same text is drawn
equally often in every prompt, language and model, and whatever is compared is compared in pairs, also where two
languages share a part of their texts; texts with different ids are independent.

To resample texts is to say nothing about texts unlike them: of 300 right answers every resample is 100% right. So each
cell gets one example more, which is answered wrongly for the lower limit of its interval and rightly for the upper one
(`METRICS` says for which scores). It counts for little where a model is sometimes right; near 0 and 100% it gives what
is left open, some 3 texts in N (and keeps 95% intervals at 95% there: see the tests).
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import inf, isqrt, nan
from typing import Any

import numpy as np
from scipy import stats

from ia_lib.randomness import permuted, uniforms

RESAMPLES = 2000
# How often a text stands in a resample is Poisson with mean 1, the limit of drawing as many texts as there are.
_POISSON = stats.poisson.cdf(np.arange(15), 1)
_TINY = 1e-12  # instead of dividing by nothing


def confusions(gold: np.ndarray, predicted: np.ndarray, labels: int) -> np.ndarray:
    """[draws, labels * labels]: how often each label is true where each is predicted, of predictions [N, draws]; `gold`
    is [N, 1] or of the same shape."""
    draws = predicted.shape[1]
    cells = np.arange(draws) * labels**2 + gold * labels + predicted
    return np.bincount(cells.ravel(), minlength=draws * labels**2).reshape(draws, labels**2)


def chrf(counts: np.ndarray) -> np.ndarray:
    """chrF2 (0 to 100) of sacrebleu's statistics [..., 3 * orders]: for each length of n-grams how many of them the
    translations have, the true texts, and both."""
    said, true, both = np.moveaxis(counts.reshape(*counts.shape[:-1], -1, 3), -1, 0)
    there = (said > 0) & (true > 0)
    precision, recall = (_mean(_share(both, side), there) for side in (said, true))
    return _share(5 * precision * recall, 4 * precision + recall)


def ratio(counts: np.ndarray) -> np.ndarray:
    """The first of two counts [..., 2] by the second."""
    return _share(counts[..., 0], counts[..., 1])


def kappa(counts: np.ndarray) -> np.ndarray:
    """Cohen's kappa with quadratic weights of two judges' marks x and y, from sums [..., 6] of 1, x, y, x^2, y^2 and
    (x - y)^2: one minus the squared difference by that of independent marks. Not a number where all marks are one."""
    n, x, y, xx, yy, apart = np.moveaxis(counts, -1, 0)
    expected = xx + yy - 2 * x * y / np.maximum(n, _TINY)
    # sums of fractional marks that are all the same may differ from nothing in their last digits
    known = expected > 1e-9 * (xx + yy)
    return np.where(known, 1 - apart / np.where(known, expected, 1), nan)


def _by_label(counts: np.ndarray) -> list[np.ndarray]:
    """How often each label is true, is predicted, and is both, from confusions [..., labels * labels]: [..., labels]
    each."""
    return np.split(counts @ _columns(isqrt(counts.shape[-1])), 3, -1)


@cache
def _columns(labels: int) -> np.ndarray:
    true, said = np.repeat(np.eye(labels), labels, 0), np.tile(np.eye(labels), (labels, 1))
    return np.hstack([true, said, true * said])


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return part / np.maximum(whole, _TINY)


def _sum(values: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Over labels or orders; far quicker than `sum` over an axis as short as that."""
    return np.einsum("...i,...i->...", values, np.broadcast_to(weights, values.shape))


def _mean(values: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The mean, in percent, over the labels or orders that are there."""
    there = (there > 0).astype(float)
    return 100 * _sum(values, there) / np.maximum(_sum(there), 1)


def _wrong_or_right(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A text more with the labels in their shares: answered wrongly, with each other label alike, or rightly."""
    labels = isqrt(len(mean))
    share, right = mean.reshape(labels, labels).sum(1, keepdims=True), np.eye(labels)
    return (share * (1 - right) / max(1, labels - 1)).ravel(), (share * right).ravel()


def _one_asked(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A question more, answered wrongly or rightly."""
    return mean * [0, 1], mean[[1, 1]]


def _one_answered(least: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """An answer more, with the lowest mark that there is or the highest, 3."""
    return lambda mean: (mean[[1, 1]] * [least, 1], mean[[1, 1]] * [3, 1])


def _both_marked(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A prompt more, whose answers two judges mark as the others, independently of each other, or alike."""
    n, x, y, xx, yy, _ = mean
    return np.append(mean[:5], xx + yy - 2 * x * y / n), np.append(mean[:5], 0)


def _nothing(mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 0 * mean, 0 * mean


@dataclass(frozen=True)
class Metric:
    """A score of sums of counts [..., C], and the example that is added at worst and at best: counts [C] each, from the
    examples' mean counts [C]. `highest` is the highest value there can be; of a loss `less_is_better`."""

    score: Callable[[np.ndarray], np.ndarray]
    added: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    highest: float = 100.0
    less_is_better: bool = False


# Of labels, in percent, from how often each is true, is predicted, and is both. The macro scores are means over the
# labels that are true or predicted somewhere, as scikit-learn has them; balanced accuracy over those that are true.
_OF_LABELS = {
    "weighted_f1": lambda true, said, both: 100 * _share(_sum(_share(2 * both, true + said), true), _sum(true)),
    "accuracy": lambda true, said, both: 100 * _share(_sum(both), _sum(true)),
    "macro_f1": lambda true, said, both: _mean(_share(2 * both, true + said), true + said),
    "macro_precision": lambda true, said, both: _mean(_share(both, said), true + said),
    "macro_recall": lambda true, said, both: _mean(_share(both, true), true + said),
    "balanced_accuracy": lambda true, said, both: _mean(_share(both, true), true),
}
# Of answers from passages: two measures under three rules, and the exact ones among them of two kinds of questions.
RULES = ("corrected", "squad", "mlqa")
KINDS = ("answerable", "unanswerable")
EXTRACTED = tuple(f"{name}, {rule}" for rule in RULES for name in ("exact match", "F1"))
EXTRACTED += tuple(f"exact match, {kind}" for kind in KINDS)
# Of free answers, as judges mark them (1 to 3): 0 in another language than the request's, in any language, and what
# that makes.
MARKED = {"score": 0, "score, any language": 1, "lost at the gate": 0}
LABEL_METRICS = tuple(_OF_LABELS)  # the first is the headline
METRICS = {
    # confusions: how often each label is true where each is predicted, row by row
    **{name: Metric(lambda counts, f=f: f(*_by_label(counts)), _wrong_or_right) for name, f in _OF_LABELS.items()},
    # how many questions are right, of how many
    "similarity": Metric(lambda counts: 100 * ratio(counts), _one_asked),
    # To scores of single examples that lie between all wrong and all right nothing is added: one translation without a
    # right n-gram, or answer of an endless loss, would say more than all others (tests: 12 sentences are too few for
    # 95%, from 25 on it holds). What they count: sacrebleu's statistics of a sentence; nats lost and tokens.
    "chrF": Metric(chrf, _nothing),
    "answer loss": Metric(ratio, _nothing, inf, less_is_better=True),
    # how much of an answer is right (0 to 1), of how many questions
    **{name: Metric(lambda counts: 100 * ratio(counts), _one_asked) for name in (*EXTRACTED, "in the language")},
    # the sum of marks, of how many answers
    **{name: Metric(ratio, _one_answered(least), 3.0) for name, least in MARKED.items()},
    # Of two judges' marks: see `kappa`; how many are equal, of how many; and what they differ by, of how many.
    "marks, kappa": Metric(kappa, _both_marked, 1.0),
    "marks, equal": Metric(lambda counts: 100 * ratio(counts), _one_asked),
    "marks, difference": Metric(ratio, _nothing, 2.0),
}


class Examples:
    """N examples by their ids, each once, and what is drawn for them; all arrays are in their order. Those of one `key`
    are the same."""

    def __init__(self, ids: Sequence[str], seed: int):
        self.ids, self.seed = list(ids), seed
        self._numbers = np.array([_number(name) for name in ids], dtype=np.uint64)

    @cached_property
    def key(self) -> Hashable:
        return self.seed, *self.ids

    def _uniforms(self, what: str) -> np.ndarray:
        return uniforms((self.seed, what), self._numbers, RESAMPLES)

    @cached_property
    def weights(self) -> np.ndarray:
        """[N, RESAMPLES]: how often each example stands in each resample."""
        return np.searchsorted(_POISSON, self._uniforms("bootstrap"), side="right").astype(np.float32)

    @cached_property
    def one_more(self) -> np.ndarray:
        """[RESAMPLES, 1]: how often the added example stands in each resample, in every cell alike."""
        u = uniforms((self.seed, "one more"), np.zeros(1), RESAMPLES)
        return np.searchsorted(_POISSON, u[0], side="right")[:, None]


class Labelled(Examples):
    """N texts with their true labels `gold`, as numbers of `names`."""

    def __init__(self, ids: Sequence[str], seed: int, gold: Sequence[int], names: Sequence[str]):
        super().__init__(ids, seed)
        self.gold, self.names = np.asarray(gold), tuple(names)

    @cached_property
    def key(self) -> Hashable:
        return *super().key, *self.gold.tolist(), *self.names

    @cached_property
    def chance(self) -> dict[str, np.ndarray]:
        """Scores [RESAMPLES] of uniformly random guesses. A text is guessed alike wherever it occurs: who knows nothing
        may still answer a sentence in the same way under every prompt and in every language."""
        guessed = (self._uniforms("guess") * len(self.names)).astype(np.int64)
        return self._scored(guessed)

    @cached_property
    def constant(self) -> dict[str, np.ndarray]:
        """Scores [labels] of each label as the only answer."""
        return self._scored(np.tile(np.arange(len(self.names)), (len(self.gold), 1)))

    def _scored(self, answers: np.ndarray) -> dict[str, np.ndarray]:
        counts = confusions(self.gold[:, None], answers, len(self.names))
        return {name: METRICS[name].score(counts) for name in LABEL_METRICS}

    @cached_property
    def dealt(self) -> np.ndarray:
        """[N, RESAMPLES]: the true labels dealt out to the texts again."""
        return self.gold.astype(np.int16)[np.argsort(self._uniforms("shuffle"), axis=0)]


@dataclass(eq=False)
class Answers:
    """One model's answers to N examples, which count `counts` [N, C], and their scores by `metrics`. `baseline` is the
    best score that needs no model, and `baseline_is` says what has it."""

    examples: Examples
    counts: np.ndarray
    metrics: Sequence[str]
    baseline: float = nan
    baseline_is: str = ""

    @cached_property
    def points(self) -> dict[str, float]:
        total = self.counts.sum(0, dtype=float)
        return {name: float(METRICS[name].score(total)) for name in self.metrics}

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """The scores over resampled examples: [2, RESAMPLES] each, for the lower and the upper limit."""
        # of whole numbers far below 2**24 exact, in whatever order they are added up
        drawn = (self.examples.weights.T @ self.counts).astype(float)
        # of very few examples a resample may have none, and no score of its own
        drawn[self.examples.weights.sum(0) == 0] = self.counts.sum(0, dtype=float)
        worst, best = METRICS[self.metrics[0]].added(self.counts.mean(0, dtype=float))
        sides = drawn + self.examples.one_more * np.stack([worst, best])[:, None]
        return {name: METRICS[name].score(sides) for name in self.metrics}


class Choices(Answers):
    """Labels as answers: `predicted` [N], as numbers of the examples' label names. `majority` is the number of the
    label that the majority baseline answers with, None if there is no such baseline."""

    def __init__(self, examples: Labelled, predicted: np.ndarray, majority: int | None = None, metrics=LABEL_METRICS):
        labels = len(examples.names)
        counts = np.eye(labels**2, dtype=np.float32)[examples.gold * labels + predicted]
        super().__init__(examples, counts, metrics)
        self.predicted, self.majority = predicted, majority
        self.said = Counter(examples.names[i] for i in predicted)

    @cached_property
    def blind(self) -> np.ndarray:
        """[RESAMPLES]: weighted F1 when the true labels are dealt out again: what a model gets that gives each answer
        as often, but does not read the text."""
        gold, said = (np.bincount(x, minlength=len(self.examples.names)) for x in (self.examples.gold, self.predicted))
        value = 200 * gold / np.maximum(gold + said, 1) / len(self.predicted)
        dealt = self.examples.dealt
        return value @ [(dealt[self.predicted == label] == label).sum(0) for label in range(len(value))]


class Average:
    """The average of cells, weighted by `shares` [cells], which add up to 1: `rows` holds for every seed its cells."""

    def __init__(self, rows: Sequence[Sequence[Answers]], shares: Sequence[float]):
        self.rows, self.shares = rows, shares
        self.cells = [cell for row in rows for cell in row]
        self._drawn: dict[str, np.ndarray] = {}

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
        if metric not in self._drawn:
            self._drawn[metric] = self.by_seed(lambda cell: cell.draws[metric])
        return self._drawn[metric]


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
    student = _student(count) * points.std(ddof=1) / np.sqrt(count)
    return points.mean() + alike[:, None] * (mean - points.mean()) + student


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The 95% interval of draws [2, RESAMPLES]: the 2.5th percentile of the first, the 97.5th of the second."""
    return float(np.percentile(draws[0], 2.5)), float(np.percentile(draws[1], 97.5))


def p_value(difference: float, low: float, high: float, seeds: int = 1) -> float:
    """Two-sided p value of a difference being 0, from its 95% interval: below 5% where the interval, made even on both
    sides, leaves out 0. It is read off the normal distribution, or Student's t for several seeds, because counting
    resamples cannot give the small values that the correction of a large family needs."""
    spread = _spread(seeds)
    if high == low:
        return float(difference == 0)
    return float(2 * spread.sf(abs(difference) / (high - low) * 2 * spread.ppf(0.975)))


def detectable(low: float, high: float, seeds: int = 1) -> float:
    """The smallest difference that would be found with 80% power at the 5% level, from the 95% interval of the one that
    was found."""
    spread = _spread(seeds)
    return float((high - low) / 2 * (1 + spread.ppf(0.8) / spread.ppf(0.975)))


@cache
def _student(count: int) -> np.ndarray:
    """[RESAMPLES]: draws of Student's t for so many seeds, in an order of their own."""
    ranks = permuted(("seeds",), np.arange(RESAMPLES), RESAMPLES)
    return _spread(count).ppf((ranks + 0.5) / RESAMPLES)


@cache
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


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
