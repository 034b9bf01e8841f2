import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import psutil
import pytest

from ia_lib.data.files import own_csv
from ia_lib.evaluation import measures
from ia_lib.report import figures, page, panels, pool, summary
from ia_lib.report import results as results_of
from ia_lib.report import runs as runs_of

GROUPS = {"L1": ["eng", "ind"], "L2": ["sun", "jav"], "L3": ["bbc"]}
NAMES = ["negative", "neutral", "positive"]
FACTS = {"seconds": 1.5, "peak_memory_mb": 600, "device": "cpu", "end": "2026-01-01T00:00:00+00:00", "origin": ""}
FACTS |= {"versions": {"ia_lib": "0.1.0"}, "git_commit": "a" * 40}


def scores(right: float, seed: int = 1, texts: int = 24) -> pd.DataFrame:
    """Scores of a model that knows the answer to this share of the texts."""
    rng, lines = np.random.default_rng(seed), []
    gold = np.random.default_rng(0).choice(NAMES, texts, p=[0.5, 0.2, 0.3])
    for language in (code for group in GROUPS.values() for code in group):
        for prompt in (1, 2, 3):
            for i, true in enumerate(gold):
                said = true if rng.random() < right else rng.choice(NAMES)
                for label in NAMES:
                    line = {"task": "sentiment", "language": language, "example": f"e{i}", "prompt": prompt}
                    line |= {"label": label, "gold": true, "label_tokens": 1, "label_chars": len(label)}
                    line |= {"label_logprob": -1.0 - 3 * (label != said) - rng.random(), "prompt_tokens": 20}
                    lines.append({**line, "content_free_logprob": -2.0})
    return pd.DataFrame(lines)


def counts(lost: float, seed: int = 1) -> pd.DataFrame:
    """What 20 translations from and into two taught languages count, and of how many tokens each what loss."""
    rng, lines = np.random.default_rng(seed), []
    for source, language in (("ind", "sun"), ("ind", "jav"), ("eng", "jav"), ("sun", "ind"), ("jav", "ind")):
        for i in range(20):
            line = {"dataset": "", "task": "held-out", "source": source, "language": language, "example": f"s{i}"}
            grams = [float(n) for order in range(6) for n in (30 - order, 31 - order, rng.integers(5, 20))]
            loss = [8 * lost + rng.random(), 8.0]
            lines.append(
                {**line, "metric": "chrF", "counts": grams, "baseline": 20.0, "baseline_is": "the source copied"}
            )
            lines.append({**line, "metric": "answer loss", "counts": loss, "baseline": 6.0, "baseline_is": "chance"})
    return pd.DataFrame(lines)


