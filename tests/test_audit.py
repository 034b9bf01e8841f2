import csv
from statistics import fmean

import numpy as np
import pandas as pd
import papermill
import plotly.graph_objects as go
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from ia_lib.paths import root
from ia_lib.report import audit, paper_figures, published

pytestmark = pytest.mark.quick
FOLDER = root() / "params" / "published"
SETS = [
    ("nusatranslation", "sentiment"),
    ("nusax", "sentiment"),
    ("nusaparagraph", "emotion"),
    ("nusaparagraph", "topic"),
]


def lines(name):
    with open(FOLDER / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def per_language():
    """(model, objective, replay) -> (dataset, task) -> group -> language -> score; read without the library."""
    found = {}
    for line in lines("instructalign_per_language"):
        row = found.setdefault((line["model"], line["objective"], line["replay"]), {})
        group = row.setdefault((line["dataset"], line["task"]), {}).setdefault(line["group"], {})
        group[line["language"]] = float(line["value"])
    return found


@pytest.fixture(scope="module")
def results(per_language):
    """Results of runs that have the published scores per language, with intervals of a point on both sides."""
    sizes = {(s["dataset"], s["task"], s["language"]): s["test"] for s in lines("instructalign_dataset_statistics")}
    table = []
    for row, sets in per_language.items():
        for (dataset, task), groups in sets.items():
            for group, scores in groups.items():
                table += [
                    {
                        **dict(zip(published.ROW, (f"bigscience/{row[0]}", row[1], row[2] or "all"), strict=True)),
                        **{"run": "/".join(row), "row": "/".join(row), "seed": 1, "dataset": dataset, "task": task},
                        **{"kind": "choose", "group": group, "language": language, "prompt": "all"},
                        "examples": int(sizes[dataset, task, language] or 400),
                        **measure,
                    }
                    for language, score in scores.items()
                    for measure in (
                        {"metric": "weighted_f1", "value": score, "low": score - 1, "high": score + 1}
                        | {"chance": 33.0, "majority": 21.0},
                        {"metric": "accuracy", "value": 50.0, "low": 49.0, "high": 51.0},
                    )
                ]
    return pd.DataFrame(table)


def test_the_audit_lists_exactly_what_a_naive_recomputation_finds(per_language):
    expected = []

    def check(table, line, recomputed):
        if abs(float(line["value"]) - recomputed) > 0.0101:
            expected.append((f"InstructAlign {table}", float(line["value"]), round(recomputed, 4)))

    printed = {}
    for line in lines("instructalign_table2"):
        row = per_language[line["model"], line["objective"], line["replay"]]
        beside = printed.setdefault((line["model"], line["objective"], line["replay"], line["group"][:2]), [])
        known = [row["nusax", "sentiment"]["L1"][code] for code in ("eng", "ind")]
        known += row["nusatranslation", "sentiment"]["L1"].values()
        taught = [fmean(row[one]["L2"].values()) for one in SETS]
        if line["dataset"] == "average":
            check("Table 2", line, fmean(known if line["group"] == "L1" else taught))
            check("Table 2", line, fmean(beside))
            continue
        beside.append(float(line["value"]))
        scores = row[line["dataset"], line["task"]]
        check(
            "Table 2", line, scores["L1"][line["group"][3:]] if "/" in line["group"] else fmean(scores["L2"].values())
        )
    for line in lines("instructalign_table3"):
        row = per_language.get((line["model"], line["objective"], line["replay"]))
        if row:
            check("Table 3", line, fmean([v for one in SETS[:2] for v in row[one][line["group"]].values()]))
    for line in lines("instructalign_figure6"):
        groups = per_language[line["model"], line["objective"], line["replay"]]["nusax", "sentiment"]
        check("Figure 6", line, {k: v for group in groups.values() for k, v in group.items()}[line["language"]])
    check("Table 1", {"value": "4400"}, 12 * 400)
    for name, paper, unit in (("ia1_tables", "(IA)^1", "dataset"), ("commit_tables", "COMMIT", "language")):
        rows = {}
        for line in lines(name):
            rows.setdefault((line["table"], line["row"], line["metric"]), {})[line["dataset"], line.get("language")] = (
                line
            )
        for (table, _, _), row in rows.items():
            averages = [line for line in row.values() if line[unit] in ("average", "avg")]
            for line in averages:
                mean = fmean(float(part["value"]) for part in row.values() if part is not line)
                if abs(float(line["value"]) - mean) > 0.0101:
                    expected.append((f"{paper} {table}", float(line["value"]), round(mean, 4)))
    wrong = audit.audit()
    assert list(wrong.columns) == ["table", "cell", "published", "recomputed"]
    found = sorted(wrong[["table", "published", "recomputed"]].itertuples(index=False, name=None))
    assert found == sorted(expected)
    assert not wrong.duplicated(["table", "cell"]).any()
    assert not wrong["table"].str.contains("Figure 5|COMMIT").any()


def test_what_agrees_is_said_too():
    table = audit.recomputation().set_index(["table", "cell"])
    agrees = table[table["difference"].abs() <= audit.TOLERANCE]
    counts = table.loc["InstructAlign Table 1"]
    assert len(counts) == 20 - 2  # NusaParagraph has no L1 languages to add up
    assert counts.loc["nusatranslation sentiment test", "rule"] == "sum over languages without Indonesian"
    assert ("InstructAlign Table 3", "bloomz-560m: nusatranslation+nusax sentiment L2 weighted F1") in agrees.index
    assert table.loc["InstructAlign Figure 5", "recomputed"].item() == pytest.approx(0.9647)
    assert len(agrees) + len(audit.audit()) == len(table)


def test_groups_of_the_statistics_are_those_of_the_scores():
    for line in lines("instructalign_dataset_statistics"):
        assert published.members(line["dataset"], line["task"])[line["language"]] == line["group"]


def test_every_claim_has_a_verdict_and_what_shows_it(monkeypatch):
    ledger = audit.ledger()
    assert list(ledger["claim"]) == [line["claim"] for line in lines("claims")]
    counts = {"InstructAlign": 17, "(IA)^1": 4, "COMMIT": 8, "Alpaca study": 13 + 4}
    assert ledger["paper"].value_counts().to_dict() == counts
    assert set(ledger["verdict"]) == {"follows", "contradicted", "not testable"}
    assert ledger["cells"].str.len().min() > 20
    larger = ledger["claim"].str.startswith("Larger models gain more")
    assert ledger[larger]["verdict"].item() == "contradicted"
    assert "bloomz-560m xss r=100,000 +8.06" in ledger[larger]["cells"].item()

    # verdicts follow the numbers: with more on the larger model's tuned rows the claim holds
    scores = published.scores()
    tuned = (scores["model"] == "bloomz-1b1") & (scores["objective"] != "none")
    changed = scores.assign(value=scores["value"] + 10 * tuned)
    original = published.scores
    monkeypatch.setattr(published, "scores", lambda *args: original(*args) if args else changed)
    assert audit.ledger()[larger]["verdict"].item() == "follows"


@pytest.fixture
def one_test_set(tmp_path):
    folder = tmp_path / "nusax" / "sentiment" / "indonesian"
    folder.mkdir(parents=True)
    labels = ["negative"] * 153 + ["neutral"] * 96 + ["positive"] * 151
    pd.DataFrame({"id": range(400), "text": "?", "label": labels}).to_csv(folder / "test.csv", index=False)
    return tmp_path, labels


def test_constant_answers_are_found_where_the_labels_are(one_test_set):
    folder, labels = one_test_set
    base = published.baselines(folder)
    assert base[["dataset", "language", "examples", "majority_label"]].values.tolist() == [
        ["nusax", "ind", 400, "negative"]
    ]
    constant = 100 * f1_score(labels, ["negative"] * 400, average="weighted", zero_division=0)
    assert base["majority"].item() == pytest.approx(constant)
    rng = np.random.default_rng(5)
    guesses = [100 * f1_score(labels, rng.choice(sorted(set(labels)), 400), average="weighted") for _ in range(400)]
    assert base["chance"].item() == pytest.approx(np.mean(guesses), abs=0.5)
    assert base["chance_high"].item() == pytest.approx(np.percentile(guesses, 97.5), abs=1)

    cells = audit.constants(folder)
    assert set(cells["table"]) == {"Table 17"}
    cells = cells.set_index(["model", "objective", "replay"]).sort_index()
    bloom, bloomz = cells.loc["bloom-3b", "none", ""], cells.loc["bloomz-3b", "none", ""]
    assert bloom[["constant", "equal", "within_chance"]].tolist() == ["negative", True, True]
    assert bloomz[["equal", "within_chance"]].tolist() == [False, False]
    rows = audit.constant_rows(folder)
    assert rows.loc[0, ["model", "label", "languages", "equal"]].tolist() == ["bloom-3b", "negative", 1, 1]


def test_without_labels_there_is_nothing_to_hold_against(tmp_path):
    assert published.baselines(tmp_path).empty
    assert audit.constants(tmp_path).empty
    assert audit.constant_rows(tmp_path).empty


def test_the_published_emotion_scores_are_those_of_one_constant_answer(real_data):
    rows = audit.constant_rows(real_data)
    emotion = rows[rows["task"] == "emotion"]
    assert (emotion["label"] == "disgusted").all()
    assert (emotion["within_chance"] == 10).all()
    assert set(emotion[emotion["equal"] == 10]["model"]) == {"bloom-1b1", "bloom-3b", "bloomz-1b1", "bloomz-3b"}
    base = published.baselines(real_data).set_index(["dataset", "language"])["majority"]
    majority = [base["nusax", code] for code, group in published.members("nusax", "sentiment").items() if group == "L2"]
    majority += [base["nusatranslation", code] for code in ("jav", "min", "sun")]
    assert np.mean(majority) == pytest.approx(32.34, abs=0.01)  # Table 3


def test_comparison_averages_as_the_papers_do_and_fills_nothing_in(results):
    table = audit.compare(results)
    assert list(table.columns[: len(published.CELL_COLUMNS)]) == published.CELL_COLUMNS
    assert set(table["paper"]) == {"InstructAlign", "(IA)^1", "COMMIT", "Alpaca study"}
    assert set(table[table["paper"].isin(["COMMIT", "Alpaca study"])]["verdict"]) == {audit.NOT_RUN}
    # of the Alpaca study the four correlations in section 2.3
    counts = {"InstructAlign": 13, "(IA)^1": 3, "COMMIT": 5, "Alpaca study": 1}
    assert table.groupby("paper")["table"].nunique().to_dict() == counts
    assert table["verdict"].isin(["agrees", "differs", "not run"]).all()
    of = table.set_index("table")
    assert (of.loc[[f"Table {n}" for n in range(16, 20)], "verdict"] == "agrees").all()
    assert (of.loc["Table 11", "verdict"] == "not run").all()
    assert of.loc["Table 3"][of.loc["Table 3", "objective"].str.contains(r"\+|random|majority")]["ours"].isna().all()
    wrong = table[table["table"].isin(["Table 2", "Table 3"]) & table["difference"].abs().gt(1.005)]
    assert (wrong["verdict"] == "differs").all()
    assert wrong["difference_high"].to_numpy() == pytest.approx(wrong["difference"].to_numpy() + 1)
    cell = table[table["table"].eq("Table 2") & table["dataset"].eq("average") & table["objective"].eq("mt")].iloc[0]
    assert (cell["published"], round(cell["ours"], 4), cell["run"]) == (28.96, 29.9112, "bloomz-560m/mt/100000")
    nusax = table[table["table"].eq("Table 1") & table["dataset"].eq("nusax") & table["metric"].eq("test")]
    assert (nusax["ours"].item(), nusax["verdict"].item()) == (4800, "differs")

    some = results[~((results["dataset"] == "nusax") & (results["language"] == "bug"))]
    part = audit.compare(some)
    part = part[(part["table"] == "Table 2") & (part["language"] == "L2")].set_index("dataset")
    assert (part.loc[["nusax", "average"], "verdict"] == "not run").all()
    assert part.loc[["nusax", "average"], "ours"].isna().all()
    assert (part.loc["nusatranslation", "verdict"] != "not run").all()


def test_what_says_too_little_does_not_agree(results):
    row = results[(results["run"] == "bloomz-560m/none/") & (results["dataset"] == "nusax")]
    for changed in (
        {"examples": 12},
        {"low": row["value"] - 6, "high": row["value"] + 6},
    ):
        table = audit.compare(row.assign(**changed))
        verdicts = table[table["table"] == "Table 17"].dropna(subset="ours")["verdict"]
        assert list(verdicts) == ["cannot tell"] * 12
    assert set(table[table["table"] == "Table 17"].dropna(subset="ours")["texts"]) == {400}


def test_two_of_our_rows_for_one_published_row_are_two_lines_and_seeds_are_one(results):
    one = results[results["run"] == "bloomz-560m/tlm/0"]
    seeds = pd.concat([one, one.assign(seed=2, run="s2", value=one["value"] + 2, high=one["high"] + 2)])
    other = one.assign(run="released", row="released")
    table = audit.compare(pd.concat([seeds, other]))
    table = table[(table["table"] == "Table 16") & (table["verdict"] != "not run")]
    assert table["run"].value_counts().to_dict() == {"bloomz-560m/tlm/0": 12, "released": 12}
    mean = table[table["run"] != "released"]
    assert mean["difference"].to_numpy() == pytest.approx(np.ones(12))
    assert mean[["difference_low", "difference_high"]].to_numpy() == pytest.approx(np.tile([-1.0, 3.0], (12, 1)))


def test_results_without_a_needed_column_are_refused(results):
    with pytest.raises(ValueError, match="there is no column 'model'; found: objective"):
        audit.compare(results.drop(columns="model"))


def test_results_of_new_models_without_data_sets_are_of_none_of_the_papers(results):
    empty = audit.compare(results.assign(model=np.nan, dataset=np.nan))
    assert set(empty[empty["metric"].isin(["weighted_f1", "accuracy"])]["verdict"]) == {"not run"}


def test_correlation_has_fishers_interval():
    points = published.gains(published.scores())
    r, low, high = published.correlation(points["L2"], points["L3"])
    reference = stats.pearsonr(points["L2"], points["L3"])
    assert r == pytest.approx(reference.statistic)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert np.isnan(published.correlation(points["L2"][:3], points["L3"][:3])[1])


def test_the_same_figures_are_drawn_from_published_numbers_and_from_ours(results, one_test_set):
    theirs, mine = published.scores(data_dir=one_test_set[0]), published.ours(results)
    assert list(theirs.columns) == list(mine.columns)
    both = pd.concat([theirs, mine])
    for draw, panels in (
        (paper_figures.model_scaling, 2),
        (lambda scores: paper_figures.replay_curves(scores[scores["task"] == "sentiment"]), 3),
        (paper_figures.carried_over, 1),
        (lambda scores: paper_figures.language_scores(scores[scores["dataset"] == "nusax"]), 1),
        (paper_figures.objective_bars, 1),
    ):
        alone, pair = draw(theirs), draw(both)
        assert len(list(alone.select_xaxes())) == panels
        assert len(list(pair.select_xaxes())) == 2 * panels
        titles = [axis.title.text for axis in [*pair.select_xaxes(), *pair.select_yaxes()] if axis.title.text]
        assert len(titles) >= 2
        names = [trace.name for trace in pair.data if trace.showlegend]
        assert len(names) == len(set(names))
        assert len(pair.to_json()) < 1_000_000

    first = paper_figures.objective_bars(published.scores(published.IA1))
    assert [bar.name for bar in first.data] == ["nusawrites", "nusax"]
    assert dict(zip(first.data[0].x, first.data[0].y, strict=True))["IA1 r=0"] == pytest.approx(15.48)


def test_figures_show_baselines_or_say_that_they_are_missing(results, tmp_path):
    def notes(figure):
        return " ".join(note.text for note in figure.layout.annotations)

    assert notes(paper_figures.model_scaling(published.scores(data_dir=tmp_path))).count("not all test labels") == 2
    ours = paper_figures.model_scaling(published.ours(results))
    assert notes(ours).count("dashed: chance 33; dotted: majority label 21") == 2
    full = published.scores(data_dir=tmp_path).query("replay == '100000' or objective == 'none'")
    assert "published, n = 32: r = 0.96 [0.93, 0.98]" in notes(paper_figures.carried_over(full))
    heat = paper_figures.language_scores(published.ours(results).query("dataset == 'nusax'")).data[0]
    assert list(heat.y[:2]) == ["chance", "majority label"]
    assert heat.z.shape == (22 + 2, 12)


def test_an_instruction_of_each_objective_is_shown():
    rows = pd.DataFrame(
        [{"kind": "tlm", "prompt": "a < b & " + "word " * 60, "answer": "x"},
         {"kind": "mt", "prompt": "one\ntwo", "answer": "y"}]
    )  # fmt: skip
    names, prompts, answers = paper_figures.objective_examples(rows).data[0].cells["values"]
    assert list(names) == ["TLM", "MT"]
    assert prompts[0].startswith("a &lt; b &amp; word")
    assert max(map(len, prompts[0].split("<br>"))) <= 64
    assert prompts[1] == "one<br>two"
    assert list(answers) == ["x", "y"]


def test_families_and_losses_are_drawn():
    families = paper_figures.family_coverage(published.read("language_families"))
    assert "139 of 3,831" in families.layout.annotations[0].text
    assert max(families.data[0].x) == pytest.approx(100 * 65 / 272)
    log = pd.DataFrame({"step": [1, 2, 2], "loss": [3.0, 2.0, None], "validation_loss": [None, None, 2.5]})
    logs = pd.concat([log.assign(run=run, objective=run) for run in ("tlm", "xss")])
    figure = paper_figures.losses(logs)
    assert [len(trace.x) for trace in figure.data] == [2, 2, 1, 1]
    assert isinstance(figure, go.Figure)


def test_a_figure_of_nothing_is_refused():
    once = published.scores().query("replay == '100000' or objective == 'none'")
    with pytest.raises(ValueError, match="nothing to draw"):
        paper_figures.replay_curves(once)


def test_the_notebook_shows_audit_claims_and_figures_without_results_or_labels(tmp_path):
    parameters = {"outputs_dir": str(tmp_path), "data_dir": str(tmp_path)}
    done = papermill.execute_notebook(
        root() / "notebooks" / "5_audit.ipynb", tmp_path / "5.ipynb", parameters, cwd=root(), progress_bar=False
    )
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    text = " ".join(str(output.get("data", output.get("text", ""))) for output in outputs)
    assert "97 of 282 numbers" in text
    assert "contradicted" in text
    assert "No test labels are found" in text
    assert "XQuAD is not found" in text
    assert "There are no logs of tuned runs" in text
    assert "None of the printed cells was run by us" in text
    assert "15 of the 24 are ties" in text
    assert sum("application/vnd.plotly.v1+json" in output.get("data", {}) for output in outputs) == 12
    assert (tmp_path / "5.ipynb").stat().st_size < 2_000_000


def test_model_names_tell_their_size():
    names = {"bloomz-560m": 560e6, "bloomz-1b1": 1.1e9, "bloom-3b": 3e9, "qwen2.5-0.5b": 5e8, "base": float("inf")}
    assert {name: published.parameters(name) for name in names} == pytest.approx(names)
