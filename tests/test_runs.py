import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import campaign
import pandas as pd
import pytest
from conftest import copied, rewrite

from ia_lib.paths import root
from ia_lib.workflow import duration, execution, stages
from ia_lib.workflow.command_line import main
from ia_lib.workflow.graph import Table
from ia_lib.workflow.scheduler import execute
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import REDO, StageFailed


def statuses(table):
    return {str(stage): stage.status for stage in table.stages()}


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "ia_lib.runs", *map(str, arguments)],
        cwd=root(),
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )


def test_a_finished_table_has_all_artefacts(finished):
    assert set(statuses(finished).values()) == {"finished"}
    for stage in finished.stages():
        manifest = stage.manifest
        assert manifest["settings"]["name"] == stage.run.name
        assert manifest["seed"] == 1
        assert manifest["seconds"] > 0
        assert manifest["peak_memory_mb"] > 10
        on_disk = {p.relative_to(stage.folder).as_posix() for p in stage.folder.rglob("*") if p.is_file()}
        assert set(manifest["files"]) == on_disk - {"manifest.json"}
        assert stage.notebook().is_file()
        assert not stage.part.exists()
    tlm = finished.folder / "tlm"
    examples = pd.read_parquet(tlm / "data" / "examples.parquet")
    assert list(examples.loc[examples["role"] == "new", "split"].value_counts()) == [12, 6]
    assert list(examples.loc[examples["role"] == "old", "split"].value_counts()) == [40]
    assert (tlm / "tune" / "model" / "model.safetensors").is_file()
    assert (tlm / "tune" / "model" / "README.md").is_file()
    assert len(pd.read_parquet(tlm / "evaluate" / "scores.parquet")) == 12 * 5 * 3 * 3
    assert not list(finished.folder.rglob("*.bin"))
    assert not list(finished.folder.rglob("*.pt"))


def test_replay_rows_are_those_the_base_was_trained_on(finished):
    replayed = pd.read_parquet(finished.folder / "tlm" / "data" / "examples.parquet").query("role == 'old'")
    base = pd.read_parquet(finished.folder / "base" / "data" / "examples.parquet")
    trained = base[base["split"] == "train"].reset_index(drop=True)
    assert (trained.loc[replayed["pool_row"], "prompt"].to_numpy() == replayed["prompt"].to_numpy()).all()


def test_the_report_is_made_from_any_folder(finished, monkeypatch):
    page = finished.report().folder / "index.html"
    made = page.stat().st_mtime_ns
    shutil.rmtree(finished.report().folder)
    monkeypatch.chdir(finished.path.parent)
    assert execute(Table("tiny.yaml", finished.outputs), ["base"]) == []
    assert page.stat().st_mtime_ns > made


def test_a_second_run_does_nothing(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.folder.rglob("manifest.json")}
    assert execute(Table(finished.path, finished.outputs)) == []
    assert before == {path: path.stat().st_mtime_ns for path in finished.folder.rglob("manifest.json")}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("runs:", "runs: # a comment", set()),
        ("  save_steps: 2", "  save_steps: 3", set()),
        ("objective: tlm", "objective: tlm, examples: 6", {"tlm: evaluate"}),
        ("objective: tlm", "objective: tlm, weight_decay: 0.1", {"tlm: tune", "tlm: evaluate"}),
        ("objective: tlm", "objective: mt", {"tlm: data", "tlm: tune", "tlm: evaluate"}),
        ("  corpus: minilab", "  corpus: minilab\n  seed: 2", None),
    ],
)
def test_a_change_makes_only_what_depends_on_it_again(finished, tmp_path, old, new, expected):
    changed = tmp_path / "tiny.yaml"
    text = finished.path.read_text()
    assert old in text
    changed.write_text(text.replace(old, new))
    found = {
        name
        for name, status in statuses(Table(changed, copied(finished, tmp_path / "outputs"))).items()
        if status != "finished"
    }
    assert found == (set(statuses(finished)) if expected is None else expected)


