"""The Alpaca study (Chen et al., Findings of EACL 2024), which prints four correlations, three counts and no other
result: what numbers like these can tell. `alpaca_claims` tests its claims on our own results.
"""

from collections.abc import Sequence
from functools import cache
from itertools import permutations

import numpy as np
import pandas as pd
from scipy import integrate, optimize, special, stats

from ia_lib.evaluation.resampling import detectable
from ia_lib.report import published

# How the 50 marks of a model may be spread, as shares of the marks 0 to 3; the paper prints none.
SPREADS = {
    "half 0, half 3 (the worst case)": (1 / 2, 0, 0, 1 / 2),
    "1, 2 and 3 alike, and a tenth lost at the gate": (0.1, 0.3, 0.3, 0.3),
    "1, 2 and 3 alike": (0, 1 / 3, 1 / 3, 1 / 3),
}
_SIZES = 5  # of BLOOM
CASES, _MODELS, _LANGUAGES = 30, 5, 6  # of section 3.5
MONO, DOWN = 2, 4  # in which these lead; in the others multilingual tuning is "on par if not better"


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
    rest, ties = CASES - MONO - DOWN, _ties()
    lines = [
        ("30 independent cases; those that the down-sampled model leads left out", rest, MONO),
        ("30 independent cases; either kind of multilingual tuning", rest + DOWN, MONO),
        (f"30 independent cases; {ties} of the {rest} are ties, which count for neither", rest - ties, MONO),
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
                corrected = (stats.norm.ppf(1 - 0.025 / CASES) + stats.norm.ppf(0.8)) * error
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
    rest = CASES - MONO - DOWN
    chance = 100 * (1 - 0.95**CASES)
    reach = f"{alike.loc['r = 0.5', 'detectable']:.0f} to {gated.loc['unrelated', 'detectable']:.0f}"
    among = f"{alike.loc['r = 0.5', 'among_30']:.0f} to {gated.loc['unrelated', 'among_30']:.0f}"
    needs = f"50 requests find differences of {reach} of 150 points"
    spreads = f"(80% power, 5%; {worst.loc['unrelated', 'detectable']:.0f} with the worst spread of marks)"
    each = f"one run at each of {_SIZES} sizes"
    longer = "the full one has nine times the updates, so that more languages and longer tuning cannot be told apart"
    found = {
        "a1": f"{MONO} + {DOWN} + {rest} = {CASES} = {_MODELS} x {_LANGUAGES} adds up, but by how much it is ahead "
        f"is not printed; {needs} {spreads}, and of {CASES} tests of equal models at 5% some model leads "
        f"{chance:.0f}% of the time",
        "a2": f"2 + 2 adds up, but by how much it leads is not printed; of three equal budgets each would lead 10 "
        f"times; to be found among {CASES} cases a lead takes {among} points",
        "a3": f"the number follows ({CASES} - {MONO} - {DOWN}), but on par has no margin, and {needs}. Multilingual "
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
    rest = CASES - MONO - DOWN
    return next(ties for ties in range(rest) if stats.binomtest(MONO, rest - ties + MONO).pvalue >= 0.05)


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


def _sign(line) -> str:
    p = f"p = {line.p:.3f}" if line.p >= 0.001 else "p < 0.001"
    return f"{line.ahead} to {line.behind}, {100 * line.share:.0f}% [{100 * line.low:.0f}, {100 * line.high:.0f}], {p}"
