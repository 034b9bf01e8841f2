"""The results of a table's runs together, read from their artefacts: every measure, over seeds too, comparisons in
pairs, the same answers under every scoring rule, and the published cells beside ours."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from ia_lib.data.files import own_csv
from ia_lib.data.languages import GROUPS
from ia_lib.evaluation import comparison, measures
from ia_lib.evaluation.comparison import PLACE
from ia_lib.evaluation.measures import Answered, of_rows
from ia_lib.evaluation.resampling import METRICS
from ia_lib.evaluation.rules import rules as rules_of
from ia_lib.report import audit
from ia_lib.report.pool import processes
from ia_lib.report.runs import Run, lines_in, read_json


@dataclass
class Piece:
    """What is computed for one row: its lines of `every` by kind, for each seed and over all, its languages against
    each other, its scores under every rule, how long labels are, and the tokens of its stages."""

    row: str
    lines: dict[str, tuple[list[pd.DataFrame], list[pd.DataFrame]]]
    languages: pd.DataFrame
    by_rule: pd.DataFrame
    lengths: list[dict]
    tokens: dict[str, int]


@dataclass
class Pieces:
    """What is computed of a table: of each row, and of rows against rows, a frame for rows with the same languages."""

    rows: list[Piece]
    against: list[pd.DataFrame]


def pieces(runs: list[Run], tell: Callable[[float], None] = lambda share: None) -> Pieces:
    """What is computed for each row of a table; of many runs side by side in several processes. `tell` is called with
    the share that is done."""
    by_name, shared = {run.name: run for run in runs}, rules_of(*(run.scored for run in runs if run.scored))
    parts = {row: next(iter(rows.values())) for rows in _parts(runs) for row in rows}
    tasks = []
    for row, seeds in _by_row(runs).items():
        bases: dict[str, list[Run | None]] = {}
        for kind in _KINDS:
            there = {run.name: run for run in runs if kind in run.kinds}
            bases[kind] = [_base(run, by_name, there) for run in seeds if run.name in there]
        first = parts[row][0] if row in parts else None
        tasks.append((row, seeds, bases, first, shared, _allowed(runs, first)))
    found: list[Piece] = []
    with processes(len(runs)) as workers:
        # the longest first
        against = [workers.submit(_rows_against_rows, rows, shared) for rows in _parts(runs)]
        for piece in workers.map(_piece, *zip(*tasks, strict=True)) if tasks else ():
            found.append(piece)
            tell(len(found) / (len(tasks) + 1))
        return Pieces(found, [part.result() for part in against])


_KINDS = ("choose", "translate", "answer", "extract", "open")


def _piece(
    row: str,
    seeds: list[Run],
    bases: dict[str, list[Run | None]],
    first: Run | None,
    shared: list[str],
    allowed: list[str],
) -> Piece:
    """`bases` has the base of each seed that has results of a kind; `first` is the first run of all rows with the same
    languages; `shared` are the rules that all scores can be read by, `allowed` those of these rows."""
    lines, over = {}, [run for run in seeds if run.scored]
    for kind, of_seeds in bases.items():
        there = [run for run in seeds if kind in run.kinds]
        pairs = list(zip(there, of_seeds, strict=True))
        single = [_lines(kind, [run], [base]) for run, base in pairs]
        # what is compared with a base is taken together where the base has results, too
        together = [(run, base) for run, base in pairs if not run.base or base] or pairs
        several = [_lines(kind, *map(list, zip(*together, strict=True)))] if len(together) > 1 else []
        lines[kind] = single, several
    languages, by_rule, lengths = pd.DataFrame(), pd.DataFrame(), []
    if over:
        languages = _languages(row, over, first, shared)
        if len(shared) > 1:
            before = bases["choose"] if all(bases["choose"]) else []
            by_rule = _by_rule(row, over, before, first, allowed)
            lengths = comparison.label_lengths(over[0].scores).round(1).to_dict("records")
    tokens: Counter = Counter()
    for run in seeds:
        tokens.update(run.tokens)
    return Piece(row, lines, languages, by_rule, lengths, dict(tokens))


def every(made: Pieces) -> pd.DataFrame:
    """The lines of results.csv: `measures.COLUMNS` of every run, behind what the run is: `run, row, seed, model,
    began_with, objective, replay, retention, budget, trained_on, tuning`, with `group_name` and `language_name`.

    A run's base is the run whose model it began with, or where that was not tested the one before; the difference to it
    has a paired 95% interval over the same examples, and is empty for a base. A row with several seeds has lines over
    all of them, too: there `run` is the row's name, `seed` is "all", and intervals hold over examples and seeds.
    """
    frames = []
    for kind in _KINDS:
        for part in (0, 1):
            frames += [frame for piece in made.rows for frame in piece.lines[kind][part]]
    facts = ["run", "row", "seed", "model", "began_with", "objective", "replay", "retention", "budget", "trained_on"]
    facts += ["tuning"]
    columns = [*facts, *measures.COLUMNS[:4], "group_name", "language", "language_name", *measures.COLUMNS[5:]]
    return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns))[columns]


def _base(run: Run, by_name: dict[str, Run], there: dict[str, Run]) -> Run | None:
    """The run whose model it began with; of those that were not tested, and are only on the way, the one before."""
    base = run.base
    while base in by_name and base not in there and not by_name[base].tested:
        base = by_name[base].base
    return there.get(base)


def _lines(kind: str, seeds: list[Run], bases: list[Run | None]) -> pd.DataFrame:
    """The lines of `every` for one run, or for all seeds of a row."""
    run = seeds[0]
    for one, base in zip(seeds, bases, strict=True):
        if base and kind == "choose" and run.rule not in rules_of(base.scored):
            print(f"{one.name}: not compared with {one.base}, which was not scored for {run.rule}")
    comparable = all(base and (kind != "choose" or run.rule in rules_of(base.scored)) for base in bases)
    sides = ([one.answers(kind, run.rule, run.seed) for one in side] for side in (seeds, bases if comparable else []))
    found = measures.measures(next(sides), run.groups, next(sides), majority_of=run.majority["majority_of"])
    several = len(seeds) > 1
    facts = {"run": run.row if several else run.name, "row": run.row, "seed": "all" if several else run.seed}
    facts |= {"model": run.manifest["origin"], "began_with": run.began_with}
    facts |= {"objective": run.objective, "replay": run.replay, "retention": run.retention}
    facts |= {"budget": run.budget, "trained_on": run.trained_on, "tuning": run.tuning}
    facts |= {"group_name": found["group"].map(GROUPS)}
    return found.assign(**facts, language_name=[run.language(code) for code in found["language"]])


def read(folder: str | Path) -> pd.DataFrame:
    """The lines of results.csv in a report's folder; none if there is no report."""
    path = Path(folder) / "results.csv"
    return own_csv(path) if path.is_file() else pd.DataFrame()


