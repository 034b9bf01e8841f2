"""What answers are worth: every score with its 95% interval, beside what it must be compared with, in long form.

A label's score stands beside chance, constant answers and the model's own answers dealt out blindly;
any other beside a baseline of its own. All are read off sums of counts (`resampling`), which the tests hold against
scikit-learn and sacrebleu.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import product
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pandas as pd

from ia_lib.evaluation import resampling
from ia_lib.evaluation.resampling import LABEL_METRICS, METRICS, Answers, Average, Choices, over_seeds
from ia_lib.evaluation.rules import rule_scores

HEADLINE = LABEL_METRICS[0]  # of labels
# What belongs to one cell, whose answers are scored together; `metric` is the first of its metrics.
CELL = ["dataset", "task", "kind", "metric", "language", "source", "prompt"]
_PAIRED = ["base", "difference", "difference_low", "difference_high", "difference_p", "detectable"]
_PAIRED += ["kept", "kept_low", "kept_high", "only_here", "only_base", "mcnemar_p"]
COLUMNS = ["dataset", "task", "kind", "group", "language", "source", "prompt", "metric", "value", "low", "high"]
COLUMNS += ["baseline", "baseline_is", "chance", "chance_high", "majority", "majority_label", "majority_of", "constant"]
COLUMNS += ["constant_label", "shuffled", "shuffled_p", "within_chance", "one_label", "one_label_cells", "cells"]
COLUMNS += ["equals_constant", "examples", "seeds", *_PAIRED, "flags"]
PREDICTION_COLUMNS = ["dataset", "task", "kind", "language", "source", "example", "prompt", "gold", "predicted"]
Answered = dict[tuple, Answers]  # a cell, by the values of `CELL` -> the answers there

_NO_NUMBERS = "some scores are not numbers: the model's training has diverged; try a lower learning_rate"

# Cells with the same examples share them, and what is drawn for them.
examples = lru_cache(maxsize=64)(resampling.Examples)
labelled = lru_cache(maxsize=64)(resampling.Labelled)
average = lru_cache(maxsize=1024)(Average)
# The same goes for the same answers to them, which two scoring rules often choose, while one of the two is in use.
_chosen_alike: WeakValueDictionary[tuple, Choices] = WeakValueDictionary()


def save(
    folder: Path,
    scores: pd.DataFrame | None,
    predictions: pd.DataFrame | None,
    counts: pd.DataFrame | None,
    training_labels: dict[str, tuple[list[str], str]],
    texts: pd.DataFrame,
    groups: dict[str, list[str]],
    seed: int,
    rule: str = "label_sum",
    majority_of: str = "train",
) -> pd.DataFrame:
    """Write measures.csv and predictions.parquet, and of what there is scores.parquet, errors.csv and counts.parquet;
    returns the measures.

    `scores` are the label scores (`choices`), `predictions` the lines of all other kinds (`PREDICTION_COLUMNS`) and
    `counts` what those count (`counted`). `training_labels` maps a task, as nusax/sentiment, to the labels that the
    majority baseline counts and of what they are, in words; with `majority_of` "test" each cell's own labels count.
    `texts` is what `errors` takes, `groups`, `seed` and `rule` what `measures` and `choices` take.
    """
    answers, said, of = {}, [], {}
    if scores is not None and len(scores):
        labels = {dataset_and_task(name): majority_label(given) for name, (given, _) in training_labels.items()}
        of = {dataset_and_task(name): words for name, (_, words) in training_labels.items()}
        answers |= choices(scores, rule, seed, "test" if majority_of == "test" else labels)
        said.append(_chosen(scores, rule))
        scores.to_parquet(folder / "scores.parquet", index=False)
        errors(scores, texts, rule).round(4).to_csv(folder / "errors.csv", index=False)
    if counts is not None and len(counts):
        answers |= counted(counts, seed)
        said += [] if predictions is None else [predictions[PREDICTION_COLUMNS]]
        counts.to_parquet(folder / "counts.parquet", index=False)
    said = pd.concat(said, ignore_index=True) if said else pd.DataFrame(columns=PREDICTION_COLUMNS)
    said.to_parquet(folder / "predictions.parquet", index=False)
    found = measures(answers, groups, majority_of=of)
    found.round(4).to_csv(folder / "measures.csv", index=False)
    return found


def predictions(scores: pd.DataFrame, rule: str = "label_sum") -> pd.DataFrame:
    """One line per example and prompt: `task, language, example, prompt, gold, predicted`, behind `dataset` if the
    scores have it.

    The prediction is the label with the highest score under `rule`; of equal ones the first in the task's order.
    Raises ValueError for scores that are not numbers.
    """
    scores = scores.reset_index(drop=True)
    value = rule_scores(scores, rule).astype(float)
    if value.isna().any():
        raise ValueError(_NO_NUMBERS)
    keys = [c for c in ("dataset", "task", "language", "example", "prompt") if c in scores]
    best = value.groupby([scores[c] for c in keys], sort=False).idxmax()
    frame = scores.loc[best, [*keys, "gold", "label"]]
    return frame.rename(columns={"label": "predicted"}).reset_index(drop=True)


def _chosen(scores: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The predictions under a rule with `PREDICTION_COLUMNS`."""
    found = predictions(scores, rule).assign(kind="choose", source="")
    return (found if "dataset" in found else found.assign(dataset=""))[PREDICTION_COLUMNS]


