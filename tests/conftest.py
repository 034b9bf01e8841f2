"""Tiny real components, built on the spot: a mini lab, a tokenizer, models of several families, a table of settings."""

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
CODES = ["eng", "ind", "sun", "jav", "bbc"]

TABLE = """
defaults:
  corpus: minilab
  lab: {base: 120, train: 60, valid: 12, test: 12}
  known: [eng, ind]
  taught: [sun, jav]
  unseen: [bbc]
  replay: 40
  past: {run: base}
  model: {run: base}
  steps: 6
  new_per_step: 2
  old_per_step: 2
  validation_sentences: 5
  validation_rows: 6
  learning_rate: 1.0e-3
  log_steps: 2
  validate_steps: 3
  save_steps: 2
runs:
  - name: base
    replay: all
    past: {mixture: {sentiment: 25, mt: 45, xss: 15, mlm: 15, rows: 200}}
    model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 600}}
    old_per_step: 4
  - {name: tlm, objective: tlm}
"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Path:
    from ia_lib import minilab

    folder = tmp_path_factory.mktemp("lab") / "lab"
    return minilab.write(folder, 1, CODES, {"base": 300, "train": 120, "valid": 12, "test": 30})


@pytest.fixture(scope="session")
def parallel(lab):
    from ia_lib import corpora

    return corpora.parallel(lab, CODES[:4])


@pytest.fixture(scope="session")
def tokenizer(parallel):
    from ia_lib import minilab

    texts = [text for code in CODES[:4] for text in parallel[code]]
    return minilab.train_tokenizer([*texts, "negative neutral positive yes no What is the sentiment?"], 700)


@pytest.fixture(scope="session")
def model(tokenizer):
    from ia_lib import minilab
    from ia_lib.settings import New

    return minilab.new_model(New(hidden=16, layers=2, heads=2), len(tokenizer), 1).eval()


@pytest.fixture(scope="session", params=["bloom", "gpt2", "llama"])
def any_model(request, tokenizer):
    """A tiny random model of each family: positions by bias, learned, and rotary."""
    from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig

    size = len(tokenizer)
    config = {
        "bloom": lambda: BloomConfig(vocab_size=size, hidden_size=16, n_layer=2, n_head=2),
        "gpt2": lambda: GPT2Config(
            vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        ),
        "llama": lambda: LlamaConfig(
            vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        ),
    }[request.param]()
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny table carried out from its data to its report, by Snakemake and papermill."""
    from ia_lib.runs import Table

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TABLE)
    made = Table(folder / "tiny.yaml", folder / "outputs")
    assert made.execute() == []
    return made


@pytest.fixture
def real_data() -> Path:
    from ia_lib.runs import root

    folder = Path(os.environ.get("IA_DATA") or root() / "../shared/data")
    if not (folder / "nusax").is_dir():
        pytest.skip(f"there is no real NusaX text in {folder} (set IA_DATA)")
    return folder