_COUNTED = "run task metric source language group group_name value low high difference difference_low"
_COUNTED += " difference_high baseline baseline_is examples"


def groups(results: pd.DataFrame) -> pd.DataFrame:
    """The headline of every group, for the eye: its lines in results.csv with few columns, rounded."""
    lines = of_rows(results)
    columns = "dataset task run group group_name value low high chance majority difference difference_low"
    columns += " difference_high within_chance"
    return lines.loc[lines["language"] == "all", columns.split()].round(1)


def held_out(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of parallel text and of true answers, for the eye: every direction and metric, then what averages
    several."""
    lines = results[results["kind"].isin(["translate", "answer"])]
    lines = lines[(lines["source"] != "all") | (lines["cells"] > 1)]
    lines = lines[(lines["kind"] == "translate") | ((lines["prompt"] == "all") & (lines["language"] != "all"))]
    return lines[_COUNTED.split()].round(2).reset_index(drop=True)


def extracted(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of answers from passages, for the eye: of a row with several seeds those over all of them."""
    lines = of_rows(results, None)
    lines = lines[(lines["kind"] == "extract") & (lines["prompt"] == "all")]
    lines = lines[(lines["language"] != "all") | ((lines["cells"] > 1) & (lines["dataset"] != "all"))]
    return lines.assign(task=_called(lines))[_COUNTED.split()].round(2).reset_index(drop=True)


def _called(lines: pd.DataFrame) -> pd.Series:
    """Data set and task in one name."""
    return lines["dataset"].fillna("").astype(str).str.cat(lines["task"].astype(str), sep="/").str.lstrip("/")


def opened(results: pd.DataFrame) -> pd.DataFrame:
    """The lines of free answers, for the eye: of every language and group what each judge makes of them (mean marks, 0
    to 3), `any_language` (without the gate) and `lost` there, `inside` (percent that are in the request's language),
    and `sum`, the score as the study has it, over all requests of a language (of 50: 0 to 150). Of a row with several
    seeds those over all of them."""
    lines = of_rows(results, None)
    lines = lines[(lines["kind"] == "open") & (lines["prompt"].astype(str) == "all") & (lines["dataset"] != "all")]
    if lines.empty:
        return pd.DataFrame()
    key = ["run", "task", "group", "group_name", "language", "budget", "tuning"]
    lines = lines[(lines["language"] != "all") | (lines["cells"] > 1)].assign(task=_called(lines))
    lines = lines.fillna({"budget": "", "tuning": "", "source": ""})
    of = dict(iter(lines.groupby("metric")))
    inside = of["in the language"].set_index(key)[["value", "examples"]].set_axis(["inside", "asked"], axis="columns")
    if "score" not in of:
        unknown = dict.fromkeys(("value", "low", "high", "sum", "baseline", "any_language", "lost"), float("nan"))
        return inside.reset_index().rename(columns={"asked": "examples"}).assign(judge="", **unknown).round(1)
    found = of["score"][[*_COUNTED.split(), "budget", "tuning"]].rename(columns={"source": "judge"})
    for name, metric in (("any_language", "score, any language"), ("lost", "lost at the gate")):
        values = of[metric].rename(columns={"source": "judge", "value": name})
        found = found.merge(values[[*key, "judge", name]], "left", [*key, "judge"], validate="1:1")
    found = found.join(inside, key)
    # a sum over some of the requests is none
    whole = (found["language"] != "all") & (found["examples"] == found["asked"])
    found["sum"] = (found["value"] * found["examples"]).where(whole).round()
    return found.drop(columns=["metric", "asked"]).round(2)


# Of each kind of task the measures that count first.
HEADLINES = {"choose": (measures.HEADLINE,), "extract": ("exact match, corrected",), "open": ("score",)}
HEADLINES |= {"translate": ("chrF", "answer loss"), "answer": ("answer loss",)}
NEITHER = "neither above"  # how a verdict on two guesses begins


def headline(results: pd.DataFrame) -> pd.DataFrame:
    """What every row with a base kept, gained and carried over (`comparison.headline`), in the first measures of each
    kind of task, with `kind` and `metric`; p values are adjusted within each of them.

    Where neither the base nor the row's model is above the baseline the verdict is "neither above chance" (labels) or
    "neither above the baseline": from a constant answer to guessing is no gain. What share was kept is said of known
    languages alone, and of what was above chance before and after.
    """
    every = [(kind, metric) for kind, metrics in HEADLINES.items() for metric in metrics]
    frames = [lines for kind, metric in every if len(lines := headlines(results, kind, metric))]
    every = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"verdict": []})
    return every[every["verdict"] != ""].reset_index(drop=True)


