"""Agreement of judges, and checks of them, against scikit-learn, SciPy and counting by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from ia_lib.evaluation import agreement, judge_checks, resampling
from ia_lib.evaluation.agreement import by_item, by_model, correlation
from ia_lib.evaluation.judge_checks import checked, items_for_checks, prefers_itself

pytestmark = pytest.mark.quick
PLACE = {"dataset": "alpaca", "task": "open"}


def marked(first, second, language="bg", **more):
    line = {**PLACE, "language": language, "example": [str(i) for i in range(len(first))]}
    return pd.DataFrame({**line, "ani": first, "gpt": second, **more})


def kappa(x, y, weights=None):
    return cohen_kappa_score(x, y, weights="quadratic", labels=[1, 2, 3], sample_weight=weights)


def drawn(rng, n, same):
    """Marks of two judges who give the same one in this share of the items at least, and else mark independently."""
    x, y = rng.choice([1, 2, 3], (2, n), p=[0.5, 0.2, 0.3])
    return x, np.where(rng.random(n) < same, x, y)


@pytest.mark.parametrize("same", [0, 0.5, 0.95])
def test_kappa_is_scikit_learns(same):
    x, y = drawn(np.random.default_rng(1), 80, same)
    line = by_item(marked(x, y), ["ani", "gpt"]).iloc[0]
    assert line["kappa"] == pytest.approx(kappa(x, y))
    assert line["equal"] == pytest.approx(100 * np.mean(x == y))
    assert (line["first_mean"], line["second_mean"]) == pytest.approx((x.mean(), y.mean()))
    # every resample is what scikit-learn makes of the items as often as they were drawn, and the one that is added
    weights = resampling.Examples([f"alpaca/open/{i}" for i in range(80)], 1).weights
    one = [kappa(x, y, weights[:, i]) for i in range(2000)]
    low, high = np.percentile(one, [2.5, 97.5])
    assert low - 0.05 < line["kappa_low"] < low + 0.01
    assert high - 0.01 < line["kappa_high"] < high + 0.03


def test_kappa_where_it_is_extreme():
    for x, y, expected in (([1, 2, 3], [1, 2, 3], 1), ([1, 3], [3, 1], -1), ([3, 3], [2, 2], 0), ([1, 2], [2, 2], 0)):
        assert by_item(marked(x, y), ["ani", "gpt"])["kappa"].iloc[0] == pytest.approx(expected)
        assert kappa(x, y) == pytest.approx(expected)
    line = by_item(marked([3, 3], [3, 3]), ["ani", "gpt"]).iloc[0]
    assert line[["kappa", "kappa_low", "kappa_high"]].isna().all()
    assert line["says"] == "both mark every answer 3, so that agreement beyond chance cannot be told"
    assert line["equal"] == 100
    # all the same, in parts of a mark that no machine holds exactly
    assert np.isnan(by_item(marked([2.1] * 7, [2.1] * 7), ["ani", "gpt"])["kappa"].iloc[0])
    nothing = by_item(marked([3.0, np.nan], [np.nan, 3.0]), ["ani", "gpt"]).iloc[0]
    assert (nothing["items"], nothing["left_out"], nothing["says"]) == (0, 2, "no answer has marks of both")


def test_total_agreement_on_a_few_items_is_no_certainty():
    x = np.tile([1, 2, 3], 10)
    line = by_item(marked(x, x), ["ani", "gpt"]).iloc[0]
    assert (line["kappa"], line["kappa_high"], line["equal_high"]) == (1, 1, 100)
    assert 0.8 < line["kappa_low"] < 0.97
    # the exact lower limit of 30 equal marks of 30
    assert line["equal_low"] == pytest.approx(100 * stats.beta.ppf(0.025, 30, 1), abs=3)


@pytest.mark.parametrize(("n", "same", "most"), [(50, 0.5, 0.99), (150, 0.9, 0.99), (150, 0, 0.99), (100, 0.98, 1)])
def test_intervals_of_kappa_hold_the_truth_in_95_of_100_cases(n, same, most):
    rng = np.random.default_rng(2)
    truth, hits, prompts = kappa(*drawn(rng, 400_000, same)), 0, [str(i) for i in range(n)]
    for _ in range(250):
        x, y = drawn(rng, n, same)
        counts = np.stack([np.ones(n), x, y, x * x, y * y, (x - y) ** 2], 1)
        value, low, high = agreement.with_interval(prompts, counts, "marks, kappa", 1)
        assert value == pytest.approx(kappa(x, y))
        hits += low <= truth <= high
    assert 0.92 <= hits / 250 <= most


def test_answers_to_one_prompt_are_drawn_together():
    x, y = drawn(np.random.default_rng(3), 60, 0.5)
    once = marked(x, y)
    twice = pd.concat([once, once.assign(language="no")])
    one, _ = by_item(once, ["ani", "gpt"]).to_dict("records")
    *_, both = by_item(twice, ["ani", "gpt"]).to_dict("records")
    assert (both["items"], both["prompts"]) == (120, 60)
    for name in ("kappa", "kappa_low", "kappa_high", "equal", "equal_low", "equal_high"):
        assert both[name] == pytest.approx(one[name])


def test_missing_marks_and_empty_answers_are_left_out_and_counted():
    marks = pd.concat(
        [
            marked([1, 2, np.nan, 3, 1, 1], [1, 3, 2, np.nan, 1, 2], answer=["a", "b", "c", "d", " ", "e"]),
            marked([2, 1], [2, 3], "no", answer=["a", "b"]),
        ]
    ).assign(budi=[3.0] * 8)
    found = by_item(marks, ["ani", "gpt", "budi"]).set_index(["first", "second", "language"])
    assert list(found.index.unique("language")) == ["bg", "no", "all"]
    line = found.loc[("ani", "gpt", "bg")]
    assert line[["items", "left_out", "empty"]].tolist() == [3, 2, 1]
    assert line["kappa"] == pytest.approx(kappa([1, 2, 1], [1, 3, 2]))
    assert line["equal"] == pytest.approx(100 / 3)
    line = found.loc[("ani", "gpt", "all")]
    assert line[["items", "prompts", "left_out", "empty"]].tolist() == [5, 3, 2, 1]
    assert line["kappa"] == pytest.approx(kappa([1, 2, 1, 2, 1], [1, 3, 2, 2, 3]))
    assert found.loc[("gpt", "budi", "bg"), "items"] == 4
    with pytest.raises(ValueError, match="no column 'cici'"):
        by_item(marks, ["ani", "cici"])


@pytest.mark.parametrize("n", [3, 4, 5, 12, 60])
def test_correlations_are_scipys(n):
    rng = np.random.default_rng(n)
    for _ in range(10):
        x = rng.standard_normal(n)
        y = 0.7 * x + rng.standard_normal(n)
        expected = stats.pearsonr(x, y)
        found = correlation(float(expected.statistic), n)
        assert found["p"] == pytest.approx(expected.pvalue)
        assert (found["low"], found["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
        assert (found["p"] < 0.05) == (abs(found["pearson"]) > found["needed"])
    t = stats.t.ppf(0.975, n - 2)
    assert found["needed"] == pytest.approx(t / np.sqrt(n - 2 + t * t))


def test_what_the_papers_three_models_allow_to_say():
    found = correlation(0.9205, 3)
    assert found["p"] == pytest.approx(0.2556, abs=5e-4)
    assert (found["low"], found["high"]) == (-1, 1)
    assert found["says"].startswith("with 3 models r = 0.92 has p = 0.26; p is below 5% from |r| = 0.997 on")
    # rounded as the paper has it the first of the four
    assert correlation(0.9225, 3)["says"].startswith("with 3 models r = 0.92 has p = 0.25;")
    assert correlation(0.9985, 3)["says"].startswith("with 3 models r = 0.9985 has p = 0.035;")
    assert correlation(1.0, 5)["p"] == 0
    assert (correlation(-1.0, 5)["low"], correlation(-1.0, 5)["high"]) == (-1, -1)
    for r, n in ((1.1, 5), (0.5, 2), (np.nan, 5)):
        with pytest.raises(ValueError, match="allowed: -1 to 1, over three or more"):
            correlation(r, n)


def test_models_are_compared_language_by_language():
    rng = np.random.default_rng(4)
    scores = pd.DataFrame(
        {
            "run": [f"r{i}" for i in range(6)] * 4,
            "language": np.repeat(["bg", "no", "es", "ru"], 6),
            "ani": 50 * rng.random(24),
            "gpt": 150 * rng.random(24),
        }
    )
    scores.loc[0, "ani"] = np.nan
    scores.loc[6:9, "gpt"] = np.nan
    scores.loc[12:17, "gpt"] = 75.0
    found = by_model(scores, ["ani", "gpt"]).set_index("language")
    assert found["models"].to_dict() == {"bg": 5, "no": 2, "es": 6, "ru": 6}
    assert found["left_out"].to_dict() == {"bg": 1, "no": 4, "es": 0, "ru": 0}
    for language, rows in (("bg", slice(1, 5)), ("ru", slice(18, 23))):
        expected = stats.pearsonr(scores.loc[rows, "ani"], scores.loc[rows, "gpt"])
        assert found.loc[language, ["pearson", "p"]].tolist() == pytest.approx([expected.statistic, expected.pvalue])
        assert f"with {found.loc[language, 'models']} models r = " in found.loc[language, "says"]
    assert found.loc[["no", "es"], ["pearson", "low", "high", "p"]].isna().all(axis=None)
    assert found.loc["no", "says"] == "2 models scored by both: three are needed for a correlation"
    assert found.loc["es", "says"] == "gpt gave all 6 models the same score"
    with pytest.raises(ValueError, match="found r0 twice in bg; allowed: once"):
        by_model(pd.concat([scores, scores[:1]]), ["ani", "gpt"])


def real(count=12, languages=("bg", "no"), runs=("lora", "full"), references=True):
    lines = [
        {
            **{"run": run, **PLACE, "language": language, "language_name": language.upper(), "example": str(i)},
            **{"question": f"{language} question {i}?", "answer": f"{run} says {language} {i}"},
            "reference": f"{language} truth {i}" if references else "",
        }
        for run in runs
        for language in languages
        for i in range(count)
    ]
    return pd.DataFrame(lines)


@pytest.mark.parametrize("references", [True, False])
def test_check_items_are_what_they_are_called(references):
    items = real(references=references)
    items.loc[0, "answer"] = " "  # no answer is checked that there is not
    items.loc[1, "answer"] = "with a blank behind "
    items.loc[2, "answer"] = items.loc[2, "question"]
    found = items_for_checks(items, 100, 1)
    assert list(found) == [*items, "check"]
    keys = ["run", "dataset", "task", "language", "example"]
    source = items.set_index(keys)
    assert not found.duplicated([*keys, "check"]).any()
    expected = dict.fromkeys(judge_checks.CHECKS, 47) | {judge_checks.REPEATED: 46}
    assert found["check"].value_counts().to_dict() == expected
    answers = "reference" if references else "answer"
    for _, line in found.iterrows():
        own = source.loc[tuple(line[keys])]
        assert (line["question"], line["language_name"]) == (own["question"], own["language_name"])
        match line["check"]:
            case judge_checks.AGAIN:
                assert line["answer"] != own["answer"]
                assert line["answer"].strip() == own["answer"].strip()
            case judge_checks.NONE:
                assert line["answer"] == ""
            case judge_checks.REPEATED:
                assert line["answer"] == own["question"]
            case judge_checks.OTHER_QUESTION:
                theirs = items[items[answers] == line["answer"]]
                assert len(theirs)
                assert set(theirs["language"]) == {line["language"]}
                assert line["example"] not in set(theirs["example"])
            case judge_checks.OTHER_LANGUAGE:
                theirs = items[items[answers] == line["answer"]]
                assert len(theirs)
                assert line["language"] not in set(theirs["language"])
                assert set(theirs["example"]) == {line["example"]}


def test_check_items_are_drawn_alike_whatever_stands_around_them():
    items = real()
    few = items_for_checks(items, 5, 1)
    assert few.groupby(["language", "check"]).size().unique().tolist() == [5]
    keys = ["run", "language", "example"]
    drawn = few.groupby(["language", "check"])[keys].apply(lambda part: tuple(map(tuple, part.to_numpy())))
    assert drawn.groupby("language").nunique().tolist() == [1, 1]  # the same prompts for every check
    back = items_for_checks(items[::-1], 5, 1)
    sort = ["check", *keys]
    pd.testing.assert_frame_equal(*(f.sort_values(sort).reset_index(drop=True) for f in (few, back)))
    alone = items_for_checks(items[items["language"] == "no"], 5, 1)
    kept = few[(few["language"] == "no") & (few["check"] != judge_checks.OTHER_LANGUAGE)]
    pd.testing.assert_frame_equal(alone.reset_index(drop=True), kept.reset_index(drop=True))
    assert not items_for_checks(items, 5, 2).equals(few)
    assert not len(items_for_checks(items, 0, 1))
    # nothing to be taken from elsewhere
    one = items_for_checks(real(1, ("bg",), ("lora",)), 5, 1)
    assert set(one["check"]) == {judge_checks.AGAIN, judge_checks.NONE, judge_checks.REPEATED}
    # what is the same in both languages is no answer in another one
    same = real(1, runs=("lora",)).assign(answer="42", reference="42")
    assert judge_checks.OTHER_LANGUAGE not in set(items_for_checks(same, 5, 1)["check"])
    with pytest.raises(ValueError, match="no column 'reference'"):
        items_for_checks(items.drop(columns="reference"), 5, 1)


def test_how_a_judge_did():
    items = real(runs=("lora",))
    checks = items_for_checks(items, 10, 1)
    first = items.assign(check="", mark=[2.0, 3.0] * 12)
    second = checks.merge(first.drop(columns=["check", "answer"]), how="left")
    bg = second["language"] == "bg"
    second.loc[second["check"] == judge_checks.NONE, "mark"] = 1.0
    second.loc[(second["check"] == judge_checks.OTHER_LANGUAGE) & ~bg, "mark"] = 1.0
    again = second.index[(second["check"] == judge_checks.AGAIN) & bg]
    second.loc[again[:3], "mark"] -= 1
    second.loc[again[9], "mark"] = np.nan
    # one mark less among ten shows nothing
    second.loc[second.index[(second["check"] == judge_checks.REPEATED) & ~bg & (second["mark"] == 3)][0], "mark"] = 2
    found = checked(checks, pd.concat([first, second])).set_index(["check", "language"])
    assert list(found.index.unique("check")) == list(judge_checks.CHECKS)
    line = found.loc[(judge_checks.AGAIN, "bg")]
    assert line[["items", "unmarked"]].tolist() == [9, 1]
    assert line["share"] == pytest.approx(100 * 3 / 9)
    assert line["verdict"] == "another mark for 3 of 9"
    assert found.loc[(judge_checks.AGAIN, "no"), "verdict"] == "the same mark for all 10"
    line = found.loc[(judge_checks.NONE, "all")]
    real_mean = first.merge(checks[checks["check"] == judge_checks.NONE][["language", "example"]])["mark"].mean()
    assert line[["items", "mean", "real_mean", "share"]].tolist() == pytest.approx([20, 1, real_mean, 0])
    assert line["difference"] == pytest.approx(real_mean - 1)
    assert line["low"] < line["difference"] < line["high"]
    assert line["verdict"] == "all 20 marked 1; marked below real answers"
    assert found.loc[(judge_checks.REPEATED, "bg"), "verdict"] == "10 of 10 above 1; not told from real answers"
    line = found.loc[(judge_checks.REPEATED, "no")]
    assert line["difference"] == pytest.approx(0.1)
    assert line["verdict"] == "10 of 10 above 1; not told from real answers"
    assert found.loc[(judge_checks.OTHER_LANGUAGE, "no"), "verdict"] == "all 10 marked 1; marked below real answers"
    ones = pd.concat([first, second]).assign(mark=1.0)
    verdict = checked(checks, ones).set_index(["check", "language"]).loc[(judge_checks.NONE, "bg"), "verdict"]
    assert verdict == "all 10 marked 1; real answers get 1, too, so that nothing is shown"
    none = checked(checks, first)
    assert set(none["verdict"]) == {"nothing was marked"}
    with pytest.raises(ValueError, match="one-to-one"):
        checked(checks, pd.concat([first, second, second]))


def test_whether_a_judge_prefers_itself():
    rng = np.random.default_rng(5)
    runs = {"mine": "Owner/Judge-7B", "theirs": "other/model", "third": "other/third"}
    keys = {name: real(30, runs=runs)[name] for name in ("run", "dataset", "task", "language", "example")}
    marks = pd.DataFrame({**keys, "mark": rng.choice([1.0, 2.0, 3.0], 180)})
    marks.loc[(marks["run"] == "mine") & (marks["example"] == "3"), "mark"] = np.nan
    marks.loc[(marks["run"] == "theirs") & (marks["example"] == "4"), "mark"] = np.nan
    found = prefers_itself(marks, "judge-7b", runs).set_index("language")
    assert found["prompts"].to_dict() == {"bg": 29, "no": 29, "all": 58}
    wide = marks.pivot(index=["language", "example"], columns="run", values="mark").dropna(subset="mine")
    others = wide[["theirs", "third"]].mean(axis=1)
    assert found.loc["all", "own"] == pytest.approx(wide["mine"].mean())
    assert found.loc["all", "others"] == pytest.approx(others.mean())
    difference = (wide["mine"] - others).loc["bg"]
    line = found.loc["bg"]
    assert line["difference"] == pytest.approx(difference.mean())
    half = stats.t.ppf(0.975, 28) * difference.std(ddof=1) / np.sqrt(29)
    assert [line["low"], line["high"]] == pytest.approx([difference.mean() - half, difference.mean() + half], abs=0.1)
    assert not len(prefers_itself(marks, "another", runs))
    assert not len(prefers_itself(marks[marks["run"] == "mine"], "judge-7b", runs))
    assert list(prefers_itself(marks, "another", runs)) == [found.index.name, *found]
    with pytest.raises(ValueError, match="no model of the run 'mine'"):
        prefers_itself(marks, "judge-7b", {"theirs": "x"})


def test_scores_without_items_are_not_numbers():
    assert np.isnan(agreement.with_interval([], np.zeros((0, 2)), "marks, equal", 1)).all()
