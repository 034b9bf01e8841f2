"""The 13 claims of the Alpaca study (Chen et al., Findings of EACL 2024), tested by our own results."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from ia_lib.evaluation.measures import of_rows
from ia_lib.report import published
from ia_lib.report.alpaca_audit import CASES, DOWN, MONO

HOLDS, FAILS, CANNOT_TELL, NOT_RUN = "holds", "does not hold", "cannot tell", "not run"
# The paper names no margins. Ours, in marks: 0.2 are 10 of the 150 points of its scores, 0.5 are 25.
ON_PAR, FAR = 0.2, 0.5
_BUDGETS = ("mono", "multilingual", "downsampled")
_ENGLISH = {"eng", "en"}
_CLOSE, _FAR = {"spa", "es", "fra", "fr"}, {"bul", "bg", "rus", "ru", "zho", "zh"}
_SCORE, _LOST = "score", "lost at the gate"
_LISTED = 6  # parts of a claim that are shown and are listed


def ours(results: pd.DataFrame) -> pd.DataFrame:
    """What our runs say of the 13 claims, a line for each claim and judge: `id, claim, tested_by` (which lines of
    results.csv it takes), `judge, verdict, shown`.

    `results` has the lines of results.csv with the columns `model, budget` (mono, multilingual, english, downsampled)
    and `tuning` (lora, full); without them or without the lines that a claim takes its verdict is `not run`. A claim
    about sizes needs models whose names tell theirs, one about families their names. Languages are seen where a
    multilingual row has them outside group L3. A monolingual row's own language is that in a column `trained_on`,
    without one those that it was taught (L2); in English an English-only row is one, too. Where two rows have the same
    model, tuning, budget and language, neither is taken, and `shown` says so. What is lost at the gate is positive.

    A difference is that of two mean marks (0 to 3), with an interval from both (Zou and Donner's, which takes them for
    unpaired and is too wide for answers to the same prompts); a mean over languages has the mean of their ends, which
    is too wide as well. A claim `holds` if every part of it is shown by its 95% interval, it `does not hold` if one
    part is shown to be the other way by an interval that is widened for the number of parts (Bonferroni), else our runs
    `cannot tell`, or only a part of what it takes was run. What the paper leaves open is set here: `ON_PAR, FAR`.
    """
    claims = published.read("claims").set_index("id")["claim"]
    cells, left_out = _cells(results)
    lines = []
    for name, (tested_by, test) in _TESTS.items():
        line = {"id": f"alpaca-{name}", "claim": claims[f"alpaca-{name}"], "tested_by": tested_by}
        found = {judge: test(_Scores(part)) for judge, part in cells.groupby("judge", sort=False)}
        found = {judge: parts for judge, parts in found.items() if parts} or {"": []}
        for judge, parts in found.items():
            verdict, shown = _concluded(parts)
            shown += f"; left out, since several rows have them: {left_out}" if left_out and judge else ""
            lines.append(line | {"judge": judge, "verdict": verdict, "shown": shown})
    return pd.DataFrame(lines)


# A part of a claim: its name, [value, low, high], and between what they must lie; without a value it was not run.
_Part = tuple[str, np.ndarray | None, float, float]


def _concluded(parts: list[_Part]) -> tuple[str, str]:
    run = [part for part in parts if part[1] is not None]
    if not run:
        return NOT_RUN, "no line"
    wider = stats.norm.ppf(1 - 0.025 / len(run)) / stats.norm.ppf(0.975)
    shown = [low > least and high < most for _, (_, low, high), least, most in run]
    against = [
        value + wider * (high - value) < least or value - wider * (value - low) > most
        for _, (value, low, high), least, most in run
    ]
    verdict = FAILS if any(against) else HOLDS if all(shown) and len(run) == len(parts) else CANNOT_TELL
    told, rest = [], []
    for (name, (value, low, high), _, _), yes, no in zip(run, shown, against, strict=True):
        text = f"{name} {value:+.2f} [{low:.2f}, {high:.2f}]"
        (rest if yes else told).append(text + ("" if yes else ", the other way" if no else ", not shown"))
    if len(rest) > _LISTED:
        rest = [*rest[:_LISTED], f"and {len(rest) - _LISTED} more parts that are shown"]
    return verdict, "; ".join([*told, *rest, *(f"{part[0]} was not run" for part in parts if part[1] is None)])


def _cells(results: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The lines of judged answers, one for each judge, kind of score, model, tuning, budget and language; and what of
    them several rows have."""
    keys = ["judge", "what", "model", "tuning", "budget", "language"]
    columns = [*keys, "group", "value", "low", "high"]
    if not {"metric", "budget", "tuning"} <= set(results):
        return pd.DataFrame(columns=columns), ""
    frame = of_rows(results, None)
    frame = frame[(frame["kind"] == "open") & frame["metric"].isin([_SCORE, _LOST])]
    # of free answers the source is the judge
    frame = frame.rename(columns={"metric": "what", "source": "judge"}).dropna(subset=["low", "high"])
    single = (frame["prompt"].astype(str) == "all") & ~frame[["dataset", "task", "language"]].eq("all").any(axis=1)
    frame = frame[single & frame["budget"].isin([*_BUDGETS, "english"])]
    frame["model"] = [text.rpartition("/")[2] for text in frame["model"].astype(object).fillna("")]
    own = frame["trained_on"].eq(frame["language"]) if "trained_on" in frame else frame["group"].eq("L2")
    frame = frame[own | (frame["budget"] != "mono")]
    if frame.empty:
        return pd.DataFrame(columns=columns), ""
    several = frame.groupby(keys)["row"].transform("nunique") > 1
    names = " ".join(sorted({f"{line.row} ({line.language})" for line in frame[several].itertuples()}))
    found = frame[~several].groupby(keys, sort=False, as_index=False)
    return found.agg({"group": "first", "value": "mean", "low": "mean", "high": "mean"}), names