def headlines(results: pd.DataFrame, kind: str, metric: str = "") -> pd.DataFrame:
    """What the group averages of a kind of tasks say of every row, one line per row and place, in the order of the
    table: the lines of results.csv, with those of `comparison.headline` (`verdict` is empty without a base), `floor`
    (the baseline, of labels what 97.5% of guesses stay below), `above` (whether the value is shown to be
    better than that) and `gained, gained_low, gained_high`, the difference where more is better. `metric` is the kind's
    first by default. Of several judges the first one's."""
    metric = metric or HEADLINES[kind][0]
    lines = of_rows(results, metric)
    if lines.empty:
        return pd.DataFrame()
    lines = lines[(lines["kind"] == kind) & (lines["language"] == "all") & (lines["prompt"].astype(str) == "all")]
    if kind == "open" and len(lines):
        lines = lines[lines["source"] == lines["source"].iloc[0]]
    if lines.empty:
        return pd.DataFrame()
    key, less = ["row", *PLACE], METRICS[metric].less_is_better
    lines = lines.fillna({"budget": "", "tuning": "", "replay": "", "dataset": ""}).reset_index(drop=True)
    floor = lines["chance_high" if kind == "choose" else "baseline"]
    above = lines["high"] < floor if less else lines["low"] > floor
    above = ~lines["within_chance"].astype(bool) if kind == "choose" else above
    before = lines["base"] < floor if less else lines["base"] > floor
    gained = lines[["difference", "difference_low", "difference_high"]].set_axis(
        ["gained", "gained_low", "gained_high"], axis="columns"
    )
    if less:
        gained = -gained.rename(columns={"gained_low": "gained_high", "gained_high": "gained_low"})
    lines = lines.assign(floor=floor, above=above, **gained)
    lines = lines.merge(comparison.headline(lines, metric)[[*key, "p_holm", "verdict"]], "left", key)
    judged = lines["verdict"].notna()
    neither = f"{NEITHER} {'chance' if kind == 'choose' else 'the baseline'}"
    lines["verdict"] = lines["verdict"].where(above | before | ~judged, neither).fillna("")
    lines["kept"] = lines["kept"].where(before & above & (lines["group"] == "L1"))
    return lines