def errors(scores: pd.DataFrame, texts: pd.DataFrame, rule: str = "label_sum", count: int = 3) -> pd.DataFrame:
    """Of every language the wrong predictions that the model was most certain of, one line per text: `dataset, task,
    language, example, prompt, gold, predicted, margin, text`; `margin` is by how much the wrong label's score beats
    that of the true one (nats; under `mean`, `label_mean` and `label_per_char` per token or character). `texts` has the
    columns `task` (as nusax/sentiment), `language, example, text`.
    """
    place = ["dataset", "task", "language"]
    key = [*place, "prompt", "example"]
    scores = (scores if "dataset" in scores else scores.assign(dataset="")).reset_index(drop=True)
    value, by = rule_scores(scores, rule), [scores[name] for name in key]
    true = value.where(scores["label"] == scores["gold"]).groupby(by, sort=False).max()
    said = _chosen(scores, rule).set_index(key).assign(margin=value.groupby(by, sort=False).max() - true).reset_index()
    wrong = said[said["predicted"] != said["gold"]].sort_values("margin", ascending=False, kind="stable")
    wrong = wrong.drop_duplicates([*place, "example"]).groupby(place, sort=False).head(count)
    names = pd.DataFrame([dataset_and_task(name) for name in texts["task"]], columns=["dataset", "task"])
    known = names.assign(**{name: list(texts[name]) for name in ("language", "example", "text")})
    found = wrong.merge(known, on=[*place, "example"], how="left").sort_values(place, kind="stable", ignore_index=True)
    return found[[*place, "example", "prompt", "gold", "predicted", "margin", "text"]]


def choices(
    scores: pd.DataFrame,
    rule: str = "label_sum",
    seed: int = 1,
    majority: dict | str | None = None,
    metrics: tuple[str, ...] = LABEL_METRICS,
) -> Answered:
    """The labels that are chosen under a rule, in every language under every prompt. A column `dataset` in the scores
    tells data sets of one task apart.

    `majority` maps a task, or (data set, task), to the most frequent label of its training texts; or it is "test": the
    most frequent label of the texts of each cell, as the released code has it. `metrics` are those that they are to be
    scored by. Raises ValueError for a true or majority
    label that is no label of its task, and what `predictions` refuses.
    """
    return Scored(scores).choices(rule, seed, majority, metrics)


