"""Tasks of the kind `choose`, from texts and a model to `scores.parquet`: every label of every text under every prompt.

The work is cut into parts, one for each task, language and prompt. A part's scores depend on nothing but what its name
in the cache is a hash of, so a killed evaluation goes on where it was and ends with the same bytes, and several
processes (`accelerate launch`) share the parts between them and end with the same table.
"""

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Sequence
from copy import copy
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm.auto import tqdm

from ia_lib.data.downloads import read_sealed, write_sealed
from ia_lib.evaluation import prefix_cache, scoring
from ia_lib.evaluation.scoring import label_logprobs
from ia_lib.evaluation.tasks import Choose
from ia_lib.instructions import templates

# The columns of scores.parquet: one line per example, prompt and label. `dataset` comes first where tasks name one, and
# `prompt_logprob` last where prompts are scored.
_SCORES = ["label_tokens", "label_chars", "label_logprob", "prompt_tokens", "cut_tokens", "content_free_logprob"]
SCORE_COLUMNS = ["task", "language", "example", "prompt", "label", "gold", *_SCORES]
# What stands for the text where a prompt is to have no content (Zhao et al., arXiv 2102.09690).
CONTENT_FREE = "N/A"
_PART = re.compile(r"[0-9a-f]{64}\.part.*")
_OLD = 24 * 3600  # seconds


def score(
    model,
    tokenizer,
    data: Dataset,
    tasks: Sequence[Choose],
    wordings: Sequence[str] = ("english",),
    *,
    cache: Path | None = None,
    progress: bool | Callable[[int, int], None] = True,
    **more,
) -> pd.DataFrame:
    """Score every label of every text of `data` under each prompt of each wording.

    `data` holds the texts of the `tasks`, as these read them (several tasks of one name share labels and question).
    `wordings`, as `templates.classification_prompts` takes them, are for the tasks that have no prompts of their own.
    `cache` is a folder for finished parts; those that this call has no use for are removed when they are a day old.
    `progress` shows a bar, and is called with (prompts done, prompts in all) if it can be. `more` goes to
    `scoring.label_logprobs`.

    Returns a table with `SCORE_COLUMNS`; `prompt` is the template's number from 1, counted on through the wordings,
    `gold` the text's true label and `label` the one scored, whatever the wording calls it. Under `accelerate launch`
    every process scores its share of the parts and gets the whole table. Raises ValueError for a text without language,
    and for two of one id.
    """
    cache = Path(cache) if cache else None
    parts = list(_parts(data, tasks, wordings))
    total = sum(len(part["prompts"]) for part in parts)
    identity = _identity(model, tokenizer) if cache else ""
    paths = [cache / f"{_digest([identity, part, more])}.part" if cache else None for part in parts]
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
    # the processes may end far apart
    state = PartialState(cpu=model.device.type == "cpu", timeout=timedelta(days=2))
    done, found = 0, []
    with tqdm(total=total, desc="scoring", unit="prompt", disable=progress is False) as bar:

        def tell(here: int, _: int = 0) -> None:
            bar.update(done + here - bar.n)
            if callable(progress):
                progress(min(total, (done + here) * state.num_processes), total)

        for number in range(state.process_index, len(parts), state.num_processes):
            found.append((number, _part(model, tokenizer, parts[number], paths[number], tell, more)))
            done += len(parts[number]["prompts"])
            tell(0)
    if state.num_processes > 1:
        found = gather_object(found)
    if cache and state.is_main_process:
        # not those of a process that is at work beside this one
        for path in set(cache.iterdir()) - set(paths):
            if _PART.fullmatch(path.name) and time.time() - path.stat().st_mtime > _OLD:
                path.unlink(missing_ok=True)
    if not found:
        return pd.DataFrame(columns=SCORE_COLUMNS)
    # in the order of tasks and texts, and of each text its prompts, whatever the order of the work
    table = pd.concat([frame for _, frame in sorted(found, key=lambda pair: pair[0])], ignore_index=True)
    table = table.sort_values(["row", "prompt"], ignore_index=True)
    return table.drop(columns=["row"] if any(table["dataset"]) else ["row", "dataset"])


