"""Free answers: prompts as tokens become what a model says, for every kind of task that reads what is said."""

from collections.abc import Callable

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
    lines, decodes = {}, model.config.is_encoder_decoder
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    order = sorted(range(len(rows)), key=lambda i: rows[i]["answer_start"])
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for numbers in (order[begin : begin + 16] for begin in range(0, len(rows), 16)):
        asked = [rows[i]["input_ids"][: max(1, rows[i]["answer_start"])] for i in numbers]
        # a causal model goes on from the right end; an encoder may count positions from the left one
        ids, mask = padded(asked, pad, "right" if decodes else "left", model.device)
        room = tokens if decodes or not positions else max(1, min(tokens, positions - ids.shape[1]))
        how = {"max_new_tokens": room, "do_sample": False, "pad_token_id": pad, "eos_token_id": sorted(ends)}
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, **how)
        for i, prompt, said in zip(numbers, asked, out, strict=True):
            # a causal model's output begins with the prompt, a decoder's with the token that starts every answer
            given = tokenizer.decode(said[1 if decodes else ids.shape[1] :], skip_special_tokens=True)
            true = tokenizer.decode(rows[i]["input_ids"][rows[i]["answer_start"] :], skip_special_tokens=True)
            lines[i] = {"prompt": tokenizer.decode(prompt), "answer": true.strip(), "model": given.strip()}
        if progress:
            progress(len(numbers))
    return pd.DataFrame([lines[i] for i in range(len(rows))], columns=["prompt", "answer", "model"])
