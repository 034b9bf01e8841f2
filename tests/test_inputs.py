"""What a stage reads is in its key: every file that is opened, and a change of any makes exactly its readers again."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from ia_lib.data.downloads import SourceError
from ia_lib.paths import root
from ia_lib.workflow.graph import Table
from ia_lib.workflow.inputs import Inputs
from ia_lib.workflow.sources import HubModel

# Every way to name a thing to read: a published corpus, files of the user's, prompts and a task of one's own, a folder
# with a model, a mixture of labelled and parallel text, the past of another run, held-out sentences.
TABLE = """
defaults:
  corpus: nusax
  data_dir: data
  known: [eng, ind]
  taught: [sun, jav]
  unseen: [bbc]
  model: {run: base}
  past: {run: base}
  replay: 8
  steps: 2
  new_per_step: 2
  old_per_step: 2
  validation_sentences: 4
  validation_rows: 2
  examples: 3
  tests: [{file: own.csv, language: sun, labels: [bad, good], task: own}]
runs:
  - name: base
    recipe: instructions
    past: {mixture: {sentiment: 50, mt: 50, rows: 40, split: train}}
    model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 600}}
    per_step: 2
  - name: tlm
    objective: mt
    templates: mine.yaml
    wordings: [english, words.yaml]
    tasks: [sentiment, task.yaml, pairs.yaml]
  - {name: far, objective: tlm, model: {name: model}, past: {file: past.jsonl}, held_out: true}