def test_an_artefact_whose_input_was_made_again_is_made_again(finished, tmp_path):
    copied(finished, tmp_path / "outputs")
    manifest = tmp_path / "outputs" / "tiny" / "base" / "tune" / "manifest.json"
    rewrite(manifest, digest="other weights")
    found = statuses(Table(finished.path, tmp_path / "outputs"))
    assert found["tlm: tune"] == found["tlm: evaluate"] == found["base: evaluate"] == "inputs changed"
    assert found["tlm: data"] == "finished"


def test_a_stage_whose_files_were_removed_is_not_finished(finished, tmp_path):
    copied(finished, tmp_path / "outputs")
    table = Table(finished.path, tmp_path / "outputs")
    model = table.stage("tlm", "tune").folder / "model" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    assert table.stage("tlm", "tune").status == "files missing"
    model.unlink()
    found = statuses(Table(finished.path, tmp_path / "outputs"))
    assert {name: status for name, status in found.items() if status != "finished"} == {
        "tlm: tune": "files missing",
        "tlm: evaluate": "inputs changed",
    }


@pytest.mark.quick
def test_the_cost_of_a_stage_counts_the_tries_that_were_cut_off(table, tmp_path):
    first = Table(table, tmp_path).stage("base", "data").open()
    first._started -= 1000
    first.progress(1, 2)
    first._lock.release(force=True)
    second = Table(table, tmp_path).stage("base", "data").open()
    second.finish()
    assert second.manifest["seconds"] >= 1000


@pytest.mark.quick
def test_without_the_module_resource_peak_memory_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert stages._peak_memory_mb() is None


def test_code_that_changed_is_reported_and_counts_only_on_request(finished, tmp_path, monkeypatch):
    copied(finished, tmp_path / "outputs")
    manifest = tmp_path / "outputs" / "tiny" / "tlm" / "evaluate" / "manifest.json"
    rewrite(manifest, code={"ia_lib/paths.py": "of yesterday"})
    table = Table(finished.path, tmp_path / "outputs")
    assert [str(stage) for stage in table.stages() if stage.code_changed] == ["tlm: evaluate"]
    assert set(statuses(table).values()) == {"finished"}
    monkeypatch.setenv(REDO, "1")
    assert {name for name, status in statuses(table).items() if status == "code changed"} == {"tlm: evaluate"}


def test_the_report_knows_which_runs_were_missing(finished, tmp_path):
    more = tmp_path / "tiny.yaml"
    more.write_text(finished.path.read_text() + "  - {name: mlm, objective: mlm, steps: 2}\n")
    assert finished.report(finished_only=True).done
    assert not Table(more, copied(finished, tmp_path / "outputs")).report(finished_only=True).done


