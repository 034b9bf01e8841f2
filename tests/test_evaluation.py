from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from ia_lib.data.corpora import LABELS
from ia_lib.evaluation import measures

pytestmark = pytest.mark.quick
NAMES = LABELS["sentiment"]
GROUPS = {"L1": ["eng"], "L2": ["sun", "jav"], "L3": []}


def scores(choose, languages=("eng", "sun", "jav"), examples=60, seed=0, share=(0.5, 0.2, 0.3)):
    """A table of scores whose predictions are what `choose(rng, gold)` says."""
    rng = np.random.default_rng(seed)
    gold = rng.choice(NAMES, examples, p=share)
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
    found = measures.metrics(table, GROUPS, {"sentiment": "negative"})
    predicted = measures.predictions(table)
    computed = {
        "accuracy": reference.accuracy_score,
        "weighted_f1": partial(reference.f1_score, average="weighted"),
        "macro_f1": partial(reference.f1_score, average="macro"),
        "macro_precision": partial(reference.precision_score, average="macro"),
        "macro_recall": partial(reference.recall_score, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score,
    }
    cells = {}
    for (language, prompt), part in predicted.groupby(["language", "prompt"]):
        cells[language, str(prompt)] = [100 * value(part["gold"], part["predicted"]) for value in computed.values()]
    for line in found.to_dict("records"):
        languages = GROUPS[line["group"]] if line["language"] == "all" else [line["language"]]
        prompts = ["1", "2", "3"] if line["prompt"] == "all" else [line["prompt"]]
        mine = np.mean([cells[key] for key in cells if key[0] in languages and key[1] in prompts], axis=0)
        assert [line[name] for name in computed] == pytest.approx(list(mine))
        assert line["low"] <= line["weighted_f1"] <= line["high"]
        assert line["accuracy_low"] <= line["accuracy"] <= line["accuracy_high"]
        assert line["macro_f1_low"] <= line["macro_f1"] <= line["macro_f1_high"]
    assert set(found["group"]) == {"L1", "L2"}


def test_confusions():
    table = scores(noisy(0.5))
    found, predicted = measures.confusions(table), measures.predictions(table)
    counts = predicted.groupby(["language", "prompt", "gold", "predicted"]).size()
    assert found["count"].sum() == len(predicted)
    for line in found.itertuples():
        assert line.count == counts.get((line.language, line.prompt, line.gold, line.predicted), 0)


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
        rule: measures.predictions(table, rule)["predicted"][0]
        for rule in ("label_sum", "label_mean", "label_per_char")
    }
    assert chosen == {"label_sum": "neutral", "label_mean": "negative", "label_per_char": "positive"}
    with pytest.raises(ValueError, match="allowed"):
        measures.predictions(table, "best")
    assert measures.rules(table) == ["label_sum", "label_mean", "label_per_char"]
    with pytest.raises(ValueError, match="no prompt_logprob"):
        measures.predictions(table, "mean")
    # the prompt's tokens, of -2 nats each but for the first, favour the longest label when all are averaged
    table["prompt_logprob"] = -2.0 * 8
    assert measures.predictions(table, "joint")["predicted"][0] == "neutral"
    assert measures.rule_scores(table, "mean").tolist() == pytest.approx([-22 / 12, -21 / 9, -21.5 / 10])
    assert measures.predictions(table, "mean")["predicted"][0] == "negative"


def test_calibration_takes_away_what_a_label_always_gets():
    table = scores(noisy(0.8))
    always = 30.0 * (table["label"] == "neutral")
    leaning = table.assign(label_logprob=table["label_logprob"] + always, content_free_logprob=always)
    assert set(measures.predictions(leaning)["predicted"]) == {"neutral"}
    pd.testing.assert_frame_equal(measures.predictions(leaning, "calibrated"), measures.predictions(table))
    with pytest.raises(ValueError, match="no content_free_logprob"):
        measures.predictions(table, "calibrated")


def test_a_constant_prediction_is_the_majority_and_is_seen():
    found = measures.metrics(scores(lambda rng, truth: "negative"), GROUPS, {"sentiment": "negative"})
    np.testing.assert_allclose(found["weighted_f1"], found["majority"])
    np.testing.assert_allclose(found["weighted_f1"], found["constant"])
    np.testing.assert_allclose(found[["accuracy", "macro_f1"]], found[["constant_accuracy", "constant_macro_f1"]])
    assert (found["one_label"] == 100).all()
    assert found["equals_constant"].all()
    assert found["within_chance"].all()
    assert (found["flags"] == "within chance, a constant answer").all()
    assert (found["constant_label"] == "negative").all()
    # another label for each prompt is three constant answers, and no score of one
    turns = iter(np.repeat(NAMES * 3, 60))
    found = measures.metrics(scores(lambda rng, truth: next(turns)), GROUPS, {"sentiment": "negative"})
    assert found["equals_constant"].all()
    assert found["one_label"].iloc[-1] == pytest.approx(100 / 3)


