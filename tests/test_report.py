import pandas as pd
import plotly.graph_objects as go
import pytest

from ia_lib import figures, report


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
    drawn = report.draw(results)
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
    rules = pd.read_csv(folder / "rules.csv")
    assert {"label_sum", "label_mean", "label_per_char", "calibrated"} <= set(rules.columns)
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
    report.write(tmp_path, "tiny", claimed, *rest)
    found = pd.read_csv(tmp_path / "published.csv")
    assert set(found["verdict"]) == {"not run"}
    assert found["ours"].isna().all()
    assert "Published against ours" in (tmp_path / "index.html").read_text()


def test_seeds_become_one_bar_with_their_range(results):
    two = pd.concat([results, results.assign(seed=2, weighted_f1=results["weighted_f1"] + 2)])
    bar = figures.group_bars(two).data[1]
    one = results[(results["row"] == "tlm") & (results["language"] == "all")]["weighted_f1"].to_numpy()
    assert list(bar.y) == pytest.approx(list(one + 1))
    assert list(bar.error_y.array) == pytest.approx([1, 1, 1])


def test_without_a_browser_there_is_one_clear_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    assert report.write_pictures({"a": go.Figure()}, tmp_path) == []
    assert capsys.readouterr().out.count("\n") == 1