def _parts(data: Dataset, tasks: Sequence[Choose], wordings: Sequence[str]):
    """What is asked in each part, as plain values, of which the cache's name is made."""
    everything = data.to_pandas()
    if (without := everything["language"].isna()).any():
        raise ValueError(f"language: found nothing in row {without.argmax()}; allowed: a code")
    if (twice := everything.duplicated(["task", "language", "example"])).any():
        raise ValueError(
            f"example: found {everything['example'][twice].iloc[0]!r:.80} twice; allowed: ids of their own"
        )
    everything = everything.sort_values("task", kind="stable").assign(row=np.arange(len(everything)))
    named = {task.name: task for task in tasks}
    for (name, language), rows in everything.groupby(["task", "language"], sort=False):
        task, prompt = named[name], 0
        texts = {"row": rows["row"].tolist(), "example": rows["example"].tolist(), "gold": rows["label"].tolist()}
        place = {"dataset": task.dataset, "task": task.task, "language": language, **texts, "names": task.labels}
        for wording in task.asked(wordings):
            how = task.question, task.labels, wording
            words = templates.label_words(task.labels, wording)
            asked = [templates.classification_prompts(text, *how) for text in (CONTENT_FREE, *rows["text"])]
            for empty, *prompts in zip(*asked, strict=True):
                prompt += 1
                yield {**place, "prompt": prompt, "words": words, "prompts": prompts, "content_free": empty}


def _part(model, tokenizer, part: dict, path: Path | None, progress: Callable, more: dict) -> pd.DataFrame:
    """The lines of one part, each with the row of its text: from the file, else scored and put there. A damaged file is
    scored again."""
    if path and (kept := read_sealed(path)) is not None:
        return pd.read_parquet(io.BytesIO(kept))
    scores = label_logprobs(
        model, tokenizer, part["prompts"], part["words"], content_free=part["content_free"], progress=progress, **more
    )
    names, found = part["names"], [*_SCORES, *(["prompt_logprob"] if scores.prompt_logprob is not None else [])]
    frame = pd.DataFrame(
        {name: np.repeat(part[name], len(names)) for name in ("row", "example", "gold")}
        | {"label": np.tile(names, len(part["row"]))}
        | {name: getattr(scores, name).reshape(-1) for name in found}
    ).assign(**{name: part[name] for name in ("dataset", "task", "language", "prompt")})
    frame = frame[["row", "dataset", *dict.fromkeys([*SCORE_COLUMNS, *found])]]
    if path:
        write_sealed(path, frame.to_parquet(index=False))
    return frame


def _identity(model, tokenizer) -> list:
    """What a model's scores depend on beside what it is asked: weights, as they are stored, adapters (which there are,
    and for each layer, which are at work and how strongly) and tokenizer."""
    weights = hashlib.sha256()
    for name, value in _stored(model):
        if isinstance(value, torch.Tensor):
            weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            weights.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
        else:
            weights.update(f"{name} {value}".encode())
    at_work = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
    layers = [
        [name, *(getattr(layer, what, None) for what in at_work)]
        for name, layer in model.named_modules()
        if isinstance(getattr(layer, "disable_adapters", None), bool)
    ]
    configs = [model.config, *(getattr(model, "peft_config", None) or {}).items()]
    written = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else sorted(tokenizer.get_vocab().items())
    code = [Path(module.__file__).read_text(encoding="utf-8") for module in (scoring, prefix_cache, templates)]
    return [
        *(weights.hexdigest(), configs, layers, str(model), str(model.dtype), model.device.type, written),
        *(tokenizer.chat_template, tokenizer.special_tokens_map, torch.__version__, transformers.__version__, code),
    ]


def _stored(model):
    """Names and values of a model's weights, those in bitsandbytes' 4 bits in one form whether or not the model was
    used before: on some CPUs its first use packs them otherwise and rounds their scales. The way back, which
    `state_dict` goes, leaves a wide layer's scales transposed, and the model then gives other scores: it is not gone.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    states = {name: weight.quant_state for name, weight in weights.items() if getattr(weight, "quant_state", None)}
    try:
        for name in states:
            weights[name].quant_state = None
        stored = model.state_dict()
    finally:
        for name, state in states.items():
            weights[name].quant_state = state
    for name, value in stored.items():
        yield from _four_bits(name, value, copy(states[name])) if name in states else [(name, value)]


def _four_bits(name: str, packed: torch.Tensor, state):
    """A weight in 4 bits as it was when it was loaded, its scales as a CPU rounds them, and the rest of what it means;
    `state` is changed."""
    from bitsandbytes import functional

    scales = state.absmax
    if getattr(state, "packing_format_for_cpu", False):
        scales, state.original_nested = scales.T, False
        packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, state)
    elif state.nested:
        scales = functional.dequantize_blockwise(scales, state.state2) + state.offset
    yield name, packed
    yield f"{name}.scales", scales.reshape(-1).to(torch.bfloat16 if packed.device.type == "cpu" else torch.float32)
    yield f"{name}.kind", [state.quant_type, state.blocksize, list(state.shape), state.dtype, state.code.tolist()]


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def _plain(value):
    """What JSON does not know: sets in order, and configurations without where they came from."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if hasattr(value, "to_dict"):
        where = ("_name_or_path", "base_model_name_or_path", "revision")
        return {name: one for name, one in value.to_dict().items() if name not in where}
    return str(value)
