"""Several processes that train together, against one: torch's own launcher, gloo, this machine's cores."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from test_trainer import logged
from together import train

from ia_lib.training.batches import lay_out
from ia_lib.training.streams import Stream
from ia_lib.workflow import tables
from ia_lib.workflow.settings import SettingsError

STEPS, NEW, OLD = 20, 4, 4
WAYS = {
    "plain": {},
    "token": {"loss_average": "token", "loss": "all", "accumulation": 2},
    "agem": {"retention": {"method": "agem"}, "accumulation": 2},
    "ewc": {"retention": {"method": "ewc", "strength": 10}},
    "best": {"keep": "best", "validate_steps": 5},
}


@pytest.fixture(scope="module")
def home(model, tokenizer, tmp_path_factory):
    new = [("new", "train", f"Text {i}: " + "kata " * (i % 7), "makanan bagus") for i in range(STEPS * NEW)]
    old = [("old", "train", f"Food {i}? ", "THE FOOD " * (1 + i % 3)) for i in range(30)]
    more = [("old", "kept", f"Room {i}? ", "THE ROOM") for i in range(4)]
    more += [("new", "validation", f"Kata {i}: ", "bagus " * (1 + i % 4)) for i in range(11)]
    examples = pd.DataFrame([*new, *old, *more], columns=["role", "split", "prompt", "answer"])
    streams = [Stream("new", "new", NEW), Stream("old", "old", OLD, passes=True)]
    rows = lay_out(examples.assign(stream=examples["role"]), streams, tokenizer, {"max_length": 60}, 1)
    found = dict(zip(("rows", "validation", "kept"), rows, strict=True))
    options = {"steps": STEPS, "batch_size": NEW + OLD, "learning_rate": 3e-3, "log_steps": 1, "save_steps": 6}
    folder = tmp_path_factory.mktemp("together")
    (folder / "rows.json").write_text(json.dumps({**found, "options": {**options, "validate_steps": 5}}))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def together(home, asked):
    script = Path(__file__).with_name("together.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    where = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
    return subprocess.run(
        [*command, str(home), json.dumps(asked)], env=where, capture_output=True, text=True, check=False
    )


def test_two_processes_train_as_one_does(home):
    done = together(home, {f"two-{name}": way for name, way in WAYS.items()})
    assert done.returncode == 0, done.stderr[-3000:]
    for name, way in WAYS.items():
        alone = train(home, f"one-{name}", way)
        for what in ("loss", "validation_loss"):
            ours, theirs = logged(home / f"two-{name}", what), logged(home / f"one-{name}", what)
            assert len(ours) == {"loss": STEPS, "validation_loss": STEPS // 5}[what]
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        found = [torch.load(home / f"two-{name}.{rank}.pt") for rank in (0, 1)]
        assert torch.equal(*found)
        np.testing.assert_allclose(found[0], alone, atol=2e-3)


def test_two_processes_go_on_exactly(home):
    done = together(home, {"whole": {}})
    assert done.returncode == 0, done.stderr[-3000:]
    assert together(home, {"cut": {"stop": 14}}).returncode
    assert (home / "cut" / "checkpoints" / "checkpoint-12" / "files.sums").is_file()
    # a checkpoint that lacks what the second process wrote is none
    (home / "cut" / "checkpoints" / "checkpoint-12" / "rng_state_1.pth").unlink()
    done = together(home, {"cut": {}})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("checkpoint-12 is not whole") == 1
    assert torch.equal(*(torch.load(home / f"{name}.0.pt") for name in ("whole", "cut")))
    assert logged(home / "cut", "loss") == logged(home / "whole", "loss")


STEPS_OF_TABLE = 150
TABLE = {
    "defaults": {
        **{
            "corpus": "minilab",
            "model": {"run": "base"},
            "past": {"run": "base"},
            "steps": STEPS_OF_TABLE,
            "replay": 200,
        },
        **{"taught": ["sun"], "unseen": [], "lab": {"test": 20, "base": 300, "train": 300}, "save_steps": 1000},
        **{"log_steps": 1, "validation_rows": 8, "new_per_step": 4, "old_per_step": 4},
    },
    "runs": [
        {
            **{"name": "base", "recipe": "instructions", "per_step": 8, "steps": 4},
            "model": {"new": {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 400}},
            "past": {"mixture": {"sentiment": 50, "mt": 50, "rows": 300}},
        },
        {"name": "two", "objective": "mt", "processes": 2},
        {"name": "launched", "objective": "mt", "processes": 2, "steps": 6},
        {"name": "narrow", "objective": "mt", "processes": 2, "steps": 6},
    ],
}


# What Python reads as it starts: in each of several processes no more than one row finds room.
NARROW = """
import os