def pairs(runs: list[Run], made: Pieces) -> pd.DataFrame:
    """Every two rows of the table on the same texts, per group of languages, and within each row every language against
    the first one, where they have the same sentences (`comparison.models`, `comparison.languages`): columns of those
    behind `kind` ("rows" or "languages of <row>") and `rule`. Rows are compared that have the same languages in the
    same groups and the same seeds. p values are adjusted within each kind."""
    frames, of_row = [], {piece.row: piece.languages for piece in made.rows}
    for rows, against in zip(_parts(runs), made.against, strict=True):
        frames += [found for found in (against, *(of_row[row] for row in rows)) if len(found)]
    found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return found[["kind", "rule", *(n for n in found if n not in ("kind", "rule"))]] if len(found) else found


def _rows_against_rows(rows: dict[str, list[Run]], shared: list[str]) -> pd.DataFrame:
    first = next(iter(rows.values()))[0]
    rule = _rule(first, shared)
    numbers = {row: [run.seed for run in seeds] for row, seeds in rows.items()}
    alike = [(a, b) for a, b in combinations(rows, 2) if numbers[a] == numbers[b]]
    if not alike:
        return pd.DataFrame()
    answers = {row: _answers(seeds, rule, first) for row, seeds in rows.items()}
    return comparison.models(answers, alike, first.groups, single=False).assign(kind="rows", rule=rule)


def _languages(row: str, seeds: list[Run], first: Run, shared: list[str]) -> pd.DataFrame:
    """The lines of `pairs` in which a row's languages are compared."""
    rule = _rule(first, shared)
    answers = _answers(seeds, rule, first)
    tested = {language for *_, language, _, _ in answers[0]}
    here = [code for group in first.groups.values() for code in group if code in tested]
    asked = [(code, here[0]) for code in here[1:]]
    if not (asked := [pair for pair in asked if all(comparison.parallel(one, *pair) for one in answers)]):
        return pd.DataFrame()
    found = comparison.languages(answers, asked)
    return found[found["prompt"] == "all"].assign(kind=f"languages of {row}", rule=rule)


def _rule(first: Run, shared: list[str]) -> str:
    """The rule by which rows are compared: the first run's, if all scores can be read by it."""
    return first.rule if first.rule in shared else "label_sum"


