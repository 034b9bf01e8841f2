"""Intervals and tests, by simulation where the truth is known and by hand where it can be computed."""

import numpy as np
import pytest
from sacrebleu.metrics import CHRF
from scipy import stats
from sklearn import metrics as reference

from ia_lib.evaluation import resampling
from ia_lib.evaluation.resampling import LABEL_METRICS, METRICS, Answers, Average, Choices, Examples, Labelled

pytestmark = pytest.mark.quick
PRIOR = np.array([0.38, 0.24, 0.38])
WRONG = np.array([[0, 0.3, 0.7], [0.5, 0, 0.5], [0.8, 0.2, 0]])
NAMES = ["negative", "neutral", "positive"]


def joint(right):
    """[gold, predicted] probabilities of a model that is right with this probability."""
    return PRIOR[:, None] * (right * np.eye(3) + (1 - right) * WRONG)


def drawn(rng, probabilities, n):
    cells = rng.choice(9, n, p=np.ravel(probabilities))
    return cells // 3, cells % 3


def guessed(rng, gold, right):
    wrong = (WRONG.cumsum(1)[gold] < rng.random((len(gold), 1))).sum(1)
    return np.where(rng.random(len(gold)) < right, gold, wrong)


def examples(n):
    return Labelled([f"e{i}" for i in range(n)], 1, np.zeros(n, int), NAMES)


def interval(*sides):
    """The headline of the first side, or its difference to the second, with its interval; a side is a list of seeds."""
    points, draws = np.zeros(len(sides[0])), 0
    for sign, side in zip((1, -1), sides, strict=False):
        average = Average([[cell] for cell in side], np.ones(1))
        points = points + sign * average.points(side[0].metrics[0])
        draws = draws + sign * average.draws(side[0].metrics[0])[:, ::sign]
    return points.mean(), *resampling.interval(resampling.over_seeds(points, draws))


def choices(texts, predicted):
    return Choices(texts, predicted, metrics=["weighted_f1"])


@pytest.mark.parametrize("labels", [2, 3, 8])
def test_the_counting_is_scikit_learns(labels):
    rng = np.random.default_rng(labels)
    # some labels are never true or never predicted
    gold, predicted = rng.integers(labels, size=90), rng.integers(max(2, labels - 1), size=(90, 7))
    counts = resampling.confusions(gold[:, None], predicted, labels)
    names = [str(i) for i in range(labels)]
    for i in range(7):
        np.testing.assert_array_equal(
            counts[i].reshape(labels, labels), reference.confusion_matrix(gold, predicted[:, i], labels=range(labels))
        )
        expected = {
            "accuracy": reference.accuracy_score(gold, predicted[:, i]),
            "weighted_f1": reference.f1_score(gold, predicted[:, i], average="weighted"),
            "macro_f1": reference.f1_score(gold, predicted[:, i], average="macro"),
            "macro_precision": reference.precision_score(gold, predicted[:, i], average="macro", zero_division=0),
            "macro_recall": reference.recall_score(gold, predicted[:, i], average="macro", zero_division=0),
            "balanced_accuracy": reference.balanced_accuracy_score(gold, predicted[:, i]),
        }
        points = Choices(Labelled(list(map(str, range(90))), 1, gold, names), predicted[:, i]).points
        assert points == pytest.approx({name: 100 * value for name, value in expected.items()})
        for name in LABEL_METRICS:
            assert METRICS[name].score(counts)[i] == pytest.approx(points[name])


def test_chrf_is_sacrebleus():
    rng, chrf = np.random.default_rng(0), CHRF()
    texts = ["".join(rng.choice(list("abc "), rng.integers(0, 9))) for _ in range(60)]
    counts = np.array(chrf._extract_corpus_statistics(texts[:30], [texts[30:]]))
    for some in (slice(None), slice(0, 1), slice(4, 7)):
        assert resampling.chrf(counts[some].sum(0)) == pytest.approx(chrf._compute_f_score(counts[some].sum(0)))
    assert [float(x) for x in resampling.chrf(counts)] == pytest.approx([chrf._compute_f_score(row) for row in counts])
    assert resampling.chrf(np.zeros(18)) == 0


def test_resamples_are_resamples():
    texts = examples(300)
    texts.gold = np.random.default_rng(0).integers(3, size=300)
    predicted = np.random.default_rng(1).integers(3, size=300)
    # a Poisson number of copies with mean 1, and the same as scikit-learn counts with weights
    observed = np.bincount(texts.weights.astype(int).ravel())[:6]
    expected = stats.poisson.pmf(np.arange(6), 1)
    assert stats.chisquare(observed, observed.sum() * expected / expected.sum()).pvalue > 0.001
    draws = choices(texts, predicted).draws["weighted_f1"]
    for i in range(3):
        value = reference.f1_score(texts.gold, predicted, sample_weight=texts.weights[:, i], average="weighted")
        # the text that is added stands for about a third of a point
        assert draws[0, i] <= 100 * value <= draws[1, i] <= draws[0, i] + texts.one_more[i, 0] * 0.5 + 1e-9


def test_a_text_has_its_draws_in_whatever_company():
    all_texts, some = Examples(["a", "b", "c"], 5), Labelled(["c", "a"], 5, [2, 0], NAMES)
    np.testing.assert_array_equal(all_texts.weights[[2, 0]], some.weights)
    assert (all_texts.weights != Examples(["a", "b", "c"], 6).weights).any()


