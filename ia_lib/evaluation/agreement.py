"""How far judges agree: answer by answer, and in what they say of models (Chen et al., section 2.3).

A judge is a model or a person; nothing here knows which. What is drawn again and again for intervals are
prompts with all answers to them, in all languages: the answers to one prompt are not independent of each other, and
some are the same text.
"""

from collections.abc import Sequence
from itertools import combinations
from math import atanh, nan, sqrt, tanh

import numpy as np
import pandas as pd
from scipy import stats

from ia_lib.data.files import INVISIBLE
from ia_lib.evaluation import measures, resampling
from ia_lib.evaluation.blind import PROMPT
from ia_lib.evaluation.resampling import Answers

ALL = "all"  # the line over all languages


def by_item(marks: pd.DataFrame, judges: Sequence[str], seed: int = 1) -> pd.DataFrame:
    """The agreement of every two judges, answer by answer, for each language and `all` of them.

    `marks` has a line for each answer: `dataset, task, language, example`, and for each of `judges` a column of marks,
    NaN where there is none. With a column `answer` the empty ones are left out: their mark is a rule, on which all
    judges agree.

    Columns: `first, second, language, items` (marked by both), `prompts` (how many these answer), `left_out` (marked by
    one or neither), `empty`, `first_mean, second_mean, kappa, kappa_low, kappa_high, equal, equal_low, equal_high` and
    `says`, which is empty unless something cannot be told. Kappa is Cohen's with quadratic weights, as scikit-learn has
    it: 1 is full agreement, 0 what judges would reach who mark independently, each as often as they do; a difference of
    two marks counts four times one of a single mark. It is not a number where both give one and the same mark to all.
    `equal` is the percentage of equal marks. Limits are those of 95% intervals over prompts. Raises ValueError for a
    missing column.
    """
    _has(marks, [*PROMPT, *judges])
    empty = marks["answer"].fillna("").map(lambda text: bool(INVISIBLE.fullmatch(text))) if "answer" in marks else False
    marks = marks.assign(empty=empty, prompt=prompts(marks))
    lines = []
    for first, second in combinations(judges, 2):
        for language, part in by_language(marks):
            asked = part[~part["empty"]]
            both = asked.dropna(subset=[first, second])
            x, y = (both[judge].to_numpy(float) for judge in (first, second))
            line = {"first": first, "second": second, "language": language, "items": len(both)}
            line |= {"prompts": both["prompt"].nunique(), "left_out": len(asked) - len(both)}
            line |= {"empty": int(part["empty"].sum()), "first_mean": _mean(x), "second_mean": _mean(y)}
            one = np.ones_like(x)
            for name, metric, counts in (
                ("kappa", "marks, kappa", [one, x, y, x * x, y * y, (x - y) ** 2]),
                ("equal", "marks, equal", [x == y, one]),
            ):
                found = with_interval(both["prompt"], np.stack(counts, 1), metric, seed)
                line |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))
            line["says"] = ""
            if not len(both):
                line["says"] = "no answer has marks of both"
            elif np.isnan(line["kappa"]):
                line["says"] = f"both mark every answer {x[0]:g}, so that agreement beyond chance cannot be told"
            lines.append(line)
    return pd.DataFrame(lines)


def by_model(scores: pd.DataFrame, judges: Sequence[str]) -> pd.DataFrame:
    """Pearson's correlation of every two judges' scores of models, for each language (the paper's table 3).

    `scores` has a line for each model and language: `run, language`, and for each of `judges` a column with its score
    of the model, on any scale. Columns: `first, second, language, models` (scored by both), `left_out`, and those of
    `correlation`. What both judges say of fewer than three models, or one of them says of all alike, has no
    correlation: it is not a number, and `says` says so. Raises ValueError for a missing column and a model that is
    there twice.
    """
    _has(scores, ["run", "language", *judges])
    if scores.duplicated(["run", "language"]).any():
        twice = scores[scores.duplicated(["run", "language"])].iloc[0]
        raise ValueError(f"scores: found {twice['run']} twice in {twice['language']}; allowed: once")
    lines = []
    for first, second in combinations(judges, 2):
        for language, part in scores.groupby("language", sort=False):
            both = part.dropna(subset=[first, second])
            line = {"first": first, "second": second, "language": language, "models": len(both)}
            line["left_out"] = len(part) - len(both)
            alike = [judge for judge in (first, second) if both[judge].nunique() == 1]
            if len(both) < 3:
                count = f"{len(both)} model{'s' if len(both) != 1 else ''}"
                found = _unknown(f"{count} scored by both: three are needed for a correlation")
            elif alike:
                found = _unknown(f"{' and '.join(alike)} gave all {len(both)} models the same score")
            else:
                found = correlation(float(stats.pearsonr(both[first], both[second]).statistic), len(both))
            lines.append({**line, **found})
    return pd.DataFrame(lines)


