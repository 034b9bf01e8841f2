"""What a judge makes of answers whose mark is known beforehand, and of its own.

A judge that gives 2 to the question repeated, or another mark to the same answer asked again, has marked something else
than answers. A bad check answer says most where the real answers are good: beside each stands what those got.
"""

from collections.abc import Callable, Mapping
from itertools import islice

import numpy as np
import pandas as pd

from ia_lib.data.files import INVISIBLE
from ia_lib.evaluation.agreement import by_language, prompts, with_interval
from ia_lib.evaluation.blind import KEYS, PROMPT
from ia_lib.randomness import generator, pick

AGAIN = "the same answer twice"
NONE = "no answer"
OTHER_QUESTION = "the answer to another question"
OTHER_LANGUAGE = "the answer in another language"
REPEATED = "the question repeated"
_FEW = 5  # of so many that are all alike an interval says nothing
CHECKS = (AGAIN, NONE, OTHER_QUESTION, OTHER_LANGUAGE, REPEATED)


def items_for_checks(items: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Items to be judged like any others, in every language up to `count` of each of `CHECKS`.

    `items` has the real ones: `dataset, task, language, language_name, example, question, answer, reference`, perhaps
    `run`. What comes back has the same columns and `check`; all but `answer` is the real item's. Drawn are items with
    an answer, by `seed` and what they are alone, and the checks of a language share their prompts as far as they can:

    - the same answer twice: with a line end behind it, or without the blanks behind it, so that no cache answers; a
      judge that is asked without them anyway is not asked again
    - the answer to another question of the same task and language
    - the answer in another language, to the same example of the same task; an answer that is the same text, or the
      item's own reference, is none
    - the question repeated, unless that is what the answer was

    An answer from elsewhere is the reference there, if there is one: it is in its language and is no bad answer, so
    that what is marked is that it is in the wrong place. Raises ValueError for a missing column.
    """
    keys = _keys(items)
    if missing := [name for name in ("question", "answer", "reference") if name not in items]:
        raise ValueError(f"items: found no column {missing[0]!r}; there are: {', '.join(map(str, items))}")
    items = items.fillna({"answer": "", "reference": ""}).drop_duplicates(keys)
    rows = sorted(items.to_dict("records"), key=lambda row: [str(row[name]) for name in keys])
    ranks = [generator(seed, "judge check", *(row[name] for name in keys)).random() for row in rows]
    drawn = [rows[i] for i in sorted(range(len(rows)), key=ranks.__getitem__) if not _empty(rows[i]["answer"])]
    places: dict[tuple, list[dict]] = {}
    for row in rows:
        if not _empty(_best(row)):
            places.setdefault(_here(row), []).append(row)
            places.setdefault(_elsewhere(row), []).append(row)

    def changed(check: str, row: dict) -> str | None:
        if check == AGAIN:
            bare = row["answer"].rstrip()
            return bare if bare != row["answer"] else f"{bare}\n"
        if check == NONE:
            return ""
        if check == REPEATED:
            return row["question"] if row["question"].strip() != row["answer"].strip() else None
        rng = generator(seed, check, *(row[name] for name in keys))
        if check == OTHER_QUESTION:
            return _other(row, places.get(_here(row), ()), lambda other: other["question"] != row["question"], rng)
        return _other(row, places.get(_elsewhere(row), ()), lambda other: other["language"] != row["language"], rng)

    found = []
    for language in dict.fromkeys(items["language"]):
        mine = [row for row in drawn if row["language"] == language]
        for check in CHECKS:
            answers = ((row, changed(check, row)) for row in mine)
            made = ({**row, "answer": answer, "check": check} for row, answer in answers if answer is not None)
            found += islice(made, count)
    return pd.DataFrame(found, columns=[*items, "check"])


def checked(items: pd.DataFrame, marks: pd.DataFrame, seed: int = 1) -> pd.DataFrame:
    """How a judge marked the check items, for each check and language, and `all` of them.

    `items` is what `items_for_checks` gave; `marks` has what one judge marked: the columns of `KEYS` that the items
    have, `check` (empty for the real answers) and `mark`, NaN where there is none.

    Columns: `check, language, items` (marked, as the real answer was), `unmarked`, `mean, real_mean` (of the real
    answers to the same prompts), `difference` (real minus check) with its 95% interval `low, high` over prompts,
    `share` (percentage marked otherwise than the first time, for the same answer twice; else marked above 1), and
    `verdict`, which says it in words: whether a check answer was told from real ones, by the interval. Raises
    ValueError for a missing column and for several marks of one item.
    """
    keys = _keys(items)
    if missing := [name for name in (*keys, "check", "mark") if name not in marks]:
        raise ValueError(f"marks: found no column {missing[0]!r}; there are: {', '.join(map(str, marks))}")
    marks = marks[[*keys, "check", "mark"]].fillna({"check": ""})
    real = marks.loc[marks["check"] == "", [*keys, "mark"]].rename(columns={"mark": "real"})
    lines = items[[*keys, "check"]].merge(marks, "left", [*keys, "check"], validate="one_to_one")
    lines = lines.merge(real, "left", keys, validate="many_to_one")
    found = []
    for check in [check for check in CHECKS if (lines["check"] == check).any()]:
        for language, part in by_language(lines[lines["check"] == check]):
            both = part.dropna(subset=["mark", "real"])
            mark, first = both["mark"].to_numpy(float), both["real"].to_numpy(float)
            wrong = int((mark != first).sum() if check == AGAIN else (mark > 1).sum())
            line = {"check": check, "language": language, "items": len(both), "unmarked": len(part) - len(both)}
            line |= {"mean": both["mark"].mean(), "real_mean": both["real"].mean()}
            line |= _difference(prompts(both), first - mark, seed)
            line["share"] = 100 * wrong / len(both) if len(both) else np.nan
            found.append({**line, "verdict": _verdict(check, wrong, line)})
    columns = ["check", "language", "items", "unmarked", "mean", "real_mean", "difference", "low", "high", "share"]
    return pd.DataFrame(found, columns=[*columns, "verdict"])


def prefers_itself(marks: pd.DataFrame, judge_model: str, origins: Mapping[str, str], seed: int = 1) -> pd.DataFrame:
    """What a judge gives to answers of its own model and to others', paired by prompt, for each language and `all`.

    `marks` are one judge's: `KEYS` and `mark`; `origins` maps a run to the model that it is or was made of. Models are
    the same by name, without the owner before the slash and in small letters. Columns: `language, prompts` (with marks
    of both), `own, others` (mean marks over these), `difference` (own minus others) and its 95% interval `low, high`
    over prompts. No line where the judge marked nothing of its own, or of others on the same prompts.

    A better model gets more, too, and that is no preference: with `marks` less those of another judge, or of people,
    what is left is the judge's own. Raises ValueError for a missing column and a run without an origin.
    """
    if missing := [name for name in (*KEYS, "mark") if name not in marks]:
        raise ValueError(f"marks: found no column {missing[0]!r}; there are: {', '.join(map(str, marks))}")
    if unknown := [run for run in dict.fromkeys(marks["run"]) if run not in origins]:
        raise ValueError(f"origins: found no model of the run {unknown[0]!r}; there are: {', '.join(origins)}")
    mine = marks["run"].map(lambda run: _model(origins[run]) == _model(judge_model))
    sides = [marks[side].groupby([*PROMPT], sort=False)["mark"].mean() for side in (mine, ~mine)]
    pairs = pd.concat(sides, axis=1, keys=["own", "others"], join="inner").dropna().reset_index()
    lines = []
    for language, part in by_language(pairs) if len(pairs) else ():
        line = {"language": language, "prompts": len(part), "own": part["own"].mean(), "others": part["others"].mean()}
        lines.append(line | _difference(prompts(part), (part["own"] - part["others"]).to_numpy(), seed))
    return pd.DataFrame(lines, columns=["language", "prompts", "own", "others", "difference", "low", "high"])


def _keys(items: pd.DataFrame) -> list[str]:
    """Those of `KEYS` that the items have; all but the run they must."""
    if missing := [name for name in PROMPT if name not in items]:
        raise ValueError(f"items: found no column {missing[0]!r}; there are: {', '.join(map(str, items))}")
    return [name for name in KEYS if name in items]


def _empty(text: str) -> bool:
    return bool(INVISIBLE.fullmatch(text))


def _best(row: dict) -> str:
    return row["answer"] if _empty(row["reference"]) else row["reference"]


def _here(row: dict) -> tuple:
    return "language", row["dataset"], row["task"], row["language"]


def _elsewhere(row: dict) -> tuple:
    return "example", row["dataset"], row["task"], row["example"]


def _other(row: dict, others: list[dict], fits: Callable[[dict], bool], rng) -> str | None:
    own = {row["answer"].strip(), row["reference"].strip()}
    found = dict.fromkeys(_best(other) for other in others if fits(other) and _best(other).strip() not in own)
    return pick(rng, list(found)) if found else None


def _difference(of: pd.Series, values: np.ndarray, seed: int) -> dict[str, float]:
    counts = np.stack([values, np.ones_like(values)], 1)
    found = with_interval(of, counts, "marks, difference", seed)
    return dict(zip(("difference", "low", "high"), found, strict=True))


def _verdict(check: str, wrong: int, line: dict) -> str:
    count = line["items"]
    if not count:
        return "nothing was marked"
    if check == AGAIN:
        return f"another mark for {wrong} of {count}" if wrong else f"the same mark for all {count}"
    got = f"{wrong} of {count} above 1" if wrong else f"all {count} marked 1"
    if line["real_mean"] == 1:
        return f"{got}; real answers get 1, too, so that nothing is shown"
    if count < _FEW:
        return f"{got}; too few to tell them from real answers"
    told = "marked below" if line["low"] > 0 else "marked ABOVE" if line["high"] < 0 else "not told from"
    return f"{got}; {told} real answers"


def _model(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()
