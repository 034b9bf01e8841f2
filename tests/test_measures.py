from functools import partial

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import CHRF
from sklearn import metrics as reference

from ia_lib.data.files import own_csv
from ia_lib.evaluation import measures, resampling, tasks
from ia_lib.evaluation.rules import rule_scores, rules

pytestmark = pytest.mark.quick
NAMES = tasks.load("nusax/sentiment").labels
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


def measured(tables, majority=None, base=None, metric="weighted_f1", **more):
    """The lines of one metric, from a table of scores or one per seed."""

    def answers(one):
        return [measures.choices(t, majority=majority) for t in ([one] if isinstance(one, pd.DataFrame) else one)]

    found = measures.measures(answers(tables), GROUPS, None if base is None else answers(base), **more)
    assert list(found.columns) == measures.COLUMNS
    return measures.of_rows(found, metric)


def test_metrics_are_scikit_learns_averaged_over_prompts_then_languages():
    table = scores(noisy(0.5))
    found = measured(table, {"sentiment": "negative"}, metric=None)
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
    for (group, language, prompt), part in found.groupby(["group", "language", "prompt"]):
        languages = GROUPS[group] if language == "all" else [language]
        prompts = ["1", "2", "3"] if prompt == "all" else [prompt]
        mine = np.mean([cells[key] for key in cells if key[0] in languages and key[1] in prompts], axis=0)
        part = part.set_index("metric")
        assert list(part["value"][list(computed)]) == pytest.approx(list(mine))
        assert ((part["low"] <= part["value"]) & (part["value"] <= part["high"])).all()
        assert len(part) == len(computed)
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
        rule: measures.predictions(table, rule)["predicted"][0]
        for rule in ("label_sum", "label_mean", "label_per_char")
    }
    assert chosen == {"label_sum": "neutral", "label_mean": "negative", "label_per_char": "positive"}
    with pytest.raises(ValueError, match="allowed"):
        measures.predictions(table, "best")
    assert rules(table) == ["label_sum", "label_mean", "label_per_char"]
    with pytest.raises(ValueError, match="no prompt_logprob"):
        measures.predictions(table, "mean")
    # the prompt's tokens, of -2 nats each but for the first, favour the longest label when all are averaged
    table["prompt_logprob"] = -2.0 * 8
    assert measures.predictions(table, "joint")["predicted"][0] == "neutral"
    assert rule_scores(table, "mean").tolist() == pytest.approx([-22 / 12, -21 / 9, -21.5 / 10])
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
    table = scores(lambda rng, truth: "negative")
    every = measured(table, {"sentiment": "negative"}, metric=None)
    np.testing.assert_allclose(every["value"], every["majority"])
    np.testing.assert_allclose(every["value"], every["constant"])
    found = measured(table, {"sentiment": "negative"})
    assert (found["one_label"] == 100).all()
    assert found["equals_constant"].all()
    assert found["within_chance"].all()
    assert (found["flags"] == "within chance, a constant answer").all()
    assert (found["constant_label"] == "negative").all()
    # another label for each prompt is three constant answers, and no score of one
    turns = iter(np.repeat(NAMES * 3, 60))
    found = measured(scores(lambda rng, truth: next(turns)), {"sentiment": "negative"})
    assert found["equals_constant"].all()
    assert found["one_label"].iloc[-1] == pytest.approx(100 / 3)


def test_baselines():
    share = pd.Series(scores(noisy(0))["gold"]).value_counts(normalize=True)
    f1 = {label: 100 * 2 * p * p / (1 + p) for label, p in share.items()}
    found = measured(scores(noisy(0.5)), {"sentiment": "neutral"})
    assert found["majority"].tolist() == pytest.approx([f1["neutral"]] * len(found))
    assert found["constant"].tolist() == pytest.approx([f1["negative"]] * len(found))
    # the released reading: the majority of the test labels
    found = measured(scores(noisy(0.5)), "test")
    assert (found["majority_label"] == "negative").all()
    accuracy = measured(scores(noisy(0.5)), "test", metric="accuracy")
    assert accuracy["majority"].iloc[0] == pytest.approx(100 * share["negative"])
    assert (accuracy["baseline_is"] == "majority label").all()
    # no training texts, no majority, and nothing in its place
    found = measured(scores(noisy(0.5)))
    assert found["majority"].isna().all()
    assert (found["baseline"] == found[["chance", "constant"]].max(axis=1)).all()
    with pytest.raises(ValueError, match="found 'good' for sentiment; allowed: negative"):
        measured(scores(noisy(0.5)), {"sentiment": "good"})


