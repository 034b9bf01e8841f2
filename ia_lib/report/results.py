"""The results of a table's runs together: one table of scores, over seeds too, comparisons in pairs, the same answers
under every scoring rule, and the papers' cells beside ours.

`evaluated` is in all of it a list of (settings, folder of the evaluate stage), one per run with results.
"""

from itertools import combinations

import pandas as pd

from ia_lib.data.files import own_csv
from ia_lib.data.languages import GROUPS, NAMES
from ia_lib.evaluation import comparison, measures
from ia_lib.report import audit

_PLACE = ["dataset", "task", "group"]


def table(evaluated: list[tuple], origins: dict[str, str]) -> pd.DataFrame:
    """One line per run, task, language and prompt (as in `measures.metrics`), with the difference to the run's base.

    `origins` names the model that each run's chain began with. A run's base is the run whose model it began with
    (`began_with` is its row); the difference has a paired 95% interval over the same examples, and is empty for a base.
    A row with several seeds has lines over all of them, too: there `run` is the row's name, `seed` is "all", and
    intervals hold over texts and seeds.
    """
    scores = _scores(evaluated)
    evaluated = [(run, folder) for run, folder in evaluated if run.name in scores]
    frames = [_lines([one], scores, origins) for one in evaluated]
    for seeds in _by_row(evaluated).values():
        # what is compared with a base is taken together where the base has results, too
        seeds = [(run, folder) for run, folder in seeds if not run.model.run or run.model.run in scores] or seeds
        frames += [_lines(seeds, scores, origins)] if len(seeds) > 1 else []
    empty = pd.DataFrame(columns=["run", "row", "dataset", "task", "group", "group_name", "language", "prompt"])
    return pd.concat(frames, ignore_index=True) if frames else empty


def held_out(evaluated: list[tuple]) -> pd.DataFrame:
    """The lines of all runs' heldout.csv (see `heldout.measure`), with their run."""
    frames = [
        own_csv(folder / "heldout.csv").assign(run=run.name)
        for run, folder in evaluated
        if (folder / "heldout.csv").is_file()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def headline(results: pd.DataFrame) -> pd.DataFrame:
    """Retention, gain and transfer of every row that began with another one's model (`comparison.headline`).

    Where neither the model before nor the one after is above chance the verdict is "neither above chance": from a
    constant answer to guessing is no gain. What share was kept is said of known languages alone, and of what was above
    chance before and after.
    """
    results = measures.of_rows(results)
    if results.empty or results["difference"].isna().all():
        return pd.DataFrame()
    lines = comparison.headline(results)
    key = ["row", *_PLACE]
    group = results[(results["language"] == "all") & (results["prompt"] == "all")].set_index(key)
    here = group.loc[pd.MultiIndex.from_frame(lines[key])]
    above_before = lines["base"].to_numpy() > here["chance_high"].to_numpy()
    above_after = ~here["within_chance"].to_numpy(dtype=bool)
    lines["verdict"] = lines["verdict"].where(above_before | above_after, "neither above chance")
    lines["kept"] = lines["kept"].where(above_before & above_after & (lines["group"] == "L1"))
    return lines


def pairs(evaluated: list[tuple]) -> pd.DataFrame:
    """Every two rows of the table on the same texts, per group of languages, and within each row every language against
    the first one, where they have the same sentences (`comparison.models`, `comparison.languages`): columns of those
    behind `kind` ("rows" or "languages of <row>") and `rule`. Rows are compared that have the same languages in the
    same groups and the same seeds. p values are adjusted within each kind."""
    every, frames = _scores(evaluated), []
    shared = _shared_rules(every)
    for rows in _parts(evaluated, every):
        tables = {row: [every[run.name] for run, _ in seeds] for row, seeds in rows.items()}
        numbers = {row: [run.seed for run, _ in seeds] for row, seeds in rows.items()}
        first = next(iter(rows.values()))[0][0]
        rule = first.scoring_rule if first.scoring_rule in shared else "label_sum"
        if alike := [(a, b) for a, b in combinations(tables, 2) if numbers[a] == numbers[b]]:
            found = comparison.models(tables, alike, first.groups, first.seed, rule=rule, single=False)
            frames.append(found.assign(kind="rows", rule=rule))
        codes = [code for group in first.groups.values() for code in group]
        for row, seeds in tables.items():
            here = [code for code in codes if (seeds[0]["language"] == code).any()]
            asked = [(code, here[0]) for code in here[1:]]
            asked = [pair for pair in asked if all(comparison.parallel(table, *pair) for table in seeds)]
            if asked:
                found = comparison.languages(seeds, asked, first.seed, rule=rule)
                frames.append(found[found["prompt"] == "all"].assign(kind=f"languages of {row}", rule=rule))
    found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return found[["kind", "rule", *(n for n in found if n not in ("kind", "rule"))]] if len(found) else found


def rules(evaluated: list[tuple]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, list[dict]]]:
    """The same answers under each scoring rule that all scores allow: group averages, one line per row and rule
    (`comparison.rules`); what each rule leads to, one line per claim (`comparison.conclusions`; which of several rows
    is the best is asked among rows with the same languages in the same groups); and per row how long the labels are and
    how often each is the answer. All empty where there are fewer than two rules."""
    every = _scores(evaluated)
    if len(_shared_rules(every)) < 2:
        return pd.DataFrame(), pd.DataFrame(), {}
    rows_of_runs, tables, claims, lengths = {run.name: run.row for run, _ in evaluated}, [], [], {}
    for rows in _parts(evaluated, every):
        scores = {row: [every[run.name] for run, _ in seeds] for row, seeds in rows.items()}
        numbers = {row: [run.seed for run, _ in seeds] for row, seeds in rows.items()}
        bases = {row: rows_of_runs.get(seeds[0][0].model.run) for row, seeds in rows.items()}
        bases = {row: base for row, base in bases.items() if numbers.get(base) == numbers[row]}
        first = next(iter(rows.values()))[0][0]
        found = comparison.rules(scores, first.groups, {}, bases, first.seed)
        found = found[(found["language"] == "all") & (found["task"] != "all") & (found["dataset"] != "all")]
        said = comparison.conclusions(found)
        # which of several runs is the best says nothing where none is above chance
        told = found[~found["within_chance"]].groupby(_PLACE).size()
        settled = pd.MultiIndex.from_frame(said[_PLACE]).isin(told.index)
        tables.append(found)
        claims.append(said[(said["claim"] != "highest score") | settled])
        lengths |= {row: comparison.label_lengths(part[0]).round(1).to_dict("records") for row, part in scores.items()}
    return pd.concat(tables, ignore_index=True), pd.concat(claims, ignore_index=True), lengths


