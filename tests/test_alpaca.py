"""The recipe `alpaca` and tasks of the kind `open`: four budgets, free answers, the gate, judges."""

import csv
import json
import random
import shutil
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pytest
from test_adapters import carried_out

from ia_lib import explore
from ia_lib.data import requests
from ia_lib.data.files import CorpusError, CorpusWarning
from ia_lib.evaluation import judged, replies
from ia_lib.evaluation.generation import continued
from ia_lib.evaluation.judges import JudgeWarning
from ia_lib.instructions import alpaca
from ia_lib.models.load import load_model, load_tokenizer
from ia_lib.recipes import alpaca as recipe
from ia_lib.report import page, trust
from ia_lib.workflow import show, work
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

TABLE = """
defaults:
  recipe: alpaca
  corpus: own
  known: [eng]
  taught: [fra, spa]
  unseen: []
  pivots: [eng]
  model: {run: base}
  tasks: [open.yaml]
  instructions: {file: "rows.{tag}.json", languages: {eng: en, fra: fr, spa: es}}
  per_step: 4
  epochs: 1
  validation_rows: 5
  beams: 1
  max_length: 160
  learning_rate: 1.0e-3
  judges: {overlap: {rule: overlap}}
runs:
  - {name: base, recipe: instructions, past: {file: old.jsonl, prompt: p, answer: a}, per_step: 2, steps: 2,
     epochs: null, validation_rows: 2, model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 400}}}
  - {name: all}
  - {name: english, budget: english}
  - {name: mono, budget: mono, language: fra}
  - {name: down, budget: downsampled}
  - {name: down-rows, budget: downsampled, sampling: row}
  - {name: by-row, hold_out: row}
  - {name: again, budget: downsampled, epochs: 2, seed: 1}
  - {name: other, budget: downsampled, seed: 7, model: {run: base}}
"""
TASK = """
kind: open
data:
  file: "test_{tag}.jsonl"
  languages: {eng: en, fra: fr, spa: es}
  reference: answer
  broken: skip
max_new_tokens: 6
"""
ROWS, HELD = 40, 5
END = {"base_url": "http://localhost/v1", "model": "m", "price_in": 10.0, "price_out": 20.0}
WORDS = {"en": "Name the colour", "fr": "Nomme la couleur", "es": "Nombra el color"}
ANSWERS = {"en": "The sky is blue", "fr": "Le ciel est bleu", "es": "El cielo es azul"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("alpaca")
    (path / "t.yaml").write_text(TABLE)
    (path / "open.yaml").write_text(TASK)
    (path / "old.jsonl").write_text("".join(json.dumps({"p": f"Say {i}", "a": f"it {i}"}) + "\n" for i in range(50)))
    for tag, asked in WORDS.items():
        rows = [{"instruction": f"{asked} {i}.", "input": "", "output": f"{ANSWERS[tag]} {i}."} for i in range(ROWS)]
        (path / f"rows.{tag}.json").write_text(json.dumps(rows))
        lines = [{"id": f"{tag}{i}", "prompt": f"{asked} now {i}.", "answer": ANSWERS[tag]} for i in range(6)]
        lines = [json.dumps(line) for line in lines]
        if tag == "es":
            lines[3] = lines[3][:-5]
        (path / f"test_{tag}.jsonl").write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def table(folder):
    table = Table(folder / "t.yaml", folder / "outputs")
    with pytest.warns(CorpusWarning, match=r"test_es.jsonl, line 4: this is no JSON object.*; 1 such line is left out"):
        table.check()
    return table


@pytest.fixture(scope="module")
def made(table):
    carried_out(table)
    return table


def data_of(table, name):
    stage = table.stage(name, "data").open()
    made = work.make_data(stage)
    return made.examples, made.report


def pairs_of(rows):
    return list(zip(rows["language"], rows["source_id"].astype(int), strict=True))


def test_every_budget_trains_on_what_it_says(made):
    left = ROWS - HELD
    for name, codes, count in (
        ("all", {"eng", "fra", "spa"}, 3 * left),
        ("english", {"eng"}, left),
        ("mono", {"fra"}, left),
        ("down", {"eng", "fra", "spa"}, left),
        ("down-rows", {"eng", "fra", "spa"}, left),
    ):
        rows, report = data_of(made, name)
        train, held = (rows[rows["split"] == split] for split in ("train", "validation"))
        steps = -(-count // 4)
        assert report["steps"] == steps, name
        assert len(train) == 4 * steps, name
        first = pairs_of(train)[:count]
        assert {code for code, _ in first} == codes, name
        assert len(set(first)) == count, name
        # no instruction is validated on in one language and trained on in another
        assert len(held) == HELD, name
        assert not {i for _, i in pairs_of(held)} & {i for _, i in pairs_of(train)}, name
        # what stands there is the file's
        row = train.iloc[0]
        tag = {"eng": "en", "fra": "fr", "spa": "es"}[row["language"]]
        assert row["prompt"] == alpaca.prompt(f"{WORDS[tag]} {row['source_id']}.", "", "newline")
        assert row["answer"] == f"{ANSWERS[tag]} {row['source_id']}."
    assert {i for _, i in pairs_of(data_of(made, "down")[0].query("split == 'train'"))} == {
        i for _, i in pairs_of(data_of(made, "all")[0].query("split == 'train'"))
    }, "sampled by instruction each is there once"


def test_rows_held_out_as_released_leak(made):
    rows, _ = data_of(made, "by-row")
    train, held = (rows[rows["split"] == split] for split in ("train", "validation"))
    assert not set(pairs_of(held)) & set(pairs_of(train))
    assert {i for _, i in pairs_of(held)} & {i for _, i in pairs_of(train)}


def test_order_and_sample_depend_on_seed_and_epoch_alone(made):
    once, twice, other = (data_of(made, name)[0].query("split == 'train'") for name in ("down", "again", "other"))
    assert pairs_of(once)[:35] == pairs_of(twice)[:35]
    assert pairs_of(twice)[35:70] != pairs_of(twice)[:35]
    assert Counter(pairs_of(twice)[35:70]) == Counter(pairs_of(twice)[:35])
    assert set(pairs_of(once)) != set(pairs_of(other))


def test_budgets_are_counted_before_training(made):
    _, report = data_of(made, "all")
    lines = {(line["budget"], line["language"]): line for line in report["budgets"]}
    left = ROWS - HELD
    assert {key: line["rows"] for key, line in lines.items()} == {
        ("mono", "eng"): left,
        ("mono", "fra"): left,
        ("mono", "spa"): left,
        ("multilingual", ""): 3 * left,
        ("english", ""): left,
        ("downsampled", ""): left,
    }
    assert lines["multilingual", ""]["updates"] == -(-3 * left // 4)
    monos = [lines["mono", code]["tokens"] for code in ("eng", "fra", "spa")]
    assert lines["multilingual", ""]["tokens"] == sum(monos)
    assert lines["english", ""]["tokens"] == monos[0]
    # recounted with the tokenizer
    tokenizer = load_tokenizer(*made.stage("all", "tune").inputs.tokenizer)
    rows, _ = data_of(made, "english")
    epoch = rows.query("split == 'train'").drop_duplicates("source_id")
    count = sum(len(tokenizer(p + a)["input_ids"]) + 1 for p, a in zip(epoch["prompt"], epoch["answer"], strict=True))
    assert monos[0] == count


def test_answers_are_joined_by_line_and_what_is_broken_is_left_out(made):
    said = pd.read_parquet(made.folder / "all" / "evaluate" / "predictions.parquet")
    by = said.groupby("language")["example"].agg(list).to_dict()
    assert by == {"eng": list("123456"), "fra": list("123456"), "spa": list("12356")}
    counts = pd.read_parquet(made.folder / "all" / "evaluate" / "counts.parquet")
    assert set(counts["metric"]) == {"in the language"}
    assert set(counts["baseline_is"]) == {"the request repeated"}


def test_scores_are_marks_behind_the_gate(made):
    marks = pd.read_parquet(made.folder / "all" / "judge" / "marks.parquet")
    assert set(marks["run"]) == {"all", *judged.FREE}
    assert len(marks[marks["run"] == "all"]) == 17
    # what is right in English is in English alone, where it would be the answer itself
    english = marks[marks["run"] == "the answer in English"].groupby("language")
    assert english["mark"].mean().to_dict() == {"fra": 1.0, "spa": 1.0}
    assert english["inside"].mean().to_dict() == {"fra": 0.0, "spa": 0.0}
    found = pd.read_csv(made.folder / "all" / "judge" / "measures.csv")
    found = found[(found["prompt"] == "all") & (found["language"] == "fra")].set_index("metric")
    mine = marks[(marks["run"] == "all") & (marks["language"] == "fra")]
    assert found.loc["score", "value"] == pytest.approx((mine["mark"] * mine["inside"]).mean(), abs=1e-4)
    assert found.loc["score, any language", "value"] == pytest.approx(mine["mark"].mean(), abs=1e-4)
    lost = found.loc["score, any language", "value"] - found.loc["score", "value"]
    assert found.loc["lost at the gate", "value"] == pytest.approx(lost, abs=2e-4)
    assert found.loc["score", "low"] <= found.loc["score", "value"] <= found.loc["score", "high"] <= 3


def test_the_page_and_the_notebook_show_scores(made):
    report = made.report(finished_only=True)
    report.open()
    found = work.write_report(report).results
    scores = found[(found["metric"] == "score") & (found["language"] == "spa") & (found["prompt"] == "all")]
    assert set(scores["run"]) == {run.name for run in made.runs}
    assert set(scores["source"]) == {"overlap"}
    mono = scores.set_index("run").loc["mono"]
    assert (mono["budget"], mono["trained_on"], mono["tuning"]) == ("mono", "fra", "full")
    page = (report.folder / "index.html").read_text()
    assert "Free answers" in page
    assert {"answers.html", "gate.html"} <= {path.name for path in (report.folder / "figures").iterdir()}
    stage = made.stage("all", "judge")
    assert "3 for the reference" in show.judged_as(stage)
    done = work.judge(stage)
    frame = show.scores_of_judges(done)
    line = frame[(frame["metric"] == "score") & (frame["language"] == "eng")].iloc[0]
    assert line["sum"] == round(line["value"] * 6)
    assert set(show.marks(stage, done)["judge"]) == {"overlap"}
    assert set(show.marks(stage, done)["in its language"]) <= {"yes", "no"}
    assert len(show.requests(made.stage("all", "evaluate"))) == 12


def test_people_and_models_judge_too(made, folder, tmp_path, capsys):
    sheet, key = folder / "sheet.csv", folder / "sheet.key.json"
    assert main(["sheet", str(made.path), str(sheet), str(key), "all", "mono", "--outputs", str(made.outputs)]) == 0
    assert f"people: {sheet.name}, key: {key.name}" in capsys.readouterr().out
    assert "mono" not in sheet.read_text(encoding="utf-8-sig")
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        lines = list(csv.DictReader(file))
    for number, line in enumerate(lines):
        line["mark"] = 1 + number % 3
    with open(folder / "ani.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(lines[:-1])
    # judges that are added later cost nothing but their own stage
    shutil.copytree(folder, tmp_path / "moved")
    model = tmp_path / "moved" / "outputs" / "t" / "base" / "tune" / "model"
    judges = f"""
  judge_checks: 2
  judges:
    ani: {{people: ani.csv, key: {key.name}}}
    small: {{model: {{name: {model}}}}}
    says: {{model: {{name: {model}, by: generation}}}}
    overlap: {{rule: overlap}}
"""
    path = tmp_path / "moved" / "t.yaml"
    path.write_text(TABLE.replace("  judges: {overlap: {rule: overlap}}\n", judges.lstrip("\n")))
    table = Table(path, path.parent / "outputs")
    table.check(["all"])
    run = table.run("all")
    assert [str(stage) for stage in table.missing(table.stage("all", "judge"))] == []
    stage = table.stage(run.name, "judge").open()
    with pytest.warns(JudgeWarning, match="have no mark"):  # a model without training says nothing of use
        done = work.judge(stage)
    mine = done.marks[done.marks["run"] == run.name]
    assert mine.groupby("judge").size().to_dict() == dict.fromkeys(("ani", "overlap", "says", "small"), 17)
    # a sheet puts a sign before what a spreadsheet would take for something else
    answers = {
        (line["language"], line["question"].lstrip("'"), line["answer"].lstrip("'")): line["mark"]
        for line in lines[:-1]
    }
    seen = 0
    for line in mine[mine["judge"] == "ani"].to_dict("records"):
        key = line["language_name"], line["question"], line["answer"].strip().lstrip("'")
        if key in answers:
            assert line["mark"] == answers[key]
            seen += 1
        if not line["answer"].strip():
            assert line["mark"] == 1
    assert seen
    marked = mine[mine["judge"] == "ani"].dropna(subset="mark")
    assert len(marked) >= 17 - sum(line["answer"] == lines[-1]["answer"] for line in lines) - 1
    # what has no mark is shown, and no sum is made of some of the requests
    shown = show.marks(stage, done)
    assert shown["mark"].isna().any() == done.marks.loc[done.marks["run"] == "all", "mark"].isna().any()
    found = done.measures
    assert set(found["source"]) >= {"ani", "small", "overlap"}
    sums = show.scores_of_judges(done).set_index(["judge", "metric", "language"])["sum"]
    assert sums["says", "score", "eng"] == "" if ("says", "score", "eng") in sums else True
    assert sums["overlap", "score", "eng"] != ""
    # people mark the run's answers and nothing else, and so may have a sum
    whole = done.marks.query("judge == 'ani' and run == 'all' and language == 'fra'")["mark"].notna().all()
    assert (sums["ani", "score", "fra"] != "") == whole
    page = table.report(finished_only=True)
    page.open()
    work.write_report(page)
    text = (page.folder / "index.html").read_text()
    assert "How far two judges agree" in text
    assert "Answers whose mark is known beforehand" in text
    checks = show.checks(done)
    assert set(checks["judge"]) == {"small", "says"}
    assert {"no answer", "the question repeated"} <= set(checks["check"])


def test_a_panel_shows_all_runs_answers_to_a_request(made, monkeypatch):
    monkeypatch.setattr(explore.scheduler, "make", lambda *_: [])
    panel = explore.Explorer(str(made.path), "all", "base", str(made.folder.parent)).free_answers()
    by = {control.description: control for control in panel.children[0].children}
    # the fourth line of the Spanish file is broken
    by["language"].value, by["request"].value = "spa", 4
    assert "no such request" in panel.children[1].value
    by["request"].value = 5
    shown = panel.children[1].value
    assert "Nombra el color now 4." in shown
    assert all(f">{run.name}</" in shown for run in made.runs)
    assert "overlap " in shown
    by["request"].value = 400
    assert "Nombra el color now 5." in panel.children[1].value, "the last one"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("budget: mono", "'language': found nothing; allowed: one of eng, fra, spa"),
        ("budget: mono, language: deu", "'language': found 'deu'"),
        ("language: fra", "'language': found 'fra'; allowed: nothing, where the budget is multilingual"),
        ("instructions: null", "'instructions': found nothing"),
        ("steps: 3", "'steps': found 'steps and epochs'"),
        ("instructions: {file: rows.json, languages: {eng: en, fra: fr, spa: es}}", "a name with {tag}"),
        ("instructions: {file: 'rows.{tag}.json', languages: {eng: en}}", "one for fra, too"),
        ("instructions: {file: 'rows.{tag}.json', languages: {fra: fr, spa: es}}, budget: english", "'budget'"),
        ("judges: {a: {rule: overlap, people: x.csv}}", "exactly one of"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, change, said):
    (folder / "wrong.yaml").write_text(TABLE + f"  - {{name: x, {change}}}\n")
    with pytest.raises(SettingsError, match=said):
        Table(folder / "wrong.yaml", folder / "other")


@pytest.mark.quick
def test_files_of_unequal_length_are_refused_where_rows_must_be_the_same(folder):
    rows = json.loads((folder / "rows.fr.json").read_text())
    (folder / "rows.short.json").write_text(json.dumps(rows[:-1]))
    languages = "instructions: {file: 'rows.{tag}.json', languages: {eng: en, fra: short, spa: es}}"
    (folder / "short.yaml").write_text(TABLE + f"  - {{name: x, {languages}}}\n")
    with pytest.raises(SettingsError, match="40 in eng, 39 in fra, 40 in spa; hold_out: instruction wants the same"):
        Table(folder / "short.yaml", folder / "other").check(["x"])
    (folder / "short.yaml").write_text(TABLE + f"  - {{name: x, {languages}, hold_out: row, sampling: row}}\n")
    Table(folder / "short.yaml", folder / "other").check(["x"])


@pytest.mark.quick
def test_readings_follow_how_a_row_is_tuned(folder):
    rows = (
        "  - {name: x, fidelity: released}\n  - {name: y, fidelity: released, adapter: {rank: 8}, validate_steps: 1}\n"
    )
    (folder / "read.yaml").write_text(TABLE + rows + "  - {name: z, fidelity: paper, validate_steps: 1}\n")
    *_, full, lora, paper = Table(folder / "read.yaml", folder / "other").runs
    assert (full.data.template, full.train.loss, full.train.keep) == ("plain", "answer", "last")
    assert (lora.data.template, lora.train.loss, lora.train.keep) == ("newline", "all", "best")
    assert (full.evaluate.asked, full.evaluate.repetition_penalty, full.evaluate.cut_answer) == (
        ("indented", 1.1, "response")
    )
    assert (lora.evaluate.asked, lora.evaluate.repetition_penalty, lora.evaluate.cut_answer) == (
        ("newline", 1.0, "headings")
    )
    assert (paper.data.hold_out, full.data.hold_out) == ("instruction", "row")
    assert full.evaluate.no_repeat_ngram == 6
    assert set(recipe.READINGS) - {*recipe.Data.model_fields} < {"loss", "keep", "asked", "beams", *vars(full.evaluate)}


@pytest.mark.quick
def test_prompts_and_cutting():
    plain = alpaca.prompt("Say hi.", "")
    assert alpaca.prompt("Say hi.", "", "newline") == plain + "\n"
    indented = alpaca.prompt("Say hi.\nTwice.", "", "indented")
    assert indented.endswith("\n\n    ### Response:\n    ")
    assert "\n\n    ### Instruction:\n    Say hi.\nTwice.\n\n    ### Response" in indented, "as released"
    assert alpaca.cut(" Hi.\n\n### Instruction:\nMore") == "Hi."
    text = "# A heading\n### Another\ntext"
    assert [alpaca.cut(text, at) for at in ("sections", "headings", "response")] == [text, "# A heading", text]
    more = "Hi.</s>\n### Input:\nx\n### Response:\nHo."
    assert [alpaca.cut(more, at) for at in ("sections", "headings", "response")] == [
        "Hi.</s>",
        "Hi.</s>",
        "Hi.</s>\n### Input:\nx",
    ]


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_hang_on_their_own_request_alone(made, beams):
    stage = made.stage("all", "evaluate")
    model, tokenizer = load_model(*stage.inputs.tuned_model), load_tokenizer(*stage.inputs.tokenizer)
    prompts = [tokenizer(text)["input_ids"] for text in ("Name the colour 1.", "Nomme la couleur", "Nombra", "It is")]
    # a token that the model often says ends its answers, at different places
    plain = continued(model, tokenizer, prompts, 12, [tokenizer.eos_token_id], beams=beams)
    end = tokenizer(plain[0])["input_ids"][-1]
    for special in (False, True):
        how = {"beams": beams, "no_repeat_ngram": 4, "special": special}
        together = continued(model, tokenizer, prompts, 12, [end, tokenizer.eos_token_id], **how)
        alone = [continued(model, tokenizer, [one], 12, [end, tokenizer.eos_token_id], **how)[0] for one in prompts]
        assert together == alone
        assert not any("<pad>" in text for text in together)


def test_judges_are_compared_without_the_gate(tmp_path):
    # two judges that mark at random, and models of which some answer in the wrong language
    rng, runs = random.Random(3), []
    for i in range(12):
        lines = [
            {"run": f"r{i}", "dataset": "", "task": "t", "language": "eng", "example": str(n), "answer": "x",
             "inside": i % 2 == 0, "judge": judge, "mark": float(rng.randint(1, 3))}
            for n in range(50) for judge in ("a", "b")
        ]  # fmt: skip
        folder = tmp_path / f"r{i}" / "evaluate"
        run = SimpleNamespace(name=f"r{i}", row=f"r{i}", seed=1, marks=pd.DataFrame(lines), checks=pd.DataFrame())
        run.folder, run.manifest, run.language = folder, {"origin": ""}, lambda code: code
        run.settings = {
            "judge": {"judges": {"a": {"model": None, "endpoint": END}, "b": {"model": None, "endpoint": None}}}
        }
        runs.append(run)
    with replies.Replies(tmp_path / ".replies", END["base_url"], END["model"]) as kept:
        for number in range(3):
            asked = dict.fromkeys(replies.ASKED, "x") | {"question": str(number), "max_tokens": 16, "try": 1}
            asked = {name: value for name, value in asked.items() if name not in ("base_url", "model")}
            kept.keep(asked, replies.Reply("2", "m", 1000, 1, requests=2))
    found = trust.judges(runs)
    (line,) = found["models"].to_dict("records")
    assert line["p"] > 0.05
    assert abs(line["pearson"]) < 0.7
    assert set(found) == {"items", "models", "asked"}
    (line,) = found["asked"].to_dict("records")
    assert (line["requests"], line["tokens_in"], line["tokens_out"]) == (6, 3000, 3)
    assert line["cost"] == pytest.approx((3000 * 10 + 3 * 20) / 1e6)


def test_figures_by_size_and_by_family():
    lines = []
    for model, size in (
        ("bigscience/bloom-560m", 0.56),
        ("bigscience/bloom-7b1", 7.1),
        ("EleutherAI/pythia-6.9b", 6.9),
    ):
        for tuning in ("lora", "full"):
            for budget, language in (
                ("multilingual", "fra"),
                ("multilingual", "spa"),
                ("mono", "fra"),
                ("mono", "spa"),
            ):
                row = f"{tuning}-{model}-{budget}" + (f"-{language}" if budget == "mono" else "")
                line = {
                    "run": row,
                    "row": row,
                    "model": model,
                    "tuning": tuning,
                    "budget": budget,
                    "language": language,
                }
                line |= {"trained_on": "fra" if budget == "mono" else "", "language_name": language, "group": "L2"}
                line |= {
                    "dataset": "alpaca",
                    "task": "open",
                    "kind": "open",
                    "source": "judge",
                    "prompt": "all",
                    "seeds": 1,
                }
                value = size / 4 + (tuning == "lora") / 10
                line |= {"metric": "score", "value": value, "low": value - 0.1, "high": value + 0.1, "baseline": 1.0}
                lines.append(line)
    frame = pd.DataFrame(lines)
    drawn = page.draw(frame)
    # no curve goes from one family of models to another
    assert set(drawn) == {"answers-bloom", "answers-pythia", "families"}
    by_size = drawn["answers-bloom"]
    french = next(trace for trace in by_size.data if trace.name == "multilingual, LoRA")
    assert list(french.x) == [0.56, 7.1]
    assert by_size.layout.xaxis.type == "log"
    # a model for one language is drawn in that one alone
    assert sum(trace.name == "mono, LoRA" for trace in by_size.data) == 1
    largest = drawn["families"]
    multilingual = next(trace for trace in largest.data if trace.name == "multilingual")
    assert set(multilingual.x[1]) == {"bloom", "pythia"}
    assert sorted(set(multilingual.y)) == pytest.approx([6.9 / 4 + 0.1, 7.1 / 4 + 0.1])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a"', "line 2: this is no JSON object"),
        ('["a"]', "line 2: this is no JSON object but"),
        ('{"text": "a"}', "line 2: there is no field 'prompt'; found: text"),
        ('{"prompt": " "}', "line 2: the field 'prompt' is empty"),
        ('{"prompt": 3}', "line 2"),
        ("\xff", "line 2"),
    ],
)
def test_a_broken_line_is_refused_or_left_out(tmp_path, line, said):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prompt": "one"}\n' + line.encode("latin-1") + b'\n\n{"prompt": "four"}')
    with pytest.raises(CorpusError, match=said):
        requests.read(path)
    with pytest.warns(CorpusWarning, match=f"{said}.*1 such line is left out"):
        found = requests.read(path, skip=True)
    assert found["example"][:] == ["1", "4"]
    assert found["reference"][:] == ["", ""]


def test_the_studys_own_requests(real_data):
    folder = real_data / "alpaca-multilingual"
    if not folder.is_dir():
        pytest.skip("the study's requests are not in the data folder")
    for path in folder.glob("test_*.jsonl"):
        assert requests.read(path)["example"][:] == [str(i) for i in range(1, 51)]