def test_nearly_one_label_is_flagged():
    seldom = scores(lambda rng, truth: "negative" if rng.random() < 0.98 else truth, examples=300)
    found = measured(seldom)
    assert found["flags"].str.contains("one label in").all()
    assert (found["one_label_cells"] == found["cells"]).all()
    assert not found["equals_constant"].any()
    assert not measured(scores(noisy(0.9)))["flags"].any()


def test_chance():
    guessing = measured(scores(noisy(0.0), examples=300), {"sentiment": "negative"})
    assert guessing["within_chance"].mean() > 0.8
    # the expected weighted F1 of guessing, from the shares of the labels
    share = pd.Series(scores(noisy(0), examples=300)["gold"]).value_counts(normalize=True)
    expected = 100 * sum(p * 2 * p / 3 / (p + 1 / 3) for p in share)
    assert guessing["chance"].mean() == pytest.approx(expected, abs=0.5)
    accuracy = measured(scores(noisy(0.0), examples=300), metric="accuracy")
    assert accuracy["chance"].iloc[0] == pytest.approx(100 / 3)
    # the larger of what costs nothing
    assert (guessing["baseline"] == guessing[["chance", "majority"]].max(axis=1)).all()
    good = measured(scores(noisy(0.9)), {"sentiment": "negative"})
    assert not good["within_chance"].any()


def test_answers_that_know_only_how_often_labels_occur_are_within_chance():
    """They score far above a uniform guess."""
    share = (0.8, 0.1, 0.1)
    blind = scores(lambda rng, truth: NAMES[rng.choice(3, p=share)], examples=300, share=share)
    found = measured(blind)
    assert (found["low"] > found["chance_high"]).all()
    assert found["within_chance"].mean() > 0.9
    assert found["shuffled"].to_numpy() == pytest.approx(found["value"].to_numpy(), abs=5)


def test_the_difference_to_a_base_is_paired():
    table = scores(noisy(0.6))
    same = measured(table, {"sentiment": "negative"}, base=table)
    assert (same["difference"] == 0).all()
    assert (same["difference_p"] == 1).all()
    # of 60 texts without a difference some three in 60 may have one
    assert same["difference_high"].between(0, 100 * 3.7 / 60).all()
    better = scores(noisy(0.95))
    found = measured(better, {"sentiment": "negative"}, base=table)
    line = found[(found["language"] == "all") & (found["group"] == "L2")].iloc[0]
    assert line["difference_low"] > 0
    assert line["difference_low"] < line["difference"] < line["difference_high"]
    assert line["kept_low"] < line["kept"] == pytest.approx(100 * line["value"] / line["base"])
    assert line["difference_p"] < 0.001
    # other examples cannot be paired
    unlike = measured(better, {"sentiment": "negative"}, base=scores(noisy(0.6), examples=40))
    assert unlike["difference"].isna().all()
    alone = measured(table, {"sentiment": "negative"})
    assert alone["difference"].isna().all()


def test_several_seeds():
    seeds = [scores(noisy(share), seed=0) for share in (0.4, 0.6, 0.8)]
    alone = [measured(table) for table in seeds]
    found = measured(seeds, base=scores(noisy(0.3)))
    assert (found["seeds"] == 3).all()
    mean = np.mean([table["value"] for table in alone], axis=0)
    np.testing.assert_allclose(found["value"], mean)
    # seeds that differ so much say little about the next one
    widths = [table["high"] - table["low"] for table in (found, *alone)]
    assert (widths[0] > 1.5 * np.mean(widths[1:], axis=0)).all()
    assert found["low"].min() >= 0
    assert found["high"].max() <= 100
    np.testing.assert_allclose(found["difference"], found["value"] - found["base"])
    assert found["mcnemar_p"].isna().all()
    with pytest.raises(ValueError, match="the seeds of a row need the same"):
        measured([seeds[0], scores(noisy(0.4), ("eng",))])


