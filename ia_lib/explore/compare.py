"""The answers of two runs to the same questions, side by side: which of them changed, which run is right, and how sure
a wrong answer was."""

from collections.abc import Callable
from html import escape

import ipywidgets as widgets
import pandas as pd

from ia_lib.evaluation import extraction
from ia_lib.evaluation.measures import dataset_and_task, predictions
from ia_lib.evaluation.resampling import mcnemar
from ia_lib.evaluation.rules import rule_scores
from ia_lib.explore.panel import Line, Panel, Wrong, choice, table, two

_KEY = ["task", "language", "prompt", "example"]
# What can be asked for -> which lines of `PAIRS` those are.
KINDS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "every answer": lambda pairs: pairs["first"].notna(),
    "changed answers": lambda pairs: pairs["first"] != pairs["second"],
    "only the first run is right": lambda pairs: pairs["first_right"] & ~pairs["second_right"],
    "only the second run is right": lambda pairs: pairs["second_right"] & ~pairs["first_right"],
    "both are wrong": lambda pairs: ~pairs["first_right"] & ~pairs["second_right"],
    "both are right": lambda pairs: pairs["first_right"] & pairs["second_right"],
}
ORDERS = {"as in the test": "", "the first run's worst mistakes": "first", "the second run's worst mistakes": "second"}
# Lines of two runs: where and what was asked, what is right, what each said, whether that is right, and by how much it
# is wrong: by as much as the answer's score is above the true label's (nats), or 1 - F1 of an answer in words.
PAIRS = [*_KEY, "text", "more", "gold", "first", "second", "first_right", "second_right", "first_off", "second_off"]
ALL = "all"


def labels(one: pd.DataFrame, other: pd.DataFrame, rule: str, texts: pd.DataFrame) -> pd.DataFrame:
    """`PAIRS` of two runs' label scores (lines of scores.parquet) under a rule, where both were asked the same. `texts`
    has the columns `task, language, example, text`. Raises ValueError for a rule that the scores cannot be read by."""
    both = _labels(one, rule).join(_labels(other, rule), lsuffix="_one", rsuffix="_other", how="inner")
    known = texts.assign(task=[_called(*dataset_and_task(name)) for name in texts["task"]])
    known = known.drop_duplicates(["task", "language", "example"]).set_index(["task", "language", "example"])["text"]
    found = both.reset_index().join(known, on=["task", "language", "example"])
    found = found.rename(columns={"gold_one": "gold", "predicted_one": "first", "predicted_other": "second"})
    found = found.rename(columns={"off_one": "first_off", "off_other": "second_off"})
    sides = {f"{side}_right": found[side] == found["gold"] for side in ("first", "second")}
    return found.assign(**sides, more="", text=found["text"].fillna(""))[PAIRS]


def _labels(scores: pd.DataFrame, rule: str) -> pd.DataFrame:
    """What a run chose and by how much the true label is below that, by `_KEY`."""
    names = scores["dataset"] if "dataset" in scores else [""] * len(scores)
    scores = scores.assign(task=list(map(_called, names, scores["task"]))).drop(columns="dataset", errors="ignore")
    said = predictions(scores, rule).set_index(_KEY)[["gold", "predicted"]]
    value, by = rule_scores(scores, rule), [scores[name] for name in _KEY]
    true = value.where(scores["label"] == scores["gold"]).groupby(by, sort=False).max()
    return said.join((value.groupby(by, sort=False).max() - true).rename("off"))


def _called(dataset: str, task: str) -> str:
    return f"{dataset}/{task}" if dataset else task


def answers(asked: pd.DataFrame, said: tuple[pd.Series, pd.Series], task: str, code: str) -> pd.DataFrame:
    """`PAIRS` of what two runs `said` (by the question's id) to questions on passages (`id, context, question,
    answers`); right is an exact match by the rule "corrected"."""
    asked = asked.set_index("id")
    found = {"task": task, "language": code, "prompt": 1, "text": asked["question"], "more": asked["context"]}
    frame = pd.DataFrame({**found, "gold": asked["answers"].map(" / ".join)}, index=asked.index.rename("example"))
    for side, given in zip(("first", "second"), said, strict=True):
        frame[side] = given = given.reindex(asked.index).fillna("")
        pairs = zip(given, asked["answers"], strict=True)
        agreed = [extraction.agreement(one, true, "corrected", code) for one, true in pairs]
        frame[f"{side}_right"] = [exact == 1 for exact, _ in agreed]
        frame[f"{side}_off"] = [1 - f1 for _, f1 in agreed]
    return frame.reset_index()[PAIRS]