def evaluate(folder: Path, table: pd.DataFrame, row: str, seed: int = 1, several: bool = False, **more) -> Path:
    """Write the artefacts of a run's stages, as far as a report reads them; returns the folder of its evaluation."""
    end = f"-s{seed}" if several else ""
    name, base = row + end, {"base": None}.get(row, f"base{end}")
    settings = {"name": name, "row": row, "seed": seed, "recipe": "instructalign", "corpus": "minilab", "languages": {}}
    settings |= {"reproduces": [], "known": GROUPS["L1"], "taught": GROUPS["L2"], "unseen": GROUPS["L3"]}
    settings |= {"model": {"run": base, "name": None, "new": {"hidden": 16}, "revision": None}}
    settings |= {"data": {"objective": row if base else "none", "replay": 40 if base else "all"}, "train": {"steps": 6}}
    settings |= {"evaluate": {"scoring_rule": "label_sum", "majority_of": "train"}, "machine": {"share_text": True}}
    settings |= more
    for stage in ("data", "tune", "evaluate"):
        (folder / name / stage).mkdir(parents=True)
        (folder / name / stage / "manifest.json").write_text(json.dumps(FACTS | {"settings": settings}))
        outputs = [
            nbformat.v4.new_output("display_data", {"application/vnd.plotly.v1+json": {"data": [], "layout": {}}})
        ]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("draw()", outputs=outputs)])
        nbformat.write(notebook, folder / name / f"{stage}.ipynb")
    report = {"estimated": {"tokens": 1000}, "untranslated_share": {"sun": 0.6, "jav": 0.7, "bbc": 0.65}}
    (folder / name / "data" / "report.json").write_text(json.dumps(report))
    (folder / name / "tune" / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    said = pd.DataFrame(columns=measures.PREDICTION_COLUMNS)
    texts = table[["task", "language", "example"]].drop_duplicates().assign(text="enak")
    groups = {"L1": settings["known"], "L2": settings["taught"], "L3": settings["unseen"]}
    lost = counts(5.0 if base is None else 4.0, seed=len(row))
    labels = {name: (["negative"], "train texts in eng") for name in ("sentiment", "one/sentiment", "two/sentiment")}
    measures.save(folder / name / "evaluate", table, said, lost, labels, texts, groups, seed)
    return folder / name / "evaluate"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """The evaluations of a base and of a model taught on top of it."""
    folder = tmp_path_factory.mktemp("outputs")
    return [evaluate(folder, scores(0.2), "base"), evaluate(folder, scores(0.7, seed=2), "tlm")]


@pytest.fixture(scope="module", params=["crafted", "finished"])
def report(request, tmp_path_factory) -> Path:
    """The folder of a report: of crafted artefacts, and of the tiny table carried out by Snakemake and papermill."""
    if request.param == "finished":
        return request.getfixturevalue("finished").folder / "report"
    folder = tmp_path_factory.mktemp("report")
    page.write(folder, "tiny", request.getfixturevalue("runs"), [])
    return folder


@pytest.fixture
def results(report):
    return own_csv(report / "results.csv")


def test_results_have_every_run_beside_its_baselines(results):
    assert set(results["run"]) == {"base", "tlm"}
    lines = measures.of_rows(results)
    groups = lines[(lines["language"] == "all") & (lines["prompt"] == "all")]
    assert list(groups["group"]) == ["L1", "L2", "L3"] * 2
    assert list(groups["group_name"][:3]) == ["known before", "taught", "never seen"]
    assert groups[["chance", "majority", "baseline", "low", "high"]].notna().all(axis=None)
    assert groups[groups["run"] == "base"]["difference"].isna().all()
    assert groups[groups["run"] == "tlm"]["difference"].notna().all()
    assert set(results["metric"]) >= {"weighted_f1", "accuracy", "macro_f1", "balanced_accuracy"}


def test_every_figure_draws_from_the_results(results):
    drawn = page.draw(results)
    losses = {"losses"} if (results["metric"] == "answer loss").any() else set()
    assert set(drawn) == {"groups", "languages", "difference"} | losses
    bars = [trace for trace in drawn["groups"].data if isinstance(trace, go.Bar)]
    assert [bar.name for bar in bars] == ["base", "tlm"]
    assert list(bars[0].x) == ["known before (L1)", "taught (L2)", "never seen (L3)"]
    notes = " ".join(note.text for note in drawn["groups"].layout.annotations)
    assert "chance" in notes
    assert "majority label" in notes
    assert drawn["languages"].data[0].z.shape == (2, 5)
    for figure in drawn.values():
        assert figure.layout.title.text
    log = pd.DataFrame({"step": [1, 2, 2], "loss": [3.0, 2.0, None], "validation_loss": [None, None, 2.5]})
    assert [len(trace.x) for trace in figures.loss_curve(log).data] == [2, 1]


def test_the_page_says_what_a_reader_must_know(report):
    page = (report / "index.html").read_text()
    assert "generated text and not native language" in page
    assert "Near chance" in page
    assert "known before (L1)" in page
    assert "not shown to be above chance" in page
    assert "How much of the text stays Indonesian" in page
    assert "://cdn" not in page
    assert (report / "figures" / "plotly.min.js").is_file()


def test_the_page_answers_what_a_reviewer_asks(report):
    folder = report
    page = (folder / "index.html").read_text()
    for section in ("headline", "rules", "errors", "notebooks", "costs", "cite"):
        assert f'id="{section}"' in page
        assert f'href="#{section}"' in page
    assert "known before (L1)" in page
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


def test_the_report_reads_artefacts_alone(runs, tmp_path):
    """Without a model's libraries, in a process of its own; and twice the same."""
    code = "import sys; from pathlib import Path; from ia_lib.report import audit, page, paper_figures; "
    code += "page.write(Path(sys.argv[1]), 'tiny', list(map(Path, sys.argv[2:])), []); "
    code += (
        "found = {'torch', 'transformers', 'datasets', 'ia_lib.workflow'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path, *runs], check=True, cwd=Path(page.__file__).parents[2])
    (tmp_path / "again").mkdir()
    page.write(tmp_path / "again", "tiny", runs, [])
    for name in ("results", "pairs", "rules", "conclusions"):
        assert (tmp_path / f"{name}.csv").read_bytes() == (tmp_path / "again" / f"{name}.csv").read_bytes()


def test_held_out_sentences_stand_in_the_results_and_on_the_page(runs, tmp_path):
    page.write(tmp_path, "tiny", runs, [])
    lines = own_csv(tmp_path / "results.csv").query("kind == 'translate'")
    directions = lines[lines["source"] != "all"]
    assert len(directions) == 2 * 5 * 2
    assert set(lines[lines["language"] == "all"]["group"]) == {"L1", "L2"}
    # as in the run's own measures, and beside the model that it began with
    own = own_csv(runs[1] / "measures.csv").query("kind == 'translate'")
    here = lines[lines["run"] == "tlm"]
    np.testing.assert_allclose(own[["value", "low", "high"]], here[["value", "low", "high"]])
    assert here.loc[here["metric"] == "answer loss", "difference_high"].max() < -0.8
    text = (tmp_path / "index.html").read_text()
    assert 'id="held-out"' in text
    assert "20.00 (the source copied)" in text
    assert "<td>English</td><td>Javanese</td>" in text
    # what averages several is named by its group; what averages one says nothing new
    shown = results_of.held_out(every_of(runs))
    assert len(shown[shown["source"] == "all"]) == 2 * 2 * 4
    assert "<td>taught (L2)</td>" in text


def test_published_cells_stand_beside_ours(tmp_path):
    (tmp_path / "report").mkdir()
    made = [evaluate(tmp_path, scores(0.4), row, reproduces=["Table 2"]) for row in ("base", "tlm")]
    page.write(tmp_path / "report", "tiny", made, ["xss"])
    found = pd.read_csv(tmp_path / "report" / "published.csv")
    assert set(found["verdict"]) == {"not run"}
    assert found["ours"].isna().all()
    text = (tmp_path / "report" / "index.html").read_text()
    assert "Published against ours" in text
    assert "<strong>Not finished.</strong> xss has no results" in text


@pytest.fixture
def crafted(tmp_path) -> list[Path]:
    """Two data sets, two seeds and a constant run."""
    made = []
    for seed in (1, 2):
        for row in ("base", "tlm"):
            table = scores(0.2 * seed, seed)
            if row == "tlm":  # always the first label
                table["label_logprob"] = -table.groupby(["language", "example", "prompt"]).cumcount() - 1.0
            table = pd.concat([table.assign(dataset=name) for name in ("one", "two")], ignore_index=True)
            made.append(evaluate(tmp_path / "outputs", table, row, seed, several=True))
    return made


def read(folders):
    return [runs_of.Run(folder) for folder in folders]


def every_of(folders):
    return results_of.every(results_of.pieces(read(folders)))


def test_several_processes_find_the_same(crafted, monkeypatch):
    alone = every_of(crafted)
    monkeypatch.setattr(pool, "MANY", 1)
    pd.testing.assert_frame_equal(every_of(crafted), alone, check_exact=True)


def test_seeds_are_taken_together(crafted):
    every = every_of(crafted)
    table = measures.of_rows(every, "weighted_f1")
    assert set(table["run"]) == {"base", "tlm"}
    assert (table["seeds"] == 2).all()
    assert set(every["began_with"]) == {"new", "base"}
    places = ["row", "metric", "dataset", "group", "language", "source", "prompt"]
    means = every[every["seed"] != "all"].groupby(places)["value"].mean()
    together = every[every["seed"] == "all"].set_index(places)["value"].sort_index()
    pd.testing.assert_series_equal(together, means, check_names=False)
    lines = results_of.headline(every)
    assert set(lines["run"]) == {"tlm"}
    bars = figures.group_bars(table[table["dataset"] == "one"])
    assert [bar.name for bar in bars.data] == ["base", "tlm"]
    assert "2 seeds" in bars.layout.title.text
    assert list(bars.data[1].text) == ["°", "°", "°"]
    assert figures.heat_map(table[table["dataset"] == "one"]).data[0].z.shape == (2, 5)


def test_the_page_keeps_data_sets_seeds_and_constants_apart(crafted, tmp_path):
    manifest = crafted[1].parent / "tune" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"git_commit": "f" * 40}))
    page.write(tmp_path, "crafted", crafted, [])
    text = (tmp_path / "index.html").read_text()
    assert "tlm L1 on one/sentiment, tlm L2 on one/sentiment" in text
    assert "<td>two/sentiment</td>" in text
    assert "°=" in text
    assert "over texts and seeds" in text
    assert "2 different versions or commits" in text
    assert "texts in each of 5 languages, 3 prompts each" in text
    assert "Not among them: joint, mean" in text
    lines = results_of.headline(every_of(crafted))
    labels = lines["metric"] == "weighted_f1"
    assert lines.loc[labels & (lines["group"] == "L1"), "kept"].isna().all()


