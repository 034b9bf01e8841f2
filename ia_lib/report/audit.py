"""The audit of the published numbers: recomputed from one another, held against constant answers, beside ours, and the
papers' claims with the cells that speak for or against them.

A printed average is a weighted sum over languages, and `_weights` says with which weights; docs/audit.md says what else
was tried. The audit applies them to the papers' own tables per language, the comparison to our results.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from ia_lib.data.languages import GROUPS
from ia_lib.report import alpaca_audit, commit_audit, published
from ia_lib.report.published import ALPACA, COMMIT, IA1, INSTRUCTALIGN, ROW

TOLERANCE = 0.0101  # what two numbers rounded to two decimals may differ by
FOLLOWS, CONTRADICTED, NOT_TESTABLE = "follows", "contradicted", "not testable"
AGREES, DIFFERS, CANNOT_TELL, NOT_RUN = "agrees", "differs", "cannot tell", "not run"
NO_LABELS = (
    "No test labels are found: set `data_dir` in the first cell, or IA_DATA, to the folder of the real test sets."
)
NO_RUN = "None of the printed cells was run by us: the table named in the first cell has no results."
NO_QUESTIONS = "XQuAD is not found: set `data_dir` in the first cell, or IA_DATA, to the folder of the real test sets."
_TELLS = 5.0  # points on either side that an interval may reach for "agrees" to mean something
_CELL = ["table", "row", "dataset", "language", "metric"]  # of COMMIT's
_COUNTS = ("languages", "train", "valid", "test")
_FOUR = [("nusatranslation", "sentiment"), ("nusax", "sentiment")]
_FOUR += [("nusaparagraph", "emotion"), ("nusaparagraph", "topic")]
_SETS = {"nusatranslation+nusax": _FOUR[:2], "average": _FOUR}
_SINGLE = ("mlm", "mt", "tlm", "xss")
_AMOUNTS = ("0", "1000", "10000", "100000")
_PRINTED = "mean of the row's printed cells"


def recomputation() -> pd.DataFrame:
    """Every published number that follows from others: `table, cell, published, recomputed, difference, rule`.

    Averages are recomputed from the tables per language; those that stand beside their parts, from these as well. What
    has no parts in print (baselines and combinations in Table 3) is not in the list.
    """
    cells, books = published.cells(), _published_books()
    lines = []
    audited = (cells["paper"] == INSTRUCTALIGN) & cells["table"].isin(["Table 1", "Table 2", "Table 3", "Figure 6"])
    for cell in cells[audited].itertuples():
        for book in books.get((cell.model, cell.objective, cell.replay), {}).values():
            found = _weigh(cell, book)
            if found is not None:
                lines.append(_line(cell, found[0], _rule(cell)))
    averages = (cells["dataset"] == "average") | (cells["language"] == "avg")
    for cell in cells[averages].itertuples():
        beside = ~averages
        for name in ("paper", "table", "row", *ROW, "metric"):
            beside &= cells[name] == getattr(cell, name)
        if cell.paper == INSTRUCTALIGN:
            beside &= cells["language"].str[:2] == cell.language
        lines.append(_line(cell, cells.loc[beside, "published"].mean(), _PRINTED))
    points = published.gains(published.scores()).query("replay == '100000'")
    figure5 = {"table": f"{INSTRUCTALIGN} Figure 5", "cell": "Pearson r of the gains on L2 and L3"}
    figure5 |= {"published": published.read("instructalign_figure5")["value"].item()}
    figure5 |= {"recomputed": published.correlation(points["L2"], points["L3"])[0]}
    figure5["rule"] = f"gain over the base, each row with r = 100,000 in each test set: {len(points)} points"
    frame = pd.DataFrame([*lines, figure5])
    frame["recomputed"] = frame["recomputed"].round(4)
    frame.insert(4, "difference", (frame["recomputed"] - frame["published"]).round(4))
    return frame


def audit(frame: pd.DataFrame | None = None, largest: int | None = None) -> pd.DataFrame:
    """The published numbers that disagree with their recomputation beyond rounding (`TOLERANCE`): `table, cell,
    published, recomputed`. `frame` is the `recomputation`, if it is at hand; `largest` asks for so many of the
    scores, those that are off by most first."""
    frame = recomputation() if frame is None else frame
    wrong = frame[frame["difference"].abs() > TOLERANCE]
    if largest:
        wrong = wrong[wrong["published"].abs() <= 100]  # without counts
        wrong = wrong.iloc[np.argsort(-wrong["difference"].abs(), kind="stable")[:largest]]
    return wrong[["table", "cell", "published", "recomputed"]].reset_index(drop=True)


def witnesses(ours: pd.DataFrame) -> str:
    """How many numbers each paper prints, and how many lines of ours stand beside them, a line each."""
    counts = published.cells()["paper"].value_counts(sort=False)
    lines = [f"{paper}: {count:,} printed numbers" for paper, count in counts.items()]
    mine = f"{len(ours):,} lines of results" if len(ours) else "none yet, so only the papers are heard"
    return "\n".join([*lines, f"our own runs: {mine}"])


def compare(results: pd.DataFrame, claims: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """Every cell of the papers beside ours: `published.CELL_COLUMNS` and `run, ours, difference, difference_low,
    difference_high, texts, texts_published, verdict, rule`.

    `results` is what `published.ours` takes; COMMIT's cells stand beside the rows whose `claims` say so
    (`commit_audit.ours`), others beside those of the same model, objective and replay. A cell is averaged as the paper
    averages it (`rule`), and only if all its parts were run: nothing is filled in. `run` names our row; several rows
    for one published row give a line each. The 95% interval of the difference is that of our score, of an average the
    mean of its parts' intervals, which is too wide rather than too narrow. The verdict is `differs` where the interval
    does not hold 0 (without an interval: beyond `TOLERANCE`), else `agrees`; but `cannot tell` where it holds 0 and
    reaches beyond 5 points on either side, or where our test set has another number of texts than the paper's (`texts`,
    `texts_published`; 0 where none is printed); or `not run`.

    Raises ValueError as `published.ours` does.
    """
    mine = published.ours(results)
    tests = mine[mine["metric"] == "test"].drop_duplicates(["dataset", "task", "language"])
    books = _books(pd.concat([mine, _counted(tests)]))
    answered = commit_audit.ours(results, claims) if claims and len(results) else {}
    asked = published.read("commit_tables").set_index(_CELL)["n"]
    lines = []
    for cell in published.cells().itertuples(index=False):
        rows = books.get((cell.model, cell.objective, cell.replay), {})
        found = {name: _weigh(cell, book) for name, book in rows.items()} if cell.paper != COMMIT else {}
        if cell.paper == COMMIT:
            found = answered.get((cell.row, cell.dataset, cell.language, cell.metric), {})
        found = {name: values for name, values in found.items() if values is not None} or {"": np.full(3, np.nan)}
        for name, values in found.items():
            difference, low, high = values[:3] - cell.published
            agrees = low - TOLERANCE / 2 <= 0 <= high + TOLERANCE / 2 if low == low else abs(difference) <= TOLERANCE
            texts, printed = _texts(cell, rows.get(name, {})) if cell.paper != COMMIT else (0.0, 0.0)
            if cell.paper == COMMIT and name:
                texts, printed = values[3], asked[tuple(getattr(cell, part) for part in _CELL)]
            unclear = texts != printed or (agrees and max(-low, high) > _TELLS)
            verdict = CANNOT_TELL if unclear else AGREES if agrees else DIFFERS
            line = cell._asdict() | {"run": name, "ours": values[0], "difference": difference}
            line |= {"difference_low": low, "difference_high": high, "texts": texts, "texts_published": printed}
            lines.append(line | {"verdict": NOT_RUN if np.isnan(difference) else verdict, "rule": _rule(cell)})
    return pd.DataFrame(lines)


def constants(data_dir: str | Path | None = None) -> pd.DataFrame:
    """The published scores per language beside the baselines, on the real test labels: one line per cell.

    Beside the columns of the cell and of `published.baselines`: `constant` (the one label whose constant answer has the
    scores of most of the row's cells), `constant_f1, equal` (whether the cell is the score of that answer),
    `within_chance` and `below_majority`. Test sets whose labels are not in the folder are missing.
    """
    cells = published.cells()
    cells = cells[(cells["paper"] == INSTRUCTALIGN) & cells["table"].isin([f"Table {n}" for n in range(16, 20)])]
    frame = cells.merge(published.baselines(data_dir), on=["dataset", "task", "language"])
    frame = frame.drop(columns=["paper", "row", "metric"])
    rows = []
    for _, part in frame.groupby(["table", *ROW], sort=False):
        constant = [published.constant_f1(pd.Series(counts)) for counts in part["labels"]]
        of_label = pd.DataFrame(constant, index=part.index)
        gaps = of_label.sub(part["published"], axis=0).abs()
        label = max(of_label, key=lambda name, gaps=gaps: ((gaps[name] <= TOLERANCE).sum(), -gaps[name].mean()))
        rows.append(part.assign(constant=label, constant_f1=of_label[label], equal=gaps[label] <= TOLERANCE))
    frame = pd.concat(rows) if rows else frame.assign(constant="", constant_f1=np.nan, equal=False)
    frame["within_chance"] = frame["published"] <= frame["chance_high"]
    frame["below_majority"] = frame["published"] < frame["majority"] - TOLERANCE
    return frame


def constant_rows(data_dir: str | Path | None = None) -> pd.DataFrame:
    """Per published row and test set, how many of its languages have the score of a constant answer: `table, dataset,
    task`, those of `published.ROW`, `label, languages, equal, within_chance, below_majority` (counts) and `published,
    majority, chance` (means), the most constant rows first."""
    grouped = constants(data_dir).groupby(["table", "dataset", "task", *ROW], sort=False)
    counted, averaged = ("equal", "within_chance", "below_majority"), ("published", "majority", "chance")
    columns = {"label": ("constant", "first"), "languages": ("language", "size")}
    columns |= {name: (name, "sum") for name in counted} | {name: (name, "mean") for name in averaged}
    frame = grouped.agg(**columns).reset_index()
    share = frame["equal"] / frame["languages"]
    return frame.iloc[np.argsort(-share, kind="stable")].reset_index(drop=True)


def ledger() -> pd.DataFrame:
    """The papers' claims, in our words: `paper, source, claim, verdict, cells`.

    The verdict is `follows`, `contradicted` or `not testable` (from what is printed). Verdicts are worked out from the
    tables per language, where there are any; `cells` has the numbers that show it, in points of weighted F1.
    """
    judged = _judged() | commit_audit.judged() | alpaca_audit.judged()
    lines = []
    for claim in published.read("claims").itertuples():
        holds, shown = judged[claim.id]
        verdict = NOT_TESTABLE if holds is None else FOLLOWS if holds else CONTRADICTED
        small = not isinstance(shown, str) and min(map(abs, shown.values())) < 1
        shown = shown if isinstance(shown, str) else _listed(shown, "+")
        shown += "; some are below a point, and no interval is printed" if small and verdict == FOLLOWS else ""
        lines.append((claim.paper, claim.source, claim.claim, verdict, f"{claim.tables}: {shown}"))
    return pd.DataFrame(lines, columns=["paper", "source", "claim", "verdict", "cells"])


def readable(claims: pd.DataFrame):
    """The ledger with whole sentences in its cells, for a notebook (a pandas Styler)."""
    left = {"text-align": "left", "vertical-align": "top", "white-space": "normal"}
    shown = claims.style.hide().set_properties(**left).set_properties(["claim"], **{"min-width": "18em"})
    return shown.set_properties(["verdict"], **{"white-space": "nowrap"}) if "verdict" in claims else shown


def contradicted(claims: pd.DataFrame):
    """The claims of a ledger that are contradicted, without the cells, for a notebook."""
    return readable(claims.loc[claims["verdict"] == CONTRADICTED, ["paper", "source", "claim"]])


def verdicts(compared: pd.DataFrame) -> pd.DataFrame:
    """How many cells of each published table have which verdict; `compared` is what `compare` gives."""
    return pd.crosstab([compared["paper"], compared["table"]], compared["verdict"])


def _judged() -> dict[str, tuple[bool | None, dict[str, float] | str]]:
    """Per claim whether it holds (None: not testable) and what shows it: named differences, or text."""
    scores, cells = published.scores(), published.cells()
    sets = published.means(scores, "dataset", "task")
    average = published.averages(scores)
    sentiment = published.means(scores.query("task == 'sentiment'"))  # over languages, as in Table 3
    table2 = cells[(cells["table"] == "Table 2") & (cells["dataset"] == "average")].drop(columns=["dataset", "task"])
    table2 = table2.rename(columns={"published": "value", "language": "group"}).assign(source="", difference=np.nan)
    table2["row"] = [f"in Table 2 {published.title(*row)}" for row in table2[ROW].itertuples(index=False)]
    first = published.scores(IA1).query("metric == 'weighted_f1'")
    frames = (scores, sets, average, table2, first)
    by_cell, by_set, by_average, by_table2, by_first = map(published.differences, frames)
    l1, l2, l3, cross, single = "group == 'L1'", "group == 'L2'", "group == 'L3'", ["tlm", "xss"], list(_SINGLE)
    full, gain = (
        frame.query(l2 + " and replay == '100000'").pivot(index="objective", columns="model", values=column)
        for frame, column in ((average, "value"), (by_average, "difference"))
    )
    small, large = "bloomz-560m", "bloomz-1b1"
    paragraph = by_set.query(l2 + " and task != 'sentiment'")
    learned, read = _shown(by_set, l2 + " and task == 'sentiment'"), _shown(paragraph, l2)
    kept = {name: _shown(by_average, f"{l1} and model == '{small}'", [name], _AMOUNTS) for name in cross}
    together = cells.query("objective == 'tlm+xss' and language == 'L2'")["published"].item()
    alone = _shown(sentiment, l2, single, ["0"], "value")
    ia1 = _shown(first, "dataset == 'nusawrites'", ["mlm", "span+word", "mt"], ["0"], "value")
    r1000, r10000 = (_shown(by_first, f"row == 'IA1 r={r}'", ["mt+span+word"], [r]) for r in ("1000", "10000"))
    points = published.gains(scores).query("replay == '100000'")
    r, low, high = published.correlation(points["L2"], points["L3"])
    per_set = {
        f"in {dataset} {task} alone": published.correlation(part["L2"], part["L3"])[0]
        for (dataset, task), part in points.groupby(["dataset", "task"], sort=False)
    }
    precision = cells[cells["table"] == "Table 11"]
    precision = precision.assign(prompts=precision["row"].str[-10:], kind=precision["row"].str[:4])
    precision = precision.pivot(index=["model", "prompts"], columns=["metric", "kind"], values="published").dropna()
    lost = {m: precision[m]["int8"] - precision[m]["full"] for m in ("accuracy", "macro_f1")}
    return {
        "l2-sentiment": (
            min(learned.values()) > 0,
            _listed(learned, "+")
            + "; on NusaTranslation giving the majority label more often would do that too (docs/audit.md)",
        ),
        "l2-paragraph": (
            min(read.values()) > 0,
            _listed(read, "+") + "; as scores: " + _listed(_shown(paragraph, l2, column="value")),
        ),
        **{
            name: _all(_shown(by_average, where) | _shown(by_table2, where), lambda x: 5 <= round(x, 2) <= 10)
            for name, where in (("l2-560m", f"{l2} and model == '{small}'"), ("l2-1b1", f"{l2} and model == '{large}'"))
        },
        "l1-average": _all(_shown(by_average, l1), lambda x: x >= 0),
        "l1-cells": _all(_shown(by_cell, l1), lambda x: x >= 0),
        "no-replay": _all(_shown(by_average, l1, single, ["0"]), lambda x: x < 0),
        "more-replay": (
            all(list(change.values()) == sorted(change.values()) for change in kept.values()),
            kept["tlm"] | kept["xss"],
        ),
        "cross-lingual": (
            bool((full.loc[cross].min() > full.loc[["mlm", "mt"]].max())[[small, large]].all()),
            _listed(_shown(average, l2, single, column="value") | _shown(table2, l2, single, column="value")),
        ),
        "combination": (together > max(alone.values()), _listed({"Table 3, tlm+xss": together} | alone)),
        "larger-score": (bool((full[large] > full[small])[cross].all()), _listed(_shown(average, l2, column="value"))),
        "larger-gain": (bool((gain[large] > gain[small])[cross].all()), _shown(by_average, l2) | _shown(by_table2, l2)),
        "l3": _all(_shown(by_set, l3 + " and task == 'sentiment'"), lambda x: x > 0),
        "pearson": (
            abs(r - published.read("instructalign_figure5")["value"].item()) <= TOLERANCE,
            f"r = {r:.3f} [{low:.2f}, {high:.2f}] of {len(points)} points on few models; {_listed(per_set)}",
        ),
        "few-data": (None, "the amount of parallel data is the same in all rows"),
        "one-seed": (None, "no interval, no number of seeds and no prediction is printed"),
        "int8": (
            None,
            "neither the test sets nor an interval is printed; from full precision to int8 "
            + ", ".join(f"{m} changes by {x.min():+.2f} to {x.max():+.2f}" for m, x in lost.items()),
        ),
        "ia1-learns": _all(r1000, lambda x: x > 0),
        "ia1-forgets": (None, "no column for languages known before"),
        "ia1-objectives": (max(ia1, key=ia1.get).startswith("Conditional"), _listed(ia1)),
        "ia1-replay": (max(r10000.values()) <= 0 < min(r1000.values()), r1000 | r10000),
    }


def _shown(
    frame: pd.DataFrame, where: str, objectives=("tlm", "xss"), replays=("100000",), column="difference"
) -> dict[str, float]:
    """Name -> number, of the lines of `frame` that are meant."""
    frame = frame.query(where)
    frame = frame[frame["objective"].isin(objectives) & frame["replay"].isin(replays)]
    title = frame["row"]
    for name in ("dataset", "task", "language"):
        title = title + " " + frame[name] if name in frame and frame[name].ne("all").all() else title
    return dict(zip(title, frame[column], strict=True))


def _listed(shown: dict[str, float], sign: str = "") -> str:
    return "; ".join(f"{name} {value:{sign}.2f}" for name, value in shown.items())


def _all(shown: dict[str, float], holds) -> tuple[bool, dict[str, float]]:
    return all(holds(value) for value in shown.values()), shown


def _books(frame: pd.DataFrame) -> dict[tuple, dict[str, dict[tuple, np.ndarray]]]:
    """(model, objective, replay) -> row -> (dataset, task, language, metric) -> [value, low, high]."""
    books: dict[tuple, dict[str, dict[tuple, np.ndarray]]] = {}
    for line in frame.itertuples():
        book = books.setdefault((line.model, line.objective, line.replay), {}).setdefault(line.row, {})
        book[line.dataset, line.task, line.language, line.metric] = np.array([line.value, line.low, line.high])
    return books


@cache
def _published_books() -> dict[tuple, dict[str, dict[tuple, np.ndarray]]]:
    sizes = published.read("instructalign_dataset_statistics").rename(columns={"test": "value"})
    return _books(pd.concat([published.scores(), _counted(sizes)]))


def _counted(sizes: pd.DataFrame) -> pd.DataFrame:
    """Numbers of test sentences, and each language as one, for the counts that Table 1 adds up: of no row."""
    sizes = sizes.assign(row="", **dict.fromkeys(published.ROW, ""), low=np.nan, high=np.nan)
    return pd.concat([sizes.assign(metric="test"), sizes.assign(metric="languages", value=1)])


def _weights(cell) -> dict[tuple[str, str, str], float]:
    """(dataset, task, language) -> weight in the cell; empty where the paper does not say what it averages."""
    code = cell.language.rpartition("/")[2]
    groups = {"all": list(GROUPS)}.get(code, [code])
    sets = _SETS.get(cell.dataset, [(cell.dataset, cell.task)])
    if cell.paper == IA1:
        groups = ["L2", "L3"]
        sets = [] if cell.dataset == "average" else [("nusatranslation", "sentiment")]
        sets = [("nusax", "sentiment")] if cell.dataset == "nusax" else sets
    places = {
        (*one, language): sum(group in groups for group in published.members(*one).values())
        for one in sets
        for language, group in published.members(*one).items()
        if language == code or group in groups
    }
    if cell.metric in _COUNTS:
        if (cell.table, cell.dataset, cell.metric) == ("Table 1", "nusatranslation", "test"):
            places.pop(("nusatranslation", "sentiment", "ind"))  # "11+1": the count is that of the eleven
        return dict.fromkeys(places, 1.0)
    if cell.dataset == "average" and cell.language == "L2":
        return {place: 1 / size / len(sets) for place, size in places.items()}
    return dict.fromkeys(places, 1 / len(places) if places else 0.0)


def _rule(cell) -> str:
    """How the cell is averaged, in words."""
    if cell.metric in _COUNTS:
        sums = cell.language in ("all", *GROUPS)
        eleven = (cell.dataset, cell.metric) == ("nusatranslation", "test")
        return ("sum over languages" + (" without Indonesian" if eleven else "")) if sums else "as it is"
    if cell.paper == COMMIT:
        return "scored by MLQA's rule" if cell.dataset == "mlqa" else "scored by SQuAD's rule"
    if cell.paper == ALPACA:
        return "over models, whose number is not printed"
    if cell.paper == IA1:
        if cell.dataset == "average":
            return "the paper does not say what it averages"
        return "mean over the languages but English and Indonesian of a sentiment test set (assumed: not in the paper)"
    if cell.table == "Table 11":
        return "the paper does not say which test sets it averages"
    if cell.dataset == "average":
        return "mean of the four test sets' means over L2" if cell.language == "L2" else "mean of the three L1 cells"
    if cell.language in GROUPS:
        return f"mean over the {len(_weights(cell))} {cell.language} languages"
    return "as it is"


def _weigh(cell, book: dict[tuple, np.ndarray]) -> np.ndarray | None:
    """[value, low, high] of a cell by its weights; None if a part is missing."""
    weights = _weights(cell)
    if not weights or any((*place, cell.metric) not in book for place in weights):
        return None
    return sum(weight * book[(*place, cell.metric)] for place, weight in weights.items())


def _texts(cell, book: dict[tuple, np.ndarray]) -> tuple[float, float]:
    """How many test texts our cell and the published one rest on; 0 and 0 where that says nothing."""
    sizes = _published_books()["", "", ""][""]
    places = [] if cell.metric in _COUNTS else [(*place, "test") for place in _weights(cell)]
    if any(place not in book or place not in sizes for place in places):
        return 0.0, 0.0
    return sum(book[place][0] for place in places), sum(sizes[place][0] for place in places)


def _line(cell, recomputed: float, rule: str) -> dict:
    name = published.title(cell.model, cell.objective, cell.replay) if cell.paper == INSTRUCTALIGN else cell.row
    parts = [cell.dataset, cell.task, cell.language, cell.metric if cell.metric != "weighted_f1" else "weighted F1"]
    place = " ".join(part for part in dict.fromkeys(parts) if part not in ("", "all"))
    if rule == _PRINTED and cell.paper == INSTRUCTALIGN:
        place += ", from the cells beside it"
    line = {"table": f"{cell.paper} {cell.table}", "cell": f"{name}: {place}" if name else place}
    return line | {"published": cell.published, "recomputed": recomputed, "rule": rule}
