"""What was made is what is there: flipped bits, half files, manifests that are not ours, outputs of another table."""

import json
import random
import re
import shutil
import subprocess
import sys

import pytest
from conftest import copied

from ia_lib.data import downloads, minilab
from ia_lib.paths import root
from ia_lib.workflow import stages, tables
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError


def flipped(path, number):
    content = bytearray(path.read_bytes())
    content[number // 8] ^= 1 << number % 8
    path.write_bytes(content)


def test_verify_finds_a_single_bit(finished, tmp_path, capsys):
    outputs = copied(finished, tmp_path / "outputs")
    command = ["verify", str(finished.path), "--outputs", str(outputs)]
    assert main(command) == 0
    assert "0 of them are not what was made" in capsys.readouterr().out
    files = sorted(p for m in outputs.rglob("manifest.json") for p in m.parent.rglob("*") if p.is_file())
    draw = random.Random(1)
    for path in draw.sample(files, 12) + [path for path in files if path.name == "manifest.json"]:
        content = path.read_bytes()
        flipped(path, draw.randrange(8 * len(content)))
        assert main(command) == 1, path
        assert f"{path.name} is not what was" in capsys.readouterr().out
        path.write_bytes(content)
    more = finished.stage("tlm", "data").folder.relative_to(finished.outputs)
    (outputs / more / "more.txt").write_text("x")
    (outputs / more / "report.json").unlink()
    assert main([*command[:2], "tlm", *command[2:]]) == 1
    said = capsys.readouterr().out
    assert "tlm: data: more.txt was not made here" in said
    assert "tlm: data: report.json is missing" in said


def test_run_makes_damaged_stages_again_when_it_verifies(finished, tmp_path, capsys):
    outputs = copied(finished, tmp_path / "outputs")
    path = Table(finished.path, outputs).stage("tlm", "evaluate").folder / "measures.csv"
    content = path.read_bytes()
    flipped(path, 801)
    command = ["run", str(finished.path), "--outputs", str(outputs)]
    assert main(command) == 0
    assert path.read_bytes() != content
    assert main([*command, "--verify"]) == 0
    assert "tlm: evaluate: measures.csv is not what was made" in capsys.readouterr().out
    assert path.read_bytes() == content


def test_nothing_is_made_from_what_is_damaged(finished, tmp_path):
    table = Table(finished.path, copied(finished, tmp_path / "outputs"))
    later = table.stage("tlm", "tune")
    shutil.rmtree(later.folder)
    flipped(table.stage("tlm", "data").folder / "examples.parquet", 801)
    said = r"would read what is damaged: tlm: data: examples\.parquet is not what was made; `run --verify`"
    with pytest.raises(RuntimeError, match=said):
        later.open()


@pytest.mark.parametrize("damage", ["a figure", "its header", "a byte", "emptied"])
def test_a_damaged_report_is_not_printed_and_made_again(finished, tmp_path, capsys, damage):
    outputs = copied(finished, tmp_path / "outputs")
    path = Table(finished.path, outputs).report().folder / "results.csv"
    content = path.read_bytes()
    spoilt = {
        "a figure": content.replace(b".", b"1", 1),
        "its header": content.replace(b"run", b"rum", 1),
        "a byte": content[:40] + bytes([content[40] ^ 128]) + content[41:],
        "emptied": b"",
    }
    path.write_bytes(spoilt[damage])
    arguments = [str(finished.path), "--outputs", str(outputs)]
    assert main(["show", *arguments]) == 0
    said = capsys.readouterr().out
    assert "results.csv is not what was made\n`run --verify` makes it again" in said
    assert "%" not in said
    assert main(["run", *arguments]) == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize("text", ["{}", "[]", "null", "1", "", '{"key": 1}', "[" * 100_000])
def test_a_manifest_that_is_not_ours_counts_for_nothing(finished, tmp_path, text):
    table = Table(finished.path, copied(finished, tmp_path / "outputs"))
    stage = table.stage("tlm", "tune")
    stage.folder.joinpath("manifest.json").write_text(text)
    assert stage.status == "damaged"
    assert table.stage("tlm", "evaluate").status == "inputs changed"
    assert stage.damage() == ["tlm: tune: manifest.json is not what was written"]
    assert main(["plan", str(finished.path), "--outputs", str(table.outputs)]) == 0


@pytest.mark.quick
def test_a_manifest_without_its_files_is_not_finished(table, tmp_path):
    made = Table(table, tmp_path / "outputs").stage("base", "data").open()
    made.finish()
    path = made.folder / "manifest.json"
    record = json.loads(path.read_text())
    assert made.done
    for name in ("files", "bytes", "inputs", "digest", "code", "seal"):
        path.write_text(json.dumps({key: value for key, value in record.items() if key != name}, indent=1))
        assert made.status == "damaged"


@pytest.mark.quick
def test_what_is_edited_during_the_work_has_not_made_the_stage(table, tmp_path, monkeypatch):
    made, real = Table(table, tmp_path / "outputs").stage("base", "data").open(), stages._hash
    monkeypatch.setattr(stages, "_hash", lambda name: "edited" if name == "ia_lib/paths.py" else real(name))
    made.finish()
    assert made.manifest["code"]["ia_lib/paths.py"] == real("ia_lib/paths.py")
    assert made.code_changed


@pytest.mark.quick
def test_another_lexicon_is_another_lab_for_every_row(table, tmp_path, monkeypatch):
    keys = {str(stage): stage.key for stage in Table(table, tmp_path / "outputs").stages()}
    lexicon = shutil.copytree(minilab._DATA, tmp_path / "data")
    with open(lexicon / "lexicon.tsv", "a", encoding="utf-8") as file:
        file.write("\n")
    monkeypatch.setattr(minilab, "_DATA", lexicon)
    again = {str(stage): stage.key for stage in Table(table, tmp_path / "outputs").stages()}
    assert all(keys[name] != again[name] for name in keys)


@pytest.mark.quick
def test_what_is_sealed_is_itself_or_nothing(tmp_path):
    path = tmp_path / "part"
    assert downloads.read_sealed(path) is None
    downloads.write_sealed(path, b"some content")
    assert downloads.read_sealed(path) == b"some content"
    for number in range(8 * path.stat().st_size):
        flipped(path, number)
        assert downloads.read_sealed(path) is None
        flipped(path, number)
    for length in range(path.stat().st_size):
        path.write_bytes(path.read_bytes()[:length])
        assert downloads.read_sealed(path) is None
        downloads.write_sealed(path, b"some content")


@pytest.mark.quick
def test_a_damaged_lab_is_written_again(tmp_path):
    sizes = {"base": 40, "train": 20, "valid": 4, "test": 4}
    folder = minilab.write(tmp_path / "lab", 1, ["eng", "ind", "sun"], sizes)
    path = folder / "mt" / "train.csv"
    content = path.read_bytes()
    flipped(path, 300)
    minilab.write(folder, 1, ["eng", "ind", "sun"], sizes)
    assert path.read_bytes() == content


@pytest.mark.quick
def test_outputs_belong_to_one_table(table, tmp_path, capsys):
    outputs = tmp_path / "outputs"
    Table(table, outputs).claim()
    Table(table, outputs).claim()
    other = tmp_path / "elsewhere" / table.name
    other.parent.mkdir()
    shutil.copy(table, other)
    for command in ("plan", "run", "show", "verify"):
        assert main([command, str(other), "--outputs", str(outputs)]) == 1
        said = capsys.readouterr().err
        assert said == (
            f"{other}: found {outputs / 'tiny'} for its outputs, which are those of {table}; "
            "allowed: another folder (outputs), or another file name\n"
        )
    # copied or moved together they still belong together
    shutil.copytree(outputs, other.parent / "outputs")
    Table(other, other.parent / "outputs")
    table.unlink()
    Table(other, outputs)


@pytest.mark.quick
def test_outputs_are_a_folder(table, tmp_path):
    (tmp_path / "outputs").write_text("x")
    with pytest.raises(SettingsError, match="outputs for its outputs, a file; allowed: a folder"):
        Table(table, tmp_path / "outputs")


@pytest.mark.quick
@pytest.mark.parametrize(
    "name",
    ["report", "Report.part", "report.old", "lab", "LAB", "revisions.json", "a.part", "a.OLD", "con", "Nul.x", "a."],
)
def test_folders_of_the_kits_own_are_no_names(table, name):
    table.write_text(table.read_text().replace("name: tlm", f"name: {name}"))
    with pytest.raises(
        SettingsError, match=r"field 'name': found .*; allowed: a name that is no folder's of the kit's"
    ):
        tables.load(table)


@pytest.mark.quick
def test_names_that_differ_in_case_alone_are_refused(table):
    table.write_text(table.read_text() + "  - {name: TLM, objective: tlm}\n")
    with pytest.raises(SettingsError, match="found 'TLM'; allowed: a name no other run has, in any case"):
        tables.load(table)


@pytest.mark.quick
@pytest.mark.parametrize("code", ["all", "text", "label", "a b", "", "sentence_id"])
def test_words_of_the_results_are_no_languages(table, code):
    text = table.read_text().replace("unseen: [bbc]", f"unseen: [{code!r}]\n  languages: {{{code!r}: Name}}")
    table.write_text(text)
    with pytest.raises(
        SettingsError, match=r"found '.*'; allowed: letters, digits, _ and -, and none of the words all"
    ):
        tables.load(table)


@pytest.mark.quick
def test_words_of_the_results_are_no_tasks_and_texts_have_ids_of_their_own(table, tmp_path, capsys):
    (tmp_path / "own.csv").write_text("nr,text,label\n1,a,x\n2,b,y\n")
    test = "{file: own.csv, language: sun, labels: [x, y], task: TASK, id: nr}"
    text = table.read_text()
    for task, tests, said in (
        ("all", 1, "field 'tests': found 'own.csv'; allowed: found 'all'; allowed: a name whose parts are not empty"),
        ("x/all", 1, "found 'x/all'; allowed: a name whose parts"),
        ("own", 2, "field 'tests': found '1'; allowed: texts of own in sun from one file, or with ids of their own"),
    ):
        given = ", ".join([test.replace("TASK", task)] * tests)
        table.write_text(text.replace("objective: tlm", f"objective: tlm, tests: [{given}]"))
        assert main(["plan", str(table), "--outputs", str(tmp_path / "outputs")]) == 1
        assert said in capsys.readouterr().err


def test_a_full_disk_is_said_and_earlier_work_is_kept(table, tmp_path):
    # files of this process may not grow beyond so many bytes, which is what a full disk is to it
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30000, 30000)); "
    code += "from ia_lib.workflow.command_line import main; sys.exit(main(sys.argv[1:]))"
    outputs = tmp_path / "outputs"
    answer = subprocess.run(
        [sys.executable, "-c", code, "run", str(table), "base", "--outputs", str(outputs)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root(),
        timeout=300,
    )
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    said = answer.stderr + (outputs / "tiny" / ".jobs" / "snakemake.log").read_text()
    assert "File too large" in said
    assert "bytes are free" in said
    assert main(["run", str(table), "base", "--outputs", str(outputs)]) == 0


@pytest.mark.quick
def test_a_disk_that_is_full_while_a_checkpoint_is_written_is_said(table, tmp_path):
    stage = Table(table, tmp_path / "outputs").stage("base", "tune")
    said = "[enforce fail at inline_container.cc:672] . unexpected pos 590528 vs 590416. "
    error = {"output_type": "error", "ename": "RuntimeError", "evalue": said, "traceback": []}
    failed = stage.notebook("failed")
    failed.parent.mkdir(parents=True)
    failed.write_text(json.dumps({"cells": [{"outputs": [error]}]}))
    assert re.search(
        r"590416.; a checkpoint takes about [\d,]+ bytes; [\d,]+ of [\d,]+ bytes are free", stage.failure()
    )


@pytest.mark.quick
def test_a_folder_that_cannot_be_written_is_said(table, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "outputs" / "x"))

    monkeypatch.setattr(stages.os, "replace", full)
    assert main(["run", str(table), "--outputs", str(tmp_path / "outputs")]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'outputs' / 'x'}: No space left on device; ")
    assert "bytes are free in" in said
