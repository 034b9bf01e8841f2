"""What a table found, in words and one picture: the top of its page. All of it is read off results.csv."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from ia_lib.data.languages import GROUPS
from ia_lib.report import panels, results
from ia_lib.report.panels import SCALES
from ia_lib.report.results import HEADLINES
from ia_lib.report.runs import Run

_PLACES = {"L2": "the taught languages", "L1": "the known ones", "L3": "languages never seen"}


@dataclass(frozen=True)
class Outcome:
    """Rows to which the same happened: their names, what it was, and each alone."""

    rows: list[str]
    text: str
    single: list[str]


@dataclass(frozen=True)
class Summary:
    """`lead`: what was taught to what, and how it was tested; `whole`: what came of it, of all rows; `kept`: the loss
    that must be ruled out for that word; `measure`: that of the picture, and whether it is `of_labels`; `outcomes`:
    what happened to each row; `others`: what other measures say; `panels`: the picture, an SVG for each group of
    languages, and `more_panels` for further rows."""

    lead: list[str]
    whole: str
    kept: str
    measure: str
    of_labels: bool
    outcomes: list[Outcome]
    others: str
    panels: list[str]
    more_panels: list[str]


def summary(every: pd.DataFrame, runs: list[Run], headline: pd.DataFrame) -> Summary | None:
    """The summary of a table from the lines of results.csv, and of `results.headline` of them; None where nothing was
    tested. Of several kinds of tasks the first one counts, in the order of `results.HEADLINES`, as an average over its
    tasks; of judges the first."""
    kind = _kind(every)
    if kind is None or (lines := results.headlines(every, kind)).empty:
        return None
    lines = _widest(lines)
    changed = lines[lines["verdict"] != ""]
    drawn = panels.panels(lines, kind)
    lead, whole = _lead(lines, changed, runs, kind), _whole(changed, kind)
    _, unit, _, decimals, margin = SCALES[kind]
    kept = f"{margin:.{decimals if margin < 1 else 0}f} {unit}"
    return Summary(
        lead,
        whole,
        kept,
        SCALES[kind][0],
        kind == "choose",
        _outcomes(changed, kind),
        _others(headline, kind),
        *drawn,
    )


def cautions(runs: list[Run], missing: list[str], seeds: int, found: dict) -> list[tuple[str, str, str]]:
    """What must not be concluded from a table: a title, a sentence, and the section that tells more ("" if none does).
    `missing` names runs without results; `found` has what the page's sections were made of: `near, averages` (how many
    group averages are within chance, of how many), `no_better` (rows that are never above the baseline), `one_label`,
    `depending, claims`, `missing_groups`, `judges`, `made_with`."""
    said = []
    if any(run.settings["corpus"] == "minilab" for run in runs):
        text = "The mini lab is generated text and not native language: sentences from a small grammar, put into ten "
        text += "languages word by word through a lexicon, with Indonesian words where the lexicon has none"
        if shares := sorted({f"{100 * share:.0f}" for share in (found["lexicon"] or {}).values()}, key=int):
            text += f" ({' to '.join(dict.fromkeys([shares[0], shares[-1]]))}% of all running words). So a model that "
            text += "knows Indonesian gets part of the points in languages that it never saw"
        text += ". It shows whether the method does what it says, and says nothing of real languages."
        said.append(("Generated text", text, "lexicon" if found["lexicon"] else ""))
    if missing:
        text = f"{_and(missing)} {'have' if len(missing) > 1 else 'has'} no results and "
        said.append(("Not finished", f"{text}{'are' if len(missing) > 1 else 'is'} missing here.", ""))
    for group in found["missing_groups"]:
        text = f"No test in a language {GROUPS[group]} ({group}): {_UNKNOWN[group]}."
        said.append(("Not measured", text, ""))
    if runs and seeds == 1:
        text = (
            "The intervals are over the test's texts alone. Another seed of training can differ by more than they tell"
        )
        said.append(("One seed", f"{text}: take several before you believe a small difference.", ""))
    if found["near"]:
        text = f"{found['near']} of {found['averages']} group averages are not shown to be above chance. "
        said.append(("Near chance", f"{text}A difference between two such averages means nothing.", "groups"))
    if found["no_better"]:
        text = f"nowhere shown to be above the baseline: {_and(found['no_better'])}."
        said.append(("Nothing shown", text[0].upper() + text[1:], found["no_better_at"]))
    if found["one_label"]:
        text = f"{_count(len(found['one_label']), 'row')} gave nearly always the same answer in some languages: such a "
        said.append(
            ("One label", f"{text[0].upper()}{text[1:]}score says which label the scoring prefers.", "languages")
        )
    if found["depending"]:
        text = f"{found['depending']} of {found['claims']} conclusions change with the rule by which labels are scored."
        said.append(("It depends on the rule", text, "rules"))
    for name, title, what in _OF_JUDGES:
        if name in found["judges"]:
            judges = _and(dict.fromkeys(found["judges"][name]["judge"]))
            said.append((title, what.format(judges), "judges"))
    if found["made_with"] > 1:
        text = (
            f"The stages were made with {found['made_with']} different versions or commits of the kit or its libraries."
        )
        said.append(("Several versions", text, "cite"))
    if any(run.base for run in runs):
        text = "“No change is shown” is no proof that nothing changed: the intervals say how much it may be."
        said.append(("Nothing shown is not nothing", text, "headline" if found["headline"] else ""))
    return said


def no_better(every: pd.DataFrame) -> dict:
    """For `cautions`: `no_better`, rows that are shown to be above the baseline in no group, in the first
    measure of a table that has no labels, and `no_better_at`, the section about it."""
    kind = _kind(every)
    if kind in (None, "choose"):
        return {"no_better": [], "no_better_at": ""}
    above = results.headlines(every, kind).groupby("row", sort=False)["above"].any()
    return {"no_better": list(above.index[~above]), "no_better_at": _SECTIONS[kind]}


def _kind(every: pd.DataFrame) -> str | None:
    return next((kind for kind in HEADLINES if (every["kind"] == kind).any()), None)


_SECTIONS = {"extract": "questions", "open": "requests", "translate": "held-out", "answer": "held-out"}
_UNKNOWN = {
    "L1": "whether anything was forgotten was not measured",
    "L2": "what was learned was not measured",
    "L3": "whether it carries over was not measured",
}
_OF_JUDGES = (
    (
        "alike",
        "One mark for everything",
        "{} gave every answer the same mark: its scores tell only whether answers are in the right language.",
    ),
    ("unmarked", "Without a mark", "{} gave none to some answers, which are left out of its scores."),
)


def _others(found: pd.DataFrame, kind: str) -> str:
    """What the measures say that the top does not tell of."""
    if found.empty:
        return ""
    found = found[(found["kind"] != kind) | (found["metric"] != HEADLINES[kind][0])]
    said = []
    for (_, metric), lines in found.groupby(["kind", "metric"], sort=False):
        gains, losses = ((lines["verdict"] == what).sum() for what in ("gain", "loss"))
        said.append(
            f"{metric} ({_count(gains, 'gain')} and {_count(losses, 'loss')} shown in {len(lines)} comparisons)"
        )
    return f"Measured, too: {_and(said)}." if said else ""


def _widest(lines: pd.DataFrame) -> pd.DataFrame:
    """One line for each row and group: the average over the most data sets and tasks."""
    wide = (lines["dataset"] == "all").astype(int) + (lines["task"] == "all")
    lines = lines.assign(wide=wide).sort_values("wide", ascending=False, kind="stable")
    return lines.drop_duplicates(["row", "group"]).sort_index()


def _lead(lines: pd.DataFrame, changed: pd.DataFrame, runs: list[Run], kind: str) -> list[str]:
    tuned = [run for run in runs if run.row in set(changed["row"])]
    of = {run.row: run for run in runs}
    begun = list(dict.fromkeys(run.began_with for run in tuned))
    models = list(dict.fromkeys(_model(of.get(name), name) for name in begun))
    groups = {group: _languages(tuned or runs, group) for group in GROUPS}
    said = []
    if tuned:
        rows = len(dict.fromkeys(run.row for run in tuned))
        was = "were each" if len(models) > 1 else "was"
        taught = f"{was} taught {groups['L2']}" if groups["L2"] else f"{was} tuned"
        if differ := len({str(run.groups) for run in tuned}) > 1:
            taught = f"{was} taught, each row its own languages"
        models = _and(models if len(models) <= 3 else [*models[:2], f"{len(models) - 2} more"])
        said.append(f"{models[0].upper()}{models[1:]} {taught}, by {_count(rows, 'row')} of the table.")
    else:
        said.append("No row of this table was built on another that was tested, so nothing can be said of gains.")
    if (groups["L1"] or groups["L3"]) and not (tuned and differ):
        known = f"Known before: {groups['L1']}. " if groups["L1"] else ""
        said.append(known + (f"Never seen: {groups['L3']}." if groups["L3"] else ""))
    texts = sorted(set(lines["examples"].astype(int)))
    many = f"{texts[0]:,}" if len(texts) == 1 else f"{texts[0]:,} to {texts[-1]:,}"
    tasks = set(zip(lines["dataset"], lines["task"], strict=True))
    one = len(tasks) == 1 and "all" not in next(iter(tasks))
    what = f"the task {'/'.join(filter(None, next(iter(tasks))))}" if one else "several tasks or data sets"
    said.append(
        f"Tested on {what}, {many} {_EXAMPLES.get(kind, 'examples')} in each language. Measured: {SCALES[kind][0]}."
    )
    return said


_EXAMPLES = {"choose": "texts", "extract": "questions", "open": "requests", "translate": "sentences"}


def _model(run: Run | None, name: str) -> str:
    """A model that rows began with, by the row's name and its own."""
    own = run.manifest["origin"] if run else ""
    if name == "new" or (run and not own):
        return f"the model {name}, made in this table," if run else "a new model"
    return f"the model {name} ({own})" if run and own != name else name


