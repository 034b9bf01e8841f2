"""From examples.parquet to the tensors of a batch: tokens, order, weights in the loss, padding."""

import inspect
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ia_lib.models.encoding import encode
from ia_lib.training.streams import Stream, interleave


def lay_out(
    examples: pd.DataFrame,
    streams: Sequence[Stream],
    tokenizer: PreTrainedTokenizerBase,
    encoding: dict[str, Any],
    seed: int,
    length_window: int = 1,
    alternation: str = "strict",
    steps: int | None = None,
) -> tuple[list[dict], list[dict], list[dict]]:
    """The examples to train on in the order of their batches (see `interleave`), those held out for validation, new
    before old, and those of the split "kept", which a method against forgetting looks at.

    `examples` has the columns `stream, role, prompt, answer, split`, `encoding` the keyword arguments of `encode`.
    Without `steps` there are as many as the streams that are read once have examples for. An example is what `encode`
    gives, and its `stream`, `role` and `example`, its place in `examples` from 0.

    Raises ValueError for examples to train on of no stream that is read, and what `encode` and `interleave` raise.
    """
    rows, _ = encode(tokenizer, list(examples["prompt"]), list(examples["answer"]), **encoding)
    parts: dict[str, list[dict]] = {stream.name: [] for stream in streams}
    validation: dict[str, list[dict]] = {"new": [], "old": []}
    kept: list[dict] = []
    columns = zip(examples["stream"], examples["role"], examples["split"], strict=True)
    for number, (row, (stream, role, split)) in enumerate(zip(rows, columns, strict=True)):
        row |= {"stream": stream, "role": role, "example": number}
        if split == "train" and stream not in parts:
            raise ValueError(f"stream: found examples of {stream!r}; allowed: {', '.join(parts) or 'none'}")
        (parts[stream] if split == "train" else kept if split == "kept" else validation[role]).append(row)
    if steps is None:
        steps = min(len(parts[stream.name]) // stream.per_step for stream in streams if not stream.passes)
    lengths = {name: [len(row["input_ids"]) for row in part] for name, part in parts.items()}
    rows_of = {name: len(part) for name, part in parts.items()}
    order = interleave(streams, rows_of, steps, seed, lengths, length_window, alternation)
    return [parts[name][index] for name, index in order], validation["new"] + validation["old"], kept


def weigh(
    rows: Sequence[dict], batch_size: int, loss: str = "answer", average: str = "example", apart: bool = False
) -> list[dict]:
    """Each example with `first`, the index of the first token that counts, and `weight`, that of each of its tokens in
    the loss of its batch of `batch_size` consecutive ones: they sum to one, however it is cut into micro-batches.
    `loss`: "answer" counts the answer's tokens, "all" every token but the first. `average`: "example" gives every
    example the same weight, "token" every counted token. With `apart` the weights of a batch's old examples and those
    of its new ones sum to one each."""
    first = [1 if loss == "all" else max(1, row["answer_start"]) for row in rows]
    # one that was cut at its end may have nothing left that counts
    counts = [max(0, len(row["input_ids"]) - f) for row, f in zip(rows, first, strict=True)]
    weights = [0.0] * len(rows)
    for begin in range(0, len(rows), batch_size):
        batch = range(begin, min(begin + batch_size, len(rows)))
        for role in ("old", "new") if apart else [None]:
            part = [i for i in batch if role is None or rows[i]["role"] == role]
            total = sum(counts[i] for i in part)
            for i in part:
                weights[i] = 1 / max(1, total) if average == "token" else 1 / (len(part) * max(1, counts[i]))
    return [{**row, "first": f, "weight": w} for row, f, w in zip(rows, first, weights, strict=True)]


class Collator:
    """Padded batches of weighed examples: `input_ids, attention_mask, targets, weights`, all [sequences, tokens].

    `targets` are the tokens that the logits at the same place predict, `weights` their shares in the loss. For a causal
    model (`position_ids` too) padding stands on the left, so that the vocabulary's logits can be computed for the last
    positions alone. A sequence is one example; with `packing`, as many as fit beside each other into the length of the
    longest one, told apart by positions that begin again, for models that read them (`keeps_apart`); then there is no
    `attention_mask`. For an encoder-decoder model, whose answers begin with the token `decoder_start`, the encoder
    reads what stands before an example's first counted token, and `decoder_input_ids, targets, weights` are the
    answer's.
    """

    def __init__(self, pad_token_id: int, decoder_start: int | None = None, packing: bool = False):
        self.pad_token_id, self.decoder_start, self.packing = pad_token_id, decoder_start, packing

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        causal = self.decoder_start is None
        names = ("input_ids", "attention_mask", "targets", "weights", "position_ids")
        batch: dict[str, Any] = {name: [] for name in names}
        for sequence in _packed(rows) if self.packing else [[row] for row in rows]:
            parts: list[list] = [[] for _ in names]
            for row in sequence:
                ids, first = row["input_ids"], row["first"]
                weights = [0.0] * first + [row["weight"]] * (len(ids) - first)
                # a causal model's logits at one token predict the next; what comes round to the end has no weight
                told = (ids[1:] + ids[:1], weights[1:] + weights[:1]) if causal else (ids[first:], weights[first:])
                read = ids if causal else ids[:first]
                for part, values in zip(parts, (read, [1] * len(read), *told, range(len(read))), strict=True):
                    part += values
            for column, values in zip(batch.values(), parts, strict=True):
                column.append(values)
        for name, column in batch.items():
            fill = self.pad_token_id if name in ("input_ids", "targets") else 0
            width = max(map(len, column))
            gaps = [[fill] * (width - len(values)) for values in column]
            pairs = zip(gaps, column, strict=True)
            batch[name] = torch.tensor([gap + values if causal else values + gap for gap, values in pairs])
        if not causal:
            start = torch.full((len(rows), 1), self.decoder_start)
            del batch["position_ids"]
            return batch | {"decoder_input_ids": torch.cat([start, batch["targets"][:, :-1]], 1)}
        if self.packing:
            del batch["attention_mask"]
        return batch


def _packed(rows: list[dict]) -> list[list[dict]]:
    """The examples in sequences no longer than the longest one: the longest first, each where it fits first."""
    sequences: list[list[dict]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row["input_ids"])):
        size = len(row["input_ids"])
        place = next((number for number, left in enumerate(room) if left >= size), None)
        if place is None:
            sequences.append([row])
            room.append(len(sequences[0][0]["input_ids"]) - size)
        else:
            sequences[place].append(row)
            room[place] -= size
    return sequences


@torch.no_grad()
def keeps_apart(model: PreTrainedModel) -> bool:
    """Whether a causal model reads examples that stand beside each other in one sequence as if each stood alone."""
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    training, ids = model.training, torch.arange(1, 9, device=model.device)[None]
    model.eval()
    alone = torch.cat([model(input_ids=part, use_cache=False).logits for part in ids.split(4, 1)], 1)
    together = model(input_ids=ids, position_ids=(ids - 1) % 4, use_cache=False).logits
    model.train(training)
    # what leaks from one example into the next changes logits far more than rounding does
    rounding = 1e-3 if alone.dtype == torch.float32 else 2e-2
    return bool((alone - together).abs().max() <= rounding * alone.float().std())