class Scored:
    """Label scores (lines of scores.parquet), laid out once to be read by several rules."""

    def __init__(self, scores: pd.DataFrame):
        scores = scores if "dataset" in scores else scores.assign(dataset="")
        self.scores = scores.reset_index(drop=True)
        of = self.scores.groupby(["dataset", "task"], sort=False)["label"].unique()
        self.labels = {place: tuple(names) for place, names in of.items()}
        # cell -> its examples, the true labels and, [examples, labels], the lines of their scores
        self.cells: dict[tuple, tuple[tuple[str, ...], tuple[int, ...], np.ndarray]] = {}
        # as Python's own texts, which are gone through far quicker than Arrow's
        texts = {name: self.scores[name].to_numpy(object) for name in ("example", "label", "gold")}
        places = self.scores.groupby(["dataset", "task", "language", "prompt"], sort=False).indices
        for (dataset, task, language, prompt), lines in places.items():
            names = self.labels[dataset, task]
            number = {label: i for i, label in enumerate(names)}
            true = dict(zip(texts["example"][lines], texts["gold"][lines], strict=True))
            ids = sorted(true)
            for gold in set(true.values()) - set(names):
                raise ValueError(f"gold: found {gold!r:.80} for {task}; allowed: {', '.join(names)}")
            place = {name: i for i, name in enumerate(ids)}
            where = np.full((len(ids), len(names)), len(self.scores))
            of_line = [place[name] for name in texts["example"][lines]], [number[x] for x in texts["label"][lines]]
            where[of_line] = lines
            self.cells[dataset, task, language, prompt] = tuple(ids), tuple(number[true[name]] for name in ids), where

    def choices(self, rule: str, seed: int, majority=None, metrics: tuple[str, ...] = LABEL_METRICS) -> Answered:
        """As the function `choices`."""
        value = rule_scores(self.scores, rule).to_numpy(float)
        if np.isnan(value).any():
            raise ValueError(_NO_NUMBERS)
        value = np.append(value, -np.inf)  # of a label that was not scored
        given = {} if majority is None or majority == "test" else majority
        answers: Answered = {}
        for (dataset, task, language, prompt), (ids, gold, where) in self.cells.items():
            names = self.labels[dataset, task]
            often = given.get((dataset, task), given.get(task))
            often = majority_label(names[i] for i in gold) if majority == "test" else often
            if often is not None and often not in names:
                raise ValueError(f"majority: found {often!r:.80} for {task}; allowed: {', '.join(names)}")
            said = value[where].argmax(1)  # of equal ones the first
            texts, often = labelled(ids, seed, gold, names), None if often is None else names.index(often)
            key = texts, said.tobytes(), often, metrics
            cell = _chosen_alike.get(key) or Choices(texts, said, often, metrics)
            answers[dataset, task, "choose", HEADLINE, language, "", prompt] = _chosen_alike[key] = cell
        return answers


def counted(counts: pd.DataFrame, seed: int = 1) -> Answered:
    """What translations and other answers count, in every direction: the lines of counts.parquet, `dataset, task, kind,
    source, language, metric, example, counts, baseline, baseline_is`. `counts` is a list of numbers that
    `resampling.METRICS[metric]` scores the sum of; lines of one example are added up. `baseline` and `baseline_is`,
    the baseline and its score, are the same in all lines of a direction and metric. Lines without a kind are a
    translation's. Raises ValueError for an unknown metric.
    """
    counts = counts if "kind" in counts else counts.assign(kind="translate")
    cells: Answered = {}
    by = ["dataset", "task", "kind", "metric", "language", "source"]
    for (dataset, task, kind, metric, language, source), part in counts.groupby(by, sort=False):
        if metric not in METRICS:
            raise ValueError(f"metric: found {metric!r}; allowed: {', '.join(METRICS)}")
        ids, where = np.unique(part["example"].astype(str), return_inverse=True)
        sums = np.zeros((len(ids), len(part["counts"].iloc[0])))
        np.add.at(sums, where, np.stack(part["counts"]))
        baseline = float(part["baseline"].iloc[0]), part["baseline_is"].iloc[0]
        answers = Answers(examples(tuple(ids.tolist()), seed), sums, [metric], *baseline)
        # what has no source has one prompt
        cells[dataset, task, kind, metric, language, source, "all" if source and kind != "open" else 1] = answers
    return cells


def weights(cells: pd.DataFrame, group: str) -> np.ndarray:
    """How much each cell counts in its group's average, as in InstructAlign's Table 2; they add up to 1. `cells`
    has the columns `dataset, task, language` and a line per prompt or source language (or one).

    Prompts are averaged first. Then for L1 all languages of all data sets alike, so that Indonesian with two data sets
    counts twice; for other groups the languages of a data set and task, then data sets.
    """
    every = list(zip(cells["dataset"], cells["task"], cells["language"], strict=True))
    prompts = Counter(every)
    languages = Counter((dataset, task) for dataset, task, _ in prompts)
    if group == "L1":
        return np.array([1 / (len(prompts) * prompts[cell]) for cell in every])
    return np.array([1 / (len(languages) * languages[cell[:2]] * prompts[cell]) for cell in every])