class _Scores:
    """The scores of one judge."""

    def __init__(self, cells: pd.DataFrame):
        names = ["what", "model", "tuning", "budget", "language", "value", "low", "high"]
        lines = cells[names].itertuples(index=False, name=None)
        self._found = {line[:5]: np.array(line[5:], dtype=float) for line in lines}
        # to tune on English alone is the monolingual tuning in English
        for what, model, tuning, budget, code in list(self._found):
            if budget == "english" and code in _ENGLISH:
                self._found.setdefault(
                    (what, model, tuning, "mono", code), self._found[what, model, tuning, budget, code]
                )
        several = cells[cells["budget"].isin(["multilingual", "downsampled"])]
        several = several if len(several) else cells
        self.seen, self.unseen = (
            list(dict.fromkeys(several.loc[(several["group"] == "L3") == unseen, "language"]))
            for unseen in (False, True)
        )
        self.foreign = [code for code in self.seen if code not in _ENGLISH]
        self.models = sorted(set(cells["model"]), key=lambda name: (published.parameters(name), name))

    def tuned(self, tuning: str) -> list[str]:
        return [name for name in self.models if any(key[1:3] == (name, tuning) for key in self._found)]

    def families(self, tuning: str, sizes: bool = True) -> dict[str, list[str]]:
        """The models by families, small ones first; with `sizes` those whose names tell one."""
        found: dict[str, list[str]] = {}
        for name in self.tuned(tuning):
            if not sizes or np.isfinite(published.parameters(name)):
                found.setdefault(published.family(name), []).append(name)
        return found

    def difference(
        self,
        first: tuple[str, str],
        second: tuple[str, str],
        tuning: str,
        languages: Sequence[str],
        what: str = _SCORE,
    ) -> np.ndarray | None:
        """[value, low, high] of the mean over those of the languages that both (model, budget) have; None of none."""
        found = []
        for code in languages:
            sides = [self._found.get((what, model, tuning, budget, code)) for model, budget in (first, second)]
            found += [] if any(side is None for side in sides) else [_minus(*sides)]
        return np.mean(found, axis=0) if found else None

    def mean(self, model: str, budget: str, tuning: str, languages: Sequence[str]) -> np.ndarray | None:
        found = [self._found.get((_SCORE, model, tuning, budget, code)) for code in languages]
        found = [one for one in found if one is not None]
        return np.mean(found, axis=0) if found else None

    def between(self, model: str, tuning: str, first: str, second: str, languages: Sequence[str], what=_SCORE):
        """`difference` of two budgets of one model."""
        return self.difference((model, first), (model, second), tuning, languages, what)

    def leads(self, budget: str) -> list[tuple[str, np.ndarray]]:
        """By how much a budget is ahead of the better one of the two others, in every case with LoRA that has all: of
        each family the largest model in each language."""
        others, found = [name for name in _BUDGETS if name != budget], []
        for *_, model in self.families("lora", sizes=False).values():
            for code in self.seen:
                pair = [self.between(model, "lora", budget, other, [code]) for other in others]
                if all(one is not None for one in pair):
                    found.append((f"{model} {code}", np.min(pair, axis=0)))
        return found