def beside_published(results: pd.DataFrame, evaluated: list[tuple]) -> pd.DataFrame:
    """Every cell of the papers beside ours (`audit.compare`), if some run says that it reproduces cells; rows that
    do not are left out."""
    claimed = {run.row for run, _ in evaluated if run.reproduces}
    if results.empty or not claimed:
        return pd.DataFrame()
    return audit.compare(measures.of_rows(results[results["row"].isin(claimed)]))


def errors(evaluated: list[tuple]) -> dict[str, list[dict]]:
    """Per run the wrong predictions that it was most certain of."""
    found = {}
    for run, folder in evaluated:
        if (folder / "errors.csv").is_file():
            lines = own_csv(folder / "errors.csv").fillna({"dataset": ""})
            names = [run.languages.get(code) or NAMES.get(code, code) for code in lines["language"]]
            found[run.name] = lines.assign(name=names).to_dict("records")
    return found


def _scores(evaluated: list[tuple]) -> dict[str, pd.DataFrame]:
    found = {run.name: pd.read_parquet(folder / "scores.parquet") for run, folder in evaluated}
    return {name: scores for name, scores in found.items() if len(scores)}


def _shared_rules(scores: dict[str, pd.DataFrame]) -> set[str]:
    return set.intersection(*(set(measures.rules(table)) for table in scores.values())) if scores else set()


def _parts(evaluated: list[tuple], scores: dict[str, pd.DataFrame]) -> list[dict[str, list[tuple]]]:
    """Rows with scores, by their names with their seeds; those with the same languages in the same groups together."""
    parts: dict[str, dict[str, list[tuple]]] = {}
    for row, seeds in _by_row([one for one in evaluated if one[0].name in scores]).items():
        parts.setdefault(str(seeds[0][0].groups), {})[row] = seeds
    return list(parts.values())


def _by_row(evaluated: list[tuple]) -> dict[str, list[tuple]]:
    found: dict[str, list[tuple]] = {}
    for run, folder in evaluated:
        found.setdefault(run.row, []).append((run, folder))
    return found


def _lines(seeds: list[tuple], scores: dict[str, pd.DataFrame], origins: dict[str, str]) -> pd.DataFrame:
    """The lines of `table` for one run, or for all seeds of a row."""
    run, folder = seeds[0]
    known = own_csv(folder / "metrics.csv").fillna({"dataset": ""})
    known = known[(known["dataset"] != "all") & (known["task"] != "all")]
    labels = known.groupby(["dataset", "task"])["majority_label"].first().to_dict()
    counted = known.groupby(["dataset", "task"])["majority_of"].first().to_dict()
    bases = [scores.get(one.model.run) for one, _ in seeds]
    for (one, _), base in zip(seeds, bases, strict=True):
        if base is not None and run.scoring_rule not in measures.rules(base):
            print(f"{one.name}: not compared with {one.model.run}, which was not scored for {run.scoring_rule}")
    if any(base is None or run.scoring_rule not in measures.rules(base) for base in bases):
        bases = None
    frame = measures.metrics(
        [scores[one.name] for one, _ in seeds],
        run.groups,
        "test" if run.majority_of == "test" else labels,
        run.seed,
        bases,
        rule=run.scoring_rule,
    )
    frame["majority_of"] = [counted.get(key) for key in zip(frame["dataset"], frame["task"], strict=True)]
    frame.insert(3, "group_name", frame["group"].map(GROUPS))
    frame.insert(5, "language_name", [run.languages.get(code) or NAMES.get(code, code) for code in frame["language"]])
    several = len(seeds) > 1
    began = run.model.run or run.model.name or "new"
    began = began.removesuffix(f"-s{run.seed}") if run.name != run.row and run.model.run else began
    facts = {"run": run.row if several else run.name, "row": run.row, "seed": "all" if several else run.seed}
    facts |= {"model": origins.get(run.name, ""), "began_with": began}
    facts |= {"objective": run.objective, "replay": run.replay}
    for position, (name, value) in enumerate(facts.items()):
        frame.insert(position, name, value)
    return frame
