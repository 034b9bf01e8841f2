"""Tiny real components, built on the spot: a mini lab, a tokenizer, models of several families, a table of settings."""

import json
import os
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from chats import CHATS, TOKENS, Chat

from ia_lib.models.new import new_model, train_tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# for models this small a second thread costs more than it does, and on a busy machine far more
torch.set_num_threads(1)
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
    recipe: instructions
    past: {mixture: {sentiment: 25, mt: 45, xss: 15, mlm: 15, rows: 200}}
    model: {new: {hidden: 16, layers: 1, heads: 2, vocabulary: 600}}
    per_step: 4
  - {name: tlm, objective: tlm}
"""


@pytest.fixture(scope="session")
def lab(tmp_path_factory) -> Path:
    from ia_lib.data import minilab

    folder = tmp_path_factory.mktemp("lab") / "lab"
    return minilab.write(folder, 1, CODES, {"base": 300, "train": 120, "valid": 12, "test": 30})


@pytest.fixture(scope="session")
def parallel(lab):
    from ia_lib.data import corpora

    return corpora.parallel(lambda source, file: lab / file, CODES[:4])


@pytest.fixture(scope="session")
def tokenizer(parallel):

    texts = [text for code in CODES[:4] for text in parallel[code]]
    return train_tokenizer([*texts, "negative neutral positive yes no What is the sentiment?"], 700)


@pytest.fixture(scope="session")
def model(tokenizer):
    return new_model(len(tokenizer), 1, hidden=16, layers=2, heads=2).eval()


@pytest.fixture(scope="session", params=["bloom", "gpt2", "llama", "gemma3", "qwen3.5"])
def any_model(request, tokenizer):
    """A tiny random model of each family: positions by bias, learned, and rotary; attention to everything before, in a
    window, and linear."""
    from transformers import AutoConfig, AutoModelForCausalLM, BloomConfig, Gemma3TextConfig, GPT2Config, LlamaConfig

    size = len(tokenizer)
    common = {"vocab_size": size, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    few = {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 2, "eos_token_id": 1}
    linear = {f"linear_{part}_head_dim": 8 for part in ("key", "value")}
    linear |= {f"linear_num_{part}_heads": 2 for part in ("key", "value")}
    config = {
        "bloom": lambda: BloomConfig(vocab_size=size, hidden_size=16, n_layer=2, n_head=2),
        "gpt2": lambda: GPT2Config(
            vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        ),
        "llama": lambda: LlamaConfig(**common, num_hidden_layers=2),
        "gemma3": lambda: Gemma3TextConfig(
            **common, **few, num_hidden_layers=2, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
        ),
        "qwen3.5": lambda: AutoConfig.for_model("qwen3_5_text", **common, **few, **linear, num_hidden_layers=4),
    }[request.param]()
    torch.manual_seed(3)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session", params=["t5", "mt5"])
def encoder_decoder(request, tokenizer):
    """A tiny random encoder-decoder model, as T5 and mT0 are, with dropout as they have it."""
    from transformers import AutoModelForSeq2SeqLM, MT5Config, T5Config

    torch.manual_seed(3)
    config = {"t5": T5Config, "mt5": MT5Config}[request.param](
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.1,
        pad_token_id=2, eos_token_id=1, decoder_start_token_id=2,
    )  # fmt: skip
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def adding(tokenizer, single: str):
    """A copy of the tokenizer that adds special tokens to every text, as Llama's does before and T5's behind it."""
    from tokenizers.processors import TemplateProcessing

    again = deepcopy(tokenizer)
    special = [(token, again.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    again.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return again


@pytest.fixture(scope="session", params=["bytes", "pieces"])
def world_tokenizer(request, tokenizer):
    """Tokenizers of many scripts with as many tokens as `tokenizer`: of bytes, as GPT's, BLOOM's and Qwen's, and of
    pieces of text behind a beginning-of-sequence token, as Llama's and Gemma's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [
        "the food was good, not bad. makanan ini sangat bagus 😀👍🏽 yes yes indeed yesterday ",
        "الطعام جيد جدا إيجابي سلبي محايد",
        "อาหารอร่อยมาก เป็นบวก เป็นลบ กลาง",
    ] * 20
    special = ["<s>", "</s>", "<pad>"]
    if request.param == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=len(tokenizer), special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.normalizer = normalizers.NFKC()
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=[*special, "<unk>"], unk_token="<unk>", show_progress=False
        )
    made.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    return fast if request.param == "bytes" else adding(fast, "<s> $A")


@pytest.fixture(scope="session")
def closing_tokenizer(tokenizer):
    """A tokenizer that closes every text, as T5's does."""
    return adding(tokenizer, "$A </s>")


@pytest.fixture(scope="session")
def turns_tokenizer(tokenizer):
    """A tokenizer that knows all families' turn tokens and puts its beginning-of-sequence token before every text."""
    from tokenizers import AddedToken

    again = adding(tokenizer, "<s> $A")
    again.add_tokens([AddedToken(token, special=True) for token in TOKENS], special_tokens=True)
    return again


@pytest.fixture(params=list(CHATS))
def chat(request, turns_tokenizer) -> Chat:
    """A family's chat, whose template the tokenizer has."""
    turns_tokenizer.chat_template = CHATS[request.param].template
    return CHATS[request.param]


@pytest.fixture(scope="session")
def chat_model(turns_tokenizer):
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(turns_tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, pad_token_id=2, eos_token_id=1,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny table carried out from its data to its report, by Snakemake and papermill."""
    from ia_lib.workflow.graph import Table
    from ia_lib.workflow.scheduler import execute

    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TABLE)
    made = Table(folder / "tiny.yaml", folder / "outputs")
    assert execute(made) == []
    return made


def copied(finished, folder: Path) -> Path:
    """A copy of the finished outputs, free for another table."""
    return shutil.copytree(finished.outputs, folder, ignore=shutil.ignore_patterns(".table.json"))


def rewrite(manifest: Path, **changes) -> None:
    """A stage's manifest as if it had been written so."""
    from ia_lib.workflow.stages import _seal, write_json

    known = json.loads(manifest.read_text()) if manifest.is_file() else {}
    record = {**known, **changes}
    write_json(manifest, {**record, "seal": _seal(record)})


@pytest.fixture
def real_data() -> Path:
    from ia_lib.workflow.graph import root

    folder = Path(os.environ.get("IA_DATA") or root() / "../shared/data")
    if not (folder / "nusax").is_dir():
        pytest.skip(f"there is no real NusaX text in {folder} (set IA_DATA)")
    return folder
