""""""

from pathlib import Path

import pandas as pd
import torch
from transformers import (
    PreTrainedTokenizerBase,
)

from ia_lib.models.encoding import encode
from ia_lib.training.streams import interleave


def prepare(
    folder: Path, tokenizer: PreTrainedTokenizerBase, settings, encoder_decoder: bool = False
) -> tuple[list[dict], list[dict], list[tuple]]:
    """Read a finished data stage and lay out the batches.

    Returns the training rows in order (as `encode` gives them), the validation rows, and for each training
    row ("old" | "new", index).
    """
    frames = {
        "new": pd.read_parquet(folder / "instructions.parquet"),
        "old": pd.read_parquet(folder / "replay.parquet"),
    }
    encoded = {}
    for split in ("train", "validation"):
        for kind, frame in frames.items():
            part = frame[frame["split"] == split]
            encoded[split, kind] = encode(
                tokenizer, list(part["prompt"]), list(part["answer"]), **settings.encoding(encoder_decoder)
            )[0]
    order = interleave(
        len(encoded["train", "new"]),
        len(encoded["train", "old"]),
        settings.steps or len(encoded["train", "new"]) // settings.new_per_step,
        settings.new_per_step if settings.uses_new else 0,
        settings.old_per_step if settings.uses_old else 0,
        settings.seed,
        {kind: [len(row["input_ids"]) for row in encoded["train", kind]] for kind in frames},
        settings.length_window,
        settings.alternation,
    )
    rows = [encoded["train", kind][index] for kind, index in order]
    return rows, encoded["validation", "new"] + encoded["validation", "old"], order


def weigh(rows: list[dict], batch_size: int, loss: str = "answer", average: str = "example") -> list[dict]:
    """Give every row the weight of each of its tokens in the loss of its batch of `batch_size` consecutive rows.

    Returns for each row its `input_ids`, `first`, the index of the first token that counts, and `weight`. `loss`:
    "answer" counts the answer's tokens, "all" every token but the first. `average`: "example" gives every row the same
    weight, "token" every counted token. The weights of a batch sum to one, however it is cut into micro-batches, so
    gradient accumulation changes nothing.
    """
    first = [1 if loss == "all" else max(1, row["answer_start"]) for row in rows]
    # a row that was cut at its end may have nothing left that counts
    counts = [max(0, len(row["input_ids"]) - f) for row, f in zip(rows, first, strict=True)]
    weighed = []
    for begin in range(0, len(rows), batch_size):
        batch = range(begin, min(begin + batch_size, len(rows)))
        total = sum(counts[i] for i in batch)
        for i in batch:
            weight = 1 / max(1, total) if average == "token" else 1 / (len(batch) * max(1, counts[i]))
            weighed.append({"input_ids": rows[i]["input_ids"], "first": first[i], "weight": weight})
    return weighed


class Collator:
    """Padded batches of weighed rows: `input_ids, attention_mask, targets, weights`, all [rows, tokens].

    `targets` are the tokens that the logits at the same place predict, `weights` their shares in the loss, zero for
    prompts and padding. For a causal model (`position_ids` too) padding stands on the left, so that all answers end
    together and the vocabulary's logits can be computed for the last positions alone. For an encoder-decoder model,
    whose answers begin with the token `decoder_start`, the encoder reads what stands before a row's first counted
    token, and `decoder_input_ids, targets, weights` are the answer's; padding stands on the right.
    """

    def __init__(self, pad_token_id: int, decoder_start: int | None = None):
        self.pad_token_id, self.decoder_start = pad_token_id, decoder_start

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        causal = self.decoder_start is None
        batch = {"input_ids": [], "attention_mask": [], "targets": [], "weights": []}
        for row in rows:
            ids, first = row["input_ids"], row["first"]
            weights = [0.0] * first + [row["weight"]] * (len(ids) - first)
            # a causal model's logits at one token predict the next; what comes round to the end has no weight
            told = (ids[1:] + ids[:1], weights[1:] + weights[:1]) if causal else (ids[first:], weights[first:])
            read = ids if causal else ids[:first]
            for column, values in zip(batch.values(), (read, [1] * len(read), *told), strict=True):
                column.append(values)
        for name, column in batch.items():
            fill = self.pad_token_id if name in ("input_ids", "targets") else 0
            width = max(map(len, column))
            gaps = [[fill] * (width - len(values)) for values in column]
            pairs = zip(gaps, column, strict=True)
            batch[name] = torch.tensor([gap + values if causal else values + gap for gap, values in pairs])
        if causal:
            return batch | {"position_ids": (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)}
        start = torch.full((len(rows), 1), self.decoder_start)
        return batch | {"decoder_input_ids": torch.cat([start, batch["targets"][:, :-1]], 1)}
