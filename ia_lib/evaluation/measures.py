"""Zero-shot evaluation: predictions from label scores, metrics, and what they must be compared with.

Every score stands beside a uniformly random guess, constant answers, the model's own answers dealt out blindly, and a
95% interval. scikit-learn does the counting; only what is resampled is counted by `resampling`, because it takes
thousands of confusion matrices per cell (the tests hold the two against each other).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from ia_lib.evaluation import resampling
from ia_lib.evaluation.resampling import RESAMPLED, Answers, Average, over_seeds
from ia_lib.evaluation.scoring import RULES, apply_rule

# What some rules need beside the labels' own log-probabilities.
_NEEDS = {"calibrated": "content_free_logprob", "joint": "prompt_logprob", "mean": "prompt_logprob"}
# Which groups are averaged over cells and not over data sets (see `weights`).
AVERAGES = {"table2": ("L1",), "datasets": (), "cells": ("L1", "L2", "L3")}
_PLACE = ["dataset", "task", "language", "prompt"]


def save(
    folder: Path, scores: pd.DataFrame, training_labels: dict[str, tuple[list[str], str]], texts: pd.DataFrame, settings
) -> pd.DataFrame:
    """Write scores.parquet, metrics.csv and errors.csv; returns the metrics. `training_labels` is
    `inputs.training_labels`, `texts` what `errors` takes."""
    scores.to_parquet(folder / "scores.parquet", index=False)
    if scores.empty:
        table = pd.DataFrame(columns=["dataset", "task", "group", "language", "prompt"])
    else:
        majority = {name: majority_label(labels) for name, (labels, _) in training_labels.items()}
        majority = {dataset_and_task(name): label for name, label in majority.items()}
        often = "test" if settings.majority_of == "test" else majority
        table = metrics(scores, settings.groups, often, settings.seed, rule=settings.scoring_rule)
        counted = {dataset_and_task(name): of for name, (_, of) in training_labels.items()}
        table["majority_of"] = [counted.get(key) for key in zip(table["dataset"], table["task"], strict=True)]
        errors(scores, texts, settings.scoring_rule).round(4).to_csv(folder / "errors.csv", index=False)
    table.round(4).to_csv(folder / "metrics.csv", index=False)
    return table


def errors(scores: pd.DataFrame, texts: pd.DataFrame, rule: str = "label_sum", count: int = 3) -> pd.DataFrame:
    """Of every language the wrong predictions that the model was most certain of, one line per text: `dataset, task,
    language, example, prompt, gold, predicted, margin, text`; `margin` is by how much the wrong label's score beats
    that of the true one (nats; under `mean`, `label_mean` and `label_per_char` per token or character). `texts` has the
    columns `task` (as `inputs.labelled` names it), `language, example, text`.
    """
    scores, _ = _named(scores.reset_index(drop=True))
    key = [*_PLACE, "example"]
    said = predictions(scores, rule)
    value = rule_scores(scores, rule)
    true = value[scores["label"] == scores["gold"]].groupby([scores[name] for name in key], sort=False).first()
    best = value.groupby([scores[name] for name in key], sort=False).max()
    said = said.set_index(key).assign(margin=best - true).reset_index()
    wrong = said[said["predicted"] != said["gold"]].sort_values("margin", ascending=False, kind="stable")
    place = ["dataset", "task", "language"]
    wrong = wrong.drop_duplicates([*place, "example"]).groupby(place, sort=False).head(count)
    names = pd.DataFrame([dataset_and_task(name) for name in texts["task"]], columns=["dataset", "task"])
    known = names.assign(**{name: list(texts[name]) for name in ("language", "example", "text")})
    found = wrong.merge(known, on=[*place, "example"], how="left").sort_values(place, kind="stable", ignore_index=True)
    return found[[*place, "example", "prompt", "gold", "predicted", "margin", "text"]]


def rules(scores: pd.DataFrame) -> list[str]:
    """The rules that these scores can be read by: all whose columns are there."""
    return [rule for rule in RULES if rule not in _NEEDS or _NEEDS[rule] in scores]


def rule_scores(scores: pd.DataFrame, rule: str) -> pd.Series:
    """The score of every line's label under a rule of `scoring.LabelScores.scores`; the highest of a text and prompt is
    the prediction. Raises ValueError for another rule, and for one whose column is missing."""
    if rule not in RULES:
        raise ValueError(f"rule: found {rule!r}; allowed: {', '.join(RULES)}")
    if rule not in rules(scores):
        raise ValueError(f"rule: found {rule!r}, but these scores have no {_NEEDS[rule]}; allowed: {rules(scores)}")
    columns = ("label_logprob", "label_tokens", "label_chars", "prompt_tokens")
    return apply_rule(rule, *(scores.get(name) for name in (*columns, "prompt_logprob", "content_free_logprob")))


def predictions(scores: pd.DataFrame, rule: str = "label_sum") -> pd.DataFrame:
    """One line per example and prompt: `task, language, example, prompt, gold, predicted`, behind `dataset` if the
    scores have it.

    The prediction is the label with the highest score under `rule`; of equal ones the first in the task's order.
    """
    scores = scores.reset_index(drop=True)
    value = rule_scores(scores, rule).astype(float)
    if value.isna().any():
        raise ValueError("some scores are not numbers: the model's training has diverged; try a lower learning_rate")
    keys = [c for c in ("dataset", "task", "language", "example", "prompt") if c in scores]
    best = value.groupby([scores[c] for c in keys], sort=False).idxmax()
    frame = scores.loc[best, [*keys, "gold", "label"]]
    return frame.rename(columns={"label": "predicted"}).reset_index(drop=True)


def confusions(scores: pd.DataFrame, rule: str = "label_sum") -> pd.DataFrame:
    """Confusion matrices, one line per entry: `dataset, task, language, prompt, gold, predicted, count`; `dataset` is
    empty where the scores name none."""
    scores, labels = _named(scores)
    lines = []
    for place, part in predictions(scores, rule).groupby(_PLACE, sort=False):
        names = labels[place[:2]]
        counts = confusion_matrix(part["gold"], part["predicted"], labels=names)
        for gold, row in zip(names, counts, strict=True):
            for predicted, count in zip(names, row, strict=True):
                lines.append(dict(zip(_PLACE, place, strict=True), gold=gold, predicted=predicted, count=int(count)))
    return pd.DataFrame(lines)


def weights(cells: pd.DataFrame, group: str, average: str = "table2") -> np.ndarray:
    """How much each cell counts in its group's average; they add up to 1. `cells` has the columns `dataset, task,
    language` and a line per prompt, or one where prompts are averaged already.

    Prompts are always averaged first. Then

    - `datasets`: languages of a data set and task, then data sets: the average column for L2 of InstructAlign's Table 2
    - `cells`: all languages of all data sets alike, so that Indonesian with two data sets counts twice: Table 3, and
      the average column for L1 of Table 2
    - `table2`: both as Table 2 has them: `cells` for L1, `datasets` for the others

    Tables 16-19 and Figure 6 show languages one by one. The average columns of (IA)^1's Tables 4 and 6 follow from no
    fixed weights of the columns beside them. Raises ValueError for another average.
    """
    if average not in AVERAGES:
        raise ValueError(f"average: found {average!r}; allowed: {', '.join(AVERAGES)}")
    every = list(cells[["dataset", "task", "language"]].itertuples(index=False, name=None))
    prompts = Counter(every)
    languages = Counter((dataset, task) for dataset, task, _ in prompts)
    if average == "cells" or group in AVERAGES[average]:
        return np.array([1 / (len(prompts) * prompts[cell]) for cell in every])
    return np.array([1 / (len(languages) * languages[cell[:2]] * prompts[cell]) for cell in every])


def metrics(
    scores: pd.DataFrame | list[pd.DataFrame],
    groups: dict[str, list[str]],
    majority: dict | str,
    seed: int = 1,
    base: pd.DataFrame | list[pd.DataFrame] | None = None,
    *,
    rule: str = "label_sum",
    average: str = "table2",
    single: bool = True,
) -> pd.DataFrame:
    """Every metric in percent, beside its baselines and its interval.

    `scores` is the table of one run, or a list with one per seed of a row; then values are means over seeds, and
    intervals hold over examples and seeds (`resampling.over_seeds`). `groups` maps a group to its languages, `majority`
    a task, or (data set, task), to the most frequent label of its training texts; or it is "test": the most frequent
    label of the test texts of each cell, as the released code has it. `base` holds the scores of the model to compare
    with, for the same examples and, if there are several, the same seeds. A column `dataset` in the scores tells data
    sets of one task apart.

    Lines: every language under every prompt, every language averaged over prompts, and every group (L1, L2, L3)
    averaged over prompts and then languages, as InstructAlign does. Of several data sets also each task's average over
    data sets (`dataset` is "all"), and of several tasks the average of everything (`task` is "all"), as `average` says
    (see `weights`). With `single=False` there are no lines of single languages, which most of the time goes into.

    Columns: `task, group, language ("all" for a group), prompt ("all" for the average), examples, accuracy,
    weighted_f1, low, high` (95% interval of weighted F1: bootstrap over examples, the same examples in all prompts
    and languages, because NusaX is parallel), `chance_accuracy, chance` (weighted F1 of a uniformly random guess, mean
    of as many draws), `majority_accuracy, majority` (empty where no label is given), `one_label` (the share of
    predictions that are the most frequent predicted label, percent), `within_chance` (whether `low` is not above the
    97.5th percentile of random guesses, or the score not above that of the model's own answers dealt out blindly),
    `majority_label`, and `difference, difference_low, difference_high` (weighted F1 minus that of `base`, points, with
    a paired interval over the same examples; empty without a base).

    Then `dataset, seeds, macro_f1, macro_precision, macro_recall, balanced_accuracy, accuracy_low, accuracy_high,
    macro_f1_low, macro_f1_high, chance_high` (that 97.5th percentile), `chance_macro_f1, majority_macro_f1,
    constant_label, constant, constant_accuracy, constant_macro_f1` (the label that scores best as the only answer, and
    its scores), `shuffled, shuffled_p` (weighted F1 of the same answers dealt out blindly, and the one-sided p value of
    the score against it: a permutation test), `equals_constant` (whether every cell has but one answer), `cells,
    one_label_cells` (of how many languages and prompts the line is made, and in how many more than 95% of the answers
    are one label), `base, difference_p, detectable` (weighted F1 of the base; two-sided p value of the difference; the
    smallest one that would be found with 80% power at the 5% level), `kept, kept_low, kept_high` (percent of the base's
    weighted F1), `only_here, only_base, mcnemar_p` (of one prompt and seed: the texts that only this model or only the
    base has right, and McNemar's test), `flags` (what a reader must be told, in words; empty if nothing).

    Raises ValueError for seeds with different cells, a `majority` that is no label of its task, and what
    `predictions` and `weights` refuse.
    """
    pool: dict = {}
    sides, bases = ([_cells(t, majority, seed, rule, pool) for t in listed(tables)] for tables in (scores, base))
    bases = bases * len(sides) if len(bases) == 1 else bases
    if any(side.keys() != sides[0].keys() for side in sides) or len(bases) not in (0, len(sides)):
        raise ValueError(
            "scores: the seeds of a row need the same tasks, languages and prompts, and a base each or one"
        )
    every = pd.DataFrame(sides[0].keys(), columns=_PLACE)
    lines = []

    def add(cells: pd.DataFrame, **place) -> None:
        if cells.empty:
            return
        keys = list(cells.itertuples(index=False, name=None))
        shares = weights(cells, place["group"], average)
        found, other = ([[side.get(key) for key in keys] for side in there] for there in (sides, bases))
        pairs = [pair for rows in zip(found, other, strict=False) for pair in zip(*rows, strict=True)]
        # a difference is paired, so it needs the very same examples
        paired = pairs and all(mine and theirs and mine.examples is theirs.examples for mine, theirs in pairs)
        lines.append(_line(place, Average(found, shares), Average(other, shares) if paired else None))

    for (dataset, task), cells in every.groupby(["dataset", "task"], sort=False):
        for group, languages in groups.items():
            place = {"dataset": dataset, "task": task, "group": group}
            for language in languages if single else ():
                own = cells[cells["language"] == language].sort_values("prompt")
                for i, prompt in enumerate(own["prompt"]):
                    add(own.iloc[[i]], **place, language=language, prompt=prompt)
                add(own, **place, language=language, prompt="all")
            add(cells[cells["language"].isin(languages)], **place, language="all", prompt="all")
    wider = {task: cells for task, cells in every.groupby("task", sort=False) if cells["dataset"].nunique() > 1}
    wider |= {"all": every} if every["task"].nunique() > 1 else {}
    for task, cells in wider.items():
        for group, languages in groups.items():
            place = {"dataset": "all", "task": task, "group": group, "language": "all", "prompt": "all"}
            add(cells[cells["language"].isin(languages)], **place)
    return pd.DataFrame(lines)


def of_rows(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of results.csv to be looked at first: of a row with several seeds those over all of them."""
    if results.empty or not {"row", "seeds"} <= set(results):
        return results
    return results[results["seeds"] == results.groupby("row")["seeds"].transform("max")]


def majority_label(labels: Iterable[str]) -> str:
    """The most frequent of `labels`; of equally frequent ones the first in alphabetical order."""
    counts = pd.Series(list(labels)).value_counts()
    return min(counts.index[counts == counts.max()])


def listed(tables: pd.DataFrame | list[pd.DataFrame] | None) -> list[pd.DataFrame]:
    """The score tables of a row's seeds, of which there may be one or none."""
    return [] if tables is None else [tables] if isinstance(tables, pd.DataFrame) else list(tables)


def dataset_and_task(name: str) -> tuple[str, str]:
    dataset, _, task = name.rpartition("/")
    return dataset, task


def _named(scores: pd.DataFrame) -> tuple[pd.DataFrame, dict[tuple[str, str], list[str]]]:
    """Scores that name a data set, if only the empty one, and the labels of each data set and task in their order."""
    scores = scores if "dataset" in scores else scores.assign(dataset="")
    pairs = scores[["dataset", "task", "label"]].drop_duplicates()
    return scores, pairs.groupby(["dataset", "task"])["label"].agg(list).to_dict()


def _cells(scores: pd.DataFrame, majority: dict | str, seed: int, rule: str, pool: dict) -> dict[tuple, Answers]:
    """`_PLACE` -> the answers there. `pool` holds the examples met so far: cells with the same ones share them."""
    scores, labels = _named(scores)
    cells = {}
    for place, part in predictions(scores, rule).groupby(_PLACE, sort=False):
        names = labels[place[:2]]
        number = {label: i for i, label in enumerate(names)}
        part = part.sort_values("example")
        for gold in set(part["gold"]) - set(names):
            raise ValueError(f"gold: found {gold!r} for {place[1]}; allowed: {', '.join(names)}")
        often = majority_label(part["gold"]) if majority == "test" else majority.get(place[:2], majority.get(place[1]))
        if often is not None and often not in names:
            raise ValueError(f"majority: found {often!r} for {place[1]}; allowed: {', '.join(names)}")
        gold, predicted = (part[column].map(number).to_numpy() for column in ("gold", "predicted"))
        identity = (*names, *part["example"], *gold)
        if identity not in pool:
            pool[identity] = resampling.Examples(list(part["example"]), gold, len(names), seed)
        cells[place] = Answers(pool[identity], predicted, names, number.get(often))
    return cells


def _line(place: dict, found: Average, base: Average | None) -> dict:
    """One line of `metrics`."""
    points = {name: float(found.points(name).mean()) for name in found.cells[0].points}
    score = points["weighted_f1"]
    drawn = {name: np.clip(over_seeds(found.points(name), found.draws(name)), 0, 100) for name in RESAMPLED}
    spread = {name: resampling.interval(draws) for name, draws in drawn.items()}
    chance = {name: found.mean(lambda cell, name=name: cell.examples.chance[name]) for name in RESAMPLED}
    chance_high = float(np.percentile(chance["weighted_f1"], 97.5))
    blind = found.mean(lambda cell: cell.blind)
    # what is equal but for rounding is as good
    blind_p = float((1 + (blind > score - 1e-9).sum()) / (len(blind) + 1))
    majority, majority_name = _always(found, lambda cell: cell.majority)
    best = _best_constant(found)
    constant, constant_name = _always(found, lambda cell: best[tuple(cell.names)])
    answers = sum((cell.counts for cell in found.cells), Counter())
    alike = sum(max(cell.counts.values()) > 0.95 * cell.counts.total() for cell in found.cells)
    within = bool(spread["weighted_f1"][0] <= chance_high or blind_p > 0.025)
    equal = all(len(cell.counts) == 1 for cell in found.cells)
    flags = {
        "within chance": within,
        "a constant answer": equal,
        f"one label in {alike} of {len(found.cells)} cells": alike and not equal,
    }
    paired = _difference(found, base)
    return {
        **{name: str(place[name]) for name in ("task", "group", "language", "prompt")},
        "examples": max(len(cell.predicted) for cell in found.cells),
        "accuracy": points["accuracy"],
        "weighted_f1": score,
        "low": spread["weighted_f1"][0],
        "high": spread["weighted_f1"][1],
        "chance_accuracy": found.mean(lambda cell: 100 / len(cell.names)),
        "chance": chance["weighted_f1"].mean(),
        "majority_accuracy": majority["accuracy"],
        "majority": majority["weighted_f1"],
        "one_label": 100 * max(answers.values()) / answers.total(),
        "within_chance": within,
        "majority_label": majority_name,
        **{name: paired[name] for name in ("difference", "difference_low", "difference_high")},
        "dataset": place["dataset"],
        "seeds": len(found.rows),
        **{name: points[name] for name in ("macro_f1", "macro_precision", "macro_recall", "balanced_accuracy")},
        **{
            f"{name}_{end}": spread[name][i]
            for name in ("accuracy", "macro_f1")
            for i, end in enumerate(("low", "high"))
        },
        "chance_high": chance_high,
        "chance_macro_f1": chance["macro_f1"].mean(),
        "majority_macro_f1": majority["macro_f1"],
        "constant_label": constant_name,
        "constant": constant["weighted_f1"],
        "constant_accuracy": constant["accuracy"],
        "constant_macro_f1": constant["macro_f1"],
        "shuffled": blind.mean(),
        "shuffled_p": blind_p,
        "equals_constant": equal,
        "cells": len(found.cells),
        "one_label_cells": alike,
        **paired,
        "flags": ", ".join(text for text, holds in flags.items() if holds),
    }


def _always(found: Average, answer: Callable[[Answers], int | None]) -> tuple[dict[str, float], str]:
    """The metrics of answering with one label in each cell, and which label or labels those are; empty without one."""
    if any(answer(cell) is None for cell in found.cells):
        return dict.fromkeys(RESAMPLED, np.nan), ""
    scores = {n: float(found.mean(lambda cell, n=n: cell.examples.constant[n][answer(cell)])) for n in RESAMPLED}
    return scores, " / ".join(sorted({cell.names[answer(cell)] for cell in found.cells}))


def _best_constant(found: Average) -> dict[tuple[str, ...], int]:
    """For every list of labels among the cells the number of the one that scores best as the only answer."""
    values: dict[tuple[str, ...], np.ndarray] = {}
    for row in found.rows:
        for share, cell in zip(found.shares, row, strict=True):
            value = share * cell.examples.constant["weighted_f1"]
            values[tuple(cell.names)] = values.get(tuple(cell.names), 0) + value
    return {names: int(value.argmax()) for names, value in values.items()}


def _difference(found: Average, base: Average | None) -> dict[str, float]:
    """The columns of `metrics` that compare with a base."""
    names = ["base", "difference", "difference_low", "difference_high", "difference_p", "detectable"]
    names += ["kept", "kept_low", "kept_high", "only_here", "only_base", "mcnemar_p"]
    if base is None:
        return dict.fromkeys(names, np.nan)
    points, before = found.points("weighted_f1"), base.points("weighted_f1")
    draws, drawn_before = found.draws("weighted_f1"), base.draws("weighted_f1")
    # the lower limit takes the lower limit of the one and the upper one of the other, both half as far from the middle:
    # else the added text would count twice, and the intervals of small tests be too wide (see the tests)
    draws, drawn_before = (0.75 * d + 0.25 * d[:, ::-1] for d in (draws, drawn_before))
    drawn_before = drawn_before[:, ::-1]
    drawn = over_seeds(points - before, draws - drawn_before)
    low, high = resampling.interval(drawn)
    tiny = 1e-9  # for a base that has nothing right
    ratio, ratios = (100 * a / np.maximum(b, tiny) for a, b in ((points, before), (draws, drawn_before)))
    kept = ratio.mean(), *resampling.interval(over_seeds(ratio, ratios).clip(0))
    only = [np.nan] * 3
    if len(found.cells) == 1:
        here, there = (side.cells[0].predicted == side.cells[0].examples.gold for side in (found, base))
        only = [int((here & ~there).sum()), int((there & ~here).sum())]
        only.append(resampling.mcnemar(*only))
    difference, seeds = (points - before).mean(), len(points)
    p_value, smallest = resampling.p_value(difference, low, high, seeds), resampling.detectable(low, high, seeds)
    values = (before.mean(), difference, low, high, p_value, smallest, *kept, *only)
    return dict(zip(names, map(float, values), strict=True))