def _languages(runs: list[Run], group: str) -> str:
    names = list(dict.fromkeys(run.language(code) for run in runs for code in run.groups[group]))
    return _and(names if len(names) <= 8 else [*names[:7], f"{len(names) - 7} more"])


def _outcomes(changed: pd.DataFrame, kind: str) -> list[Outcome]:
    """What happened to each row, those that gained most first; more than three rows with the same verdicts together."""
    verdicts: dict[tuple, list[str]] = {}
    best = changed.sort_values("gained", ascending=False, kind="stable")
    taught = best[best["group"] == "L2"]
    for row in dict.fromkeys([*taught["row"], *best["row"]]):
        said = changed[changed["row"] == row].set_index("group")["verdict"]
        verdicts.setdefault(tuple(said.get(group, "") for group in _PLACES), []).append(row)
    found = []
    for rows in verdicts.values():
        parts = [changed[changed["row"] == row] for row in rows]
        names = [
            f"{row} ({how})" if (how := _how(part.iloc[0])) else row for row, part in zip(rows, parts, strict=True)
        ]
        single = [_said(part, kind) for part in parts]
        if len(rows) > 3:
            found.append(Outcome(names, _said(changed[changed["row"].isin(rows)], kind), single))
        else:
            found += [Outcome([name], text, []) for name, text in zip(names, single, strict=True)]
    return found


