"""Whether a run's model, tokenizer, labels and settings fit together: looked at before any work, weights not loaded."""

import inspect
import re
import unicodedata
import warnings
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Any

from ia_lib.data.downloads import SourceError
from ia_lib.data.files import CorpusWarning
from ia_lib.data.yaml_files import Refusal, listed, told
from ia_lib.instructions import templates
from ia_lib.workflow import devices
from ia_lib.workflow.sources import Folder

# What a model is called that answers no prompt: one that fills gaps, or tells classes.
_OTHER = re.compile(r"For(?!CausalLM|ConditionalGeneration|Seq2SeqLM)\w+$")
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
# Rules under which a label that goes on from another one is never more probable than that.
_SUMS = ("label_sum", "joint")
_NO_PACKING = (
    "false, for a model that cannot tell examples in one sequence apart (as BLOOM, or one with linear attention)"
)
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def check(inputs, seen: set | None = None) -> None:
    """Look at the labels of a run, and at the model that it begins with, if that is on this machine; `inputs` are those
    of its evaluate stage, and `seen` remembers of which fields it was warned. Raises Refusal, or SourceError for a
    conversation with a model that has none."""
    run, seen = inputs.run, set() if seen is None else seen
    model = inputs.outside if inputs.begins.model.name else None
    for field, value in _for_gpus(run).items():
        if not _gpus() and (field, value) not in seen:
            seen.add((field, value))
            said = f"{field}: {value} needs a GPU, and this machine has none: training will be refused here, and so "
            said += "will that of other such runs, which are not named"
            warnings.warn(f"the run {run.name}: {said}", CorpusWarning, stacklevel=2)
    check_labels(inputs, None)
    if run.chat and inputs.begins.model.new:
        raise Refusal("chat", True, "false, for a new model, whose tokenizer has no chat template")
    adapters, adapter = inputs.adapters, run.train.adapter
    if run.trains and inputs.begins.model.new:
        if run.train.packing:
            raise Refusal("packing", True, _NO_PACKING)
        if adapter and adapter.targets:
            from transformers import BloomConfig

            _check_adapter(adapter, BloomConfig(hidden_size=8, n_layer=1, n_head=1, vocab_size=8))
    one = "none, since the model that it begins with has an adapter already, which a quantised model cannot take in"
    if run.trains and adapter and adapter.quantisation != "none" and adapters > 1:
        raise Refusal("adapter.quantisation", adapter.quantisation, one)
    if run.evaluate.quantisation != "none" and adapters > 1:
        raise Refusal("quantisation", run.evaluate.quantisation, one)
    if model is None or (not isinstance(model, Folder) and model.missing()):
        return
    config = _config(model, *inputs.tokenizer)
    tokenizer = _tokenizer(inputs, config)
    positions = _positions(config)
    if (run.trains or inputs.translations) and positions and run.data.max_length > positions:
        allowed = f"{positions:,} at most, the positions that the model {told(model.name)} has"
        raise Refusal("max_length", run.data.max_length, allowed)
    if run.trains and run.train.adapter:
        _check_adapter(run.train.adapter, config)
    if run.trains and run.train.packing and not _may_pack(config):
        raise Refusal("packing", True, _NO_PACKING)
    run.encoding(config.is_encoder_decoder)
    if run.chat:
        _check_chat(run, tokenizer, config)
    check_labels(inputs, tokenizer, config.is_encoder_decoder)


def _for_gpus(run) -> dict[str, str]:
    """What a run asks for that trains on GPUs alone."""
    asked = {"optimiser": ("paged_adamw_8bit",), "precision": ("float16",)} if run.trains else {}
    return {field: found for field, some in asked.items() if (found := getattr(run.train, field)) in some}


@cache
def _gpus() -> bool:
    return bool(devices.known())


def _may_pack(config) -> bool:
    """Whether a model reads positions and has attention alone; how it really reads packed examples is looked at before
    it is tuned."""
    from transformers import AutoModelForCausalLM

    if config.is_encoder_decoder or {*(getattr(config, "layer_types", None) or ())} - _ATTENTION:
        return False
    return "position_ids" in inspect.signature(AutoModelForCausalLM._model_mapping[type(config)].forward).parameters


def _check_adapter(asked, config) -> None:
    """Refuse an adapter that the model has no place for."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.pytorch_utils import Conv1D

    from ia_lib.models import adapters

    if asked.embeddings and config.is_encoder_decoder:
        raise Refusal("adapter.embeddings", True, "false for an encoder-decoder model")
    if asked.targets:
        with torch.device("meta"):
            model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config)
        linear = (name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear | Conv1D))
        kinds = sorted({name.rpartition(".")[2] for name in linear})
        for target in asked.targets:
            if target not in kinds:
                raise Refusal("adapter.targets", target, f"linear layers of the model ({listed(kinds, target)})", kinds)
        if shared := adapters.shares_weights(model, asked.targets):
            raise Refusal("adapter.targets", shared, adapters.SHARED)


def _unfit(name: str, said: str, allowed: str) -> Refusal:
    return Refusal("model.name", name, allowed, said=said)


def _config(model, source: str, revision: str | None) -> Any:
    """The model's configuration. Raises Refusal for a folder without a whole model, and for a model of another kind."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if isinstance(model, Folder):
        here, whole = {path.name for path in model.folder.iterdir()}, "a folder with a whole model and its tokenizer"
        if "config.json" not in here:
            what = "which has no config.json"
            if "adapter_config.json" in here:
                what = "which holds an adapter and no whole model"
            elif packed := sorted(name for name in here if name.endswith(".gguf")):
                what, whole = "which holds a model in GGUF", f"that with the field gguf beside it: {listed(packed)}"
            raise _unfit(model.name, what, whole)
        if not any(any(model.folder.glob(pattern)) for pattern in _WEIGHTS):
            raise _unfit(model.name, "which holds no weights", whole)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
    except Exception as error:  # what transformers and its libraries raise for a file that is none
        said = f"whose config.json cannot be used ({' '.join(str(error).split())[:160]})"
        raise _unfit(model.name, said, "a model that transformers knows without code of its own") from None
    kinds = {*AutoModelForCausalLM._model_mapping, *AutoModelForSeq2SeqLM._model_mapping}
    called = next((name for name in config.architectures or [] if _OTHER.search(name)), None)
    if called or type(config) not in kinds:
        what = called or type(config).__name__.removesuffix("Config")
        pictures = hasattr(config, "vision_config")
        said = (
            f"a {what}, which {'reads pictures and is no language model alone' if pictures else 'answers no prompts'}"
        )
        raise _unfit(model.name, said, "a causal or an encoder-decoder language model")
    return config