def rules(runs: list[Run], made: Pieces) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, list[dict]]]:
    """The same answers under each scoring rule that all scores allow: weighted F1 of groups, one line per row and rule
    (`comparison.rules`); what each rule leads to, one line per claim (`comparison.conclusions`; which of several rows
    is the best is asked among rows with the same languages in the same groups); and per row how long the labels are and
    how often each is the answer. All empty where there are fewer than two rules."""
    if not any(len(piece.by_rule) for piece in made.rows):
        return pd.DataFrame(), pd.DataFrame(), {}
    of_row, by_rule, claims = {piece.row: piece for piece in made.rows}, [], []
    for rows in _parts(runs):
        found = pd.concat([of_row[row].by_rule for row in rows], ignore_index=True)
        allowed = _allowed(runs, next(iter(rows.values()))[0])
        found = found.sort_values("rule", key=lambda names: names.map(allowed.index), kind="stable", ignore_index=True)
        said = comparison.conclusions(found)
        # which of several runs is the best says nothing where none is above chance
        told = of_rows(found).query("not within_chance").groupby(PLACE).size()
        settled = pd.MultiIndex.from_frame(said[PLACE]).isin(told.index)
        by_rule.append(found)
        claims.append(said[(said["claim"] != "highest score") | settled])
    lengths = {piece.row: piece.lengths for piece in made.rows if piece.lengths}
    return pd.concat(by_rule, ignore_index=True), pd.concat(claims, ignore_index=True), lengths


def _by_rule(row: str, seeds: list[Run], before: list[Run], first: Run, allowed: list[str]) -> pd.DataFrame:
    """The lines of `rules` for a row; `before` are its seeds' bases, if all have one."""
    both, base = {row: seeds}, f"{row}, before"
    if len(before) == len(seeds) and all(set(allowed) <= set(rules_of(one.scored)) for one in before):
        both[base] = before
    answers = ((rule, {name: _answers(part, rule, first) for name, part in both.items()}) for rule in allowed)
    found = comparison.rules(answers, first.groups, {row: base} if base in both else {}, [row])
    return found[(found["language"] == "all") & (found["task"] != "all") & (found["dataset"] != "all")]


def _allowed(runs: list[Run], first: Run | None) -> list[str]:
    """The rules that the rows with the same languages as `first` can be read by."""
    alike = [run.scored for run in runs if first and run.scored and run.groups == first.groups]
    return rules_of(*alike)


def beside_published(results: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    """Every published cell beside ours (`audit.compare`), of rows with runs that say that they reproduce cells."""
    claims = {run.row: run.settings["reproduces"] for run in runs if run.settings["reproduces"]}
    if not claims or results.empty:
        return pd.DataFrame()
    return audit.compare(results[results["row"].isin(claims)], claims)


def errors(runs: list[Run]) -> dict[str, list[dict]]:
    """Per row the wrong predictions that it was most certain of, with its first seed."""
    found = {}
    for run in {run.row: run for run in reversed(runs)}.values():
        if (run.folder / "errors.csv").is_file():
            lines = lines_in(run.folder / "errors.csv")
            found[run.name] = lines.assign(name=list(map(run.language, lines["language"]))).to_dict("records")
    return dict(reversed(found.items()))


def losses(folder: Path) -> pd.DataFrame:
    """The lines of log.jsonl of all runs in a table's folder of outputs, with `run` and `objective`."""
    frames = []
    for path in sorted(Path(folder).glob("*/tune/log.jsonl")):
        settings = read_json(path.with_name("manifest.json"))["settings"]
        objective = settings["data"].get("objective", settings["recipe"])
        frames.append(pd.read_json(path, lines=True).assign(run=path.parts[-3], objective=objective))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _by_row(runs: Iterable[Run]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.row, []).append(run)
    return found


def _parts(runs: list[Run]) -> list[dict[str, list[Run]]]:
    """Rows with label scores, by their names with their seeds; those with the same languages in the same groups
    together."""
    parts: dict[str, dict[str, list[Run]]] = {}
    for row, seeds in _by_row(run for run in runs if run.scored).items():
        parts.setdefault(str(seeds[0].groups), {})[row] = seeds
    return list(parts.values())


def _answers(seeds: list[Run], rule: str, first: Run) -> list[Answered]:
    """The labels that a row's seeds chose under a rule, drawn with the first run's seed."""
    return [run.answers("choose", rule, first.seed) for run in seeds]