@pytest.mark.parametrize(("n", "right", "most"), [(400, 0.55, 0.97), (100, 0.7, 0.97), (400, 0.99, 0.99)])
def test_intervals_of_weighted_f1_hold_the_truth_in_95_of_100_cases(n, right, most):
    rng, texts, truth = np.random.default_rng(3), examples(n), METRICS["weighted_f1"].score(joint(right).ravel())
    hits = 0
    for _ in range(300):
        texts.gold, predicted = drawn(rng, joint(right), n)
        _, low, high = interval([choices(texts, predicted)])
        hits += low <= truth <= high
    assert 0.93 <= hits / 300 <= most


def sentences(rng, n):
    """What translations with chrF-like scores count: [N, 6] n-grams of two lengths that they have, the true texts have,
    and both; long sentences are translated worse."""
    true = 5 + rng.poisson(30, n)
    right = np.clip(0.7 - 0.006 * (true - 35) + 0.1 * rng.standard_normal(n), 0, 1)
    said = rng.poisson(true)
    both = rng.binomial(np.minimum(said, true), right)
    return np.stack([said, true, both, said, true, rng.binomial(both, 0.6)], 1).astype(float)


def answers_lost(rng, n):
    """Nats lost and tokens; what is lost on a token varies a great deal."""
    tokens = rng.integers(3, 30, n)
    return np.stack([tokens * rng.gamma(2, 1, n), tokens], 1)


def asked(rng, n):
    return np.stack([rng.random(n) < 0.8, np.ones(n)], 1).astype(float)


@pytest.mark.parametrize(
    ("metric", "draw", "n"),
    [("chrF", sentences, 60), ("answer loss", answers_lost, 200), ("similarity", asked, 100)],
)
def test_intervals_of_every_score_hold_the_truth_in_95_of_100_cases(metric, draw, n):
    rng, texts = np.random.default_rng(3), Examples([f"e{i}" for i in range(n)], 1)
    truth = METRICS[metric].score(draw(rng, 400_000).sum(0))
    hits = 0
    for _ in range(300):
        _, low, high = interval([Answers(texts, draw(rng, n), [metric])])
        hits += low <= truth <= high
    assert 0.92 <= hits / 300 <= 0.99


def test_what_is_always_right_keeps_an_open_end():
    texts = examples(300)
    texts.gold, _ = drawn(np.random.default_rng(0), joint(1), 300)
    _, low, high = interval([choices(texts, texts.gold)])
    # the exact lower limit of 300 right answers among 300 is 98.8%
    assert high == 100
    assert low == pytest.approx(100 * stats.beta.ppf(0.025, 300, 1), abs=0.3)


def test_a_difference_of_nothing_is_found_in_5_of_100_cases():
    rng, texts = np.random.default_rng(4), examples(200)
    found = 0
    for _ in range(300):
        texts.gold, shared = drawn(rng, joint(0.6), 200)
        # two models that agree on half of the texts
        one, two = (np.where(rng.random(200) < 0.5, shared, guessed(rng, texts.gold, 0.6)) for _ in range(2))
        difference, low, high = interval([choices(texts, one)], [choices(texts, two)])
        p = resampling.p_value(difference, low, high)
        found += p < 0.05
        assert (p < 0.05) == (abs(difference) > (high - low) / 2)
    assert 0.02 <= found / 300 <= 0.06


@pytest.mark.parametrize("spread", [0.0, 0.06])
def test_intervals_over_three_seeds(spread):
    rng, texts = np.random.default_rng(5), examples(300)
    truth = np.mean(
        [METRICS["weighted_f1"].score(joint(r).ravel()) for r in np.clip(rng.normal(0.6, spread, 4000), 0, 1)]
    )
    hits = 0
    for _ in range(120):
        texts.gold, _ = drawn(rng, joint(0.5), 300)
        seeds = [guessed(rng, texts.gold, np.clip(rng.normal(0.6, spread), 0, 1)) for _ in range(3)]
        _, low, high = interval([choices(texts, predicted) for predicted in seeds])
        hits += low <= truth <= high
    assert 0.93 <= hits / 120 <= 0.985


def test_seeds_that_agree_are_one_seed():
    texts = examples(100)
    texts.gold, predicted = drawn(np.random.default_rng(6), joint(0.7), 100)
    one = choices(texts, predicted)
    assert interval([one, one, one]) == pytest.approx(interval([one]))


def test_answers_dealt_out_blindly():
    rng, texts = np.random.default_rng(7), examples(400)
    texts.gold = np.repeat([0, 0, 0, 1], 100)
    # answers as often as the labels are, whatever the text: better than a uniform guess, and known for what it is
    predicted = rng.permutation(texts.gold)
    answers = choices(texts, predicted)
    by_hand = [reference.f1_score(rng.permutation(texts.gold), predicted, average="weighted") for _ in range(300)]
    assert answers.blind.mean() == pytest.approx(100 * np.mean(by_hand), abs=0.5)
    assert answers.blind.std() == pytest.approx(100 * np.std(by_hand), rel=0.15)
    assert answers.blind.mean() > texts.chance["weighted_f1"].mean() + 5


def test_holm_by_hand():
    # sorted 0.01 x 3, then 0.03 x 2, then 0.04 x 1, which may not fall below the one before
    np.testing.assert_allclose(resampling.holm([0.01, 0.04, np.nan, 0.03]), [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(resampling.holm([0.6, 0.7]), [1, 1])


def test_mcnemar_by_hand():
    assert resampling.mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert resampling.mcnemar(3, 1) == pytest.approx(2 * (1 + 4) / 2**4)
    assert resampling.mcnemar(0, 0) == 1
    # (|10 - 30| - 1)^2 / 40 = 9.025, whose root is a normal deviate
    assert resampling.mcnemar(30, 10) == pytest.approx(2 * stats.norm.sf(np.sqrt(9.025)))
    assert resampling.mcnemar(12, 13) == 1