"""
TASK = """
kind: choose
question: tone
labels: [low, high]
data: {file: "tone-{code}-{split}.csv", languages: [jav]}
"""
PAIRS = """
kind: translate
data: {file: pairs.tsv, columns: {ind: ind, jav: jav}}
"""


@pytest.fixture
def table(tmp_path, lab, model, tokenizer) -> Table:
    shutil.copytree(lab, tmp_path / "data" / "nusax")
    (tmp_path / "data" / "nusax" / "mt" / "base.csv").unlink()
    (tmp_path / "own.csv").write_text(
        "text,label\n" + "".join(f"kalimat {i},{'good' if i % 2 else 'bad'}\n" for i in range(6))
    )
    for split in ("train", "test"):
        (tmp_path / f"tone-jav-{split}.csv").write_text("text,label\nukara siji,low\nukara loro,high\n")
    (tmp_path / "pairs.tsv").write_text("ind\tjav\nsatu\tsiji\ndua\tloro\n")
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "pairs.yaml").write_text(PAIRS)
    (tmp_path / "mine.yaml").write_text('mt: ["[SOURCE_TEXT] in [TARGET_LANG]: [TARGET_TEXT]"]')
    (tmp_path / "words.yaml").write_text('classification: ["[INPUT] is [OPTIONS]? [LABELS_CHOICE]"]')
    (tmp_path / "past.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"{i} + 1 =", "answer": str(i + 1)}) for i in range(20))
    )
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "every.yaml"
    path.write_text(TABLE.replace("data_dir: data", f"data_dir: {tmp_path / 'data'}"))
    return Table(path, tmp_path / "outputs")


def identities(table: Table) -> dict[str, dict]:
    return {str(stage): stage.inputs.identities() for stage in table.stages()}


# What is changed -> the stages that read it.
READERS = {
    "data/nusax/mt/train.csv": {"base: data", "tlm: data", "far: data", "far: evaluate"},
    "data/nusax/sentiment/english/train.csv": {"base: data", "base: evaluate", "tlm: evaluate", "far: evaluate"},
    "data/nusax/sentiment/indonesian/train.csv": {"base: data"},
    "data/nusax/sentiment/javanese/test.csv": {
        f"{run}: {stage}" for run in ("base", "tlm", "far") for stage in ("data", "evaluate")
    },
    "data/nusax/sentiment/javanese/valid.csv": set(),
    "own.csv": {f"{run}: {stage}" for run in ("base", "tlm", "far") for stage in ("data", "evaluate")},
    "tone-jav-test.csv": {"tlm: data", "tlm: evaluate"},
    "tone-jav-train.csv": {"tlm: evaluate"},
    "pairs.tsv": {"tlm: data", "tlm: evaluate"},
    "mine.yaml": {"tlm: data", "tlm: evaluate"},
    "words.yaml": {"tlm: evaluate"},
    "past.jsonl": {"far: data"},
    "model/model.safetensors": {"far: data", "far: tune", "far: evaluate"},
    "model/chat_template.jinja": {"far: data", "far: tune", "far: evaluate"},
    "model/anything.bin": {"far: data", "far: tune", "far: evaluate"},
}


@pytest.mark.quick
@pytest.mark.parametrize("file", READERS)
def test_a_changed_input_makes_exactly_the_stages_again_that_read_it(table, file):
    before, path = identities(table), table.path.parent / file
    content = path.read_bytes() if path.is_file() else b""
    path.write_bytes(content + b"\n")
    after = identities(Table(table.path, table.outputs))
    assert {name for name in before if before[name] != after[name]} == READERS[file]


@pytest.mark.quick
@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("task.yaml", "kind:", "# a word\nkind:", set()),
        ("task.yaml", "question: tone", "question: manner", {"tlm: evaluate"}),
        ("task.yaml", "labels: [low, high]", "labels: [high, low]", {"tlm: data", "tlm: evaluate"}),
        ("pairs.yaml", "columns: {ind: ind, jav: jav}", "columns: {ind: ind, jav: ind}", READERS["pairs.tsv"]),
        ("every.yaml", "task: own}", "task: own, text: label}", READERS["own.csv"]),
        ("every.yaml", "held_out: true", "held_out: false", {"far: evaluate"}),
    ],
)
def test_a_stage_hangs_on_what_it_takes_from_a_task(table, file, old, new, expected):
    before, path = identities(table), table.path.parent / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after = identities(Table(table.path, table.outputs))
    assert {name for name in before if before[name] != after[name]} == expected


@pytest.mark.quick
def test_translation_hangs_on_templates_and_encoding(table):
    def key(more: str) -> str:
        path = table.path.with_name("other.yaml")
        path.write_text(f"{table.path.read_text()}  - {{name: zero, model: {{name: model}}, {more}}}\n")
        return Table(path, table.outputs).stage("zero", "evaluate").key

    changes = ["steps: 2", "templates: mine.yaml", "max_length: 99", "cut: end"]
    assert len({key(change) for change in changes}) == 1
    assert len({key(f"tasks: [pairs.yaml], {change}") for change in changes}) == 4


@pytest.mark.quick
def test_a_row_that_trains_may_have_text_of_its_own_to_translate(table):
    table.check()


@pytest.mark.quick
def test_no_pair_of_a_file_that_is_translated_is_trained_on(table):
    text = table.stage("tlm", "data").inputs.parallel()
    pair = text["ind"][3], text["jav"][5]
    path = table.path.with_name("pairs.tsv")
    path.write_text(f"ind\tjav\n{pair[0].upper()} \tsiji\ndua\t {pair[1]}!\n")
    inputs = Table(table.path, table.outputs).stage("tlm", "data").inputs
    assert not {pair[0], pair[1]} & {*inputs.usable()["ind"], *inputs.usable()["jav"]}
    assert inputs.dropped >= 2


@pytest.mark.quick
def test_dirt_in_any_file_is_told_before_work(table):
    folder = table.path.parent
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.check()
    (folder / "own.csv").write_text("text,label\nkalimat &amp; satu,good\nkalimat dua,bad\n")
    (folder / "pairs.tsv").write_text("ind\tjav\nsatu\tsiji\ndua\tlo\ufffdro\n")
    (folder / "past.jsonl").write_text(
        "\n".join(json.dumps({"prompt": f"{i} + 1 =</s>", "answer": str(i + 1)}) for i in range(20))
    )
    with pytest.warns(UserWarning, match="texts") as said:
        Table(table.path, table.outputs).check()
    found = sorted({str(warning.message).split(" (such")[0] for warning in said})
    assert len(found) == len(said) == 3
    assert found[0] == "1 of 2 texts of own in sun hold HTML entities"
    assert found[1].startswith("1 of 2 texts of pairs in jav hold lost characters")
    assert found[2].startswith("20 of 20 texts of past.jsonl (prompts) hold control tokens")


def test_what_is_not_in_the_list_cannot_be_read(table):
    with pytest.raises(SourceError, match=r"tlm's tune stage does not read this"):
        table.stage("tlm", "tune").inputs.find("nusax", "mt/train.csv")


RECORD = """
import json, sys
opened = set()

