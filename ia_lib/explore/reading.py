"""Panels of what two runs, or all of a table, have answered to the tests."""

from html import escape

import ipywidgets as widgets
import pandas as pd

from ia_lib.data.yaml_files import listed
from ia_lib.explore import compare
from ia_lib.explore import panel as panels
from ia_lib.explore.opened import ALPACA, COMMIT, TASTE, Opened
from ia_lib.explore.panel import Panel, Wrong, named, or_sentence
from ia_lib.workflow import show


@or_sentence
def predictions(opened: Opened) -> widgets.Widget:
    """The labels that two runs chose, side by side."""
    if len(opened.scores) < 2:
        return opened.nothing("is not tested on labels together with the other row", opened.having("choices"), TASTE)
    rule, known = opened.run.evaluate.scoring_rule, {}

    def pairs(first: str, second: str) -> pd.DataFrame:
        if (first, second) not in known:
            known[first, second] = compare.labels(opened.scores[first], opened.scores[second], rule, opened.texts)
        return known[first, second]

    every = pairs(*opened.scores)
    if every.empty:
        return panels.nothing("The two runs were not tested on the same texts; choose two that were.")
    # one language and prompt, whose texts stand there once
    some, taught = [("all", compare.ALL)], next(iter(opened.run.taught), compare.ALL)
    filters = {
        "task": panels.choice("task", [*some, *every["task"].unique()], every["task"].iloc[0]),
        "language": panels.choice("language", [*some, *named(opened.run, every["language"].unique())], taught),
        "prompt": panels.choice("prompt", [*some, *sorted(every["prompt"].unique().tolist())], 1),
    }

    def filtered(first, second, **wanted) -> pd.DataFrame:
        found = pairs(first, second)
        for name, value in wanted.items():
            found = found if value == compare.ALL else found[found[name] == value]
        return found

    return compare.panel(opened.run, list(opened.scores), filters, filtered, "nats")


@or_sentence
def passages_answered(opened: Opened) -> widgets.Widget:
    """What two runs answered to questions on passages, beside the true answers."""
    if not opened.passages:
        return opened.nothing("is tested on no questions on passages", opened.having("extracted"), COMMIT)
    known = {}
    filters = {
        "task": panels.choice("task", dict.fromkeys(task for task, _ in opened.passages)),
        "code": panels.choice("language", named(opened.run, (code for _, code in opened.passages))),
    }

    def pairs(first, second, task, code) -> pd.DataFrame:
        if (task, code) not in opened.passages:
            raise Wrong("The task has no questions in that language; choose another one.")
        if (first, second, task, code) not in known:
            both = tuple(show.said_on(opened.said[name], task, code) for name in (first, second))
            known[first, second, task, code] = compare.answers(opened.passages[task, code], both, task, code)
        return known[first, second, task, code]

    return compare.panel(opened.run, list(opened.said), filters, pairs, "")


@or_sentence
def free_answers(opened: Opened) -> widgets.Widget:
    """What all finished runs answered to one request, with what the gate and each judge say."""
    if not opened.answers:
        return opened.nothing("is tested on no requests that are answered freely", opened.having("opened"), ALPACA)
    mine = opened.answers.get(opened.run.name, next(iter(opened.answers.values())))
    tasks = list(dict.fromkeys(zip(mine["dataset"], mine["task"], strict=True)))
    controls = {
        "task": panels.choice("task", [("/".join(filter(None, task)), task) for task in tasks]),
        "code": panels.choice("language", named(opened.run, mine["language"])),
        # the number of its line, the same in all languages
        "number": widgets.BoundedIntText(1, 1, int(mine["example"].astype(int).max()), description="request"),
        "containing": panels.Line(description="containing", placeholder="a word, then Enter"),
    }

    def draw(task, code, number, containing) -> str:
        lines, first, there = [], None, []
        for name, frame in opened.answers.items():
            part = frame[(frame["dataset"] == task[0]) & (frame["task"] == task[1]) & (frame["language"] == code)]
            if word := containing.strip().casefold():
                hits = [word in f"{row.question}\n{row.answer}".casefold() for row in part.itertuples()]
                there += part["example"][hits].tolist()
            for line in part[part["example"] == str(number)].head(1).to_dict("records"):
                first = first or line
                marks = ", ".join(f"{judge} {mark:g}" if mark == mark else f"{judge} none"
                                  for judge, mark in line["marks"]) or "not judged"  # fmt: skip
                inside = "yes" if line["inside"] else "no: counts 0"
                kind = "" if line["inside"] else "differs"
                lines.append((kind, *map(escape, (name, line["answer"] or "(nothing)", inside, marks))))
        found = sorted({int(example) for example in there})
        body = ""
        if containing.strip():
            where = listed(map(str, found)) if found else "none"
            body = f"<p>Requests with “{escape(containing.strip()[:80])}”, in them or an answer: {where}.</p>"
        if first is None:
            raise Wrong(f"There is no such request in {opened.run.language(code)}; choose another number.")
        body += f"<pre dir='auto'>{escape(first['question'])}</pre>"
        if first["reference"]:
            body += f"<p>One right answer: {escape(first['reference'])}</p>"
        return body + panels.table(["run", "answer", "in the language", "marks"], lines)

    return Panel(controls, draw)
