"""COMMIT's claims, by the counts behind its exact matches."""

import pandas as pd
import pytest

from ia_lib.report import audit, commit_audit

pytestmark = pytest.mark.quick


def test_differences_are_those_of_the_counts():
    frame = commit_audit.comparisons().set_index(["table", "than", "dataset", "language"])
    naive = frame.loc["Table 4"].loc["naive_codemix"]
    # measured independently of the kit, unpaired, from the published counts
    expected = {("mlqa", "hi"): 1.1, ("xquad", "hi"): 1.1, ("xquad", "th"): 3.1, ("xquad", "el"): 0.8}
    for place, z in expected.items():
        assert naive.loc[place, "z"] == pytest.approx(z, abs=0.06), place
    aligned = frame.loc["Table 3"].loc["commit"]
    expected = {("mlqa", "hi"): 3.8, ("xquad", "hi"): 1.3, ("xquad", "th"): 3.8, ("xquad", "el"): -1.1}
    for place, z in expected.items():
        assert aligned.loc[place, "z"] == pytest.approx(z, abs=0.06), place
    # a two-by-two table's chi-square is the square of z
    from scipy import stats

    line = naive.loc["xquad", "th"]
    table = [[line["right"], line["questions"] - line["right"]], [line["right_than"], 1190 - line["right_than"]]]
    assert line["p"] == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)
    assert line["low"] < line["difference"] < line["high"]
    assert (frame["p_holm"] >= frame["p"]).all()


def test_verdicts_on_commits_claims():
    ledger = audit.ledger()
    commit = ledger[ledger["paper"] == "COMMIT"]
    verdicts = dict(zip(commit["claim"].str[:30], commit["verdict"], strict=True))
    assert [verdict for _, verdict in verdicts.items()] == [
        "follows",  # 32 times: 97 against 3 answers
        "contradicted",  # COMMIT itself 3 and 4 times
        "contradicted",  # not in F1 on Hindi
        "follows",
        "contradicted",  # Greek falls
        "follows",
        "contradicted",  # not in Thai
        "follows",
    ]
    said = commit[commit["claim"].str.contains("naive")]["cells"].item()
    assert said.count("not shown by the counts") == 3


def test_cells_below_the_baseline(real_data):
    frame = commit_audit.beside_baselines(real_data)
    if frame.empty:
        pytest.skip(f"there is no XQuAD in {real_data} (set IA_DATA)")
    line = frame.set_index(["table", "row", "language", "metric"])
    assert line.loc[("Table 2", "alpaca+en_prompt", "hi", "em"), ["baseline", "below"]].tolist() == [
        pytest.approx(3.45, abs=0.01),
        True,
    ]
    assert line.loc[("Table 2", "commit", "hi", "f1"), "below"]
    assert not line.loc[("Table 2", "commit", "el", "em"), "below"]


def test_without_the_questions_there_is_nothing_to_hold_against(tmp_path):
    assert isinstance(commit_audit.beside_baselines(tmp_path), pd.DataFrame)
    assert commit_audit.beside_baselines(tmp_path).empty


def test_cells_stand_beside_the_rows_that_say_that_they_reproduce_them():
    place = {"dataset": "xquad", "kind": "extract", "language": "hin", "prompt": "all", "seeds": 1}
    scores = {"exact match, squad": 1.0, "F1, squad": 11.0, "exact match, mlqa": 50.0, "exact match, corrected": 60.0}
    lines = [
        {**place, "row": row, "task": task, "metric": metric, "value": value, "low": value - 0.5, "high": value + 1}
        | {"examples": questions}
        for row, task, questions in (("mine", "english", 1190), ("mine", "target", 1190), ("other", "english", 40))
        for metric, value in scores.items()
    ]
    results = pd.DataFrame(lines).assign(run=lambda frame: frame["row"], model="", objective="", replay="", group="L2")
    claims = {"mine": ["COMMIT Tables 2, 6: alpaca, alpaca+en_prompt"], "other": ["COMMIT Table 2: alpaca+en_prompt"]}
    found = audit.compare(results, claims)
    found = found[(found["paper"] == "COMMIT") & (found["verdict"] != audit.NOT_RUN)]
    told = found[found["table"] == "Table 2"].set_index(["row", "metric", "run"])
    assert set(told.index) == {
        *((row, metric, "mine") for row in ("alpaca", "alpaca+en_prompt") for metric in ("em", "f1")),
        *(("alpaca+en_prompt", metric, "other") for metric in ("em", "f1")),
    }
    assert set(told["language"]) == {"hi"}
    # 1.34 is in print, and 0.00 in the other language
    assert told.loc[("alpaca+en_prompt", "em", "mine"), "verdict"] == audit.AGREES
    assert told.loc[("alpaca", "em", "mine"), "verdict"] == audit.DIFFERS
    assert told.loc[("alpaca+en_prompt", "em", "other"), "verdict"] == audit.CANNOT_TELL
    assert told.loc[("alpaca+en_prompt", "f1", "mine"), ["ours", "difference"]].tolist() == [
        11.0,
        pytest.approx(11.0 - 10.48),
    ]
    assert list(told.loc[("alpaca+en_prompt", "em"), "texts"]) == [1190, 40]
