"""What may be concluded: model against model and language against language in pairs, the headline numbers, and
whether a conclusion hangs on the rule that scores labels.

All of it rests on `measures.metrics`: the same draws on both sides, so that a difference is that of the same texts.
"""

import pandas as pd

from ia_lib.evaluation import measures
from ia_lib.evaluation.resampling import holm

# What a group's difference to the base says about the method.
HEADLINES = {"L1": "retention", "L2": "gain", "L3": "transfer"}
_RENAMED = {
    "weighted_f1": "first_f1",
    "base": "second_f1",
    "difference": "difference",
    "difference_low": "low",
    "difference_high": "high",
    "difference_p": "p",
    "detectable": "detectable",
    "only_here": "only_first",
    "only_base": "only_second",
    "mcnemar_p": "mcnemar_p",
}
Scores = pd.DataFrame | list[pd.DataFrame]


def models(
    runs: dict[str, Scores],
    pairs: list[tuple[str, str]],
    groups: dict[str, list[str]],
    seed: int = 1,
    *,
    rule: str = "label_sum",
    average: str = "table2",
    single: bool = True,
) -> pd.DataFrame:
    """Compare two runs at a time on the same examples. `runs` maps a name to its scores, one table or one per seed, as
    `measures.metrics` takes them; with `single=False` just the averages over groups.

    Columns: `first, second, dataset, task, group, language, prompt, examples, seeds, first_f1, second_f1, difference`
    (weighted F1, points, first minus second), `low, high` (its 95% interval by paired bootstrap), `p` (two-sided, from
    it), `detectable` (the smallest difference found with 80% power at the 5% level), `only_first, only_second,
    mcnemar_p` (of single prompts and seeds: the texts that only one side has right, and McNemar's test), `p_holm,
    mcnemar_holm` (adjusted for the family: all lines of the same kind, groups, languages or single prompts) and
    `verdict` ("higher" or "lower" where `p_holm` is below 5%, "none shown", or "not paired" where the examples are not
    the same).
    """
    frames = []
    for first, second in pairs:
        more = {"rule": rule, "average": average, "single": single}
        table = measures.metrics(runs[first], groups, {}, seed, runs[second], **more)
        frames.append(_compared(table, first, second, ["dataset", "task", "group", "language", "prompt"]))
    return _families(pd.concat(frames, ignore_index=True))


def languages(scores: Scores, pairs: list[tuple[str, str]], seed: int = 1, *, rule: str = "label_sum") -> pd.DataFrame:
    """Compare two languages at a time on the sentences that both have, by their ids: NusaX is parallel.

    Columns as in `models`, but for group and language. Raises ValueError for two languages that share no sentence with
    the same true label.
    """
    frames = []
    for first, second in pairs:
        sides = zip(*(_parallel(table, first, second) for table in measures.listed(scores)), strict=True)
        here, there = map(list, sides)
        table = measures.metrics(here, {"": [""]}, {}, seed, there, rule=rule)
        frames.append(_compared(table[table["language"] == ""], first, second, ["dataset", "task", "prompt"]))
    return _families(pd.concat(frames, ignore_index=True))


def headline(table: pd.DataFrame) -> pd.DataFrame:
    """Retention on L1, gain on L2 and transfer to L3 against the base, from lines of `measures.metrics`.

    Columns: `row` or `run` where the table has them, `dataset, task, group, quantity, examples, seeds, weighted_f1,
    base, difference, difference_low, difference_high` (points, with a paired 95% interval), `kept, kept_low, kept_high`
    (percent of the base), `difference_p, p_holm` (adjusted for all these lines), `detectable`, `verdict` ("gain" or
    "loss" where `p_holm` is below 5%, else "none shown", which is no proof that there is none: see the interval) and
    `flags`. Lines without a base are left out.
    """
    lines = table[(table["language"] == "all") & (table["prompt"] == "all") & table["difference"].notna()]
    names = [name for name in ("row", "run") if name in table]
    lines = lines.assign(
        quantity=lines["group"].map(HEADLINES).fillna("difference"), p_holm=holm(lines["difference_p"])
    )
    lines["verdict"] = [
        _verdict(d, p, "gain", "loss") for d, p in zip(lines["difference"], lines["p_holm"], strict=True)
    ]
    shown = [*names, "dataset", "task", "group", "quantity", "examples", "seeds", "weighted_f1", "base"]
    shown += ["difference", "difference_low", "difference_high", "kept", "kept_low", "kept_high", "difference_p"]
    return lines[[*shown, "p_holm", "detectable", "verdict", "flags"]].reset_index(drop=True)


def rules(
    runs: dict[str, Scores],
    groups: dict[str, list[str]],
    majority: dict | str,
    bases: dict[str, str] | None = None,
    seed: int = 1,
    average: str = "table2",
) -> pd.DataFrame:
    """The same answers under every scoring rule that the scores allow: the group averages of `measures.metrics`,
    behind `rule` and `run`. `bases` names the run that a run is compared with."""
    tables = [table for scores in runs.values() for table in measures.listed(scores)]
    frames = []
    for rule in measures.RULES:
        if not all(rule in measures.rules(table) for table in tables):
            continue
        for run, scores in runs.items():
            base = runs.get((bases or {}).get(run))
            more = {"rule": rule, "average": average, "single": False}
            table = measures.metrics(scores, groups, majority, seed, base, **more)
            table.insert(0, "run", run)
            table.insert(0, "rule", rule)
            frames.append(table)
    return pd.concat(frames, ignore_index=True)