def _tokenizer(inputs, config) -> Any:
    """The model's tokenizer. Raises Refusal for one that the model or the run cannot use."""
    run, name = inputs.run, inputs.begins.model.name
    try:
        tokenizer = _load_tokenizer(*inputs.tokenizer, str(inputs.outside.identity()))
    except Exception as error:  # what transformers and its libraries raise for files that are none
        said = " ".join(str(error).split())[:160]
        raise _unfit(name, f"whose tokenizer cannot be read ({said})", "a model with its tokenizer") from None
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:
        raise _unfit(name, "whose tokenizer finds no tokens in a text", "a model with its tokenizer")
    if not tokenizer.is_fast and not config.is_encoder_decoder:
        said = f"with the tokenizer {type(tokenizer).__name__}, which does not tell a token's characters"
        raise _unfit(name, said, "a model with a fast tokenizer (tokenizer.json)")
    if tokenizer.eos_token_id is None and (run.trains or inputs.translations):
        raise _unfit(name, "whose tokenizer has no end-of-sequence token", "one that has (eos_token)")
    # tokens that were added and stand in no text, as one for pictures, may be beyond the model's own
    added = set(tokenizer.added_tokens_decoder) - {tokenizer.eos_token_id, tokenizer.bos_token_id}
    most = max((i for i in tokenizer.get_vocab().values() if i not in added), default=-1)
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size and most >= size:
        said = f"which knows {size:,} tokens, while its tokenizer has one of number {most:,}"
        raise _unfit(name, said, "a model and the tokenizer that it was trained with")
    return tokenizer


@cache
def _load_tokenizer(source: str, revision: str | None, content: str) -> Any:
    from ia_lib.models.load import load_tokenizer

    return load_tokenizer(source, revision)


def _positions(config) -> int | None:
    """How many positions the model has a table of; None if it has none."""
    text = config.get_text_config()
    if config.is_encoder_decoder and hasattr(text, "relative_attention_num_buckets"):
        return None
    return getattr(text, "max_position_embeddings", None)


def _check_chat(run, tokenizer, config) -> None:
    """Refuse a conversation with a model that has none."""
    from ia_lib.models.encoding import encode

    try:
        more = {"chat": True, "encoder_decoder": config.is_encoder_decoder}
        encode(tokenizer, ["prompt"], ["answer"], 10**9, **more)
    except ValueError as error:
        raise SourceError(str(error)) from None


def check_labels(inputs, tokenizer, encoder_decoder: bool = False) -> None:
    """Refuse labels that a model cannot tell apart, and warn of one that can never be chosen: by what they are called
    in each wording, and with a `tokenizer` by their tokens too. Raises Refusal."""
    run = inputs.run
    for task in inputs.choices:
        field = "tests" if task.file is None else "tasks"
        for wording in task.asked(run.wordings):
            words = templates.label_words(task.labels, wording)
            labels = [" ".join(unicodedata.normalize("NFKC", word).split()) for word in words]
            _compare(run, field, task.name, words, labels, "read the same")
            if tokenizer is None:
                continue
            for prompt in templates.classification_prompts("text", task.question, task.labels, wording):
                own = _tokens(tokenizer, prompt, words, run.chat, encoder_decoder)
                _compare(run, field, task.name, words, own, "have the same tokens")


def _tokens(tokenizer, prompt: str, words: Sequence[str], chat: bool, encoder_decoder: bool) -> list[list[str]]:
    from ia_lib.evaluation.prefix_cache import ScoringError
    from ia_lib.evaluation.scoring import tokens

    try:
        return [own for _, own in tokens(tokenizer, prompt, words, chat=chat, encoder_decoder=encoder_decoder)]
    except (ScoringError, ValueError) as error:
        raise SourceError(str(error)) from None


def _compare(run, field: str, task: str, words: Sequence[str], parts: Sequence[Any], same: str) -> None:
    for (one, mine), (other, others) in combinations(zip(words, parts, strict=True), 2):
        if mine == others:
            allowed = f"labels of {task} that differ, since {told(one)} and {told(other)} {same} to the model"
            raise Refusal(field, other, allowed)
        short, long = sorted((one, other), key=lambda word: len(parts[words.index(word)]))
        first, then = (parts[words.index(word)] for word in (short, long))
        if isinstance(first, list) and then[: len(first)] == first and run.evaluate.scoring_rule in _SUMS:
            said = f"the label {told(long)} of {task} begins with the tokens of {told(short)}"
            remedy = f"the rule {run.evaluate.scoring_rule} never gives it more; compare the rules, or use label_mean"
            warnings.warn(f"{said}, and {remedy}", CorpusWarning, stacklevel=2)
