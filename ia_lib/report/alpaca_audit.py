"""The Alpaca study (Chen et al., Findings of EACL 2024), which prints four correlations, three counts and no other
result: what numbers like these can tell, and which lines of our own results would test each of its 13 claims.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import permutations, product

import numpy as np
import pandas as pd
from scipy import integrate, optimize, special, stats

from ia_lib.evaluation.measures import of_rows
from ia_lib.evaluation.resampling import detectable
from ia_lib.report import published

HOLDS, FAILS, CANNOT_TELL, NOT_RUN = "holds", "does not hold", "cannot tell", "not run"
# The paper names no margins. Ours, in marks: 0.2 are 10 of the 150 points of its scores, 0.5 are 25.
ON_PAR, FAR = 0.2, 0.5
# How the 50 marks of a model may be spread, as shares of the marks 0 to 3; the paper prints none.
SPREADS = {
    "half 0, half 3 (the worst case)": (1 / 2, 0, 0, 1 / 2),
    "1, 2 and 3 alike, and a tenth lost at the gate": (0.1, 0.3, 0.3, 0.3),
    "1, 2 and 3 alike": (0, 1 / 3, 1 / 3, 1 / 3),
}
_SIZES = 5  # of BLOOM
_CASES, _MODELS, _LANGUAGES = 30, 5, 6  # of section 3.5
_MONO, _DOWN = 2, 4  # in which these lead; in the others multilingual tuning is "on par if not better"
_BUDGETS = ("mono", "multilingual", "downsampled")
_ENGLISH = {"eng", "en"}
_CLOSE, _FAR = {"spa", "es", "fra", "fr"}, {"bul", "bg", "rus", "ru", "zho", "zh"}
_SCORE, _LOST = "score", "lost at the gate"
_LISTED = 6  # parts of a claim that are shown and are listed


def _setting(name: str) -> int:
    """A number of alpaca_settings.csv."""
    frame = published.read("alpaca_settings")
    return int(frame.loc[frame["setting"] == name, "value"].item())


def correlations() -> pd.DataFrame:
    """The four correlations of judge and people by how many models they may rest on: `language, models, pearson, p`
    (two-sided, exact for normal scores), `p_positive` (one-sided), `low, high` (exact 95% interval), `fisher_low,
    fisher_high` (Fisher's z, which three points leave undefined) and `needed`, the least number of models with which
    so high an r has p < 0.05.

    The number of models is not printed (Table 3 is not at hand). 600 outputs in 4 languages with 50 prompts each are 3
    models a language, or 12 models with 50 outputs each; if all 12 were marked in every language, with 12 or 13 outputs
    each, it is 12. The lines `all` assume that the languages are independent (Fisher's method on `p_positive`).
    """
    frame = published.read("alpaca_human_agreement")
    few = _setting("outputs") // (len(frame) * _setting("prompts per language"))
    lines = []
    for count in (few, _setting("models")):
        part = [_correlation(line.language, line.pearson, count) for line in frame.itertuples()]
        combined = stats.combine_pvalues([line["p_positive"] for line in part]).pvalue
        lines += [*part, {"language": "all", "models": count, "p_positive": float(combined)}]
    return pd.DataFrame(lines)


def _correlation(language: str, r: float, models: int) -> dict:
    needed = next(n for n in range(3, 100) if 2 * _chance_of_r(n).sf(abs(r)) < 0.05)
    line = {"language": language, "models": models, "pearson": r, "p": float(2 * _chance_of_r(models).sf(abs(r)))}
    line |= {"p_positive": float(_chance_of_r(models).sf(r))}
    line |= dict(zip(("low", "high"), exact_interval(r, models), strict=True))
    return (
        line | dict(zip(("fisher_low", "fisher_high"), published.fisher(r, models), strict=True)) | {"needed": needed}
    )


def _chance_of_r(points: int):
    """Pearson's r of unrelated normal numbers."""
    return stats.beta(points / 2 - 1, points / 2 - 1, loc=-1, scale=2)


@cache
def exact_interval(r: float, points: int) -> tuple[float, float]:
    """95% interval of a correlation from Pearson's r of so many points (three or more) that are drawn from a
    two-dimensional normal distribution: by the exact distribution of r (Hotelling 1953), so for three points too."""
    constant = np.log(points - 2) + special.gammaln(points - 1) - special.gammaln(points - 0.5) - np.log(2 * np.pi) / 2

    def below(rho: float) -> float:
        """The probability of an r no higher than ours; integrated over its arc sine, where the density is finite."""

        def density(angle: float) -> float:
            found = rho * np.sin(angle)
            value = constant + (points - 1) / 2 * np.log1p(-(rho**2)) - (points - 1.5) * np.log1p(-found)
            return (
                np.exp(value) * np.cos(angle) ** (points - 3) * special.hyp2f1(0.5, 0.5, points - 0.5, (1 + found) / 2)
            )

        return integrate.quad(density, -np.pi / 2, np.arcsin(r), points=[min(np.arcsin(rho), np.arcsin(r))], limit=200)[
            0
        ]

    low, high = (
        float(np.tanh(optimize.brentq(lambda z, share=share: below(np.tanh(z)) - share, -8, 8)))
        for share in (0.975, 0.025)
    )
    return low, high


def counts() -> pd.DataFrame:
    """What the counts of section 3.5 allow by a sign test of multilingual against monolingual tuning: `counted` (in
    words), `ahead, behind`, the `share` ahead with its exact 95% interval (`low, high`) and the two-sided `p`.

    Unless a line says otherwise, cases "on par" count as ahead, which is the kindest way to count for multilingual
    tuning.
    """
    rest, ties = _CASES - _MONO - _DOWN, _ties()
    lines = [
        ("30 independent cases; those that the down-sampled model leads left out", rest, _MONO),
        ("30 independent cases; either kind of multilingual tuning", rest + _DOWN, _MONO),
        (f"30 independent cases; {ties} of the {rest} are ties, which count for neither", rest - ties, _MONO),
        # LLaMA, too, is behind in 2 languages and led by the down-sampled model in one at most
        ("only the 5 models are independent: multilingual is ahead in most languages of each", _MODELS, 0),
        # 2 of 5 models against 1 in Russian, where the down-sampled model leads in 2
        ("only the 6 languages are independent: multilingual is ahead in more models of each", _LANGUAGES, 0),
    ]
    found = []
    for counted, ahead, behind in lines:
        test = stats.binomtest(ahead, ahead + behind)
        low, high = test.proportion_ci()
        line = {"counted": counted, "ahead": ahead, "behind": behind, "share": ahead / (ahead + behind)}
        found.append(line | {"low": float(low), "high": float(high), "p": float(test.pvalue)})
    return pd.DataFrame(found)


def told(prompts: Sequence[int] | None = None) -> pd.DataFrame:
    """How far two models must be apart to be told apart: `prompts` (default: the paper's 50), `spread` (of
    `SPREADS`), `sd` of its marks, `pairing` (two models' marks of the same prompts unrelated, or with r = 0.5, which
    is assumed), and in points of a score from 0 to 150: `error`, the standard error of a difference, `detectable` with
    80% power at the 5% level, and `among_30` after Bonferroni's correction for 30 comparisons.

    An unpaired comparison is one of unrelated marks. Other numbers of prompts are scaled to 150, too.
    """
    lines = []
    for count in prompts or [_setting("prompts per language")]:
        for spread, shares in SPREADS.items():
            mean = np.dot(shares, range(4))
            sd = float(np.sqrt(np.dot(shares, (np.arange(4) - mean) ** 2)))
            for pairing, r in (("unrelated", 0.0), ("r = 0.5", 0.5)):
                error = 50 * sd * np.sqrt(2 * (1 - r) / count)
                line = {"prompts": count, "spread": spread, "sd": sd, "pairing": pairing, "error": error}
                half = stats.norm.ppf(0.975) * error
                corrected = (stats.norm.ppf(1 - 0.025 / _CASES) + stats.norm.ppf(0.8)) * error
                lines.append(line | {"detectable": detectable(-half, half), "among_30": float(corrected)})
    return pd.DataFrame(lines)


def trends(sizes: int = _SIZES) -> pd.DataFrame:
    """What so many model sizes, tuned once each, show by chance: `pattern, of` (how many equally likely orders of the
    scores, or signs of the differences, there are), `with_it` and `chance`. Orders are counted one by one."""
    orders = list(permutations(range(sizes)))
    peaks = [[i for i in range(1, sizes - 1) if order[i - 1] < order[i] > order[i + 1]] for order in orders]
    swapped = sum(sum(a > b for i, a in enumerate(order) for b in order[i + 1 :]) in (0, 1) for order in orders)
    lines = [
        ("rises with every size, or falls with every size", len(orders), 2),
        ("the same with at most one neighbouring pair exchanged", len(orders), 2 * swapped),
        ("highest at the second size", len(orders), sum(order[1] == sizes - 1 for order in orders)),
        ("the second size above both of its neighbours", len(orders), sum(1 in found for found in peaks)),
        ("some size above both of its neighbours", len(orders), sum(map(bool, peaks))),
        ("one of two budgets ahead at every size", 2**sizes, 2),
        ("ahead at given sizes and behind at all others", 2**sizes, 1),
    ]
    frame = pd.DataFrame(lines, columns=["pattern", "of", "with_it"])
    return frame.assign(chance=frame["with_it"] / frame["of"])


def confounded(pythia: bool = False) -> str:
    """What else than the method differs between the LoRA and the full tuning that are compared, in words."""
    topics = list(published.read("alpaca_differences")["topic"])
    return "LoRA and full tuning differ in " + ", ".join(t for t in topics if pythia or "Pythia" not in t) + ", too"


def judged() -> dict[str, tuple[None, str]]:
    """Per claim of the study what print and arithmetic say of it. None can be tested: the figures have no numbers, and
    what is printed follows from nothing else (`audit.ledger`)."""
    at = told().set_index(["spread", "pairing"])
    best, either, tied, models, languages = map(_sign, counts().itertuples())
    worst, gated, alike = (at.loc[spread] for spread in SPREADS)
    monotone, nearly, highest, peak, any_peak, ahead, signs = (_percent(share) for share in trends()["chance"])
    rest = _CASES - _MONO - _DOWN
    chance = 100 * (1 - 0.95**_CASES)
    reach = f"{alike.loc['r = 0.5', 'detectable']:.0f} to {gated.loc['unrelated', 'detectable']:.0f}"
    among = f"{alike.loc['r = 0.5', 'among_30']:.0f} to {gated.loc['unrelated', 'among_30']:.0f}"
    needs = f"50 requests find differences of {reach} of 150 points"
    spreads = f"(80% power, 5%; {worst.loc['unrelated', 'detectable']:.0f} with the worst spread of marks)"
    each = f"one run at each of {_SIZES} sizes"
    longer = "the full one has nine times the updates, so that more languages and longer tuning cannot be told apart"
    found = {
        "a1": f"{_MONO} + {_DOWN} + {rest} = {_CASES} = {_MODELS} x {_LANGUAGES} adds up, but by how much it is ahead "
        f"is not printed; {needs} {spreads}, and of {_CASES} tests of equal models at 5% some model leads "
        f"{chance:.0f}% of the time",
        "a2": f"2 + 2 adds up, but by how much it leads is not printed; of three equal budgets each would lead 10 "
        f"times; to be found among {_CASES} cases a lead takes {among} points",
        "a3": f"the number follows ({_CASES} - {_MONO} - {_DOWN}), but on par has no margin, and {needs}. Multilingual "
        f"against monolingual, ties as wins: {best} (the down-sampled one as well: {either}). But {tied} if "
        f"{_ties()} of the {rest} are ties; and as the cases share models and languages, {models} if only the "
        f"{_MODELS} models are independent, {languages} if only the {_LANGUAGES} languages are",
        "a4": f"{each}; by chance {monotone} of orders rise or fall with every size, {nearly} "
        f"with one exchange at most; {needs}, and what is less looks alike. In section 3.5 monolingual tuning is ahead "
        'in English in no case at 7B, so that "except in English" can only mean on par. Set against full tuning: '
        f"{confounded()}",
        "a5": f"{each}; ahead at these 3 and not at the 2 between them are {signs} of signs, if "
        f"asked for before; {needs}. Set against LoRA: {confounded()}; learning rate and epochs are not in the main "
        "part",
        "a6": f"what is reasonable and very low is not said; {needs}, so that half the scale would be found",
        "a7": f"{each}: by chance the second is the highest in {highest} of orders, above both "
        f"neighbours in {peak}, and some size is in {any_peak}; five languages of one model are one case, not five",
        "a8": f"{needs}: whether it is slightly better they cannot tell; {longer}",
        "a9": f"{each}: of equal budgets one is ahead at all of them in {ahead} of cases; {needs}; {longer}",
        "a10": "two languages, and full tuning in Norwegian may be an outlier, as the paper says. The contrast of the "
        f"methods: {confounded()}",
        "a11": f"the axis is logarithmic, and how the gate treats short or mixed answers is not said; {needs}",
        "a12": f"the contrast of the methods: {confounded(pythia=True)}; prompt, decoding and what is cut off an "
        "answer change what the gate sees",
        "a13": "one model of each, with other corpora and vocabularies; by chance two given families of four are ahead "
        f"of the other two in 1 of 6 orders; {needs}",
    }
    # of the first three the counts are printed
    found |= {name: f"no score is printed; {text}" for name, text in list(found.items())[3:]}
    few, many = (part.set_index("language") for _, part in correlations().groupby("models"))
    for language in few.index.drop("all"):
        three, twelve = few.loc[language], many.loc[language]
        found[f"r-{language}"] = (
            f"of {three['models']:.0f} models, as 600 outputs in 4 languages to 50 requests make (inferred), it has "
            f"p = {three['p']:.2f} and the interval [{three['low']:.2f}, {three['high']:.2f}] (none by Fisher's z); "
            f"p < 0.05 takes {three['needed']:.0f}; all four languages together have p = "
            f"{few.loc['all', 'p_positive']:.2f}. Were it all {twelve['models']:.0f} models, [{twelve['low']:.2f}, "
            f"{twelve['high']:.2f}]. Neither says how far single marks agree"
        )
    return {f"alpaca-{name}": (None, text) for name, text in found.items()}


def _ties() -> int:
    """How many of the 24 cases must be ties for the sign test to show nothing, if all others are wins."""
    rest = _CASES - _MONO - _DOWN
    return next(ties for ties in range(rest) if stats.binomtest(_MONO, rest - ties + _MONO).pvalue >= 0.05)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _sign(line) -> str:
    p = f"p = {line.p:.3f}" if line.p >= 0.001 else "p < 0.001"
    return f"{line.ahead} to {line.behind}, {100 * line.share:.0f}% [{100 * line.low:.0f}, {100 * line.high:.0f}], {p}"


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
    return _share(scores.leads("mono"), 0, _MONO / _CASES, "monolingual ahead", True)


def _downsampled_leads(scores: _Scores) -> list[_Part]:
    return _share(scores.leads("downsampled"), 0, _DOWN / _CASES, "down-sampled ahead", True)


def _multilingual_on_par(scores: _Scores) -> list[_Part]:
    share = (_CASES - _MONO - _DOWN) / _CASES
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