def _minus(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[value, low, high] of a difference, from those of its sides (Zou and Donner 2008)."""
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    return np.array([a - b, a - b - np.hypot(a - a_low, b_high - b), a - b + np.hypot(a_high - a, b - b_low)])


def _share(leads: list[tuple[str, np.ndarray]], least: float, share: float, name: str, seldom: bool) -> list[_Part]:
    """A claim on the share of cases that are above `least`: between those that are shown to be and those that may be
    lies what is true; it must be no more (`seldom`) or no less than the paper's share."""
    if not leads:
        return []
    wider = stats.norm.ppf(1 - 0.025 / len(leads)) / stats.norm.ppf(0.975)
    values = np.array([lead for _, lead in leads])
    value, low, high = values.T
    found = [np.mean(value > least), np.mean(value - wider * (value - low) > least)]
    found.append(np.mean(value + wider * (high - value) > least))
    names = [case for case, lead in leads if lead[0] > least]
    told = f"{name} in {len(names)} of {len(leads)} cases" + (f" ({', '.join(names)})" if seldom and names else "")
    # what is counted is no estimate with a spread: nothing is to be widened once more
    edge = (-np.inf, share + 1e-9) if seldom else (share - 1e-9, np.inf)
    return [(f"{told}; as a share, shown to possible:", np.array(found), *edge)]


def _mono_leads(scores: _Scores) -> list[_Part]:
    return _share(scores.leads("mono"), 0, MONO / CASES, "monolingual ahead", True)


def _downsampled_leads(scores: _Scores) -> list[_Part]:
    return _share(scores.leads("downsampled"), 0, DOWN / CASES, "down-sampled ahead", True)


def _multilingual_on_par(scores: _Scores) -> list[_Part]:
    share = (CASES - MONO - DOWN) / CASES
    return _share(scores.leads("multilingual"), -ON_PAR, share, "multilingual on par or ahead", False)


def _lora_by_size(scores: _Scores) -> list[_Part]:
    parts: list[_Part] = []
    for models in scores.families("lora").values():
        by_size = {name: scores.between(name, "lora", "multilingual", "mono", scores.foreign) for name in models}
        there = [name for name, found in by_size.items() if found is not None]
        if len(there) < 2:
            continue
        small, large = there[0], there[-1]
        tau = ""
        if len(there) > 2:
            found = stats.kendalltau(range(len(there)), [by_size[name][0] for name in there], method="exact")
            tau = f" (over {len(there)} sizes tau = {found.statistic:.2f}, exact p = {found.pvalue:.2f})"
        english = scores.between(large, "lora", "multilingual", "mono", sorted({*scores.seen} & _ENGLISH))
        parts.append((f"{small}: multilingual - mono", by_size[small], -ON_PAR, ON_PAR))
        parts.append((f"{large}: multilingual - mono{tau}", by_size[large], 0, np.inf))
        parts.append((f"{large}: the same in English", english, -np.inf, ON_PAR))
    return parts


def _full_by_size(scores: _Scores) -> list[_Part]:
    parts: list[_Part] = []
    for models in scores.families("full").values():
        for name, least, most in (("below 1.7B", 0, 1.7e9), ("about 7B", 6e9, 8e9)):
            of = [model for model in models if least <= published.parameters(model) < most]
            by_model = {model: scores.between(model, "full", "mono", "multilingual", scores.seen) for model in of}
            by_model = {model: found for model, found in by_model.items() if found is not None} or {name: None}
            parts += [(f"{model}: mono - multilingual", found, 0, np.inf) for model, found in by_model.items()]
    return parts


def _english_abroad(scores: _Scores) -> list[_Part]:
    parts: list[_Part] = []
    for tuning in ("lora", "full"):
        for model in scores.tuned(tuning):
            chinese = {"zho", "zh"} if tuning == "full" and published.family(model) == "bloom" else set()
            near, far = (scores.mean(model, "english", tuning, sorted(codes)) for codes in (_CLOSE, _FAR - chinese))
            if near is not None and far is not None:
                parts.append((f"{model} {tuning}: close - distant languages", _minus(near, far), FAR, np.inf))
    return parts


def _peak(scores: _Scores) -> list[_Part]:
    models = {published.parameters(name): name for name in scores.families("lora").get("bloom", [])}
    if not {0.56e9, 1.1e9, 1.7e9} <= {*models}:
        return []
    first, peak, third = (models[size] for size in (0.56e9, 1.1e9, 1.7e9))
    parts: list[_Part] = []
    for other in (first, third):
        found = scores.difference((peak, "english"), (other, "english"), "lora", scores.foreign)
        parts.append((f"{peak} - {other}", found, 0, np.inf))
    return parts


def _robust(scores: _Scores) -> list[_Part]:
    parts: list[_Part] = []
    for tuning in ("lora", "full"):
        for model in scores.tuned(tuning):
            by_code = {c: scores.between(model, tuning, "downsampled", "english", [c]) for c in scores.foreign}
            found = {f"{model} {tuning} {c}: down-sampled - English": one for c, one in by_code.items()}
            if any(one is not None for one in found.values()):
                more = scores.between(model, tuning, "multilingual", "downsampled", scores.seen)
                found[f"{model} {tuning}: multilingual - down-sampled"] = more
                parts += [(name, one, 0, np.inf) for name, one in found.items()]
    return parts


def _of_every_model(scores: _Scores, tuning: str, first: str, second: str, least: float) -> list[_Part]:
    """Differences in the languages never seen, of every model that has them."""
    found = {model: scores.between(model, tuning, first, second, scores.unseen) for model in scores.tuned(tuning)}
    named = {f"{model} {tuning}: {first} - {second}": one for model, one in found.items() if one is not None}
    return [(name, one, least, np.inf) for name, one in named.items()]


def _downsampled_unseen(scores: _Scores) -> list[_Part]:
    return [
        part
        for tuning in ("lora", "full")
        for part in _of_every_model(scores, tuning, "downsampled", "multilingual", 0)
    ]


def _english_unseen(scores: _Scores) -> list[_Part]:
    lora = _of_every_model(scores, "lora", "multilingual", "english", FAR)
    full = _of_every_model(scores, "full", "english", "multilingual", -ON_PAR)
    missing = [("LoRA", None, FAR, np.inf)] * (not lora) + [("full tuning", None, 0, np.inf)] * (not full)
    return [*lora, *full, *missing]


def _lost(scores: _Scores, budget_of: dict[str, str], most: bool) -> list[_Part]:
    """How much more (or less) than the other budgets the one loses at the gate that is named for a tuning."""
    parts: list[_Part] = []
    for tuning, budget in budget_of.items():
        found: list[_Part] = []
        for model in scores.tuned(tuning):
            others = [other for other in (*_BUDGETS, "english") if other != budget]
            pairs = [(budget, other) if most else (other, budget) for other in others]
            of = {pair: scores.between(model, tuning, *pair, scores.seen, _LOST) for pair in pairs}
            if any(one is not None for one in of.values()):
                found += [(f"{model} {tuning}: {a} - {b}", one, 0, np.inf) for (a, b), one in of.items()]
        parts += found or [(f"{tuning} tuning", None, 0, np.inf)]
    return parts


def _families(scores: _Scores) -> list[_Part]:
    of: dict[str, list[str]] = {}
    for family, models in scores.families("lora").items():
        of[family] = [model for model in models if 6e9 <= published.parameters(model) < 8e9]
    parts: list[_Part] = []
    for good, bad in product(("llama", "openllama"), ("bloom", "pythia")):
        for first, second in product(of.get(good, []), of.get(bad, [])):
            found = [scores.difference((first, name), (second, name), "lora", scores.seen) for name in _BUDGETS]
            if any(one is not None for one in found):
                mean = np.mean([one for one in found if one is not None], axis=0)
                parts.append((f"{first} - {second}", mean, 0, np.inf))
    return parts


_EACH = "score; lora; mono, multilingual, downsampled of the largest model of a family; each seen language"
# Claim -> which lines of results.csv test it, and how.
_TESTS: dict[str, tuple[str, Callable[[_Scores], list[_Part]]]] = {
    "a1": (_EACH, _mono_leads),
    "a2": (_EACH, _downsampled_leads),
    "a3": (_EACH, _multilingual_on_par),
    "a4": (
        "score; lora; mono, multilingual; two or more sizes of a family; seen languages, English alone",
        _lora_by_size,
    ),
    "a5": ("score; full; mono, multilingual; sizes below 1.7B and of about 7B; seen languages", _full_by_size),
    "a6": ("score; lora and full; english; Spanish, French against Bulgarian, Russian, Chinese", _english_abroad),
    "a7": ("score; lora; english; BLOOM 560M, 1.1B, 1.7B; seen languages but English", _peak),
    "a8": ("score; lora and full; english, downsampled, multilingual of one model; seen languages", _robust),
    "a9": ("score; lora and full; downsampled, multilingual of one model; languages of group L3", _downsampled_unseen),
    "a10": ("score; lora and full; english, multilingual of one model; languages of group L3", _english_unseen),
    "a11": (
        "lost at the gate; lora and full; english and other budgets of one model; seen languages",
        lambda scores: _lost(scores, {"lora": "english", "full": "english"}, most=True),
    ),
    "a12": (
        "lost at the gate; lora and full; all budgets of one model; seen languages",
        lambda scores: _lost(scores, {"lora": "multilingual", "full": "mono"}, most=False),
    ),
    "a13": ("score; lora; LLaMA, OpenLLaMA, BLOOM, Pythia of about 7B; seen languages", _families),
}