def correlation(r: float, models: int) -> dict[str, float | str]:
    """What a correlation over so many models (three or more) says: `pearson, low, high` (95%, Fisher's z; -1 to 1 with
    three models, of which it knows nothing), `p` (two-sided, exact for normal scores), `needed` (the smallest |r| with
    p below 5%), and `says`, all of it in words. For published correlations, too."""
    if not (-1 <= r <= 1 and models >= 3):
        raise ValueError(f"correlation: found r = {r} over {models} models; allowed: -1 to 1, over three or more")
    low, high = -1.0, 1.0
    if models > 3:
        z, half = (atanh(r) if abs(r) < 1 else np.copysign(np.inf, r)), stats.norm.ppf(0.975) / sqrt(models - 3)
        low, high = tanh(z - half), tanh(z + half)
    # of two independent normal samples r has this distribution (Student, 1908)
    chance = stats.beta(models / 2 - 1, models / 2 - 1, loc=-1, scale=2)
    p, needed = min(1.0, 2 * float(chance.sf(abs(r)))), float(chance.ppf(0.975))
    said = f"p = {p:.2g}" if p >= 0.001 else "p below 0.001"
    shown = f"{r:.2f}" if abs(r) < 0.995 or abs(r) == 1 else f"{r:.4f}"
    says = f"with {models} models r = {shown} has {said}; p is below 5% from |r| = {needed:.3f} on, "
    says += f"and the 95% interval is {low:.2f} to {high:.2f}" if models > 3 else "and there is no interval"
    return {"pearson": r, "low": low, "high": high, "p": p, "needed": needed, "says": says}


def with_interval(of: Sequence[str], counts: np.ndarray, metric: str, seed: int) -> tuple[float, float, float]:
    """A score of `resampling.METRICS` from what N items count [N, C], and its 95% interval over the prompts that they
    are `of` [N]. Not numbers where there is no item."""
    if not len(counts):
        return nan, nan, nan
    names, places = np.unique(np.asarray(of, dtype=object).astype(str), return_inverse=True)
    total = np.zeros((len(names), counts.shape[1]))
    np.add.at(total, places, counts)
    found = Answers(measures.examples(tuple(names.tolist()), seed), total, [metric])
    value = found.points[metric]
    # a resample without two different marks has no kappa
    draws = [side[~np.isnan(side)] for side in found.draws[metric]]
    return value, *(resampling.interval(draws) if not np.isnan(value) and all(map(len, draws)) else (nan, nan))


def prompts(lines: pd.DataFrame) -> pd.Series:
    """Which prompt each line is of; the same one in several languages is one."""
    return lines["dataset"].astype(str) + "/" + lines["task"].astype(str) + "/" + lines["example"].astype(str)


def by_language(lines: pd.DataFrame):
    """(language, its lines), and `ALL` with all of them."""
    yield from lines.groupby("language", sort=False)
    yield ALL, lines


def _has(lines: pd.DataFrame, names: Sequence[str]) -> None:
    for name in names:
        if name not in lines:
            raise ValueError(f"found no column {name!r}; there are: {', '.join(map(str, lines))}")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else nan


def _unknown(says: str) -> dict[str, float | str]:
    return dict.fromkeys(("pearson", "low", "high", "p", "needed"), nan) | {"says": says}
