"""The mini lab at its full size, as `make reproduce` runs it: what it is there to show must show."""

import pandas as pd
import pytest

from ia_lib.workflow.graph import Table
from ia_lib.workflow.scheduler import execute


@pytest.fixture(scope="module")
def averages(tmp_path_factory) -> pd.DataFrame:
    """The group averages of weighted F1 in results.csv by run and group."""
    folder = tmp_path_factory.mktemp("mini")
    assert execute(Table("params/mini.yaml", folder)) == []
    results = pd.read_csv(folder / "mini" / "report" / "results.csv")
    results = results[(results["language"] == "all") & (results["prompt"] == "all")]
    return results[results["metric"] == "weighted_f1"].set_index(["run", "group"])


def test_make_reproduce_shows_forgetting_retention_and_transfer(averages):
    l1, l2 = (averages.xs(group, level="group") for group in ("L1", "L2"))
    # the base knows its own languages and does little in the others
    assert l1.loc["base", "value"] > 95
    assert l2.loc["base", "value"] < 75
    # without replay the old languages are forgotten, with replay they are kept
    assert l1.loc["tlm-r0", "difference"] <= -20
    for run in ("mlm", "tlm", "xss"):
        assert abs(l1.loc[run, "difference"]) <= 5
    # TLM teaches the taught languages, with intervals apart, and MLM clearly less
    assert l2.loc["tlm", "difference"] >= 15
    assert l2.loc["tlm", "low"] > l2.loc["base", "high"]
    assert l2.loc["tlm", "low"] > l2.loc["mlm", "high"]
    # scores are beside their baselines, and nothing here is within chance in the known languages
    assert averages[["chance", "majority"]].notna().all(axis=None)
    assert not l1.drop("tlm-r0")["within_chance"].any()
