import numpy as np
import pandas as pd
import pytest

from ia_lib.evaluation import comparison, measures, tasks
from ia_lib.evaluation.resampling import mcnemar
from ia_lib.evaluation.rules import RULES, rules

pytestmark = pytest.mark.quick
NAMES = tasks.load("nusax/sentiment").labels
GROUPS = {"L1": ["eng"], "L2": ["sun", "jav"]}
GOLD = np.random.default_rng(0).integers(3, size=120)


def scores(right: dict[str, float], seed: int = 1, tokens=(1, 1, 1), texts=slice(None)) -> pd.DataFrame:
    """A table of scores of a model that answers rightly in these shares of the texts, else with the next label."""
    lines = []
    for language, share in right.items():
        for prompt in (1, 2):
            # the same texts are hard in every language
            hard = np.random.default_rng(5).random(len(GOLD)) + 0.1 * np.random.default_rng(seed).random(len(GOLD))
            answers = np.where(hard < share * 1.05, GOLD, (GOLD + 1) % 3)
            for i in np.arange(len(GOLD))[texts]:
                for number, label in enumerate(NAMES):
                    line = {"task": "sentiment", "language": language, "example": f"e{i}", "prompt": prompt}
                    line |= {"label": label, "gold": NAMES[GOLD[i]], "label_tokens": tokens[number]}
                    line |= {"label_chars": len(label), "label_logprob": -1.0 - 4.0 * (number != answers[i])}
                    lines.append({**line, "prompt_tokens": 20, "prompt_logprob": -40.0, "content_free_logprob": -3.0})
    return pd.DataFrame(lines)


BASE = scores({"eng": 0.8, "sun": 0.4, "jav": 0.4})
TUNED = scores({"eng": 0.8, "sun": 0.7, "jav": 0.6}, seed=2)
RUNS = {"base": measures.choices(BASE), "tlm": measures.choices(TUNED)}


def measured(answers, base=None):
    return measures.of_rows(measures.measures(answers, GROUPS, base))


def test_models_are_compared_text_by_text():
    found = comparison.models(RUNS, [("tlm", "base")], GROUPS)
    line = found[(found["language"] == "sun") & (found["prompt"] == "1")].iloc[0]
    right = [
        table[(table["language"] == "sun") & (table["prompt"] == 1)].set_index("example").eval("gold == predicted")
        for table in map(measures.predictions, (TUNED, BASE))
    ]
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert (line["only_first"], line["only_second"]) == only
    assert line["mcnemar_p"] == pytest.approx(mcnemar(*only))
    assert line["difference"] == pytest.approx(line["first_f1"] - line["second_f1"])
    groups = found[found["language"] == "all"].set_index("group")
    assert groups["verdict"].to_dict() == {"L1": "none shown", "L2": "higher"}
    assert groups["mcnemar_p"].isna().all()
    # adjusted among the two groups alone
    assert groups.loc["L2", "p_holm"] == pytest.approx(2 * groups.loc["L2", "p"])
    back = comparison.models(RUNS, [("base", "tlm")], GROUPS)
    np.testing.assert_allclose(back["difference"], -found["difference"])
    np.testing.assert_allclose(back["low"], -found["high"])


def test_pairs_are_narrower_than_two_models_apart():
    found = comparison.models(RUNS, [("tlm", "base")], GROUPS)
    one, two = measured(RUNS["tlm"]), measured(RUNS["base"])
    apart = np.hypot(one["high"] - one["low"], two["high"] - two["low"])
    assert ((found["high"] - found["low"]) < 0.9 * apart).all()


def test_other_examples_are_not_paired():
    runs = RUNS | {"half": measures.choices(scores({"eng": 0.8, "sun": 0.7, "jav": 0.6}, texts=slice(60)))}
    found = comparison.models(runs, [("half", "base")], GROUPS)
    assert (found["verdict"] == "not paired").all()
    assert found["difference"].isna().all()


def test_languages_are_compared_on_the_sentences_both_have():
    table = measures.choices(pd.concat([scores({"sun": 0.8}), scores({"jav": 0.4}, texts=slice(20, 120))]))
    found = comparison.languages(table, [("sun", "jav"), ("jav", "sun")])
    assert (found["examples"] == 100).all()
    average = found[found["prompt"] == "all"].set_index("first")
    assert average["verdict"].to_dict() == {"sun": "higher", "jav": "lower"}
    assert len(found) == 2 * 3
    several = comparison.languages([table, table], [("sun", "jav")])
    assert (several["seeds"] == 2).all()
    with pytest.raises(ValueError, match="sun and eng share no sentence"):
        comparison.languages(table, [("sun", "eng")])


