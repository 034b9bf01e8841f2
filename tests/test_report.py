import pandas as pd
import plotly.graph_objects as go
import pytest

from ia_lib.data.files import own_csv
from ia_lib.report import figures, page
from ia_lib.report import results as results_of


@pytest.fixture
def results(finished):
    return pd.read_csv(finished.folder / "report" / "results.csv")


def test_results_have_every_run_beside_its_baselines(results):
    assert set(results["run"]) == {"base", "tlm"}
    groups = results[(results["language"] == "all") & (results["prompt"] == "all")]
    assert list(groups["group"]) == ["L1", "L2", "L3"] * 2
    assert list(groups["group_name"][:3]) == ["known before", "taught", "never seen"]
    assert groups[["chance", "majority", "low", "high"]].notna().all(axis=None)
    assert groups[groups["run"] == "base"]["difference"].isna().all()
    assert groups[groups["run"] == "tlm"]["difference"].notna().all()


def test_every_figure_draws_from_the_results(results):
    drawn = page.draw(results)
    assert set(drawn) == {"groups", "languages", "difference"}
    bars = [trace for trace in drawn["groups"].data if isinstance(trace, go.Bar)]
    assert [bar.name for bar in bars] == ["base", "tlm"]
    assert list(bars[0].x) == ["known before (L1)", "taught (L2)", "never seen (L3)"]
    notes = " ".join(note.text for note in drawn["groups"].layout.annotations)
    assert "uniform chance" in notes
    assert "majority label" in notes
    assert drawn["languages"].data[0].z.shape == (2, 5)
    for figure in drawn.values():
        assert figure.layout.title.text
    log = pd.DataFrame({"step": [1, 2, 2], "loss": [3.0, 2.0, None], "validation_loss": [None, None, 2.5]})
    assert [len(trace.x) for trace in figures.loss_curve(log).data] == [2, 1]


def test_the_page_says_what_a_reader_must_know(finished):
    page = (finished.folder / "report" / "index.html").read_text()
    assert "generated text and not native language" in page
    assert "Near chance" in page
    assert "known before (L1)" in page
    assert "uniform chance" in page
    assert "How much of the text stays Indonesian" in page
    assert "://cdn" not in page
    assert (finished.folder / "report" / "figures" / "plotly.min.js").is_file()


def test_the_page_answers_what_a_reviewer_asks(finished):
    folder = finished.folder / "report"
    page = (folder / "index.html").read_text()
    for section in ("headline", "rules", "errors", "notebooks", "costs", "cite"):
        assert f'id="{section}"' in page
        assert f'href="#{section}"' in page
    assert "retention (L1)" in page
    every = {"label_sum", "label_mean", "label_per_char", "calibrated"}
    assert every <= set(pd.read_csv(folder / "conclusions.csv").columns)
    assert every <= set(pd.read_csv(folder / "rules.csv")["rule"])
    pairs = pd.read_csv(folder / "pairs.csv")
    assert set(pairs["kind"]) == {"rows", "languages of base", "languages of tlm"}
    assert pairs[["difference", "low", "high", "p_holm"]].notna().all(axis=None)
    for run, stage in (("base", "tune"), ("tlm", "data"), ("tlm", "evaluate")):
        shown = (folder / "notebooks" / f"{run}-{stage}.html").read_text()
        assert "Plotly.newPlot" in shown or stage != "tune"
        assert "://cdn" not in shown
        assert f"notebooks/{run}-{stage}.html" in page
    assert sum(path.stat().st_size for path in folder.glob("notebooks/*.html")) < 8e6
    # cells of the papers are compared only where a run says that it reproduces some
    assert not (folder / "published.csv").exists()


def test_published_cells_stand_beside_ours(finished, monkeypatch, tmp_path):
    evaluated, *rest = finished.finished()
    claimed = [(run.model_copy(update={"reproduces": ["Table 2"]}), folder) for run, folder in evaluated]
    page.write(tmp_path, "tiny", claimed, *rest)
    found = pd.read_csv(tmp_path / "published.csv")
    assert set(found["verdict"]) == {"not run"}
    assert found["ours"].isna().all()
    assert "Published against ours" in (tmp_path / "index.html").read_text()


@pytest.fixture
def crafted(finished, tmp_path):
    """Two data sets, two seeds and a constant run, from the tiny table's scores; (evaluated, manifests)."""
    first, _, manifests, _ = finished.finished()
    evaluated = []
    for seed in (1, 2):
        for run, folder in first:
            scores = pd.read_parquet(folder / "scores.parquet")
            if run.name == "tlm":  # always the first label
                scores["label_logprob"] = -scores.groupby(["language", "example", "prompt"]).cumcount() - 1.0
            elif seed == 2:
                scores["label_logprob"] += scores["label"].eq(scores["gold"])
            there = tmp_path / f"{run.name}-s{seed}" / "evaluate"
            there.mkdir(parents=True)
            parts = [scores.assign(dataset=name) for name in ("one", "two")]
            pd.concat(parts, ignore_index=True).to_parquet(there / "scores.parquet")
            known = own_csv(folder / "metrics.csv")
            pd.concat([known.assign(dataset=name) for name in ("one", "two")]).to_csv(there / "metrics.csv")
            model = run.model.model_copy(update={"run": run.model.run and f"{run.model.run}-s{seed}"})
            update = {"name": f"{run.name}-s{seed}", "row": run.name, "seed": seed, "model": model}
            evaluated.append((run.model_copy(update=update), there))
    return evaluated, manifests


