import os
import signal
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from ia_lib.evaluation import choice, tasks
from ia_lib.evaluation.rules import RULES, rules
from ia_lib.evaluation.scoring import label_logprobs
from ia_lib.instructions import templates
from ia_lib.instructions.templates import Prompts

TASKS = [tasks.load("nusax/sentiment"), tasks.own("own.csv", "ind", ["joy", "anger"], "emotion")]


def some_texts(count=6) -> Dataset:
    lines = []
    for task in TASKS:
        for language in ("ind", "sun"):
            for i in range(count):
                text = " ".join(["makanan sangat bagus", "hotel", "tidak"][: 1 + i % 3]) + f" {language} {i}"
                lines.append({"task": task.name, "language": language, "example": f"e{i}", "text": text})
                lines[-1]["label"] = task.labels[i % len(task.labels)]
    return Dataset.from_pandas(pd.DataFrame(lines))


@pytest.mark.quick
def test_every_label_of_every_text_under_every_prompt(model, tokenizer):
    data = some_texts()
    told = []
    table = choice.score(
        model, tokenizer, data, TASKS, ("english", "indonesian"), prompt_logprob=True,
        progress=lambda *numbers: told.append(numbers),
    )  # fmt: skip
    assert list(table.columns) == ["dataset", *choice.SCORE_COLUMNS, "prompt_logprob"]
    assert len(table) == 12 * 6 * 2 + 12 * 6 * 3
    assert told[-1] == (24 * 6, 24 * 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert table["dataset"].unique().tolist() == ["", "nusax"]
    row = data[1]
    part = table[(table["task"] == "sentiment") & (table["language"] == "ind") & (table["example"] == "e1")]
    assert part["prompt"].tolist() == [n for n in range(1, 7) for _ in range(3)]
    for wording, numbers in (("english", (1, 2, 3)), ("indonesian", (4, 5, 6))):
        names = TASKS[0].labels
        asked = templates.classification_prompts(row["text"], "sentiment", names, wording)
        empty = templates.classification_prompts("N/A", "sentiment", names, wording)
        words = templates.label_words(names, wording)
        expected = label_logprobs(model, tokenizer, asked, words, content_free=empty, prompt_logprob=True)
        own = part[part["prompt"].isin(numbers)]
        assert own["label"].tolist() == names * 3
        for name in ("label_logprob", "content_free_logprob", "prompt_logprob", "label_chars", "label_tokens"):
            np.testing.assert_allclose(own[name], getattr(expected, name).ravel(), atol=1e-5)
    assert rules(table) == list(RULES)
    alone = choice.score(model, tokenizer, data.filter(lambda r: r["task"] == "emotion"), TASKS)
    assert list(alone.columns) == choice.SCORE_COLUMNS
    assert choice.score(model, tokenizer, data.select([]), TASKS).empty


@pytest.mark.quick
def test_a_task_asks_its_own_question_in_its_own_prompts(model, tokenizer):
    how = Prompts(classification=["[INPUT] [TASK]: [OPTIONS]? [LABELS_CHOICE]"], labels={"joy": "gembira"})
    task = TASKS[1].model_copy(update={"question": "rasa", "prompts": how})
    data = some_texts().filter(lambda row: row["task"] == "emotion")
    table = choice.score(model, tokenizer, data, [task])
    asked = [f"{text} rasa: gembira or anger? " for text in data["text"]]
    expected = label_logprobs(model, tokenizer, asked, ["gembira", "anger"]).label_logprob
    np.testing.assert_allclose(table["label_logprob"], expected.ravel(), atol=1e-5)
    assert table["label"].tolist() == ["joy", "anger"] * len(data)


@pytest.mark.quick
def test_finished_parts_are_not_scored_again(model, tokenizer, tmp_path, monkeypatch):
    data = some_texts()
    first = choice.score(model, tokenizer, data, TASKS, cache=tmp_path)
    made = sorted(tmp_path.iterdir())
    assert len(made) == 2 * 2 * 3
    asked = []
    monkeypatch.setattr(choice, "label_logprobs", lambda *a, **k: asked.append(a) or label_logprobs(*a, **k))
    again = choice.score(model, tokenizer, data, TASKS, cache=tmp_path)
    pd.testing.assert_frame_equal(first, again)
    assert not asked
    # other limits or weights: scored again; what is of no use any more goes
    (tmp_path / "thesis.docx").write_text("not a part")
    for path in [*made, tmp_path / "thesis.docx"]:
        os.utime(path, (1, 1))
    choice.score(model, tokenizer, data, TASKS, cache=tmp_path, max_length=500)
    assert len(asked) == 12
    assert not set(made) & set(tmp_path.iterdir())
    assert (tmp_path / "thesis.docx").exists()
    weight = model.get_input_embeddings().weight
    before = weight.data[0, 0].item()
    try:
        weight.data[0, 0] += 1e-3
        choice.score(model, tokenizer, data, TASKS, cache=tmp_path, max_length=500)
    finally:
        weight.data[0, 0] = before
    assert len(asked) == 24
    # a damaged part is scored again, and so is everything with another token to begin with
    choice.score(model, tokenizer, data, TASKS, cache=tmp_path, max_length=500)
    assert len(asked) == 24
    for part in tmp_path.glob("*.part"):
        part.write_bytes(part.read_bytes()[:200])
    choice.score(model, tokenizer, data, TASKS, cache=tmp_path, max_length=500)
    assert len(asked) == 36
    other = deepcopy(tokenizer)
    other.bos_token = "</s>"
    choice.score(model, other, data, TASKS, cache=tmp_path, max_length=500)
    assert len(asked) == 48
    del asked[24:]
    # a wording more: only its own prompts are scored
    choice.score(model, tokenizer, data, TASKS, cache=tmp_path)
    choice.score(model, tokenizer, data, TASKS, ("english", "indonesian"), cache=tmp_path)
    assert len(asked) == 24 + 12 + 12


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer
from ia_lib.evaluation import choice
sys.path.insert(0, {tests!r})
from test_choice import TASKS, some_texts
torch.set_num_threads(1)
folder, limit = Path(sys.argv[1]), int(sys.argv[2])

def progress(done, total):
    if 0 < limit < done:
        os.kill(os.getpid(), signal.SIGKILL)

model = AutoModelForCausalLM.from_pretrained(folder / "model")
tokenizer = AutoTokenizer.from_pretrained(folder / "model")
cache = folder / "cache" if limit >= 0 else None
table = choice.score(model, tokenizer, some_texts(), TASKS, cache=cache, progress=progress)
PartialState().destroy_process_group()
table.to_parquet(folder / f"scores-{{os.environ.get('RANK', 'one')}}.parquet", index=False)
"""


def test_a_killed_or_shared_evaluation_ends_with_the_same_bytes(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": str(Path(choice.__file__).parents[2])}

    def run(*command):
        return subprocess.run(
            [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300
        )

    answer = run(script, tmp_path, -1)
    assert answer.returncode == 0, answer.stderr
    expected = (tmp_path / "scores-one.parquet").read_bytes()
    (tmp_path / "scores-one.parquet").unlink()
    assert run(script, tmp_path, 40).returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert 5 <= len(finished) < 12
    assert run(script, tmp_path, 0).returncode == 0
    assert (tmp_path / "scores-one.parquet").read_bytes() == expected
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    launch = ("-m", "torch.distributed.run", "--nproc_per_node", 2, "--standalone")
    answer = run(*launch, script, tmp_path, -1)
    assert answer.returncode == 0, answer.stderr
    for rank in (0, 1):
        assert (tmp_path / f"scores-{rank}.parquet").read_bytes() == expected


@pytest.mark.quick
def test_texts_that_cannot_be_told_apart_are_refused(model, tokenizer):
    frame = some_texts().to_pandas()
    with pytest.raises(ValueError, match="found 'e0' twice"):
        choice.score(model, tokenizer, Dataset.from_pandas(frame.assign(example="e0")), TASKS)
    with pytest.raises(ValueError, match="nothing in row 3"):
        choice.score(
            model, tokenizer, Dataset.from_pandas(frame.assign(language=["ind"] * 3 + [None] + ["ind"] * 20)), TASKS
        )


ADAPTED = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from ia_lib.evaluation import choice

model = AutoModelForCausalLM.from_pretrained(FOLDER)
torch.manual_seed(1)
names = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
model = get_peft_model(model, LoraConfig(r=2, init_lora_weights=False, target_modules=names)).eval()
print("key", choice._digest(choice._identity(model, AutoTokenizer.from_pretrained(FOLDER))))
"""


def test_the_key_of_an_adapted_model_is_the_same_in_every_process(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADAPTED.replace("FOLDER", repr(str(tmp_path)))], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(choice.__file__).parents[2]), "PYTHONHASHSEED": str(seed)},
        )
        for seed in range(3)
    ]  # fmt: skip
    said = {process.communicate(timeout=300)[0].partition("key ")[2] for process in processes}
    assert len(said) == 1
    assert len(said.pop().strip()) == 64


