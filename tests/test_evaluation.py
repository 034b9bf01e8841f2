import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from ia_lib import evaluation
from ia_lib.corpora import LABELS

pytestmark = pytest.mark.quick
NAMES = LABELS["sentiment"]
GROUPS = {"L1": ["eng"], "L2": ["sun", "jav"], "L3": []}


def scores(choose, languages=("eng", "sun", "jav"), examples=60, seed=0):
    """A table of scores whose predictions are what `choose(rng, gold)` says."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(NAMES, examples, p=[0.5, 0.2, 0.3])
    lines = []
    for language in languages:
        for prompt in (1, 2, 3):
            for i, truth in enumerate(gold):
                predicted = choose(rng, truth)
                for label in NAMES:
                    lines.append(
                        {
                            "task": "sentiment",
                            "language": language,
                            "example": f"e{i}",
                            "prompt": prompt,
                            "label": label,
                            "gold": truth,
                            "label_tokens": len(label) // 4,
                            "label_chars": len(label),
                            "label_logprob": -1.0 if label == predicted else -5.0 - rng.random(),
                            "prompt_tokens": 10,
                        }
                    )
    return pd.DataFrame(lines)


def noisy(share):
    return lambda rng, truth: truth if rng.random() < share else NAMES[rng.integers(3)]


def test_metrics_are_scikit_learns_averaged_over_prompts_then_languages():
    table = scores(noisy(0.5))
    found = evaluation.metrics(table, GROUPS, {"sentiment": "negative"})
    predicted = evaluation.predictions(table)
    cells = {}
    for (language, prompt), part in predicted.groupby(["language", "prompt"]):
        cells[language, str(prompt)] = (
            100 * reference.accuracy_score(part["gold"], part["predicted"]),
            100 * reference.f1_score(part["gold"], part["predicted"], average="weighted"),
        )
    for line in found.to_dict("records"):
        languages = GROUPS[line["group"]] if line["language"] == "all" else [line["language"]]
        prompts = ["1", "2", "3"] if line["prompt"] == "all" else [line["prompt"]]
        mine = np.mean([cells[key] for key in cells if key[0] in languages and key[1] in prompts], axis=0)
        assert (line["accuracy"], line["weighted_f1"]) == pytest.approx(tuple(mine))
        assert line["low"] <= line["weighted_f1"] <= line["high"]
    assert set(found["group"]) == {"L1", "L2"}


def test_predictions_under_each_rule():
    line = {"task": "sentiment", "language": "eng", "example": "1", "prompt": 1, "gold": "negative", "prompt_tokens": 9}
    table = pd.DataFrame(
        [
            {**line, "label": "negative", "label_logprob": -6.0, "label_tokens": 4, "label_chars": 8},
            {**line, "label": "neutral", "label_logprob": -5.0, "label_tokens": 1, "label_chars": 7},
            {**line, "label": "positive", "label_logprob": -5.5, "label_tokens": 2, "label_chars": 80},
        ]
    )
    chosen = {
        rule: evaluation.predictions(table, rule)["predicted"][0]
        for rule in ("label_sum", "label_mean", "label_per_char")
    }
    assert chosen == {"label_sum": "neutral", "label_mean": "negative", "label_per_char": "positive"}
    with pytest.raises(ValueError, match="allowed"):
        evaluation.predictions(table, "best")


def test_a_constant_prediction_is_the_majority_and_is_seen():
    found = evaluation.metrics(scores(lambda rng, truth: "negative"), GROUPS, {"sentiment": "negative"})
    np.testing.assert_allclose(found["weighted_f1"], found["majority"])
    assert (found["one_label"] == 100).all()


def test_chance():
    guessing = evaluation.metrics(scores(noisy(0.0), examples=300), GROUPS, {"sentiment": "negative"})
    assert guessing["within_chance"].mean() > 0.8
    # the expected weighted F1 of guessing, from the shares of the labels
    share = pd.Series(scores(noisy(0), examples=300)["gold"]).value_counts(normalize=True)
    expected = 100 * sum(p * 2 * p / 3 / (p + 1 / 3) for p in share)
    assert guessing["chance"].mean() == pytest.approx(expected, abs=0.5)
    assert guessing["chance_accuracy"].iloc[0] == pytest.approx(100 / 3)
    good = evaluation.metrics(scores(noisy(0.9)), GROUPS, {"sentiment": "negative"})
    assert not good["within_chance"].any()


def test_intervals_cover():
    truth = evaluation.metrics(scores(noisy(0.6), examples=5000, seed=99), {"L1": ["eng"]}, {"sentiment": "negative"})
    truth = truth[truth["prompt"] == "1"]["weighted_f1"].iloc[0]
    hits = 0
    for seed in range(100):
        found = evaluation.metrics(
            scores(noisy(0.6), ("eng",), 100, seed), {"L1": ["eng"]}, {"sentiment": "negative"}, seed
        )
        line = found[found["prompt"] == "1"].iloc[0]
        hits += line["low"] <= truth <= line["high"]
    assert 88 <= hits <= 99


def test_the_difference_to_a_base_is_paired():
    table = scores(noisy(0.6))
    same = evaluation.metrics(table, GROUPS, {"sentiment": "negative"}, base=table)
    assert (same[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    better = scores(noisy(0.95))
    found = evaluation.metrics(better, GROUPS, {"sentiment": "negative"}, base=table)
    line = found[(found["language"] == "all") & (found["group"] == "L2")].iloc[0]
    assert line["difference_low"] > 0
    assert line["difference_low"] < line["difference"] < line["difference_high"]
    # other examples cannot be paired
    unlike = evaluation.metrics(better, GROUPS, {"sentiment": "negative"}, base=scores(noisy(0.6), examples=40))
    assert unlike["difference"].isna().all()
    alone = evaluation.metrics(table, GROUPS, {"sentiment": "negative"})
    assert alone["difference"].isna().all()


def test_majority_label():
    assert evaluation.majority_label(["b", "a", "b"]) == "b"
    assert evaluation.majority_label(["b", "a"]) == "a"