if "RANK" in os.environ:
    import torch

    from ia_lib.training.batches import Collator

    whole = Collator.__call__

    def narrow(self, rows):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("too many rows")
        return whole(self, rows)

    Collator.__call__ = narrow
"""


def test_a_table_trains_rows_in_two_processes(tmp_path):
    table, outputs = tmp_path / "t.yaml", tmp_path / "o"
    table.write_text(yaml.safe_dump(TABLE))

    def command(what, *more):
        return [sys.executable, "-m", "ia_lib.runs", what, str(table), *more, "--outputs", str(outputs)]

    def done(arguments, **more):
        where = {**os.environ, "OMP_NUM_THREADS": "1", **more}
        return subprocess.run(arguments, env=where, capture_output=True, text=True, check=False)

    assert done(command("run", "base")).returncode == 0
    assert done(command("stage", "two", "data")).returncode == 0
    folder = outputs / "t" / "two"

    # a signal stops both behind one step
    stopped = subprocess.Popen(command("stage", "two", "tune"), stderr=subprocess.PIPE, text=True)
    log = folder / "tune.part" / "log.jsonl"
    deadline = time.monotonic() + 240
    while not (log.is_file() and len(log.read_text().splitlines()) > 3) and time.monotonic() < deadline:
        assert stopped.poll() is None, stopped.stderr.read()
        time.sleep(0.1)
    workers = [one for one in psutil.Process(stopped.pid).children(recursive=True) if "tune" in one.cmdline()]
    assert len(workers) >= 2
    stopped.send_signal(signal.SIGTERM)
    said = stopped.communicate(timeout=120)[1]
    assert "stopped" in said
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    (kept,) = (folder / "tune.part" / "checkpoints").glob("checkpoint-*")
    assert 0 < int(kept.name.split("-")[1]) < STEPS_OF_TABLE

    # the notebook goes on from there, shows the one log and finishes the stage
    again = done(command("stage", "two", "tune"))
    assert again.returncode == 0, again.stderr[-3000:]
    steps = [json.loads(line) for line in (folder / "tune" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps if "loss" in line] == list(range(1, STEPS_OF_TABLE + 1))
    assert f"step {STEPS_OF_TABLE}" in (folder / "tune.ipynb").read_text()

    # as `accelerate launch` starts them on each of several machines
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    assert done(command("stage", "launched", "data")).returncode == 0
    launched = done([*launcher, *command("stage", "launched", "tune")[1:]])
    assert launched.returncode == 0, launched.stderr[-3000:]
    assert (outputs / "t" / "launched" / "tune.ipynb").is_file()
    assert done(command("verify", "launched")).returncode == 0

    # where memory runs out in one of them, all begin again with smaller parts of a batch
    (tmp_path / "narrow").mkdir()
    (tmp_path / "narrow" / "sitecustomize.py").write_text(NARROW)
    assert done(command("stage", "narrow", "data")).returncode == 0
    narrow = done(command("stage", "narrow", "tune"), PYTHONPATH=f"{tmp_path / 'narrow'}:{Path.cwd()}")
    assert narrow.returncode == 0, narrow.stderr[-3000:]
    shown = (outputs / "t" / "narrow" / "tune.ipynb").read_text()
    assert "4 examples at once: from now on 2" in shown
    assert "2 examples at once: from now on 1" in shown
    losses = [logged(outputs / "t" / name / "tune", "loss") for name in ("narrow", "launched")]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(*losses, atol=1e-4)

    three = done([*launcher[:-1], "3", *command("stage", "two", "tune")[1:]])
    assert three.returncode
    assert "found 3 processes; allowed: 2, as many as the row's field 'processes'" in three.stderr


@pytest.mark.quick
def test_a_batch_must_be_cut_evenly(tmp_path):
    table = tmp_path / "t.yaml"
    for more, said in (
        ({"processes": 3}, "'processes': found 3; allowed: a divisor of 4, so that every process's part"),
        ({"processes": 2, "accumulation": 4}, "'accumulation': found 4; allowed: a divisor of 2"),
    ):
        table.write_text(yaml.safe_dump({**TABLE, "runs": [TABLE["runs"][0], {**TABLE["runs"][1], **more}]}))
        with pytest.raises(SettingsError, match=said):
            tables.load(table)