def test_baselines():
    share = pd.Series(scores(noisy(0))["gold"]).value_counts(normalize=True)
    f1 = {label: 100 * 2 * p * p / (1 + p) for label, p in share.items()}
    found = measures.metrics(scores(noisy(0.5)), GROUPS, {"sentiment": "neutral"})
    assert found["majority"].tolist() == pytest.approx([f1["neutral"]] * len(found))
    assert found["constant"].tolist() == pytest.approx([f1["negative"]] * len(found))
    # the released reading: the majority of the test labels
    found = measures.metrics(scores(noisy(0.5)), GROUPS, "test")
    assert (found["majority_label"] == "negative").all()
    assert found["majority_accuracy"].iloc[0] == pytest.approx(100 * share["negative"])
    # no training texts, no majority, and nothing in its place
    found = measures.metrics(scores(noisy(0.5)), GROUPS, {})
    assert found["majority"].isna().all()
    with pytest.raises(ValueError, match="found 'good' for sentiment; allowed: negative"):
        measures.metrics(scores(noisy(0.5)), GROUPS, {"sentiment": "good"})


def test_nearly_one_label_is_flagged():
    seldom = scores(lambda rng, truth: "negative" if rng.random() < 0.98 else truth, examples=300)
    found = measures.metrics(seldom, GROUPS, {})
    assert found["flags"].str.contains("one label in").all()
    assert (found["one_label_cells"] == found["cells"]).all()
    assert not found["equals_constant"].any()
    assert not measures.metrics(scores(noisy(0.9)), GROUPS, {})["flags"].any()


def test_chance():
    guessing = measures.metrics(scores(noisy(0.0), examples=300), GROUPS, {"sentiment": "negative"})
    assert guessing["within_chance"].mean() > 0.8
    # the expected weighted F1 of guessing, from the shares of the labels
    share = pd.Series(scores(noisy(0), examples=300)["gold"]).value_counts(normalize=True)
    expected = 100 * sum(p * 2 * p / 3 / (p + 1 / 3) for p in share)
    assert guessing["chance"].mean() == pytest.approx(expected, abs=0.5)
    assert guessing["chance_accuracy"].iloc[0] == pytest.approx(100 / 3)
    good = measures.metrics(scores(noisy(0.9)), GROUPS, {"sentiment": "negative"})
    assert not good["within_chance"].any()


def test_answers_that_know_only_how_often_labels_occur_are_within_chance():
    """They score far above a uniform guess."""
    share = (0.8, 0.1, 0.1)
    blind = scores(lambda rng, truth: NAMES[rng.choice(3, p=share)], examples=300, share=share)
    found = measures.metrics(blind, GROUPS, {})
    assert (found["low"] > found["chance_high"]).all()
    assert found["within_chance"].mean() > 0.9
    assert found["shuffled"].to_numpy() == pytest.approx(found["weighted_f1"].to_numpy(), abs=5)


def test_the_difference_to_a_base_is_paired():
    table = scores(noisy(0.6))
    same = measures.metrics(table, GROUPS, {"sentiment": "negative"}, base=table)
    assert (same["difference"] == 0).all()
    assert (same["difference_p"] == 1).all()
    # of 60 texts without a difference some three in 60 may have one
    assert same["difference_high"].between(0, 100 * 3.7 / 60).all()
    better = scores(noisy(0.95))
    found = measures.metrics(better, GROUPS, {"sentiment": "negative"}, base=table)
    line = found[(found["language"] == "all") & (found["group"] == "L2")].iloc[0]
    assert line["difference_low"] > 0
    assert line["difference_low"] < line["difference"] < line["difference_high"]
    assert line["kept_low"] < line["kept"] == pytest.approx(100 * line["weighted_f1"] / line["base"])
    assert line["difference_p"] < 0.001
    # other examples cannot be paired
    unlike = measures.metrics(better, GROUPS, {"sentiment": "negative"}, base=scores(noisy(0.6), examples=40))
    assert unlike["difference"].isna().all()
    alone = measures.metrics(table, GROUPS, {"sentiment": "negative"})
    assert alone["difference"].isna().all()