def test_averages_over_data_sets_are_those_of_the_paper():
    """BLOOMZ-560M without tuning, InstructAlign's Tables 16 and 17 against its Tables 2 and 3."""
    published = pd.DataFrame(
        [("nusatranslation", "ind", 69.81), ("nusax", "eng", 58.24), ("nusax", "ind", 55.59)],
        columns=["dataset", "language", "f1"],
    ).assign(task="sentiment")
    assert measures.weights(published, "L1") @ published["f1"] == pytest.approx(61.21, abs=0.005)
    # L2: three and seven languages, whose means are 46.83 and 33.73
    cells = pd.DataFrame({"dataset": ["nusatranslation"] * 3 + ["nusax"] * 7, "task": "sentiment"})
    cells["language"] = [f"language {i}" for i in range(10)]
    values = np.repeat([46.82667, 33.73286], [3, 7])
    assert measures.weights(cells, "L2") @ values == pytest.approx((46.82667 + 33.73286) / 2)


def test_several_data_sets_and_tasks():
    two = NAMES[::2]
    other = scores(lambda rng, truth: two[rng.integers(2)], ("eng", "sun"), examples=40, share=(0.7, 0, 0.3))
    other = other[other["label"] != "neutral"].assign(dataset="nusatranslation")
    table = pd.concat([scores(noisy(0.6)).assign(dataset="nusax"), other])
    majority = {("nusax", "sentiment"): "negative", "sentiment": "positive"}
    found = measured(table, majority).set_index(["dataset", "task", "group", "language", "prompt"])
    value = found["value"]
    place = ("sentiment", "L2", "all", "all")
    assert value["all", *place] == pytest.approx((value["nusax", *place] + value["nusatranslation", *place]) / 2)
    accuracy = measured(table, majority, metric="accuracy").set_index(found.index.names)["chance"]
    assert accuracy["nusatranslation", *place] == pytest.approx(50)
    assert found["majority_label"]["all", *place] == "negative / positive"
    tasks = measured(pd.concat([table, table.assign(task="topic")]))
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


def counts(seed, missing=0.3, sentences=40):
    """What translations of made-up sentences count that lack a share of their words, as `measures.counted` takes it."""
    rng, lines = np.random.default_rng(seed), []
    words = np.random.default_rng(9).choice(["nasi", "goreng", "enak", "sekali", "mahal", "tidak"], (sentences, 8))
    for source, language in (("ind", "sun"), ("eng", "sun"), ("sun", "eng")):
        true = [" ".join(row) for row in words]
        said = [" ".join(word for word in row if rng.random() > missing) for row in words]
        copied = CHRF().corpus_score([text[::-1] for text in true], [true]).score
        vectors = {
            "chrF": (CHRF()._extract_corpus_statistics(said, [true]), copied, "the source copied"),
            "answer loss": (np.stack([rng.gamma(20, 0.1 + missing, sentences), 8 + rng.integers(4, size=sentences)], 1),
                            5.0, "chance"),
            "similarity": ([[int(rng.random() > missing), 1] for _ in true], 50.0, "chance"),
        }  # fmt: skip
        for metric, (vector, baseline, baseline_is) in vectors.items():
            place = {"dataset": "", "task": "held-out", "source": source, "language": language, "metric": metric}
            lines += [
                {**place, "example": f"s{i}", "counts": list(map(float, row)), "baseline": baseline,
                 "baseline_is": baseline_is, "said": said[i], "true": true[i]}
                for i, row in enumerate(vector)
            ]  # fmt: skip
    return pd.DataFrame(lines)


def test_translations_are_measured_as_labels_are():
    table = counts(1)
    found = measures.measures(measures.counted(table), GROUPS, measures.counted(counts(2, missing=0.6)))
    assert list(found.columns) == measures.COLUMNS
    assert (found["kind"] == "translate").all()
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()
    place = ["metric", "group", "language", "source"]
    values = found.set_index(place)["value"]
    for (source, language), part in table[table["metric"] == "chrF"].groupby(["source", "language"]):
        expected = CHRF().corpus_score(list(part["said"]), [list(part["true"])]).score
        assert values["chrF", "L1" if language == "eng" else "L2", language, source] == pytest.approx(expected)
    # a translation belongs to the language it is in; sources are averaged, then languages
    for metric in ("chrF", "answer loss", "similarity"):
        mean = (values[metric, "L2", "sun", "ind"] + values[metric, "L2", "sun", "eng"]) / 2
        assert values[metric, "L2", "all", "all"] == values[metric, "L2", "sun", "all"] == pytest.approx(mean)
    right = table[(table["metric"] == "similarity") & (table["language"] == "eng")]["counts"].str[0].mean()
    assert values["similarity", "L1", "eng", "sun"] == pytest.approx(100 * right)
    assert (found["baseline"] == found["metric"].map({"similarity": 50.0, "answer loss": 5.0}).fillna(
        found["baseline"])).all()  # fmt: skip
    assert set(found["baseline_is"]) == {"the source copied", "chance"}
    # better than the base in everything; of a loss less is better, and none of it is kept
    signs = np.where(found["metric"] == "answer loss", -1, 1)
    assert (signs * found["difference"] > 0).all()
    assert (found.loc[found["metric"] != "similarity", "difference_p"] < 0.001).all()
    assert (found["kept"].isna() == (found["metric"] == "answer loss")).all()
    assert found[["chance", "majority", "within_chance", "mcnemar_p"]].isna().all(axis=None)