def test_headline_numbers():
    table = pd.concat(
        [measured(RUNS["tlm"], RUNS["base"]).assign(row="tlm"), measured(RUNS["base"]).assign(row="base")]
    )
    found = comparison.headline(table)
    assert found["row"].tolist() == ["tlm", "tlm"]
    found = found.set_index("group")
    assert found["verdict"].to_dict() == {"L1": "none shown", "L2": "gain"}
    assert found.loc["L1", "kept_low"] < 100 < found.loc["L1", "kept_high"]
    assert found.loc["L2", "difference_low"] > 0
    assert found.loc["L2", "p_holm"] == pytest.approx(2 * found.loc["L2", "difference_p"])


def by_rule(runs):
    return [
        (rule, {name: measures.choices(table, rule) for name, table in runs.items()}) for rule in rules(*runs.values())
    ]


def test_rules_side_by_side_say_what_depends_on_them():
    # a positive text's label is long: divided by its tokens its log-probability wins wherever it is not far behind
    runs = {name: table.assign(label_tokens=table["label"].map({"positive": 8}).fillna(1)) for name, table in TABLES}
    found = comparison.rules(by_rule(runs), GROUPS, {"tlm": "base"})
    assert found["rule"].unique().tolist() == list(RULES)
    values = measures.of_rows(found)
    values = values[(values["language"] == "all") & (values["run"] == "tlm")].set_index(["rule", "group"])["value"]
    # with one prompt for all labels the paper's joint probability is the label's own
    assert values["joint"].tolist() == values["label_sum"].tolist()
    says = comparison.conclusions(found)
    says = says[(says["language"] == "all") & (says["group"] == "L2")].set_index(["run", "claim"])
    line = says.loc["tlm", "against chance"]
    assert line["depends"]
    assert line["label_sum"] == "above"
    assert line["label_mean"] == "within"
    assert "within under label_mean" in line["says"]
    assert says.loc[("all", "highest score"), "label_sum"] == "tlm"
    lengths = comparison.label_lengths(runs["tlm"]).set_index("label")
    assert lengths["tokens"].to_dict() == {"negative": 1, "neutral": 1, "positive": 8}
    assert lengths.loc["positive", "label_mean"] > 95 > lengths.loc["positive", "label_sum"]
    assert lengths["gold"].sum() == pytest.approx(100)


TABLES = (("base", BASE), ("tlm", TUNED))


def test_which_row_is_best_depends_on_the_rule_only_where_the_rules_contradict_each_other():
    found = comparison.rules(by_rule(dict(TABLES)), GROUPS)
    found = found[found["rule"].isin(["label_sum", "label_mean"]) & (found["group"] == "L2")]
    found = found[found["language"] == "all"]

    def best(**values: tuple[float, float]):
        for rule, (base, tlm) in values.items():
            for run, value in (("base", base), ("tlm", tlm)):
                here = (found["rule"] == rule) & (found["run"] == run)
                found.loc[here, ["value", "low", "high"]] = value, value - 3, value + 3
        claims = comparison.conclusions(found).set_index("claim")
        return claims.loc["highest score"]

    line = best(label_sum=(60, 58), label_mean=(50, 70))
    assert (line["label_sum"], line["label_mean"]) == ("base", "tlm")
    assert not line["depends"]
    assert line["says"].endswith("among the best under every rule: tlm")
    line = best(label_sum=(60, 50), label_mean=(50, 70))
    assert line["depends"]
    assert line["says"] == "base under label_sum; tlm under label_mean"
    assert best(label_sum=(60, 50), label_mean=(70, 50))["says"] == "base under every rule"


def test_without_the_prompts_log_probability_fewer_rules():
    runs = {"tlm": TUNED.drop(columns="prompt_logprob"), "base": BASE}
    found = comparison.rules(by_rule(runs), GROUPS)
    assert found["rule"].unique().tolist() == ["label_sum", "label_mean", "label_per_char", "calibrated"]
    runs = {"tlm": TUNED, "base": BASE.drop(columns="content_free_logprob")}
    assert "calibrated" not in comparison.rules(by_rule(runs), GROUPS)["rule"].unique()
    says = comparison.conclusions(found)
    assert set(says["claim"]) == {"against chance", "highest score"}
