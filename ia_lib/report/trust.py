"""How far the judges of a table's free answers can be trusted, as far as it was asked, and what they took."""

from itertools import combinations

import pandas as pd

from ia_lib.evaluation import agreement, judge_checks, replies
from ia_lib.evaluation.blind import KEYS
from ia_lib.report.runs import Run

REPLIES = ".replies"  # in a table's folder: what endpoints answered, once for all runs


def judges(runs: list[Run]) -> dict[str, pd.DataFrame]:
    """Of what there is: `items`, how often judges agree answer by answer (`agreement.by_item`); `models`, how their
    scores of models go together (`agreement.by_model`); `checks` and `checks by language`, what each made of answers
    whose mark is known beforehand; `own`, what a model gave to answers of its own kind and to others'; `asked`, what
    endpoints were sent for the whole table; `alike`, judges that gave the same mark to all answers; and `unmarked`,
    answers without a mark."""
    runs = [run for run in runs if len(run.marks)]
    if not runs:
        return {}
    every = pd.concat([run.marks[run.marks["run"] == run.name] for run in runs], ignore_index=True)
    found = {**_agreement(every, runs[0].seed), **_checks(runs), "own": _own(every, runs)}
    for name, frame in found.items():
        if "language" in frame:
            found[name] = frame.assign(language=[runs[0].language(code) for code in frame["language"]])
    found["asked"] = _asked(runs)
    by = every.groupby("judge", sort=False)["mark"]
    # a judge that finds all alike says nothing of models
    found["alike"] = by.min()[by.nunique() == 1].reset_index()
    without = every["mark"].isna().groupby(every["judge"], sort=False).sum()
    found["unmarked"] = without[without > 0].rename("answers").reset_index()
    return {name: frame for name, frame in found.items() if len(frame)}


def _agreement(every: pd.DataFrame, seed: int) -> dict[str, pd.DataFrame]:
    names = list(dict.fromkeys(every["judge"]))
    if len(names) < 2:
        return {}
    wide = every.pivot(index=[*KEYS, "answer"], columns="judge", values="mark").reset_index()
    frames = []
    for pair in map(list, combinations(names, 2)):
        # of what both have marked, and without the gate, which is the same for both
        means = wide.dropna(subset=pair).groupby(["run", "language"], sort=False)[pair].mean().reset_index()
        frames.append(agreement.by_model(means, pair))
    models = pd.concat(frames, ignore_index=True).round(3)
    # with fewer than three there is nothing to correlate
    models = models[models["models"] > 2] if len(models) else models
    return {"items": agreement.by_item(wide, names, seed).round(3), "models": models}


def _checks(runs: list[Run]) -> dict[str, pd.DataFrame]:
    there = [run.checks.assign(run=run.name) for run in runs if len(run.checks)]
    if not there:
        return {}
    every = pd.concat(there, ignore_index=True).round(2)
    first = ["run", "judge", "check", "language", "verdict"]
    every = every[[*first, *(name for name in every if name not in first)]]
    whole = every["language"] == agreement.ALL
    return {"checks": every[whole], "checks by language": every[~whole]}


def _asked_of(runs: list[Run]) -> dict[str, dict]:
    """The settings of the runs' judges, by their names."""
    return {name: judge for run in runs for name, judge in run.settings["judge"]["judges"].items()}


def _own(every: pd.DataFrame, runs: list[Run]) -> pd.DataFrame:
    origins = {run.name: run.manifest["origin"] for run in runs if run.manifest["origin"]}
    known, frames = every[every["run"].isin(origins)], []
    for name, judge in _asked_of(runs).items():
        model = (judge["model"] or {}).get("name") or (judge["endpoint"] or {}).get("model")
        if model and len(theirs := known[known["judge"] == name]):
            found = judge_checks.prefers_itself(theirs, model, origins, runs[0].seed)
            frames.append(found.assign(judge=name).round(2))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _asked(runs: list[Run]) -> pd.DataFrame:
    """What every endpoint was sent, with the tokens that it claims and their cost at the prices of the table; not a
    number where some of it is not known."""
    sent = replies.read(runs[0].folder.parents[1] / REPLIES)
    if sent.empty:
        return sent
    places, counts = ["base_url", "model"], ["requests", "tokens_in", "tokens_out"]
    found = sent.groupby(places, sort=False)[counts].agg(lambda one: one.sum(skipna=False)).reset_index()
    asked = [judge["endpoint"] for judge in _asked_of(runs).values() if judge["endpoint"]]
    prices = {tuple(one[name] for name in places): (one["price_in"], one["price_out"]) for one in asked}
    unknown = (float("nan"), float("nan"))
    of = [prices.get(key, unknown) for key in zip(*(found[name] for name in places), strict=True)]
    cost = pd.DataFrame(of, columns=["tokens_in", "tokens_out"], dtype=float) * found[["tokens_in", "tokens_out"]]
    return found.assign(cost=cost.sum(axis=1, skipna=False) / 1e6)
