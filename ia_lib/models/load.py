"""Models by their name or folder: on which device, in how many bits, and of which kind."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import psutil
import torch
import transformers

from ia_lib.models.adapters import applied

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Code that a model brings along is never run, and nobody is asked whether it may.
_SAFE = {"trust_remote_code": False}


def computing_device(threads: int = 1) -> str:
    """The device to compute on, "cuda" or "cpu"; sets the number of CPU threads, on which rounding depends."""
    torch.set_num_threads(threads)
    return "cuda" if torch.cuda.is_available() else "cpu"


def free_memory() -> int:
    """Bytes that are free on the computing device."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available


def load_model(
    source: str,
    revision: str | None = None,
    adapters: Sequence[str] = (),
    beginning: tuple | None = None,
    share: float = 1.0,
    device: str = "cpu",
    quantisation: str = "none",
    precision: str = "float32",
) -> "PreTrainedModel":
    """A causal or encoder-decoder model, as its config says, from a folder or the Hub, in `precision` (float32,
    bfloat16, float16), or its linear layers in 8 or 4 bits (`quantisation`: "int8", bitsandbytes' LLM.int8(), or "nf4";
    both on CPU and GPU) and the rest in `precision`. With the folders of `adapters`, each trained on top of the ones
    before it, merged (see `adapters.applied`). With `beginning` (the first five arguments of another model of the same
    shape) its weights are `beginning` + `share` x (what they are - `beginning`), number by number.

    Raises ValueError where some of its weights are not in the files."""
    dtype = getattr(torch, precision)
    options = {"dtype": dtype, **_SAFE, **({"revision": revision} if revision else {})}
    if quantisation != "none":
        nf4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
        how = {"int8": {"load_in_8bit": True}, "nf4": nf4}[quantisation]
        options |= {"quantization_config": transformers.BitsAndBytesConfig(**how), "device_map": device}
    two_parts = is_encoder_decoder(source, revision)
    kind = transformers.AutoModelForSeq2SeqLM if two_parts else transformers.AutoModelForCausalLM
    model, told = kind.from_pretrained(source, output_loading_info=True, **options)
    if missing := sorted(told["missing_keys"]):
        # they would be random numbers, other ones each time
        said = f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
        raise ValueError(f"{source}: its files have no weights for {said}; a whole {type(model).__name__} is needed")
    model = model.to(device) if quantisation == "none" else model
    for module in model.modules():
        # A CPU of some kinds packs 4-bit layers when it first looks through them without training. They then compute
        # in bfloat16: scores are not those of what was trained, and gradients are wrong or not there.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    model = applied(model, adapters) if adapters else model
    if beginning:
        _interpolate(model, load_model(*beginning, device, precision=precision), share)
    return fuse_gelu(model)


@torch.no_grad()
def _interpolate(model: "PreTrainedModel", beginning: "PreTrainedModel", share: float) -> None:
    begun = dict(beginning.named_parameters())
    for name, weight in model.named_parameters():
        weight.copy_(torch.lerp(begun[name].float(), weight.float(), share))


def load_tokenizer(source: str, revision: str | None = None) -> "PreTrainedTokenizerBase":
    return transformers.AutoTokenizer.from_pretrained(source, revision=revision, **_SAFE)


def is_encoder_decoder(source: str, revision: str | None = None) -> bool:
    """Whether the model in a folder or of a Hub name has a decoder of its own."""
    return transformers.AutoConfig.from_pretrained(source, revision=revision, **_SAFE).is_encoder_decoder


def fuse_gelu(model: "PreTrainedModel") -> "PreTrainedModel":
    """Let BLOOM's activation be computed by torch's own kernel: the same formula (GELU by tanh) in one pass instead of
    ten, which saves the mini lab a fifth of its time. Changes `model` and returns it."""
    from transformers.models.bloom.modeling_bloom import BloomGelu

    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, BloomGelu):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
    return model