def _whole(changed: pd.DataFrame, kind: str) -> str:
    """What happened to all rows, in one sentence or two; nothing of a single row."""
    rows = set(changed["row"])
    by = {group: part.set_index("row") for group, part in changed.groupby("group")}
    if len(rows) < 2 or "L2" not in by:
        return ""
    gained, lost, carried = (
        [row for row, verdict in by[group]["verdict"].items() if verdict == what] if group in by else []
        for group, what in (("L2", "gain"), ("L1", "loss"), ("L3", "gain"))
    )
    of = _count(len(rows), "row")
    if gained:
        best = by["L2"].loc[gained].sort_values("gained").tail(1).reset_index()
        are, most = ("is", "") if len(gained) == 1 else ("are", "the largest gain is that of ")
        said = [f"{_count(len(gained))} of {of} {are} shown to have gained in the taught languages: "]
        said[0] += f"{most}{best['row'][0]}, {_by(best, kind)}"
    else:
        said = [f"none of {of} is shown to have gained in the taught languages"]
    if kind != "choose":
        said[0] = f"by this measure {said[0]}"
    if "L1" in by:
        here = sum(row in gained for row in lost)
        those = f"{_count(here)} of these lost" if here else "none of these is shown to have lost"
        said += [f"{those} in the known languages"] if gained else []
        where = " of the others lost there" if gained else " lost in the known languages"
        others = f"{_count(len(lost) - here)}{where}"
        said += [others] if len(lost) > here else []
    if "L3" in by:
        some = (
            f"{_count(len(carried))} carried something over"
            if carried
            else "no row is shown to have carried anything over"
        )
        said.append(f"{some} to languages never seen")
    return f"{said[0][0].upper()}{'; '.join(said)[1:]}."