def test_several_seeds():
    seeds = [scores(noisy(share), seed=0) for share in (0.4, 0.6, 0.8)]
    alone = [measures.metrics(table, GROUPS, {}) for table in seeds]
    found = measures.metrics(seeds, GROUPS, {}, base=scores(noisy(0.3)))
    assert (found["seeds"] == 3).all()
    mean = np.mean([table["weighted_f1"] for table in alone], axis=0)
    np.testing.assert_allclose(found["weighted_f1"], mean)
    # seeds that differ so much say little about the next one
    widths = [table["high"] - table["low"] for table in (found, *alone)]
    assert (widths[0] > 1.5 * np.mean(widths[1:], axis=0)).all()
    assert found["low"].min() >= 0
    assert found["high"].max() <= 100
    np.testing.assert_allclose(found["difference"], found["weighted_f1"] - found["base"])
    assert found["mcnemar_p"].isna().all()
    with pytest.raises(ValueError, match="the seeds of a row need the same"):
        measures.metrics([seeds[0], scores(noisy(0.4), ("eng",))], GROUPS, {})


def test_averages_over_data_sets_are_those_of_the_paper():
    """BLOOMZ-560M without tuning, InstructAlign's Tables 16 and 17 against its Tables 2 and 3."""
    published = pd.DataFrame(
        [("nusatranslation", "ind", 69.81), ("nusax", "eng", 58.24), ("nusax", "ind", 55.59)],
        columns=["dataset", "language", "f1"],
    ).assign(task="sentiment")
    assert measures.weights(published, "L1") @ published["f1"] == pytest.approx(61.21, abs=0.005)
    assert measures.weights(published, "L1", "datasets") @ published["f1"] == pytest.approx(63.36, abs=0.005)
    with pytest.raises(ValueError, match="allowed: table2, datasets, cells"):
        measures.weights(published, "L1", "mean")
    # L2: three and seven languages, whose means are 46.83 and 33.73
    cells = pd.DataFrame({"dataset": ["nusatranslation"] * 3 + ["nusax"] * 7, "task": "sentiment"})
    cells["language"] = [f"language {i}" for i in range(10)]
    values = np.repeat([46.82667, 33.73286], [3, 7])
    assert measures.weights(cells, "L2") @ values == pytest.approx((46.82667 + 33.73286) / 2)
    assert measures.weights(cells, "L2", "cells") @ values == pytest.approx(37.66, abs=0.005)


def test_several_data_sets_and_tasks():
    two = NAMES[::2]
    other = scores(lambda rng, truth: two[rng.integers(2)], ("eng", "sun"), examples=40, share=(0.7, 0, 0.3))
    other = other[other["label"] != "neutral"].assign(dataset="nusatranslation")
    table = pd.concat([scores(noisy(0.6)).assign(dataset="nusax"), other])
    majority = {("nusax", "sentiment"): "negative", "sentiment": "positive"}
    found = measures.metrics(table, GROUPS, majority).set_index(["dataset", "task", "group", "language", "prompt"])
    value = found["weighted_f1"]
    place = ("sentiment", "L2", "all", "all")
    assert value["all", *place] == pytest.approx((value["nusax", *place] + value["nusatranslation", *place]) / 2)
    assert found["chance_accuracy"]["nusatranslation", *place] == pytest.approx(50)
    assert found["majority_label"]["all", *place] == "negative / positive"
    by_cell = measures.metrics(table, GROUPS, majority, average="cells").set_index(found.index.names)["weighted_f1"]
    # two languages of the one, one of the other
    expected = (2 * value["nusax", *place] + value["nusatranslation", *place]) / 3
    assert by_cell["all", *place] == pytest.approx(expected)
    tasks = measures.metrics(pd.concat([table, table.assign(task="topic")]), GROUPS, {})
    assert set(zip(tasks["dataset"], tasks["task"], strict=True)) >= {
        ("all", "sentiment"),
        ("all", "topic"),
        ("all", "all"),
    }


def test_majority_label():
    assert measures.majority_label(["b", "a", "b"]) == "b"
    assert measures.majority_label(["b", "a"]) == "a"


def test_errors_are_the_most_certain_wrong_answers():
    lines = []
    for i, (gold, values) in enumerate([("a", [-1, -9]), ("a", [-5, -1]), ("b", [-1, -2]), ("b", [-1, -8])]):
        for prompt, worse in ((1, 0.0), (2, 0.5)):
            for label, value in zip("ab", values, strict=True):
                line = {
                    "task": "t",
                    "language": "sun",
                    "example": f"e{i}",
                    "prompt": prompt,
                    "label": label,
                    "gold": gold,
                }
                line |= {"label_tokens": 1, "label_chars": 1, "label_logprob": value - worse * (label == gold)}
                lines.append(line)
    texts = pd.DataFrame({"task": "t", "language": "sun", "example": [f"e{i}" for i in range(4)], "text": list("wxyz")})
    found = measures.errors(pd.DataFrame(lines), texts, count=2)
    assert found["example"].tolist() == ["e3", "e1"]
    assert found["margin"].tolist() == [7.5, 4.5]
    assert found["prompt"].tolist() == [2, 2]
    assert found[["gold", "predicted", "text"]].values.tolist() == [["b", "a", "z"], ["a", "b", "x"]]