def test_processes_end_with_the_one_that_is_killed():
    code = "import os, time\nfrom ia_lib.report.pool import processes\nwith processes(99) as pool:\n"
    code += "    print(pool.submit(os.getpid).result(), flush=True)\n    pool.submit(time.sleep, 600).result()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as killed:
        worker = psutil.Process(int(killed.stdout.readline()))
        killed.kill()
    assert psutil.wait_procs([worker], timeout=60)[1] == []


def test_rows_that_have_nothing_in_common_are_not_compared(crafted, tmp_path):
    # the last run tests one language, which the others have in no group
    table = scores(0.5).query("language == 'eng'").assign(language="bug")
    lone = evaluate(tmp_path / "outputs", table, "lone", known=[], taught=["bug"], unseen=[])
    page.write(tmp_path, "crafted", [*crafted[:3], lone], [])
    by_rule = pd.read_csv(tmp_path / "rules.csv")
    assert set(by_rule["run"]) == {"base", "tlm", "lone"}
    pairs = pd.read_csv(tmp_path / "pairs.csv")
    # tlm has a seed less than base
    assert set(pairs["kind"]) == {"languages of base", "languages of tlm"}
    assert pairs["difference"].notna().all()


def test_from_a_constant_answer_to_guessing_is_no_gain(results):
    tlm, first = results["run"] == "tlm", results["metric"] == "weighted_f1"
    poor = results.assign(within_chance=True, difference_p=0.001, base=10.0, difference=20.0)
    lines = results_of.headline(poor.where(tlm, results)[first])
    assert set(lines["verdict"]) == {"neither above chance"}
    assert set(results_of.headline(poor.assign(within_chance=False)[tlm & first])["verdict"]) == {"gain"}