def measures(
    answers: Answered | list[Answered],
    groups: dict[str, list[str]],
    base: Answered | list[Answered] | None = None,
    *,
    majority_of: dict[tuple[str, str], str] | None = None,
    single: bool = True,
    metrics: Iterable[str] | None = None,
) -> pd.DataFrame:
    """Every metric with its interval and what it must be compared with: one line per place and metric, `COLUMNS`.

    `answers` are those of one run (`choices` or `counted`), or a list with one per seed of a row; then values are means
    over seeds, and intervals hold over examples and seeds (`resampling.over_seeds`). `groups` maps a group to its
    languages. `base` holds the answers of the model to compare with, to the same examples and, if there are several,
    the same seeds. `majority_of` says of (data set, task) whose most frequent label the majority baseline gives.

    Places: every language under every prompt (a translation: from every source), every language averaged over prompts
    (sources), and every group (L1, L2, L3) averaged over prompts and then languages, as InstructAlign does; a
    translation belongs to the language it is in; of free answers the source is the judge, and judges are never
    averaged. What is averaged is called "all". Of several data sets also each
    task's average over data sets, and of several tasks the average of everything (see `weights`). With `single=False`
    there are no lines of single languages, which most of the time goes into; `metrics` are those that are wanted
    (default: all).

    Of every metric: `value` with `low, high` (95% interval: bootstrap over examples, the same ones in all prompts and
    languages, because NusaX is parallel), `baseline, baseline_is` (the best score that needs no model), `cells,
    examples, seeds`. Of metrics of labels, in percent, also

    - `chance, chance_high`: of a uniformly random guess, the mean and the 97.5th percentile of as many draws
    - `majority, majority_label, majority_of` (empty where no label is given); `constant, constant_label`: the label
      that has the best weighted F1 as the only answer

    Of weighted F1, the headline, also

    - `shuffled, shuffled_p`: the same answers dealt out blindly, and the one-sided p value of the score against that (a
      permutation test); `within_chance`: whether `low` is not above `chance_high`, or the score not above the 97.5th
      percentile of `shuffled`
    - `one_label`: the share of answers that are the most frequent one, percent; `one_label_cells`: in how many of the
      cells more than 95% of the answers are one label; `equals_constant`: whether every cell has but one answer
    - `flags`: what a reader must be told, in words; empty if nothing

    Of a cell's first metric, with a base,

    - `base, difference, difference_low, difference_high`: the base's value and that of here minus it, with a paired
      interval over the same examples; `difference_p`: its two-sided p value; `detectable`: the smallest difference that
      would be found with 80% power at the 5% level
    - `kept, kept_low, kept_high`: percent of the base's value; not of a loss
    - `only_here, only_base, mcnemar_p`: of labels under one prompt with one seed the texts that only this model or only
      the base has right, and McNemar's test

    Raises ValueError for seeds with different cells.
    """
    sides, bases = ([] if one is None else [one] if isinstance(one, dict) else list(one) for one in (answers, base))
    bases = bases * len(sides) if len(bases) == 1 else bases
    if any(side.keys() != sides[0].keys() for side in sides) or len(bases) not in (0, len(sides)):
        raise ValueError(
            "answers: the seeds of a row need the same tasks, languages and prompts, and a base each or one"
        )
    every = pd.DataFrame(sides[0].keys(), columns=CELL, dtype=object)  # quicker than Arrow's texts, as in `choices`
    every["judge"] = every["source"].where(every["kind"] == "open", "")
    lines = []

    def add(cells: pd.DataFrame, dataset: str, task: str, group: str, language: str = "all", alone: bool = False):
        if cells.empty:
            return
        keys = list(cells[CELL].itertuples(index=False, name=None))
        shares = tuple(weights(cells, group).tolist())
        found, other = (tuple(tuple(side.get(key) for key in keys) for side in there) for there in (sides, bases))
        pairs = [pair for rows in zip(found, other, strict=False) for pair in zip(*rows, strict=True)]
        # a difference is paired, so it needs the very same examples
        paired = pairs and all(mine and theirs and mine.examples.key == theirs.examples.key for mine, theirs in pairs)
        first = cells.iloc[0]
        place = {"dataset": dataset, "task": task, "kind": first["kind"], "group": group, "language": language}
        place |= {"source": first["source"] if alone or first["judge"] or not first["source"] else "all"}
        place |= {"prompt": str(first["prompt"]) if alone else "all"}
        place |= {"majority_of": (majority_of or {}).get((dataset, task))}
        lines.extend(_lines(place, average(found, shares), average(other, shares) if paired else None, metrics))

    for (dataset, task, *_), cells in every.groupby([*CELL[:4], "judge"], sort=False):
        for group, languages in groups.items():
            for language in languages if single else ():
                own = cells[cells["language"] == language].sort_values("prompt", kind="stable")
                for i in range(len(own)):
                    add(own.iloc[[i]], dataset, task, group, language, alone=True)
                add(own, dataset, task, group, language)
            add(cells[cells["language"].isin(languages)], dataset, task, group)
    for _, cells in every.groupby(["kind", "metric", "judge"], sort=False):
        wider = {task: part for task, part in cells.groupby("task", sort=False) if part["dataset"].nunique() > 1}
        wider |= {"all": cells} if cells["task"].nunique() > 1 else {}
        for (task, part), (group, languages) in product(wider.items(), groups.items()):
            add(part[part["language"].isin(languages)], "all", task, group)
    return pd.DataFrame(lines, columns=COLUMNS)


