"""What may be concluded: model against model and language against language in pairs, the headline numbers, and
whether a conclusion depends on the rule that scores labels.

All of it rests on the weighted F1 of `measures.measures`: the same draws on both sides, so that a difference is that of
the same texts. `Answers` are those of `measures.choices`, one run's or a list with one per seed.
"""

from collections import Counter
from collections.abc import Container, Iterable

import pandas as pd

from ia_lib.evaluation import measures
from ia_lib.evaluation.measures import HEADLINE, Answered
from ia_lib.evaluation.resampling import METRICS, Choices, holm
from ia_lib.evaluation.rules import rules as rules_of

PLACE = ["dataset", "task", "group"]
_RENAMED = {"value": "first_f1", "base": "second_f1", "difference": "difference", "difference_low": "low"}
_RENAMED |= {"difference_high": "high", "difference_p": "p", "detectable": "detectable", "only_here": "only_first"}
_RENAMED |= {"only_base": "only_second", "mcnemar_p": "mcnemar_p"}
Answers = Answered | list[Answered]


def models(
    runs: dict[str, Answers], pairs: list[tuple[str, str]], groups: dict[str, list[str]], single: bool = True
) -> pd.DataFrame:
    """Compare two runs at a time on the same examples; with `single=False` just the averages over groups.

    Columns: `first, second`, the place, `first_f1, second_f1, difference` (first minus second), `low, high, p,
    detectable, only_first, only_second, mcnemar_p` (what `measures.measures` says of a difference), `p_holm,
    mcnemar_holm` (adjusted for the family: all lines of the same kind, groups, languages or single prompts) and
    `verdict` ("higher" or "lower" where `p_holm` is below 5%, "none shown", or "not paired" where the examples are not
    the same).
    """
    frames = []
    for first, second in pairs:
        found = measures.measures(runs[first], groups, runs[second], single=single, metrics=[HEADLINE])
        frames.append(_compared(found, first, second, [*PLACE, "language", "prompt"]))
    return _families(pd.concat(frames, ignore_index=True))