def chosen(pairs: pd.DataFrame, kind: str, order: str, containing: str = "") -> pd.DataFrame:
    """Of `PAIRS` those of a kind (`KINDS`) with `containing` in their texts or answers, in any case and letter by
    letter; in an order of `ORDERS`."""
    found = pairs[KINDS[kind](pairs)]
    if wanted := containing.strip().casefold():
        columns = ["text", "more", "gold", "first", "second"]
        there = [any(wanted in str(cell).casefold() for cell in row) for row in found[columns].itertuples(index=False)]
        found = found.loc[there]  # an empty list of lines, not of columns
    if side := ORDERS[order]:
        found = found[~found[f"{side}_right"]].sort_values(f"{side}_off", ascending=False, kind="stable")
    return found


def summary(pairs: pd.DataFrame, first: str, second: str) -> str:
    """How often each run is right, in one line; with McNemar's p where every line is a text of its own."""
    names = "both are right", "only the first run is right", "only the second run is right", "both are wrong"
    right, one, other, wrong = (int(KINDS[name](pairs).sum()) for name in names)
    told = f"Of {len(pairs):,} answers both are right in {right:,}, only {first} in {one:,}, only {second} in {other:,}"
    told += f", and both are wrong in {wrong:,}. "
    if pairs["prompt"].nunique() * pairs["language"].nunique() * pairs["task"].nunique() > 1:
        more = "the same texts stand here under several prompts or languages"
        return f"{told}For a test of the difference choose one task, language and prompt, since {more}."
    if not one + other:
        return f"{told}Neither is right where the other is wrong."
    p = mcnemar(one, other)
    shown = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    means = f"luck alone would hardly divide the {one + other:,} texts that only one has right so unevenly"
    means = means if p < 0.05 else "luck alone often does as much, so this shows no difference"
    return f"{told}McNemar’s test: {shown}; {means}."


def panel(
    run, names: list[str], filters: dict[str, widgets.Widget], pairs: Callable[..., pd.DataFrame], unit: str
) -> Panel:
    """Two runs side by side: `pairs(first, second, **filters)` gives the `PAIRS` of what the filters choose, and `unit`
    says in what a wrong label is off."""
    controls = {
        **two(names),
        **filters,
        "kind": choice("show", KINDS, "changed answers"),
        "order": choice("order", ORDERS),
        "containing": Line(description="containing", placeholder="a word, then Enter"),
        "size": choice("lines", [10, 25, 50, 100]),
        "page": widgets.BoundedIntText(1, 1, 10**6, description="page"),
    }

    def draw(first, second, kind, order, containing, size, page, **asked) -> str:
        if first == second:
            raise Wrong(f"Both runs are {first}; choose two.")
        found = pairs(first, second, **asked)
        if found.empty:
            raise Wrong("Not both runs were asked this; choose another task, language or prompt.")
        if not run.machine.share_text and containing.strip():
            raise Wrong("The row has share_text: false, so its texts cannot be searched; leave “containing” empty.")
        lines = chosen(found, kind, order, containing)
        told = f"<p>{escape(summary(found, first, second))}</p>"
        if lines.empty:
            return (
                f"{told}<p>None of the {len(found):,} answers fits; choose another kind, or look for another word.</p>"
            )
        pages = -(-len(lines) // size)
        page = min(page, pages)
        part = _shown(run, lines[(page - 1) * size : page * size])
        last = (page - 1) * size + len(part)
        told += f"<p>{len(lines):,} of {len(found):,} match; {(page - 1) * size + 1:,} to {last:,} are shown"
        told += f" (page {page} of {pages}).</p>"
        # a place that is the same in all lines is not told in each
        places = [name for name in ("task", "language", "prompt") if found[name].nunique() > 1]
        rows = []
        for row in part.to_dict("records"):
            differs = "differs" * (row["first"] != row["second"])
            cells = [escape(str(row[name])) for name in places]
            text = escape(row["text"])
            if row["more"] and run.machine.share_text:
                text = f"<details><summary>{text}</summary>{escape(row['more'])}</details>"
            sides = [_side(row[side], row[f"{side}_right"], row[f"{side}_off"], unit) for side in ("first", "second")]
            rows.append((differs, *cells, text, escape(str(row["gold"])), *sides))
        return told + table([*places, "text", "true", escape(first), escape(second)], rows)

    return Panel(controls, draw)


def _shown(run, part: pd.DataFrame) -> pd.DataFrame:
    """Lines as they may be shown: with `share_text: false` texts, and answers in words, are numbers of words."""
    if part["more"].any():
        answers = part[["gold", "first", "second"]]
        hidden = run.shown(answers.set_axis(["answer", "model", "translation"], axis="columns"))
        part = part.assign(**hidden.set_axis(answers.columns, axis="columns"))
    return run.shown(part)


def _side(said: str, right: bool, off: float, unit: str) -> str:
    """A run's answer, with a sign for whether it is right, and how far off it is."""
    if right:
        return f"✓\u00a0{escape(str(said))}"
    far = f" ({off:.2f}\u00a0{unit})" if unit else ""
    return f"<span class='wrong'>✗\u00a0{escape(str(said)) or '(nothing)'}</span>{far}"