def of_rows(results: pd.DataFrame, metric: str | None = HEADLINE) -> pd.DataFrame:
    """The lines of results.csv to be looked at first: those of one metric (None: of all), of a row with several seeds
    those over all of them."""
    if metric is not None:
        results = results[results["metric"] == metric].infer_objects().reset_index(drop=True)
    if results.empty or not {"row", "seeds"} <= set(results):
        return results
    return results[results["seeds"] == results.groupby("row")["seeds"].transform("max")]


def majority_label(labels: Iterable[str]) -> str:
    """The most frequent of `labels`; of equally frequent ones the first in alphabetical order."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def dataset_and_task(name: str) -> tuple[str, str]:
    dataset, _, task = name.rpartition("/")
    return dataset, task


def _lines(place: dict, found: Average, base: Average | None, metrics: Iterable[str] | None) -> list[dict]:
    """The lines of `measures` for one place."""
    common = {"cells": len(found.cells), "seeds": len(found.rows)}
    common |= {"examples": max(len(cell.counts) for cell in found.cells)}
    lines = []
    for metric in metrics or found.cells[0].metrics:
        line = {**place, **common, "metric": metric, **_alone(found, metric, place["kind"] == "choose")}
        lines.append(line | (_difference(found, base, metric) if base and metric == found.cells[0].metrics[0] else {}))
    return lines


@lru_cache(maxsize=1024)
def _alone(found: Average, metric: str, labels: bool) -> dict:
    """A value with its interval and what it must be compared with, but for a base."""
    points = found.points(metric)
    drawn = np.clip(over_seeds(points, found.draws(metric)), 0, METRICS[metric].highest)
    low, high = resampling.interval(drawn)
    line = {"value": float(points.mean()), "low": low, "high": high}
    if labels:
        return line | _beside_labels(found, metric, line)
    line["baseline"] = float(found.mean(lambda cell: cell.baseline))
    line["baseline_is"] = " / ".join(dict.fromkeys(cell.baseline_is for cell in found.cells))
    return line


def _beside_labels(found: Average, metric: str, line: dict) -> dict:
    """What a metric of labels is compared with."""
    texts = tuple(tuple((cell.examples, cell.majority) for cell in row) for row in found.rows)
    beside = _without_model(texts, found.shares, metric)
    if metric != HEADLINE:
        return beside
    blind = found.mean(lambda cell: cell.blind)
    # what is equal but for rounding is as good
    blind_p = float((1 + (blind > line["value"] - 1e-9).sum()) / (len(blind) + 1))
    answers = sum((cell.said for cell in found.cells), Counter())
    alike = sum(max(cell.said.values()) > 0.95 * cell.said.total() for cell in found.cells)
    within = bool(line["low"] <= beside["chance_high"] or blind_p > 0.025)
    equal = all(len(cell.said) == 1 for cell in found.cells)
    flags = {"within chance": within, "a constant answer": equal}
    flags |= {f"one label in {alike} of {len(found.cells)} cells": alike and not equal}
    beside |= {"shuffled": blind.mean(), "shuffled_p": blind_p, "within_chance": within, "equals_constant": equal}
    beside |= {"one_label": 100 * max(answers.values()) / answers.total(), "one_label_cells": alike}
    return {**beside, "flags": ", ".join(text for text, holds in flags.items() if holds)}


@lru_cache(maxsize=1024)
def _without_model(texts: tuple, shares: tuple[float, ...], metric: str) -> dict:
    """What needs no model, which is the same for all of them: `texts` has for every seed its cells, each as examples
    and the number of the majority label."""
    found = Average(texts, shares)
    chance = found.mean(lambda cell: cell[0].chance[metric])
    # of accuracy it is known without draws
    guess = found.mean(lambda cell: 100 / len(cell[0].names)) if metric == "accuracy" else chance.mean()
    best = _best_constant(found)
    majority, majority_name = _always(found, metric, lambda cell: cell[1])
    constant, constant_name = _always(found, metric, lambda cell: best[cell[0].names])
    always = ("best constant answer", constant) if np.isnan(majority) else ("majority label", majority)
    baseline_is, baseline = max(("chance", guess), always, key=lambda pair: pair[1])
    beside = {"baseline": baseline, "baseline_is": baseline_is, "chance": guess}
    beside |= {"chance_high": float(np.percentile(chance, 97.5)), "majority": majority, "constant": constant}
    return beside | {"majority_label": majority_name, "constant_label": constant_name}


def _always(found: Average, metric: str, answer: Callable[[tuple], int | None]) -> tuple[float, str]:
    """The score of answering with one label in each cell, and which label or labels those are; empty without one."""
    if any(answer(cell) is None for cell in found.cells):
        return np.nan, ""
    score = found.mean(lambda cell: cell[0].constant[metric][answer(cell)])
    return float(score), " / ".join(sorted({cell[0].names[answer(cell)] for cell in found.cells}))


def _best_constant(found: Average) -> dict[tuple[str, ...], int]:
    """For every list of labels among the cells the number of the one that scores best as the only answer."""
    values: dict[tuple[str, ...], np.ndarray] = {}
    for row in found.rows:
        for share, (examples, _) in zip(found.shares, row, strict=True):
            names = examples.names
            values[names] = values.get(names, 0) + share * examples.constant[HEADLINE]
    return {names: int(value.argmax()) for names, value in values.items()}


def _difference(found: Average, base: Average, metric: str) -> dict[str, float]:
    """The columns of `measures` that compare with a base."""
    points, before = found.points(metric), base.points(metric)
    draws, drawn_before = found.draws(metric), base.draws(metric)
    # the lower limit takes the lower limit of the one and the upper one of the other, both half as far from the middle:
    # else the added example would count twice, and the intervals of small tests be too wide (see the tests)
    draws, drawn_before = (0.75 * d + 0.25 * d[:, ::-1] for d in (draws, drawn_before))
    drawn_before = drawn_before[:, ::-1]
    drawn = over_seeds(points - before, draws - drawn_before)
    low, high = resampling.interval(drawn)
    kept, only = [np.nan] * 3, [np.nan] * 3
    if np.isfinite(METRICS[metric].highest):
        tiny = 1e-9  # for a base that has nothing right
        ratio, ratios = (100 * a / np.maximum(b, tiny) for a, b in ((points, before), (draws, drawn_before)))
        kept = [ratio.mean(), *resampling.interval(over_seeds(ratio, ratios).clip(0))]
    if metric == HEADLINE and len(found.cells) == 1:
        here, there = (side.cells[0].predicted == side.cells[0].examples.gold for side in (found, base))
        only = [int((here & ~there).sum()), int((there & ~here).sum())]
        only.append(resampling.mcnemar(*only))
    difference, seeds = float((points - before).mean()), len(points)
    p_value, smallest = resampling.p_value(difference, low, high, seeds), resampling.detectable(low, high, seeds)
    values = (before.mean(), difference, low, high, p_value, smallest, *kept, *only)
    return dict(zip(_PAIRED, map(float, values), strict=True))