@pytest.mark.quick
def test_the_key_knows_which_adapters_are_at_work(model, tokenizer):
    from peft import LoraConfig, get_peft_model

    def key():
        return choice._digest(choice._identity(adapted, tokenizer))

    how = LoraConfig(r=2, init_lora_weights=False, target_modules=["query_key_value"])
    adapted = get_peft_model(deepcopy(model), how).eval()
    adapted.add_adapter("two", how)
    keys = [key()]
    adapted.set_adapter("two")
    keys.append(key())
    with adapted.disable_adapter():
        keys.append(key())
    assert key() == keys[1]
    layer = next(module for module in adapted.modules() if hasattr(module, "lora_A"))
    layer.set_scale("two", 3)
    keys.append(key())
    layer.lora_A["two"].weight.data[0, 0] += 1
    keys.append(key())
    assert len(set(keys)) == 5
    adapted.set_adapter("default")
    assert key() not in keys


@pytest.mark.quick
@pytest.mark.parametrize("twice", [False, True])
def test_the_key_of_a_model_in_four_bits_does_not_change_by_use(tokenizer, tmp_path, twice):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

    size = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=len(tokenizer), **size, initializer_range=0.4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=twice,
        bnb_4bit_compute_dtype=torch.float32,
    )  # fmt: skip
    used, fresh = (AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=how) for _ in range(2))

    def key(one):
        return choice._digest(choice._identity(one, tokenizer))

    def scores():
        return label_logprobs(used, tokenizer, ["the food was "], ["yes indeed"]).label_logprob.item()

    before, first = key(used), scores()
    assert key(used) == before == key(fresh)
    # nor do the scores change because a key was made
    assert scores() == first
    assert key(used) == before
    # one number more or less, of either kind
    weight = fresh.model.layers[0].mlp.up_proj.weight
    weight.data[0, 0] ^= 1
    other = key(fresh)
    weight.data[0, 0] ^= 1
    weight.quant_state.absmax[0] = 200 if twice else 7
    assert len({before, other, key(fresh)}) == 3