def test_seeds_are_taken_together(crafted):
    evaluated, _ = crafted
    table = results_of.table(evaluated, {})
    every = table[table["seed"] == "all"]
    assert set(every["run"]) == {"base", "tlm"}
    assert (every["seeds"] == 2).all()
    assert set(table["began_with"]) == {"new", "base"}
    groups = ["row", "dataset", "group", "language", "prompt"]
    means = table[table["seed"] != "all"].groupby(groups)["weighted_f1"].mean()
    pd.testing.assert_series_equal(every.set_index(groups)["weighted_f1"].sort_index(), means, check_names=False)
    lines = results_of.headline(table)
    assert set(lines["run"]) == {"tlm"}
    bars = figures.group_bars(table[table["dataset"] == "one"])
    assert [bar.name for bar in bars.data] == ["base", "tlm"]
    assert "2 seeds" in bars.layout.title.text
    assert list(bars.data[1].text) == ["o", "o", "o"]
    assert figures.heat_map(table[table["dataset"] == "one"]).data[0].z.shape == (2, 5)


def test_the_page_keeps_data_sets_seeds_and_constants_apart(crafted, tmp_path):
    evaluated, manifests = crafted
    stages = dict(manifests)
    stages["tlm: tune"] = {**stages["tlm: tune"], "git_commit": "f" * 40}
    page.write(tmp_path, "crafted", evaluated, [], stages, {})
    text = (tmp_path / "index.html").read_text()
    assert "tlm L1 on one/sentiment, tlm L2 on one/sentiment" in text
    assert "<td>two/sentiment</td>" in text
    assert "°=" in text
    assert "over texts and seeds" in text
    assert "2 different versions or commits" in text
    assert "texts in each of 5 languages, 3 prompts each" in text
    assert "Not among them: joint, mean" in text
    lines = results_of.headline(results_of.table(evaluated, {}))
    assert lines.loc[lines["group"] == "L1", "kept"].isna().all()


def test_rows_that_have_nothing_in_common_are_not_compared(crafted, tmp_path):
    evaluated, manifests = crafted
    # the last run tests one language, which the others have in no group
    run, folder = evaluated[-1]
    lone = run.model_copy(update={"name": "lone", "row": "lone", "known": [], "taught": ["bug"], "unseen": []})
    scores = pd.read_parquet(folder / "scores.parquet")
    scores[scores["language"] == scores["language"].iloc[0]].assign(language="bug").to_parquet(
        folder / "scores.parquet"
    )
    found = [*evaluated[:3], (lone, folder)]
    page.write(tmp_path, "crafted", found, [], manifests, {})
    by_rule = pd.read_csv(tmp_path / "rules.csv")
    assert set(by_rule["run"]) == {"base", "tlm", "lone"}
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    # tlm has a seed less than base
    assert set(pairs["kind"]) == {"languages of base", "languages of tlm"}
    assert pairs["difference"].notna().all()


def test_from_a_constant_answer_to_guessing_is_no_gain(results):
    tlm = results["run"] == "tlm"
    poor = results.assign(within_chance=True, difference_p=0.001, base=10.0, difference=20.0)
    lines = results_of.headline(poor.where(tlm, results))
    assert set(lines["verdict"]) == {"neither above chance"}
    assert set(results_of.headline(poor.assign(within_chance=False)[tlm])["verdict"]) == {"gain"}


def test_languages_that_were_not_tested_are_named(crafted, tmp_path):
    evaluated, manifests = crafted
    for _, folder in evaluated:
        scores = pd.read_parquet(folder / "scores.parquet")
        scores[~scores["language"].isin(evaluated[0][0].known)].to_parquet(folder / "scores.parquet")
    page.write(tmp_path, "crafted", evaluated, [], manifests, {})
    assert "whether anything was forgotten was not measured" in (tmp_path / "index.html").read_text()


def test_the_curves_of_two_bases_are_not_joined(results):
    other = results.assign(began_with="large", row=results["row"] + " large", run=results["run"] + " large")
    names = [line.name for line in figures.difference_to_base(pd.concat([results, other])).data]
    assert len(names) == len(set(names)) == 6
    assert "tlm on large, taught (L2)" in names


def test_without_a_browser_there_is_one_clear_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    assert page.write_pictures({"a": go.Figure()}, tmp_path) == []
    assert capsys.readouterr().out.count("\n") == 1
