"""Free answers: prompts as tokens become what a model says, for every kind of task that reads what is said."""

from collections.abc import Callable, Collection, Iterator, Sequence

import pandas as pd
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache

from ia_lib.evaluation import prefix_cache
from ia_lib.evaluation.prefix_cache import padded

# Prompts that are read together.
_TOGETHER = 16


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
    beams: int = 1,
    no_repeat_ngram: int = 0,
    repetition_penalty: float = 1.0,
    special: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """How the model goes on from each prompt's tokens: greedily or with `beams`, until one of the tokens `ends` or the
    text `stop`, which are no part of it, and `tokens` at most. What prompts that stand beside each other share, as the
    questions on one passage do, is read once; prompts of like length are read together. `progress` is told of every few
    prompts, how many they are.

    No n-gram of `no_repeat_ngram` tokens (0: of any length) comes twice, and what is there already becomes less likely
    by `repetition_penalty` (1: not at all). With `special` the tokens that no text has, such as the end, are told."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    how = {"do_sample": False, "pad_token_id": pad, "eos_token_id": sorted(ends)}
    how |= {"stop_strings": [stop], "tokenizer": tokenizer} if stop else {}
    # what says nothing is not passed on: it would be worked out for every token
    asked = {"num_beams": (beams, 1), "no_repeat_ngram_size": (no_repeat_ngram, 0)}
    asked["repetition_penalty"] = repetition_penalty, 1.0
    how |= {name: value for name, (value, nothing) in asked.items() if value != nothing}
    # what a model brings along (a repetition penalty, beams) would not be greedy
    own = model.generation_config
    model.generation_config = GenerationConfig(decoder_start_token_id=own.decoder_start_token_id)
    try:
        return _continued(model, tokenizer, prompts, tokens, stop, special, progress, how)
    finally:
        model.generation_config = own


def _continued(model, tokenizer, prompts, tokens, stop, special, progress, how) -> list[str]:
    found, decodes, pad = [""] * len(prompts), model.config.is_encoder_decoder, how["pad_token_id"]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    shares = not decodes and "num_beams" not in how and _goes_on(model, prompts, pad)
    for batch in _batches(prompts, shares):
        numbers = [i for _, members in batch for i in members]
        if shares:
            begun = [prompts[members[0]][:shared] for shared, members in batch]
            owner = torch.tensor([n for n, (_, members) in enumerate(batch) for _ in members], device=model.device)
            rest = [prompts[i][shared:] for shared, members in batch for i in members]
            how["past_key_values"], ids, mask = _read(model, begun, owner, rest, pad)
        else:
            # a causal model goes on from the right end; an encoder may count positions from the left one
            ids, mask = padded([prompts[i] for i in numbers], pad, "right" if decodes else "left", model.device)
        longest = max(len(prompts[i]) for i in numbers)
        room = tokens if decodes or not positions else max(1, min(tokens, positions - longest))
        out = model.generate(ids, attention_mask=mask, max_new_tokens=room, **how)
        # a causal model's output begins with the prompt, a decoder's with the token that starts every answer
        said = [_ended(row, how["eos_token_id"]) for row in out[:, 1 if decodes else ids.shape[1] :].tolist()]
        said = tokenizer.batch_decode(said, skip_special_tokens=not special)
        for i, text in zip(numbers, said, strict=True):
            found[i] = text.partition(stop)[0] if stop else text
        if progress:
            progress(len(numbers))
    return found


def _ended(ids: list[int], ends: Collection[int]) -> list[int]:
    """Up to the first end, with it: what stands behind only fills the batch."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids)) + 1]


def _goes_on(model, prompts: Sequence[list[int]], pad: int) -> bool:
    """Whether the model can go on from what it has read, and gives the same then."""
    longest = max(prompts, key=len, default=[])
    if len(longest) < 4 or min(map(len, prompts)) < 2 or not prefix_cache.plain(DynamicCache(config=model.config)):
        return False
    try:
        prefix_cache.check(model, [prefix_cache.Text(0, [0], longest[:-2], [longest[-2:]], [2], 0)], pad)
    except prefix_cache.ScoringError:
        return False
    return True


def _batches(prompts: Sequence[list[int]], shares: bool) -> Iterator[list[tuple[int, list[int]]]]:
    """Prompts that are read together: groups of them, each with how many tokens its members begin with alike (all but
    the last one of a prompt alone) and their numbers."""
    groups: list[tuple[int, list[int]]] = []
    for i, prompt in enumerate(prompts):
        if shares and groups and len(groups[-1][1]) < _TOGETHER:
            shared, members = groups[-1]
            alike = _alike(prompts[members[0]][:shared], prompt[:-1])
            # else less would be read once than more would be read twice
            if 2 * alike > max(shared, len(prompt)):
                groups[-1] = alike, [*members, i]
                continue
        groups.append((len(prompt) - 1, [i]))
    batch: list[tuple[int, list[int]]] = []
    for group in sorted(groups, key=lambda group: group[0]):
        if batch and sum(len(members) for _, members in [*batch, group]) > _TOGETHER:
            yield batch
            batch = []
        batch.append(group)
    if batch:
        yield batch


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(map(len, (one, other)))
    )


def _read(model, begun: list[list[int]], owner: torch.Tensor, rest: list[list[int]], pad: int):
    """The cache of what was `begun`, a row for each of the `rest` that goes on from it, and the tokens and mask of
    both."""
    first, known = padded(begun, pad, "left", model.device)
    cache = DynamicCache(config=model.config)
    position = (known.cumsum(1) - 1).clamp(min=0)
    given = {"input_ids": first, "attention_mask": known, "position_ids": position, "past_key_values": cache}
    prefix_cache.forward(model, **given, use_cache=True, logits_to_keep=1)
    cache.reorder_cache(owner)
    ids, mask = padded(rest, pad, "left", model.device)
    return cache, torch.cat([first[owner], ids], 1), torch.cat([known[owner], mask], 1)
