"""True answers that are scored, of the user's own files and of a past that is held out; and how far a stage is."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset

from ia_lib.data.files import CorpusError
from ia_lib.evaluation import answering, measures, tasks
from ia_lib.models.encoding import encode
from ia_lib.workflow import pace
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

ROWS = [
    {"instruction": f"Say {i}.", "input": "now" if i % 2 else "", "output": f"It is {i} now."} for i in range(1, 31)
]
PAST = {"file": "past.jsonl", "prompt": "instruction", "input": "input", "answer": "output"}


@pytest.fixture
def written(tmp_path):
    """Writes a table whose rows replay `ROWS`, and returns it."""
    (tmp_path / "past.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "pairs.csv").write_text("id,eng,jav\n" + "".join(f"s{i},Text {i},Teks {i}\n" for i in range(20)))

    def write(past, **more):
        new = {"new": {"hidden": 8, "layers": 1, "heads": 2, "vocabulary": 300}}
        shared = {"corpus": "own", "parallel": {"file": "pairs.csv", "id": "id"}, "known": ["eng"], "taught": ["jav"]}
        shared |= {"pivots": ["eng"], "unseen": [], "past": {**PAST, **past}, "replay": 10, "steps": 2, "model": new}
        shared |= {"validation_sentences": 4, "new_per_step": 4, "old_per_step": 4, "objective": "mt", **more}
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({"runs": [{"name": "a", **shared}]}))
        return Table(tmp_path / "t.yaml", tmp_path / "outputs")

    return write


@pytest.mark.quick
def test_rows_that_are_held_out_are_never_drawn(written):
    evaluate, data = (written({"held_out": 8}).stage("a", name).inputs for name in ("evaluate", "data"))
    (task,) = evaluate.answered
    held_out = evaluate.questions(task)
    assert len(held_out) == 8
    assert set(held_out["prompt"]) <= {f"Say {i}." + "\n\nnow" * (i % 2) for i in range(1, 31)}
    pool = data.pool()[0]
    assert len(pool) == 22
    assert not set(pool["prompt"]) & set(held_out["prompt"])
    assert evaluate.questions(task)["prompt"][:] == held_out["prompt"][:]
    other = written({"held_out": 8}, seed=2).stage("a", "evaluate").inputs
    assert other.questions(other.answered[0])["prompt"][:] != held_out["prompt"][:]
    assert not written({}).stage("a", "evaluate").inputs.answered


@pytest.mark.quick
def test_a_prompt_that_is_held_out_stands_nowhere_else(written, tmp_path):
    with open(tmp_path / "past.jsonl", "a") as file:
        file.writelines(json.dumps({**row, "output": "Another answer."}) + "\n" for row in ROWS)
    inputs = written({"held_out": 8}).stage("a", "data").inputs
    (task,) = inputs.answered
    assert not set(inputs.pool()[0]["prompt"]) & set(inputs.questions(task)["prompt"])


@pytest.mark.quick
def test_nor_in_what_an_earlier_run_of_the_chain_draws(written, tmp_path):
    written({"held_out": 8}, model={"name": "nobody/nothing"})
    table = yaml.safe_load((tmp_path / "t.yaml").read_text())
    first = table["runs"][0]
    for more, fits in (({}, True), ({"seed": 2}, False), ({"past": PAST}, False)):
        second = {**first, "name": "b", "model": {"run": "a"}}
        (tmp_path / "t.yaml").write_text(yaml.safe_dump({"runs": [{**first, **more}, second]}))
        made = Table(tmp_path / "t.yaml", tmp_path / "outputs")
        if fits:
            made.check()
        else:
            with pytest.raises(SettingsError, match=r"'a' (was trained on|may draw) \d of the \d"):
                made.check()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("past", "said"),
    [
        ({"held_out": 30}, "found 30 instructions; more than the 30 held out are needed"),
        (
            {"input": "inputs", "held_out": 3},
            "no row of the file has the field 'inputs'; found: instruction, input, output",
        ),
        ({"held_out": 3, "stream": True}, "'past.input': found 'input'; allowed: nothing, unless there is a local"),
    ],
)
def test_what_cannot_be_held_out_is_refused(written, past, said):
    for more in ({}, {"objective": "none", "replay": 0}):
        # also where nothing of it is replayed
        with pytest.raises((SettingsError, CorpusError), match=said):
            written(past, model={"name": "nobody/nothing"}, **more).check()


@pytest.mark.quick
def test_the_loss_is_that_of_the_answers_tokens(model, tokenizer):
    task = tasks.load("held_out_past")
    questions = Dataset.from_dict({"prompt": ["Food? ", "Room? "], "answer": ["makanan bagus", "THE ROOM THE ROOM"]})
    told = []
    counts = answering.surprise(model, tokenizer, task, questions, "eng", progress=lambda *done: told.append(done))
    assert told[-1] == (2, 2)
    rows, _ = encode(tokenizer, questions["prompt"], questions["answer"], max_length=100, end_of_sequence=False)
    for row, (nats, tokens) in zip(rows, counts["counts"], strict=True):
        ids, start = torch.tensor([row["input_ids"]]), row["answer_start"]
        with torch.no_grad():
            said = model(ids).logits.log_softmax(-1)[0, start - 1 : -1]
        assert tokens == len(row["input_ids"]) - start
        np.testing.assert_allclose(nats, -said.gather(1, ids[0, start:, None]).sum(), rtol=1e-4)
    found = measures.measures(measures.counted(counts), {"L1": ["eng"]})
    whole = found[(found["language"] == "eng") & (found["prompt"] == "all")]
    nats, tokens = np.sum(counts["counts"].tolist(), axis=0)
    assert whole["value"].tolist() == pytest.approx([nats / tokens])
    assert whole["kind"].tolist() == ["answer"]
    assert whole["baseline"].tolist() == pytest.approx([np.log(len(tokenizer))])
    assert (whole["low"] <= whole["value"]).all()
    # a resample of two questions may be empty, and that is no loss of 0
    assert (whole["low"] >= min(a / b for a, b in counts["counts"]) - 1e-6).all()


@pytest.mark.quick
def test_a_file_of_ones_own(tmp_path):
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "q.yaml").write_text(
        "kind: answer\ndata: {file: q.jsonl, prompt: instruction, input: input, answer: output, language: jav}\n"
    )
    task = tasks.load("q.yaml", tmp_path)
    assert task.has(["eng", "jav"]) == ["jav"]
    assert task.has(["eng"]) == []
    read = task.read(lambda source, file: file, ["jav"], "test")
    assert pd.DataFrame(read).iloc[0].to_dict() == {"prompt": "Say 1.\n\nnow", "answer": "It is 1 now."}
    (tmp_path / "q.jsonl").write_text("")
    with pytest.raises(CorpusError, match=r"there are no questions in it"):
        task.read(lambda source, file: file, ["jav"], "test")
    (tmp_path / "q.yaml").write_text("kind: answer\ndata: {prompt: instruction}\n")
    with pytest.raises(tasks.TaskError, match="exactly one of held_out and file"):
        tasks.load("q.yaml", tmp_path)


@pytest.mark.quick
def test_what_parts_really_take_counts(monkeypatch):
    clock, told = [0.0], []
    monkeypatch.setattr(pace.time, "monotonic", lambda: clock[0])
    done = pace.Pace({"a": (10, 1.0), "b": (10, 4.0)}, lambda took, of: told.append((took, of)))
    clock[0] = 2.0
    done.add("a", 1)
    # one of a takes 2 s, so b is expected to take 8 s each
    assert told[-1] == (2.0, 2.0 + 9 * 2 + 10 * 8)
    clock[0] = 20.0
    done.add("a", 9)
    clock[0] = 22.0
    done.add("b", 1)
    assert told[-1] == (22.0, 22.0 + 9 * 2)
    for _ in range(9):
        clock[0] += 3
        done.add("b", 1)
    assert told[-1] == (clock[0], clock[0])