def hook(event, given):
    if event == "open" and given[1] in ("r", "rb", None):
        opened.add(str(given[0]))

sys.addaudithook(hook)
from ia_lib.workflow import work
from ia_lib.workflow.graph import Table
table, outputs, run, name, log = sys.argv[1:]
stage = Table(table, outputs).stage(run, name).open() if run != "-" else Table(table, outputs).report().open()
opened.clear()
if name == "data":
    work.make_data(stage)
elif name == "tune":
    work.tune(stage, work.begin_tuning(stage))
elif name == "evaluate":
    work.evaluate(stage, work.begin_evaluation(stage))
else:
    work.write_report(stage)
open(log, "w").write(json.dumps(sorted(opened)))
"""


def declared(inputs: Inputs) -> list[Path]:
    """Where the sources of a stage lie: files, or folders with all that is in them."""
    found = []
    for source in inputs.sources.values():
        found.append(Path(getattr(source, "file", None) or getattr(source, "folder", "")))
        if hasattr(source, "data"):
            found.append(source.data / source.name)
    return found


def test_every_data_file_that_a_stage_opens_is_in_its_key(table, tmp_path):
    """Files that only C++ or Rust opens (parquet, safetensors) are not seen here; of these the stages read what earlier
    stages made, and models' folders, which are hashed whole."""
    script, log = tmp_path / "record.py", tmp_path / "log.json"
    script.write_text(RECORD)
    parts = [*((str(s.run.name), s.name, s) for s in table.stages()), ("-", "report", table.report())]
    for run, name, stage in parts:
        command = [sys.executable, script, table.path, table.outputs, run, name, log]
        subprocess.run(command, check=True, cwd=root(), capture_output=True)
        known = [*declared(stage.inputs), *(needed.folder for needed in stage.needs), stage.part, stage.folder]
        # the report reads what each evaluated run's other stages said of themselves
        known += [needed.folder.parent for needed in stage.needs] if name == "report" else []
        known += [stage.folder.with_name(".scores"), stage.folder.with_name(f".{stage.folder.name}.lock")]
        read = {Path(file).resolve() for file in json.loads(log.read_text()) if not file.isdigit()}
        ours = [tmp_path, root() / "params", root() / "ia_lib"]
        read = {file for file in read if any(file.is_relative_to(folder) for folder in ours) and file.is_file()}
        read = {file for file in read if file.suffix not in (".py", ".pyc") and file not in (table.path, script)}
        past = {file for file in read if not any(file.is_relative_to(place.resolve()) for place in known)}
        # the list of where published files are to be had is the kit's code
        assert past <= {root() / "ia_lib/data/downloads.yaml"}, (run, name, past)


@pytest.mark.quick
def test_a_model_without_revision_is_taken_at_the_commit_that_was_met_first(tmp_path, monkeypatch):
    hub = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    repository = hub / "models--some--model"

    def cache(commit: str) -> None:
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)

    path = tmp_path / "hub.yaml"
    path.write_text("runs:\n  - {name: base, model: {name: some/model}}\n")

    def table() -> Table:
        return Table(path, tmp_path / "outputs")

    assert isinstance(table().stage("base", "evaluate").inputs.outside, HubModel)
    first, second = "1" * 40, "2" * 40
    cache(first)
    key = table().stage("base", "evaluate").key
    made = table()
    made.settle()
    cache(second)
    assert table().stage("base", "evaluate").key == key
    assert table().stage("base", "evaluate").inputs.tuned_model[:2] == ("some/model", first)
    assert table().stage("base", "evaluate").inputs.provenance()[0]["commit"] == first
    (tmp_path / "outputs" / "hub" / "revisions.json").unlink()
    assert table().stage("base", "evaluate").key != key
