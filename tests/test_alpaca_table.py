"""The table of the Alpaca study's figures, and what a plan can tell of it without its files."""

import itertools
import json
import re
from collections import Counter

import pytest

from ia_lib.paths import root
from ia_lib.recipes import alpaca
from ia_lib.workflow import cost, tables
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick

SEEN = {"eng", "fra", "spa", "bul", "rus", "zho"}
BLOOM = [f"bigscience/bloom-{size}" for size in ("560m", "1b1", "1b7", "3b", "7b1")]
PYTHIA = [f"EleutherAI/pythia-{size}-deduped" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")]
OTHERS = ["huggyllama/llama-7b", "openlm-research/open_llama_7b", "hiyouga/Baichuan2-7B-Base-LLaMAfied"]
# Figure -> its models, and whether they are tuned by LoRA
MODELS = {
    1: (BLOOM, [True]),
    2: (BLOOM, [False]),
    3: (BLOOM, [True, False]),
    4: (BLOOM, [True, False]),
    5: ([BLOOM[-1], PYTHIA[-2], *OTHERS], [True]),
    8: (PYTHIA, [True]),
}


@pytest.fixture(scope="module")
def runs():
    return tables.load(root() / "params" / "alpaca.yaml")


def figures(run) -> list[int]:
    (said,) = run.reproduces
    named = re.match(r"Alpaca Figures? ([\d, ]+): (LoRA|full), ", said)
    assert (named[2] == "LoRA") == bool(run.train.adapter), said
    return [int(number) for number in named[1].split(",")]


@pytest.mark.parametrize("figure", MODELS)
def test_every_figure_has_its_points(runs, figure):
    """Each model and way of tuning with each budget in each language of the figure; a monolingual English model is the
    one of the budget english."""
    models, ways = MODELS[figure]
    languages = {"ben", "nor"} if figure == 3 else SEEN
    points = Counter(
        (run.model.name, bool(run.train.adapter), run.data.budget, code)
        for run in runs
        if figure in figures(run)
        for code in run.evaluate.test_languages
        if code in languages
    )
    budgets = ["english", "downsampled", "multilingual"]
    wanted = set(itertools.product(models, ways, budgets, languages))
    if figure != 3:
        wanted |= set(itertools.product(models, ways, ["mono"], SEEN - {"eng"}))
    assert set(points) == wanted
    assert set(points.values()) == {1}


def test_names_say_what_rows_are(runs):
    assert len(runs) == len({run.name for run in runs}) == 5 * 8 * 2 + 8 * 8 + 3 * 8
    for run in runs:
        way, budget = "lora" if run.train.adapter else "full", run.data.budget
        assert run.name.startswith(f"{way}-")
        assert run.name.endswith(f"mono-{alpaca.trained(run)[0]}" if budget == "mono" else budget)
        size = re.search(r"-(\d[\w.]*)-", run.name)[1].lower()
        assert size in run.model.name.lower().replace("_", "-")


def test_budgets_are_equal(runs):
    """In an epoch nine monolingual models read as many rows as the multilingual one, up to the rows that each keeps for
    validation; English alone and the down-sampled rows are as many as one language's."""
    counts = dict.fromkeys(["eng", "bul", "ces", "zho", "deu", "fin", "fra", "rus", "spa"], 52_000)
    rows, steps = {}, {}
    for run in runs:
        of = {code: counts[code] for code in alpaca.codes(run)}
        key = bool(run.train.adapter), run.data.budget
        rows.setdefault(key, set()).add(alpaca.rows_of_epoch(run, of))
        steps.setdefault(key, set()).add(cost.steps_of_epochs(run, of))
        if run.data.budget != "mono":
            assert set(of) == set(counts)
    for way, held_out in ((True, 1000), (False, 0)):
        assert rows[way, "mono"] == rows[way, "english"] == rows[way, "downsampled"] == {52_000 - held_out}
        assert rows[way, "multilingual"] == {9 * 52_000 - held_out}
        assert steps[way, "mono"] == steps[way, "english"] == steps[way, "downsampled"]
    # about 1,990 and 18,240 by the study's own arithmetic, and of these 100 steps of warm-up
    assert (steps[True, "mono"], steps[True, "multilingual"]) == ({1993}, {18243})
    for run in runs:
        updates = next(iter(steps[bool(run.train.adapter), run.data.budget]))
        assert run.train.warmup * updates == pytest.approx(100 if run.train.adapter else 0.03 * updates, abs=0.5)


def test_the_released_settings_are_in_every_row(runs):
    for run in runs:
        lora = run.train.adapter
        assert (run.data.max_length, run.data.per_step, run.data.hold_out, run.data.sampling) == (
            512,
            128,
            "row",
            "row",
        )
        asked = run.evaluate
        assert (asked.beams, asked.no_repeat_ngram, asked.max_new_tokens) == (4, 6, 256)
        assert asked.repetition_penalty == (1.0 if lora else 1.1)
        assert (run.train.loss, run.train.keep) == (("all", "best") if lora else ("answer", "last"))
        assert (run.data.template, asked.asked) == (("newline", "newline") if lora else ("plain", "indented"))
        if lora:
            assert (lora.rank, lora.alpha, lora.dropout, run.train.learning_rate) == (8, 16, 0.05, 3e-4)
            assert (lora.quantisation == "none") == ("Baichuan" in run.model.name)
            assert asked.quantisation == lora.quantisation
            assert (run.data.epochs, run.train.validate_steps) == (5, 200)
        else:
            assert (run.train.learning_rate, run.data.epochs, run.train.warmup) == (2e-5, 3, 0.03)
            assert (run.train.schedule, run.data.validation_rows) == ("cosine", 0)


TABLE = """\
defaults:
  recipe: alpaca
  corpus: own
  known: [eng]
  pivots: [eng]
  taught: [fra, bul]
  unseen: []
  instructions: {file: "rows.{tag}.json", languages: {eng: en, fra: fr, bul: bg}}
  epochs: 2
  per_step: 4
  validation_rows: 3
  tasks: []
  model: {name: some/bloom-560m}
runs:
  - name: "{budget}-{hold_out}-{sampling}"
    grid:
      budget: {mono: {budget: mono, language: fra}, multilingual: {}, english: {budget: english}, downsampled: {budget: downsampled}}
      hold_out: [instruction, row]
      sampling: [instruction, row]
"""  # noqa: E501


def files(folder, count=20, codes=("en", "fr", "bg")):
    for code in codes:
        rows = [{"instruction": f"{code} {i}", "input": "", "output": f"{i}"} for i in range(count)]
        (folder / f"rows.{code}.json").write_text(json.dumps(rows))


def test_rows_of_an_epoch_are_those_that_are_made(tmp_path):
    files(tmp_path)
    (tmp_path / "t.yaml").write_text(TABLE)
    table = Table(tmp_path / "t.yaml", tmp_path / "outputs")
    assert len(table.runs) == 16
    for run in table.runs:
        inputs = table.stage(run.name, "data").inputs
        counts = alpaca.counts(run, inputs)
        assert counts == {"eng": 20, "fra": 20, "bul": 20}
        rows, _ = alpaca._Budgets(run, inputs).rows(run.data.budget)
        assert alpaca.rows_of_epoch(run, counts) == len(rows), run.name


def test_a_plan_is_told_before_the_files_are_here(tmp_path, capsys):
    path = tmp_path / "t.yaml"
    path.write_text(TABLE)
    arguments = ["plan", str(path), "--outputs", str(tmp_path / "outputs")]
    assert main(arguments) == 1
    said, refused = capsys.readouterr()
    for code in ("en", "fr", "bg"):
        assert f"to be brought here: rows.{code}.json (for mono-instruction-instruction)" in said
    assert "rows.en.json: there is no such file" in refused
    assert f"line 15, run {'mono-instruction-instruction'!r}" in refused
    # 2 epochs of 52,000 rows, assumed, without those held out, 4 a step
    hours = {line.split()[0]: line.split() for line in said.splitlines() if " min" in line or " h " in line}
    assert hours["mono-row-row"][2] == f"{(52_000 - 3) // 2 + 1:,}"
    assert hours["multilingual-instruction-row"][2] == f"{3 * (52_000 - 3) // 2 + 1:,}"
    whole = next(line for line in said.splitlines() if line.startswith("  all 16 runs"))
    assert whole.split()[-1] in ("h", "min")
    # with them it counts the rows
    files(tmp_path)
    assert main(arguments) == 0
    said, refused = capsys.readouterr()
    assert "to be brought" not in said
    assert not refused
    lines = [line.split() for line in said.splitlines() if line.startswith("  multilingual-row-row ")]
    assert lines[0][2] == "29"  # 2 x 57 / 4
    # a file that is there and broken is refused at once
    (tmp_path / "rows.fr.json").write_text("[{]")
    assert main(arguments) == 1
    assert "rows.fr.json" in capsys.readouterr().err
    # work is refused without the files
    (tmp_path / "rows.fr.json").unlink()
    with pytest.raises(SettingsError, match=r"rows\.fr\.json: there is no such file"):
        Table(path, tmp_path / "outputs").settle()


def test_languages_may_be_left_out_of_the_tests(tmp_path):
    path = tmp_path / "t.yaml"
    text = (
        "defaults: {corpus: nusax, known: [eng, ind], taught: [jav, sun], unseen: [mad], model: {name: m}}\n"
        "runs:\n  - {name: a, test_languages: [mad, jav], tasks: [sentiment]}\n"
    )
    path.write_text(text)
    inputs = Table(path, tmp_path / "outputs").stage("a", "evaluate").inputs
    assert [inputs.tested(task) for task in inputs.tasks] == [["jav", "mad"]]
    read = [name for name in inputs.sources if name.startswith("nusax/sentiment") and "test" in name]
    assert sorted(read) == ["nusax/sentiment/javanese/test.csv", "nusax/sentiment/madurese/test.csv"]
    for given, said in (
        ("[jvv]", "field 'test_languages': found 'jvv'; did you mean 'jav'? allowed: one of the row's languages (eng"),
        ("[jav, jav]", "field 'test_languages': found ['jav', 'jav']; allowed: each of them once"),
        ("[]", "field 'test_languages': found []; allowed: at least one entry"),
    ):
        path.write_text(text.replace("[mad, jav]", given))
        with pytest.raises(SettingsError) as refused:
            tables.load(path)
        assert said in str(refused.value)


def test_one_row_of_the_table_is_planned_without_any_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IA_DATA", str(tmp_path))
    table = str(root() / "params" / "alpaca.yaml")
    assert main(["plan", table, "lora-pythia-70m-multilingual", "--outputs", str(tmp_path / "outputs")]) == 1
    said, refused = capsys.readouterr()
    brought = re.findall(r"to be brought here: (\S+)", said)
    tags = ["en", "fr", "es", "bg", "ru", "zh"]
    assert set(brought) == {
        *(f"alpaca_data_cleaned.{tag}.json" for tag in [*tags, "cs", "de", "fi"]),
        *(f"alpaca-multilingual/test_{tag}.jsonl" for tag in tags),
    }
    assert "run 'lora-pythia-70m-multilingual': alpaca_data_cleaned.en.json: there is no such file" in refused
    (line,) = (line.split() for line in said.splitlines() if line.startswith("  lora-pythia-70m-multilingual   "))
    # what is scored is not known, the hours of training are
    assert (line[2], line[4], line[-1]) == ("18,243", "?", "min")