def test_the_page_begins_with_what_was_found(runs, tmp_path):
    page.write(tmp_path, "tiny", runs, [])
    text = (tmp_path / "index.html").read_text()
    top = unescape(text[text.index('id="answer"') : text.index("<nav")])
    every = own_csv(tmp_path / "results.csv")
    lines = every[(every["metric"] == "weighted_f1") & (every["language"] == "all") & (every["run"] == "tlm")]
    for line in lines.itertuples():
        by = f"{line.difference:.1f} points [{line.difference_low:.1f}, {line.difference_high:.1f}]"
        place = {"L1": "the known ones, too", "L2": "the taught languages", "L3": "languages never seen"}[line.group]
        said = f"{by} carried over to {place}" if line.group == "L3" else f"gained {by} in {place}"
        assert f"{said}, from {line.base:.1f} to {line.value:.1f}" in top
    assert "Sundanese and Javanese" in top
    # the picture is drawn to scale, and has words
    drawing = top[top.index("What was gained? Taught (L2)") :]
    value = lines.set_index("group").loc["L2", "value"]
    low, high = (lines.set_index("group").loc["L2", end] for end in ("low", "high"))
    left, right = map(float, re.search(r'class="gain".*?class="ends" d="M([\d.]+) \d+H([\d.]+)"', drawing).groups())
    scale = (panels._RIGHT - panels._LEFT) / 100
    assert [left, right] == pytest.approx([panels._LEFT + scale * end for end in (low, high)], abs=0.06)
    assert "tlm: from" in top
    assert f"to {value:.1f} [{low:.1f}, {high:.1f}], gain" in top


@pytest.mark.parametrize(
    ("known", "taught", "says"),
    [
        (
            (0.0, -1.0, 1.0, 0.9),
            (30.0, 25.0, 35.0, 1e-6),
            ["gained 30.0 points [25.0, 35.0]", "kept the known ones"],
        ),
        (
            (-3.0, -9.0, 3.0, 0.3),
            (2.0, -4.0, 8.0, 0.5),
            ["no loss is shown in the known ones (-3.0 points [-9.0, +3.0])", "no change is shown in the taught"],
        ),
        (
            (-40.0, -45.0, -35.0, 1e-6),
            (-9.0, -12.0, -6.0, 1e-6),
            ["lost 40.0 points [35.0, 45.0] in the known ones", "lost 9.0 points [6.0, 12.0]"],
        ),
    ],
)
def test_the_summary_says_what_the_numbers_say(results, known, taught, says):
    columns = ["difference", "difference_low", "difference_high", "difference_p"]
    changed = results[results["run"].isin(["base", "tlm"])].copy()
    for group, values in (("L1", known), ("L2", taught), ("L3", (0.5, -4.0, 5.0, 0.8))):
        changed.loc[(changed["group"] == group) & (changed["run"] == "tlm"), columns] = values
    changed = changed.assign(within_chance=False).where(changed["metric"] == "weighted_f1").dropna(how="all")
    lines = summary._widest(results_of.headlines(changed, "choose"))
    (outcome,) = summary._outcomes(lines[lines["verdict"] != ""], "choose")
    for text in (*says, "nothing is shown to carry over to languages never seen (+0.5 points [-4.0, +5.0])"):
        assert text in outcome.text