def label_lengths(scores: pd.DataFrame) -> pd.DataFrame:
    """How long each label is and how often it is the answer: rules differ in what they do to long ones.

    Columns: `dataset, task, label, tokens` (mean over prompts and texts), `characters, gold` (percent of the texts),
    and for every rule the percentage of answers, over all languages and prompts.
    """
    scores = scores if "dataset" in scores else scores.assign(dataset="")
    keys = ["dataset", "task", "label"]
    by = scores.groupby(keys, sort=False)
    table = pd.DataFrame({"tokens": by["label_tokens"].mean(), "characters": by["label_chars"].first()})
    for column in ("gold", *measures.rules(scores)):
        answers = measures.predictions(scores, "label_sum" if column == "gold" else column)
        answers = answers.rename(columns={"gold" if column == "gold" else "predicted": "label"})
        counts = answers.groupby(keys[:2], sort=False)["label"].value_counts(normalize=True)
        table[column] = 100 * counts.reindex(table.index, fill_value=0.0)
    return table.reset_index()


def conclusions(table: pd.DataFrame) -> pd.DataFrame:
    """What each rule leads to, and where that depends on the rule; `table` is what `rules` gives.

    One line per claim: `dataset, task, group, language, run, claim` ("against chance", "against the base", and for all
    runs together "highest score"), one column per rule with its answer, `depends` (whether the rules disagree) and
    `says`, the same in words. Against chance a run is "above" or "within", against its base it has a "gain", a "loss"
    or "none shown" (by the 95% interval).
    """
    place = ["dataset", "task", "group", "language"]
    chance = table.assign(claim="against chance", answer=table["within_chance"].map({True: "within", False: "above"}))
    base = table.dropna(subset=["difference"]).assign(claim="against the base", answer="none shown")
    base.loc[base["difference_low"] > 0, "answer"] = "gain"
    base.loc[base["difference_high"] < 0, "answer"] = "loss"
    best = table.loc[table.groupby(["rule", *place], sort=False)["weighted_f1"].idxmax()]
    best = best.assign(claim="highest score", answer=best["run"], run="all")
    parts = [chance, base, *([best] if table["run"].nunique() > 1 else [])]
    claims = pd.concat(parts)[[*place, "run", "claim", "rule", "answer"]]
    lines = []
    for key, part in claims.groupby([*place, "run", "claim"], sort=False):
        answers = dict(zip(part["rule"], part["answer"], strict=True))
        by_answer = part.groupby("answer", sort=False)["rule"].agg(", ".join)
        line = {**dict(zip([*place, "run", "claim"], key, strict=True)), **answers, "depends": len(by_answer) > 1}
        line["says"] = "; ".join(f"{answer} under {rules}" for answer, rules in by_answer.items())
        lines.append(line if line["depends"] else {**line, "says": f"{by_answer.index[0]} under every rule"})
    return pd.DataFrame(lines)


def parallel(table: pd.DataFrame, first: str, second: str) -> bool:
    """Whether two languages of a table of scores share a sentence with the same true label."""
    keys = [name for name in ("dataset", "task", "example", "gold") if name in table]
    here, there = (pd.MultiIndex.from_frame(table.loc[table["language"] == code, keys]) for code in (first, second))
    return bool(here.isin(there).any())


def _parallel(table: pd.DataFrame, first: str, second: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores of two languages for the sentences that both have, as if they were of one language."""
    keys = [name for name in ("dataset", "task", "example", "prompt", "gold") if name in table]
    sides = [table[table["language"] == code].set_index(keys) for code in (first, second)]
    here, there = (side[side.index.isin(other.index)] for side, other in (sides, sides[::-1]))
    if here.empty:
        raise ValueError(f"{first} and {second} share no sentence with the same true label, so they make no pairs")
    return tuple(side.reset_index().assign(language="") for side in (here, there))


def _compared(table: pd.DataFrame, first: str, second: str, keys: list[str]) -> pd.DataFrame:
    kept = table[[*keys, "examples", "seeds", *_RENAMED]].rename(columns=_RENAMED)
    kept.insert(0, "second", second)
    kept.insert(0, "first", first)
    return kept


def _families(table: pd.DataFrame) -> pd.DataFrame:
    """Adjust p values within each kind of line, and say what follows."""
    single = table["prompt"] != "all"
    kind = single.astype(int) + (table["language"] != "all").astype(int) if "language" in table else single
    for name, column in (("p_holm", "p"), ("mcnemar_holm", "mcnemar_p")):
        table[name] = table.groupby(kind)[column].transform(holm)
    pairs = zip(table["difference"], table["p_holm"], strict=True)
    return table.assign(verdict=[_verdict(d, p, "higher", "lower") for d, p in pairs])


def _verdict(difference: float, p: float, up: str, down: str) -> str:
    if pd.isna(difference):
        return "not paired"
    return "none shown" if p >= 0.05 else up if difference > 0 else down
