"""Adapters: small layers to train beside a model's frozen ones (LoRA and its kin, by peft).

In: a model, or the folders of adapters that were trained on it. Out: a model whose adapter can be trained, or a plain
model that computes with them.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARED = "other layers, since the embeddings have the same weights (embeddings: true trains both)"


def attach(
    model: "PreTrainedModel",
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] | None = None,
    dora: bool = False,
    rslora: bool = False,
    embeddings: bool = False,
    checkpointing: bool = False,
    seed: int = 1,
):
    """`model` frozen, with an adapter of that `rank` to train at every linear layer but the last, or at those whose
    names end with one of `targets`: a peft.PeftModel. What an adapter adds is scaled by alpha / rank (rsLoRA: by alpha
    / sqrt(rank)). `embeddings` trains the whole embedding and output layer too. Its random weights depend on `seed`
    alone. Raises ValueError for targets that the model has not, and for `embeddings` of an encoder-decoder model, which
    has them in several places, and for a target that is the output layer where that shares its weights with the
    embeddings, which merging would change, too."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if embeddings and model.config.is_encoder_decoder:
        raise ValueError("adapter.embeddings: found true; allowed: false for an encoder-decoder model")
    if shared := shares_weights(model, targets or ()):
        raise ValueError(f"adapter.targets: found {shared!r}; allowed: {SHARED}")
    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    ends = [model.get_input_embeddings(), model.get_output_embeddings()] if embeddings else []
    tied = bool(ends) and ends[0].weight is ends[1].weight
    names = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets) if targets else "all-linear",
        use_dora=dora,
        use_rslora=rslora,
        modules_to_save=[name.rpartition(".")[2] for name in names] or None,
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        # that the two ends have the same weights: peft knows how to keep that so by two names of layers alone
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings|.*fan_in_fan_out")
        adapted = get_peft_model(model, config)
    if tied:
        first, last = (plain(adapted).get_input_embeddings(), plain(adapted).get_output_embeddings())
        last.modules_to_save["default"].weight = first.modules_to_save["default"].weight
    # the kit knows what it is an adapter of, and peft would ask the Hub about a name each time it is saved
    adapted.peft_config["default"].base_model_name_or_path = ""
    return adapted


def shares_weights(model: "PreTrainedModel", targets: Sequence[str]) -> str | None:
    """The one of `targets` that names the output layer of a model whose embeddings are the same weights."""
    head = model.get_output_embeddings()
    if head is None or head.weight is not model.get_input_embeddings().weight:
        return None
    names = [name for name, module in model.named_modules() if module is head]
    return next((t for t in targets for name in names if name == t or name.endswith(f".{t}")), None)


def applied(model: "PreTrainedModel", folders: Sequence[str | Path]) -> "PreTrainedModel":
    """`model` with the adapters in `folders`, each trained on top of the ones before it. They are merged into its
    weights; that of a quantised model stays beside them, since it would lose its digits in theirs.

    Raises ValueError for more than one on a quantised model.
    """
    from peft import PeftModel

    quantised = getattr(model, "is_quantized", False)
    if quantised and len(folders) > 1:
        raise ValueError(f"quantisation: found {len(folders)} adapters on a quantised model; allowed: one")
    tied = model.config.tie_word_embeddings
    for folder in folders:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*tie|.*fan_in_fan_out")  # see `attach`
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
            model = adapted.get_base_model() if quantised else adapted.merge_and_unload(safe_merge=True)
    if tied and not quantised:
        # peft merges one copy of the same weights into each end
        model.config.tie_word_embeddings = True
        model.tie_weights()
    return model


def plain(model: torch.nn.Module) -> "PreTrainedModel":
    """The transformers model inside a peft.PeftModel; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