def _how(line: pd.Series) -> str:
    """How a row was taught, in few words."""
    if line["budget"]:
        return f"{'LoRA' if line['tuning'] == 'lora' else 'all weights'}, budget {line['budget']}"
    said = [] if line["objective"] in ("commit", "alpaca", "none") else [line["objective"].upper()]
    if str(line["replay"]) not in ("", "nan"):
        old = str(line["replay"])
        said.append("no replay" if old == "0" else f"replay of {int(old):,}" if old.isdigit() else f"replay of {old}")
    return ", ".join(said + ([line["retention"]] if line["retention"] != "none" else []))


def _said(part: pd.DataFrame, kind: str) -> str:
    """What happened to rows of the same verdicts: a clause for each group of languages, and one for guesses."""
    guessed = part["verdict"].str.startswith(results.NEITHER)
    shown = part[~guessed]
    clauses = [_clause(group, shown[shown["group"] == group], kind) for group in _PLACES]
    floor = "chance" if kind == "choose" else "the baseline"
    parts = {group: part[guessed & (part["group"] == group)] for group in _PLACES}
    if places := [f"{_PLACES[group]} ({_by(lines, kind)})" for group, lines in parts.items() if len(lines)]:
        clauses.append(f"not shown to be above {floor}, before or after, in {_and(places)}")
    return "; ".join(filter(None, clauses)) + "."


def _clause(group: str, lines: pd.DataFrame, kind: str) -> str:
    if lines.empty:
        return ""
    where, (_, _, _, decimals, margin) = _PLACES[group], SCALES[kind]
    by, first = _by(lines, kind), lines.iloc[0]
    alone = f", from {first['base']:.{decimals}f} to {first['value']:.{decimals}f}" if len(lines) == 1 else ""
    # its interval leaves 0 out, and its corrected p is not small
    luck = ", too little for so many comparisons" if (lines["gained_low"] * lines["gained_high"] > 0).all() else ""
    floor = ", no longer shown to be above chance" if not lines["above"].any() and kind == "choose" else ""
    match first["verdict"], group:
        case "gain", "L2":
            return f"gained {by} in {where}{alone}"
        case "gain", "L1":
            return f"gained {by} in {where}, too{alone}"
        case "gain", _:
            return f"{by} carried over to {where}{alone}"
        case "loss", _:
            return f"lost {by} in {where}{alone}{floor}"
        case _, "L1" if (worst := lines["gained_low"].min()) > -margin:
            exact = f"{by}; at most {max(0, -worst):.{decimals}f} lost"
            return f"kept {where} ({exact})"
        case _, "L1":
            return f"no loss is shown in {where} ({by}{luck})"
        case _, "L3":
            return f"nothing is shown to carry over to {where} ({by}{luck})"
    return f"no change is shown in {where} ({by}{luck})"


def _by(lines: pd.DataFrame, kind: str) -> str:
    """By how much, of one row or of the ends of several."""
    _, unit, _, decimals, _ = SCALES[kind]
    signed = lines["verdict"].iloc[0] not in ("gain", "loss")
    form = f"{{:+.{decimals}f}}" if signed else f"{{:.{decimals}f}}"

    def one(line, named: bool) -> str:
        ends = line["gained"], line["gained_low"], line["gained_high"]
        if line["verdict"] == "loss":
            ends = -ends[0], -ends[2], -ends[1]
        value, low, high = map(form.format, ends)
        return f"{value}{f' {unit}' if not named else ''} [{low}, {high}]{' (' + line['row'] + ')' if named else ''}"

    if len(lines) == 1:
        return one(lines.iloc[0], False)
    lines = lines.sort_values("gained", kind="stable")
    return f"{one(lines.iloc[0], True)} to {one(lines.iloc[-1], True)} {unit}"


def _and(parts: Iterable[str]) -> str:
    *first, last = list(parts) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _count(number: int, what: str = "") -> str:
    words = ["no", "one", "two", "three", "four", "five", "six"]
    said = words[number] if number < len(words) else f"{number:,}"
    return f"{said} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}" if what else said
