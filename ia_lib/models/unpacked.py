"""Models in one GGUF file as plain folders: configuration, tokenizer with chat template, weights in full precision.

transformers reads the file and multiplies its few bits out (float32), which takes half a minute for 135 million
parameters; the folder is read in a second.
"""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

from filelock import FileLock

_ABOUT = "gguf.json"


def unpack(file: Path, folder: Path, weights: bool = True) -> Path:
    """Write the model in a GGUF file to `folder`, without its `weights` if they are not asked for; returns the folder.
    What is there already is left alone. Raises ValueError for a file that cannot be read."""
    if (folder / _ABOUT).is_file() and ((folder / "model.safetensors").is_file() or not weights):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        if not (folder / _ABOUT).is_file():
            _describe(file, part)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(part, folder)
        if weights and not (folder / "model.safetensors").is_file():
            _multiply_out(file, part)
            os.replace(part / "model.safetensors", folder / "model.safetensors")
            shutil.rmtree(part)
    return folder


def quantisation(folder: Path) -> str:
    """What the file's weights were rounded to, as Q4_1, by the folder that it was unpacked to."""
    return json.loads((folder / _ABOUT).read_text(encoding="utf-8"))["quantisation"]


def _describe(file: Path, folder: Path) -> None:
    import transformers
    from gguf import GGUFReader

    given = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        quantised = _quantised(GGUFReader(file))
        for kind in (transformers.AutoConfig, transformers.AutoTokenizer):
            kind.from_pretrained(file.parent, **given).save_pretrained(folder)
    except Exception as error:  # what transformers and gguf raise for a file that is none, or of an unknown kind
        raise ValueError(f"{file.name} cannot be read as GGUF ({' '.join(str(error).split())[:160]})") from None
    (folder / _ABOUT).write_text(json.dumps({"quantisation": quantised}), encoding="utf-8")


def _quantised(file) -> str:
    """What an opened file says of itself, or else what most of its numbers are rounded to."""
    from gguf import LlamaFileType

    if said := file.fields.get("general.file_type"):
        return LlamaFileType(said.contents()).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    kinds: Counter[str] = Counter()
    for tensor in file.tensors:
        kinds[tensor.tensor_type.name] += int(tensor.n_elements)
    return kinds.most_common(1)[0][0]


def _multiply_out(file: Path, folder: Path) -> None:
    import transformers

    kinds = transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM
    config = transformers.AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = kinds[config.is_encoder_decoder].from_pretrained(file.parent, gguf_file=file.name)
    # its weights are plain numbers by now, which transformers would not write as long as it holds them for rounded
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    del model.config.quantization_config
    model.save_pretrained(folder, max_shard_size="10TB")