def test_less_loss_is_a_gain(runs):
    every = every_of(runs)
    lines = results_of.headlines(every[every["metric"] == "answer loss"].assign(kind="answer"), "answer")
    tuned = lines[lines["row"] == "tlm"]
    assert (tuned["difference"] < 0).all()
    np.testing.assert_allclose(tuned["gained"], -tuned["difference"])
    assert (tuned["gained_low"] <= tuned["gained"]).all()
    assert set(tuned["verdict"]) == {"gain"}


def test_rows_with_the_same_outcome_are_told_together(results):
    tlm = results[results["run"] == "tlm"]
    many = [tlm.assign(run=f"r{i}", row=f"r{i}") for i in range(15)]
    lines = summary._widest(results_of.headlines(pd.concat([results, *many]), "choose"))
    (outcome,) = summary._outcomes(lines[lines["verdict"] != ""], "choose")
    assert len(outcome.rows) == len(outcome.single) == 16
    drawn, others = panels.panels(lines, "choose")
    assert [panel.count('class="row"') for panel in drawn + others] == [12] * 3 + [5] * 3


def test_every_figure_has_words(results):
    for figure in page.draw(results).values():
        said = figures.words(figure)
        assert len(said) >= 2
        assert all(re.search(r"\d", line) for line in said)
    bars = figures.words(page.draw(results)["groups"])
    value = measures.of_rows(results).query("run == 'tlm' and group == 'L2' and language == 'all'")["value"].item()
    assert f"taught (L2) {value:.4g}" in bars[1]


def test_a_large_table_stays_small(runs, tmp_path):
    """Pairs of many rows are cut on the page, and stand in the file."""
    rows = [evaluate(tmp_path / "outputs", scores(0.3 + i / 40, seed=i), f"row{i:02}") for i in range(13)]
    page.write(tmp_path, "many", rows, [])
    text = (tmp_path / "index.html").read_text()
    assert "60 with the largest differences" in text
    assert len(pd.read_csv(tmp_path / "pairs.csv").query("kind == 'rows'")) > 60
    assert "in each of 13 rows" in text


def test_languages_that_were_not_tested_are_named(tmp_path):
    table = scores(0.5).query("language not in ['eng', 'ind']")
    page.write(tmp_path, "crafted", [evaluate(tmp_path / "outputs", table, row) for row in ("base", "tlm")], [])
    assert "whether anything was forgotten was not measured" in (tmp_path / "index.html").read_text()


def test_without_labelled_tests_there_are_held_out_sentences(tmp_path):
    table = scores(0.5)[:0]
    found = page.write(tmp_path, "tiny", [evaluate(tmp_path / "outputs", table, row) for row in ("base", "tlm")], [])
    assert set(found["kind"]) == {"translate"}
    drawn = page.draw(found)
    assert list(drawn) == ["losses"]
    told = found[(found["metric"] == "answer loss") & (found["language"] != "all") & (found["source"] != "all")]
    points = [(trace.name, place, value) for trace in drawn["losses"].data
              for place, value in zip(trace.y, trace.x, strict=True)]  # fmt: skip
    assert sorted(value for _, _, value in points) == sorted(told["value"])
    assert {name for name, _, _ in points} == {"base", "tlm"}
    assert all(" to " in place for _, place, _ in points)
    text = (tmp_path / "index.html").read_text()
    assert "Translation, similarity and true answers" in text
    # what the picture does not show is named beside it
    assert "Measured, too: answer loss (" in text


def test_settings_that_differ_are_told_apart(runs):
    found = page._settings(read(runs))
    assert set(found["fields"]) == {"model", "objective", "replay"}
    assert [row for row, _ in found["rows"]] == ["base", "tlm"]
    assert dict(found["rows"])["tlm"][found["fields"].index("replay")] == "40"
    assert found["same"]["scoring_rule"] == "label_sum"
    assert found["same"]["known"] == "['eng', 'ind']"


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