def test_translations_are_paired_sentence_by_sentence():
    table = counts(1)
    same = measures.measures(measures.counted(table), GROUPS, measures.counted(table))
    assert (same["difference"] == 0).all()
    assert (same["difference_p"] == 1).all()
    # a model that loses a nat more on every sentence: what varies between sentences does not blur the difference
    worse = table.assign(counts=[[c[0] + c[1], c[1]] if len(c) == 2 else c for c in table["counts"]])
    found = measures.measures(measures.counted(worse), GROUPS, measures.counted(table))
    found = found[found["metric"] == "answer loss"]
    assert found["difference"].to_numpy() == pytest.approx(np.ones(len(found)))
    assert (found["difference_high"] - found["difference_low"]).max() < 1e-9
    assert (found["high"] - found["low"]).min() > 0.05
    unlike = measures.measures(measures.counted(table), GROUPS, measures.counted(counts(1, sentences=20)))
    assert unlike["difference"].isna().all()
    with pytest.raises(ValueError, match="found 'bleu'; allowed: weighted_f1"):
        measures.counted(table.assign(metric="bleu"))


def test_lines_of_one_example_are_drawn_together():
    table = counts(1)
    twice = pd.concat([table, table])
    pd.testing.assert_frame_equal(*(measures.measures(measures.counted(one), GROUPS) for one in (table, twice)))


def test_what_is_written_is_what_is_there(tmp_path):
    labels = scores(noisy(0.5))
    texts = pd.DataFrame({"task": "sentiment", "language": "eng", "example": [f"e{i}" for i in range(60)], "text": "x"})
    said = counts(1).query("metric == 'chrF'").rename(columns={"said": "predicted", "true": "gold"})
    said = said.assign(kind="translate", prompt=1)
    given = {"sentiment": (["neutral"] * 2 + ["negative"], "train texts in eng")}
    (tmp_path / "both").mkdir()
    found = measures.save(tmp_path / "both", labels, said, counts(1), given, texts, GROUPS, 1)
    written = own_csv(tmp_path / "both" / "measures.csv")
    assert list(written.columns) == measures.COLUMNS
    np.testing.assert_allclose(written["value"], found["value"], atol=1e-4)
    choose = found[found["kind"] == "choose"]
    assert set(choose["metric"]) == set(resampling.LABEL_METRICS)
    assert set(choose["majority_label"]) == {"neutral"}
    assert set(choose["majority_of"]) == {"train texts in eng"}
    answers = pd.read_parquet(tmp_path / "both" / "predictions.parquet")
    assert list(answers.columns) == measures.PREDICTION_COLUMNS
    assert answers.groupby("kind").size().to_dict() == {"choose": 3 * 3 * 60, "translate": 3 * 40}
    again = measures.measures(measures.counted(pd.read_parquet(tmp_path / "both" / "counts.parquet")), GROUPS)
    pd.testing.assert_series_equal(again["low"], found.loc[found["kind"] == "translate", "low"].reset_index(drop=True))
    assert len(own_csv(tmp_path / "both" / "errors.csv"))

    for name, parts in {"labels": (labels, None, None), "translations": (None, said, counts(1))}.items():
        (tmp_path / name).mkdir()
        alone = measures.save(tmp_path / name, *parts, given, texts, GROUPS, 1, majority_of="test")
        assert list(alone.columns) == measures.COLUMNS
        assert (tmp_path / name / "scores.parquet").is_file() == (name == "labels")
        assert (tmp_path / name / "counts.parquet").is_file() == (name == "translations")
    (tmp_path / "none").mkdir()
    assert measures.save(tmp_path / "none", labels[:0], None, None, {}, texts, GROUPS, 1).empty
    assert own_csv(tmp_path / "none" / "measures.csv").empty