def languages(answers: Answers, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """Compare two languages at a time on the sentences that both have, by their ids: NusaX is parallel.

    Columns as in `models`, but for group and language. Raises ValueError for two languages that share no sentence with
    the same true label.
    """
    frames = []
    for first, second in pairs:
        sides = [_parallel(one, first, second) for one in ([answers] if isinstance(answers, dict) else answers)]
        if not all(here for here, _ in sides):
            raise ValueError(f"{first} and {second} share no sentence with the same true label, so they make no pairs")
        here, there = map(list, zip(*sides, strict=True))
        found = measures.measures(here, {"": [""]}, there, metrics=[HEADLINE])
        frames.append(_compared(found[found["language"] == ""], first, second, ["dataset", "task", "prompt"]))
    return _families(pd.concat(frames, ignore_index=True))


def headline(results: pd.DataFrame, metric: str = HEADLINE) -> pd.DataFrame:
    """What was kept in L1, gained in L2 and carried over to L3 against the base, in a metric, from lines of
    `measures.measures`.

    Columns: `row` or `run` where the results have them, those of `measures.measures` that say where and by
    how much, `p_holm` (adjusted for all these lines), `verdict` ("gain" or "loss" where `p_holm` is below 5%, else
    "none shown", which is no proof that there is none) and `flags`. Lines without a base are left out.
    """
    lines = results[(results["metric"] == metric) & (results["language"] == "all") & results["difference"].notna()]
    lines = lines.assign(p_holm=holm(lines["difference_p"]))
    pairs = zip(lines["difference"], lines["p_holm"], strict=True)
    up, down = ("loss", "gain") if METRICS[metric].less_is_better else ("gain", "loss")
    lines["verdict"] = [_verdict(d, p, up, down) for d, p in pairs]
    shown = [*(name for name in ("row", "run") if name in results), *PLACE, "examples", "seeds", "value"]
    shown += ["base", "difference", "difference_low", "difference_high", "kept", "kept_low", "kept_high"]
    return lines[[*shown, "difference_p", "p_holm", "detectable", "verdict", "flags"]].reset_index(drop=True)


def rules(
    by_rule: Iterable[tuple[str, dict[str, Answers]]],
    groups: dict[str, list[str]],
    bases: dict[str, str] | None = None,
    told: Container[str] | None = None,
) -> pd.DataFrame:
    """The same answers under several scoring rules: weighted F1 of groups (`measures.measures`), behind `rule` and
    `run`. `by_rule` gives each rule with the runs' answers under it, `bases` maps a run to the one it is compared with,
    and `told` are the runs that have lines (default: all)."""
    frames = []
    for rule, runs in by_rule:
        for run, answers in runs.items():
            if told is None or run in told:
                base = runs.get((bases or {}).get(run))
                found = measures.measures(answers, groups, base, single=False, metrics=[HEADLINE])
                frames.append(found.assign(rule=rule, run=run)[["rule", "run", *found]])
    return pd.concat(frames, ignore_index=True)


def label_lengths(scores: pd.DataFrame) -> pd.DataFrame:
    """How long each label is and how often it is the answer: rules differ in what they do to long ones.

    Columns: `dataset, task, label, tokens` (mean over prompts and texts), `characters, gold` (percent of the texts),
    and for every rule the percentage of answers, over all languages and prompts.
    """
    scores = scores if "dataset" in scores else scores.assign(dataset="")
    keys = ["dataset", "task", "label"]
    by = scores.groupby(keys, sort=False)
    found = pd.DataFrame({"tokens": by["label_tokens"].mean(), "characters": by["label_chars"].first()})
    true = scores[[*keys[:2], "language", "prompt", "example", "gold"]].drop_duplicates()
    true = true.rename(columns={"gold": "label"}).groupby(keys[:2], sort=False)["label"].value_counts(normalize=True)
    found["gold"] = 100 * true.reindex(found.index, fill_value=0.0)
    laid_out = measures.Scored(scores)
    for rule in rules_of(scores):
        said: dict[tuple, Counter] = {}
        for (dataset, task, *_), cell in laid_out.choices(rule, 1).items():
            said.setdefault((dataset, task), Counter()).update(cell.said)
        found[rule] = [100 * said[place[:2]][place[2]] / said[place[:2]].total() for place in found.index]
    return found.reset_index()


def conclusions(found: pd.DataFrame) -> pd.DataFrame:
    """What each rule leads to, and where that depends on the rule; `found` is what `rules` gives.

    One line per claim: `dataset, task, group, language, run, claim` ("against chance", "against the base", and for all
    runs together "highest score"), one column per rule with its answer, `depends` (whether the rules disagree) and
    `says`, the same in words. Against chance a run is "above" or "within", against its base it has a "gain", a "loss"
    or "none shown" (as in `headline`, p adjusted for all these lines of a rule). Rules disagree about the highest score
    where no run is among the best of each rule: those whose score lies in the 95% interval of the highest one.
    """
    place = [*PLACE, "language"]
    found = measures.of_rows(found)
    chance = found.assign(claim="against chance", answer=found["within_chance"].map({True: "within", False: "above"}))
    base = found.dropna(subset=["difference"]).assign(claim="against the base")
    p_holm = base.groupby("rule")["difference_p"].transform(holm)
    pairs = zip(base["difference"], p_holm, strict=True)
    base["answer"] = [_verdict(difference, p, "gain", "loss") for difference, p in pairs]
    lines = []
    for key, part in pd.concat([chance, base]).groupby([*place, "run", "claim"], sort=False):
        answers = dict(zip(part["rule"], part["answer"], strict=True))
        lines.append(dict(zip([*place, "run", "claim"], key, strict=True)) | _by_rule(answers))
    if found["run"].nunique() > 1:
        lines += [
            dict(zip(place, key, strict=True)) | {"run": "all", "claim": "highest score"} | _highest(part)
            for key, part in found.groupby(place, sort=False)
        ]
    return pd.DataFrame(lines)


def _by_rule(answers: dict[str, str]) -> dict:
    """Each rule's answer, whether they are the same, and both in words."""
    rules_of_answer: dict[str, list[str]] = {}
    for rule, answer in answers.items():
        rules_of_answer.setdefault(answer, []).append(rule)
    depends = len(rules_of_answer) > 1
    says = "; ".join(f"{answer} under {', '.join(rules)}" for answer, rules in rules_of_answer.items())
    says = says if depends else f"{next(iter(rules_of_answer))} under every rule"
    return {**answers, "depends": depends, "says": says}


def _highest(part: pd.DataFrame) -> dict:
    """`_by_rule` of the run with the highest score, in one place."""
    leads, best = {}, {}
    for rule, lines in part.groupby("rule", sort=False):
        leader = lines.loc[lines["value"].idxmax()]
        leads[rule], best[rule] = leader["run"], set(lines.loc[lines["value"] >= leader["low"], "run"])
    found = _by_rule(leads)
    if found["depends"] and (always := sorted(set.intersection(*best.values()))):
        found |= {"depends": False, "says": f"{found['says']}; among the best under every rule: {', '.join(always)}"}
    return found


def parallel(answers: Answered, first: str, second: str) -> bool:
    """Whether two languages share a sentence with the same true label."""
    return bool(_parallel(answers, first, second)[0])


def _parallel(answers: Answered, first: str, second: str) -> tuple[Answered, Answered]:
    """The answers of two languages to the sentences that both have, as if they were of one language."""
    found: tuple[Answered, Answered] = ({}, {})
    for (*place, language, source, prompt), cell in answers.items():
        other = answers.get((*place, second, source, prompt))
        if language != first or other is None:
            continue
        for side, one, two in zip(found, (cell, other), (other, cell), strict=True):
            if shared := _shared(one, two):
                side[(*place, "", source, prompt)] = shared
    return found


def _shared(cell: Choices, other: Choices) -> Choices | None:
    """The answers to the texts that the other cell has too, with the same true label; None if there is none."""
    mine, theirs = cell.examples, other.examples
    if mine.key == theirs.key:
        return cell
    gold = dict(zip(theirs.ids, theirs.gold, strict=True))
    kept = [i for i, name in enumerate(mine.ids) if gold.get(name) == mine.gold[i]]
    texts = measures.labelled(tuple(mine.ids[i] for i in kept), mine.seed, tuple(mine.gold[kept]), mine.names)
    return Choices(texts, cell.predicted[kept]) if kept else None


def _compared(found: pd.DataFrame, first: str, second: str, keys: list[str]) -> pd.DataFrame:
    kept = found[[*keys, "examples", "seeds", *_RENAMED]].rename(columns=_RENAMED).assign(first=first, second=second)
    return kept[["first", "second", *kept.columns[:-2]]]


def _families(found: pd.DataFrame) -> pd.DataFrame:
    """Adjust p values within each kind of line, and say what follows."""
    single = found["prompt"] != "all"
    kind = single.astype(int) + (found["language"] != "all").astype(int) if "language" in found else single
    for name, column in (("p_holm", "p"), ("mcnemar_holm", "mcnemar_p")):
        found[name] = found.groupby(kind)[column].transform(holm)
    pairs = zip(found["difference"], found["p_holm"], strict=True)
    return found.assign(verdict=[_verdict(d, p, "higher", "lower") for d, p in pairs])


def _verdict(difference: float, p: float, up: str, down: str) -> str:
    if pd.isna(difference):
        return "not paired"
    return "none shown" if p >= 0.05 else up if difference > 0 else down
