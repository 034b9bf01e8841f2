"""Free answers: prompts as tokens become what a model says, for every kind of task that reads what is said."""

from collections.abc import Callable, Collection, Sequence

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ia_lib.evaluation.prefix_cache import padded


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict],
    tokens: int = 40,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """What the model answers (greedily, at most `tokens`) to rows from `encode`, beside the true answers.

    Columns `prompt, answer, model`. The model stops where the rows' answers do, at the end of the sequence or turn.
    `progress` is told of every few rows, how many they are.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = {tokenizer.eos_token_id} | {row["input_ids"][-1] for row in rows} & special
    asked = [row["input_ids"][: max(1, row["answer_start"])] for row in rows]
    said = continued(model, tokenizer, asked, tokens, ends, progress=progress)
    lines = []
    for row, prompt, given in zip(rows, asked, said, strict=True):
        true = tokenizer.decode(row["input_ids"][row["answer_start"] :], skip_special_tokens=True)
        lines.append({"prompt": tokenizer.decode(prompt), "answer": true.strip(), "model": given.strip()})
    return pd.DataFrame(lines, columns=["prompt", "answer", "model"])


@torch.inference_mode()
def continued(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    tokens: int,
    ends: Collection[int],
    *,
    stop: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """How the model goes on from each prompt's tokens: greedily, until one of the tokens `ends` or the text `stop`,
    which are no part of it, and `tokens` at most. Prompts of like length are read together. `progress` is told of every
    few prompts, how many they are."""
    found, decodes = [""] * len(prompts), model.config.is_encoder_decoder
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    how = {"do_sample": False, "pad_token_id": pad, "eos_token_id": sorted(ends)}
    how |= {"stop_strings": [stop], "tokenizer": tokenizer} if stop else {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for numbers in (order[begin : begin + 16] for begin in range(0, len(prompts), 16)):
        # a causal model goes on from the right end; an encoder may count positions from the left one
        side = "right" if decodes else "left"
        ids, mask = padded([prompts[i] for i in numbers], pad, side, model.device)
        room = tokens if decodes or not positions else max(1, min(tokens, positions - ids.shape[1]))
        out = model.generate(ids, attention_mask=mask, max_new_tokens=room, **how)
        # a causal model's output begins with the prompt, a decoder's with the token that starts every answer
        said = tokenizer.batch_decode(out[:, 1 if decodes else ids.shape[1] :], skip_special_tokens=True)
        for i, text in zip(numbers, said, strict=True):
            found[i] = text.partition(stop)[0] if stop else text
        if progress:
            progress(len(numbers))
    return found