def test_a_failing_row_does_not_stop_the_others_and_leaves_its_notebook(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # what only a GPU can do is known where the work is done
    broken = "  - {name: broken, objective: tlm, optimiser: paged_adamw_8bit}\n  - {name: mt, objective: mt}\n"
    text = finished.path.read_text() + broken
    path = tmp_path / "tiny.yaml"
    path.write_text(text)
    copied(finished, tmp_path / "outputs")
    answer = command("run", path, "--outputs", tmp_path / "outputs")
    assert answer.returncode == 1
    assert "broken: tune failed: ValueError: optimiser: found 'paged_adamw_8bit'" in answer.stderr
    table = Table(path, tmp_path / "outputs")
    found = statuses(table)
    assert found["broken: tune"] == "interrupted"
    assert {status for name, status in found.items() if not name.startswith("broken")} == {"finished"}
    notebook = table.stage("broken", "tune").notebook("failed").read_text()
    assert "where there is no GPU" in notebook
    page = (table.folder / "report" / "index.html").read_text()
    assert "Not finished.</strong> broken has no results" in page
    assert "mt" in set(pd.read_csv(table.folder / "report" / "results.csv")["run"])


def test_a_killed_stage_leaves_nothing_that_counts_as_finished_and_goes_on(finished, tmp_path):
    copied(finished, tmp_path / "outputs")
    path = tmp_path / "tiny.yaml"
    path.write_text(finished.path.read_text().replace("objective: tlm", "objective: tlm, steps: 400, replay: 100"))
    shutil.rmtree(tmp_path / "outputs" / "tiny" / "tlm")
    table = Table(path, tmp_path / "outputs")
    process = subprocess.Popen(
        [sys.executable, "-m", "ia_lib.runs", "run", str(path), "--outputs", str(tmp_path / "outputs")],
        cwd=root(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    tune = table.stage("tlm", "tune")
    deadline = time.monotonic() + 300
    while not list(tune.part.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    _kill_tree(process.pid)
    process.wait()
    assert tune.status == "interrupted"
    checkpoints = {path.name for path in tune.part.glob("checkpoints/*")}
    assert checkpoints
    assert execute(table) == []
    assert tune.status == "finished"
    steps = [json.loads(line)["step"] for line in (tune.folder / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert steps[-1] == 400


def test_whoever_is_orphaned_ends_and_a_second_run_waits(finished, tmp_path):
    import psutil

    shutil.copytree(finished.outputs, tmp_path / "outputs")
    table = Table(finished.path, tmp_path / "outputs")
    shutil.rmtree(table.stage("base", "evaluate").folder)
    again = "run", finished.path, "base", "--outputs", tmp_path / "outputs"
    process = subprocess.Popen(
        [sys.executable, "-m", "ia_lib.runs", *map(str, again)], cwd=root(), stdout=subprocess.DEVNULL
    )
    deadline, started, names = time.monotonic() + 120, [], []
    # what ends between two looks has no name any more
    while len(started) != 3 or not all(names) or not any("ia_lib.workflow.kernel" in name for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        names = []
        with contextlib.suppress(psutil.NoSuchProcess):
            started = psutil.Process(process.pid).children(recursive=True)
            names = [child.cmdline() for child in started]
    second = subprocess.Popen(
        [sys.executable, "-m", "ia_lib.runs", *map(str, again)], cwd=root(), stdout=subprocess.PIPE, text=True
    )
    line = next(line for line in second.stdout if line.startswith("waiting"))
    assert f"another run of {finished.path} is at work in {table.folder} (process {process.pid} on " in line
    started[0].send_signal(signal.SIGSTOP)  # one that hears nothing ends, too
    process.kill()
    process.wait()
    for child in started:
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    second.communicate()
    assert second.returncode == 0
    assert set(statuses(Table(finished.path, tmp_path / "outputs")).values()) == {"finished"}


def test_what_a_kill_left_beside_a_finished_stage_is_put_right(finished, tmp_path):
    shutil.copytree(finished.outputs, tmp_path / "out {x}")
    table = Table(finished.path, tmp_path / "out {x}")
    before = {path: path.read_bytes() for path in table.folder.rglob("manifest.json")}
    tune, data = table.stage("tlm", "tune"), table.stage("tlm", "data")
    tune.notebook().unlink()
    (tune.folder / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    (tune.folder / "key").write_text("key")
    tune.notebook("running").write_text("{}")
    (tune.folder.parent / ".tune.failed.ipynb.123").write_text("{")
    shutil.copytree(tune.folder, tune.folder.with_name("tune.old"))
    tune.part.mkdir()
    data.folder.rename(data.folder.with_name("data.old"))
    assert command("run", finished.path, "--outputs", tmp_path / "out {x}").returncode == 0
    assert json.loads(tune.notebook().read_text())["cells"]
    assert before == {path: path.read_bytes() for path in table.folder.rglob("manifest.json")}
    assert not tune.damage()
    ends = ".old", ".part", ".running.ipynb", ".123"
    assert not [path.name for path in table.folder.glob("*/*") if path.name.endswith(ends)]


def test_a_table_that_is_killed_again_and_again_ends_as_one_left_in_peace(finished, tmp_path):
    assert campaign.campaign(finished.path, tmp_path / "outputs", finished.folder, kills=3, seed=7, longest=25) == []


def _kill_tree(pid):
    import psutil

    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


@pytest.mark.quick
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_imports_ends_in_one_line(table, tmp_path, number):
    finder = "import signal, sys\nclass Strike:\n    def find_spec(name, *_):\n"
    finder += "        if name == 'ia_lib.workflow.graph':\n"
    finder += f"            signal.raise_signal({int(number)})\nsys.meta_path.insert(0, Strike)\n"
    (tmp_path / "sitecustomize.py").write_text(finder)
    answer = command("run", table, "--outputs", tmp_path / "o", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (answer.returncode, answer.stderr) == (128 + number, "stopped; the same command goes on from here\n")


@pytest.mark.quick
def test_plan_does_no_work(table, tmp_path):
    answer = command("plan", table, "--outputs", tmp_path / "outputs")
    assert answer.returncode == 0
    assert "tlm: tune" in answer.stdout
    assert "6 steps of 4 examples" in answer.stdout
    assert not (tmp_path / "outputs").exists()


@pytest.mark.quick
def test_bad_tables_and_names_end_with_one_line(table, tmp_path):
    answer = command("run", table, "none", "--outputs", tmp_path / "outputs")
    assert answer.returncode == 1
    assert "found no run 'none'; allowed: base, tlm" in answer.stderr
    table.write_text(table.read_text().replace("steps: 6", "stepz: 6"))
    answer = command("run", table, "--outputs", tmp_path / "outputs")
    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 1
    assert "did you mean 'steps'" in answer.stderr
    assert not (tmp_path / "outputs").exists()


def test_show(finished):
    answer = command("show", finished.path, "--outputs", finished.outputs)
    assert "known before" in answer.stdout
    assert "chance" in answer.stdout
    answer = command("show", finished.path, "tlm", "--outputs", finished.outputs)
    assert "  objective: tlm\n" in answer.stdout
    assert "  past.run: base\n" in answer.stdout
    assert "max_length" not in answer.stdout  # it has its default
    assert "  tune: finished, " in answer.stdout
    answer = command("show", finished.path, "tlm", "--all", "--outputs", finished.outputs)
    assert '"max_length": 256' in answer.stdout


@pytest.mark.quick
def test_a_stage_is_worked_on_by_one_process_alone(table, tmp_path):
    first = Table(table, tmp_path).stage("base", "data").open()
    code = "from ia_lib.workflow.graph import Table\n"
    code += f"Table({str(table)!r}, {str(tmp_path)!r}).stage('base', 'data').open(0)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root())
    assert "another process is at work on base: data" in answer.stderr
    assert first.part.is_dir()


@pytest.mark.quick
def test_a_key_knows_the_model_that_the_chain_began_with(table, tmp_path):
    keys = set()
    text = table.read_text().split("runs:")[0]
    for model in ("{name: a/b}", "{name: a/c}", "{name: a/b, revision: x}"):
        rows = f"runs:\n  - {{name: base, replay: 0, past: {{file: x}}, model: {model}}}\n"
        table.write_text(text + rows + "  - {name: tlm, objective: tlm, replay: 0, past: null}\n")
        made = Table(table, tmp_path)
        keys |= {made.stage(run, stage).key for run, stage in (("base", "evaluate"), ("tlm", "data"), ("tlm", "tune"))}
        first, then = (made.stage(run, "evaluate").inputs for run in ("base", "tlm"))
        assert then.tokenizer == then.model[:2] == first.tuned_model[:2]
    assert len(keys) == 9
    assert then.model[:2] == ("a/b", "x")


@pytest.mark.quick
def test_a_checkpoint_is_not_continued_with_other_data(table, tmp_path):
    made = Table(table, tmp_path)
    for digest in ("one", "two"):
        data, tune = made.stage("base", "data"), made.stage("base", "tune")
        data.folder.mkdir(parents=True, exist_ok=True)
        rewrite(data.folder / "manifest.json", key=data.key, inputs={}, digest=digest, code={}, files={}, bytes={})
        tune.open()
        assert not list(tune.part.glob("checkpoints"))
        (tune.part / "checkpoints").mkdir()


@pytest.mark.quick
def test_changes_make_a_run_of_their_own(table, tmp_path):
    made = Table(table, tmp_path)
    run = made.add(made.run("tlm"), {"objective": "mt", "replay": 20})
    assert run.name == "tlm~objective=mt,replay=20"
    assert made.stage(run.name, "data").key != made.stage("tlm", "data").key
    assert [str(stage) for stage in made.missing(made.stage(run.name, "tune"))] == [
        "base: data",
        f"{run.name}: data",
        "base: tune",
    ]


@pytest.mark.quick
def test_the_snakefile_lints_as_a_graph(table, tmp_path):
    answer = subprocess.run(
        [
            sys.executable,
            "-m",
            "snakemake",
            "--dry-run",
            "--profile",
            "profiles/default",
            "--directory",
            str(tmp_path),
            "--config",
            f"table={table}",
            f"outputs={tmp_path / 'outputs'}",
        ],
        cwd=root(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "outputs" / "tiny" / "base").exists()


@pytest.mark.quick
def test_times_read_like_times():
    assert duration.words(20) == "20 s"
    assert duration.words(90) == "2 min"
    assert duration.words(9000) == "2.5 h"


@pytest.mark.quick
def test_what_a_run_reads_is_looked_at_before_any_work(table, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text('mt: ["[WHAT] [TARGET_TEXT]"]')
    table.write_text(table.read_text().replace("objective: tlm", "objective: mt, templates: bad.yaml"))
    assert main(["run", str(table), "--outputs", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "run 'tlm'" in said
    assert "bad.yaml, line 1, field 'mt.0': found '[WHAT]'; allowed: the slots" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("sentences: 61", "'sentences': found 61; allowed: 60 at most"),
        ("validation_sentences: 60", "'validation_sentences': found 60; allowed: below 60"),
        ("sentences: 5", "'validation_sentences': found 5; allowed: below 5"),
        ("replay: 195", "'replay': found 195; allowed: what the past has: 194 instructions"),
        (
            "replay_stratify: topic",
            "'replay_stratify': found 'topic'; allowed: a column of the old instructions (objective",
        ),
        ("templates: nosuch", "'templates': found 'nosuch'; allowed: instructalign, ia1, or a YAML file"),
        ("templates: indonesian", "'templates': found 'indonesian'; allowed: instructalign, ia1, or a YAML file"),
        ("wordings: [klingon]", "'wordings': found 'klingon'; allowed: english, indonesian, or a YAML file"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(table, tmp_path, capsys, row, said):
    text = table.read_text().replace("  - {name: tlm, objective: tlm}", "  - name: tlm\n    objective: tlm\n    " + row)
    table.write_text(text)
    assert main(["run", str(table), "--outputs", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    lines = {line.strip().split(":")[0]: number for number, line in enumerate(text.splitlines(), 1)}
    field = said.split("'")[1]
    whose = "run 'tlm'" if row.startswith(f"{field}:") else "defaults (in run 'tlm')"
    assert message.startswith(f"{table}, line {lines[field]}, {whose}, field {said}"), message
    assert not (tmp_path / "out").exists()


@pytest.mark.quick
def test_a_past_that_a_run_cannot_have_is_refused(table, tmp_path):
    text = table.read_text()
    for old, new, said in (
        (
            "recipe: instructions",
            "recipe: instructions\n    rows: 195",
            "'rows': found 195; allowed: what the past has: 200 instructions, 6 of them for",
        ),
        ("rows: 200", "rows: 6", "'rows': found 'all'; allowed: what the past has: 6 instructions, 6 of them for"),
        ("rows: 200", "rows: 200, split: nosuch", "'past.mixture.split': found 'nosuch'; allowed: a split of"),
    ):
        table.write_text(text.replace(old, new))
        with pytest.raises(SettingsError, match=re.escape(f"run 'base', field {said}")):
            Table(table, tmp_path / "out")


@pytest.mark.quick
@pytest.mark.parametrize("cores", ["0", "-1", "two"])
def test_there_is_at_least_one_core(table, capsys, cores):
    with pytest.raises(SystemExit):
        main(["run", str(table), f"--cores={cores}"])
    assert f"argument --cores: found '{cores}'; allowed: a whole number, at least 1" in capsys.readouterr().err


@pytest.mark.quick
def test_what_would_be_downloaded_is_said_and_offline_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "far.yaml"
    defaults = f"corpus: nusax, data_dir: {tmp_path}, model: {{name: some/model}}, past: {{xp3: [en]}}, offline: true"
    path.write_text(f"defaults: {{{defaults}}}\nruns:\n  - {{name: a, objective: tlm, replay: 10}}\n")
    assert main(["plan", str(path), "--outputs", str(tmp_path)]) == 1
    said, message = capsys.readouterr()
    assert "nusax/mt/train.csv" in message
    assert "offline is set" in message
    for what in (
        "nusax/mt/train.csv from http",
        "nusax/sentiment/english/test.csv from",
        "merged_en.jsonl",
        "some/model",
    ):
        assert what in said.split("estimated")[0]
    assert main(["run", str(path), "--outputs", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"{path}, line 3, run 'a': nusax/mt/train.csv")
    assert "offline is set" in message
    assert not (tmp_path / "far" / "a").exists()


def test_the_key_of_a_stage_knows_what_its_files_hold(table, tmp_path):
    prompts = tmp_path / "own.yaml"
    table.write_text(table.read_text().replace("objective: tlm", "objective: mt, templates: own.yaml"))
    keys = set()
    for text in ("a", "b"):
        prompts.write_text(f'mt: ["{text} [SOURCE_TEXT] [TARGET_TEXT]"]')
        keys.add(Table(table, tmp_path).stage("tlm", "data").key)
    assert len(keys) == 2


def test_the_kernel_is_this_interpreter_whatever_kernels_are_installed(table, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/nowhere/python", "-f", "{connection_file}"], "display_name": "another"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    stage = Table(table, tmp_path / "outputs").stage("base", "data")
    execution.execute(stage)
    assert stage.done


def test_a_kernel_that_dies_ends_with_its_last_sentence(table, tmp_path, monkeypatch):
    site = "import os, sys\nif 'ia_lib.workflow.kernel' in sys.orig_argv:\n"
    (tmp_path / "sitecustomize.py").write_text(site + "    os.write(2, b'no kernel today\\n')\n    os._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    stage = Table(table, tmp_path / "outputs").stage("base", "data")
    with pytest.raises(StageFailed, match="base: data failed: its kernel died: no kernel today"):
        execution.execute(stage)
    assert stage.failure() == "its kernel died: no kernel today"


@pytest.mark.skipif(os.name == "nt", reason="there are no such files on Windows")
def test_kernels_are_spoken_to_by_files_that_only_the_user_reads():
    import nbclient
    import nbformat

    from ia_lib.workflow import kernel

    code = """
import multiprocessing, psutil
print(psutil.Process().net_connections("tcp"))
child = multiprocessing.get_context("fork").Process(target=print, args=["forked"])
child.start()
child.join()
print(child.exitcode)
"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    with execution._sockets() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        client = {"kernel_manager_class": kernel.Kernel, "config": kernel.configured(folder)}
        nbclient.NotebookClient(notebook, kernel_name="python3", **client).execute(cwd=str(root()))
    said = "".join(output["text"] for output in notebook.cells[0].outputs)
    assert said.split() == ["[]", "0"]
    assert not folder.exists()


@pytest.mark.quick
def test_a_plan_tells_time_here_gpu_hours_and_money(tmp_path, capsys):
    path, folder = tmp_path / "t.yaml", ["--outputs", str(tmp_path / "o")]
    row = f'{{name: "r{{replay}}", objective: tlm, grid: {{replay: {[*range(1, 26)]}}}}}'
    shared = (
        "{corpus: minilab, steps: 1000, past: {mixture: {mt: 100, rows: 900}}, model: {name: bigscience/bloomz-560m}}"
    )
    path.write_text(f"defaults: {shared}\nruns:\n  - {row}")
    assert main(["plan", str(path), *folder, "--price", "2"]) == 0
    first, here, *lines = capsys.readouterr().out.splitlines()
    assert f"{path}: 25 runs, outputs in" in first
    assert here.startswith("takes about ")
    assert " on this machine (" in here
    assert [line for line in lines if line.startswith("  r1 ... r25, 25 runs: tune") and "25 missing" in line]
    (hours,) = (line for line in lines if "all 25 runs, in GPU hours" in line)
    (money,) = (line for line in lines if "their price" in line)
    t4, price = float(hours.split("hours")[-1].split()[0]), float(money.split()[2])
    assert price == pytest.approx(2 * t4, rel=0.05)
    assert main(["plan", str(path), "r3", *folder, "--price", "t4=1"]) == 0
    some = capsys.readouterr().out
    assert f"{path}: 1 run, outputs in" in some
    assert "A100" not in some
    assert main(["plan", str(path), "r3", *folder, "--price", "A100=1.5"]) == 0
    assert "H200        A100" in capsys.readouterr().out
    assert "r4" not in some
    assert main(["plan", str(path), "--all", *folder]) == 0
    assert "  r24: tune" in capsys.readouterr().out
    # a T4 has no bfloat16: it is marked, and what would do is said
    assert "precision: float16" not in some
    path.write_text(path.read_text().replace("{corpus:", "{precision: bfloat16, adapter: {rank: 4}, corpus:"))
    assert main(["plan", str(path), "r3", *folder, "--price", "1"]) == 0
    said = capsys.readouterr().out
    assert "r3 on a T4 (16 GiB): with precision: float16, since it has no bfloat16" in said
    (line,) = (line for line in said.splitlines() if line.startswith("  1 run, in GPU hours"))
    assert line.count("!") == 1
    for wrong in ("two", "T5=3", "2,3", "-1", "nan"):
        with pytest.raises(SystemExit):
            main(["plan", str(path), "--price", wrong])
        assert "allowed: the price of a GPU's hour" in capsys.readouterr().err


def test_a_plan_names_what_changed_and_what_is_left(finished, tmp_path, capsys):
    changed = tmp_path / "tiny.yaml"
    changed.write_text(finished.path.read_text().replace("objective: tlm", "objective: tlm, weight_decay: 0.1"))
    assert main(["plan", str(changed), "--outputs", str(copied(finished, tmp_path / "outputs"))]) == 0
    said = capsys.readouterr().out
    lines = {" ".join(line.split()[:2]): line for line in said.splitlines()}
    assert "settings changed (weight_decay)" in lines["tlm: tune"]
    assert "inputs changed" in lines["tlm: evaluate"]  # its own settings are the same
    assert "  finished" in lines["base: tune"]
    assert "are left on this machine" in said.splitlines()[1]
    assert "all 2 runs, finished stages too, in GPU hours" in said
    assert main(["plan", str(finished.path), "--outputs", str(finished.outputs)]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("all is finished; from the beginning it takes about ")
