"""Log-probabilities of labels given prompts. This module knows models and tokenizers, and no task.

The boundary rule: prompt + label is tokenised as one string, exactly as the model would see it; a label's tokens are
those that hold at least one of its characters. A token that spans the join (" yes" behind a prompt that ends with a
blank) therefore belongs to the label. What the texts of one prompt share is encoded once, and every label continues
from its cache.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache


class ScoringError(ValueError):
    """A prompt and label that cannot be scored; the message names both and their tokens."""


def apply_rule(rule: str, label_logprob, label_tokens, label_chars):
    """The scores of labels under a rule (see `LabelScores.scores`), from arrays or columns of one shape."""
    if rule == "label_sum":
        return label_logprob
    if rule == "label_mean":
        return label_logprob / label_tokens
    if rule == "label_per_char":
        return label_logprob / label_chars
    raise ValueError(f"rule: found {rule!r}; allowed: label_sum, label_mean, label_per_char")


@dataclass(frozen=True)
class LabelScores:
    """Scores of N prompts with L labels each; all arrays are [N, L]."""

    label_logprob: np.ndarray  # sum of the natural log-probabilities of the label's tokens, in nats
    label_tokens: np.ndarray  # tokens that count as the label's
    label_chars: np.ndarray  # characters of the label
    prompt_tokens: np.ndarray  # tokens before the label's, special tokens included

    def scores(self, rule: str = "label_sum") -> np.ndarray:
        """[N, L]; the highest of a row is the prediction. `label_sum` is the label's log-probability given the
        prompt (the same choice as the paper's joint probability); `label_mean` divides it by the label's tokens and
        `label_per_char` by its characters. Raises ValueError for any other rule."""
        return apply_rule(rule, self.label_logprob, self.label_tokens, self.label_chars)


@dataclass
class _Text:
    """A prompt with its labels, tokenised: what all its texts share, and how each goes on."""

    index: int
    prefix: list[int]
    suffixes: list[list[int]]
    # how many tokens at the end of each suffix are the label's
    label_tokens: list[int]
    prompt_tokens: list[int]


def label_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    labels: Sequence[str] | Sequence[Sequence[str]],
    *,
    max_length: int = 1024,
    batch_tokens: int = 8192,
    on_progress: Callable[[int, int], None] | None = None,
) -> LabelScores:
    """Score every label as a continuation of every prompt.

    `labels` is one list for all prompts or one list per prompt (then all of one length). A prompt holds everything
    before the answer. `batch_tokens` bounds rows x tokens of a batch; results do not depend on it beyond rounding.
    `on_progress(done, total)` is called with the number of prompts after every batch.

    Raises ScoringError for an empty label, a label whose tokens vanish or are all there is (nothing to predict them
    from), and a text of more than `max_length` tokens.
    """
    shared = bool(labels) and isinstance(labels[0], str)
    per_prompt = [list(labels)] * len(prompts) if shared else [list(row) for row in labels]
    if len(per_prompt) != len(prompts) or len({len(row) for row in per_prompt}) > 1:
        raise ValueError("labels: give one list for all prompts, or one list of the same length for each prompt")
    texts = _tokenise(tokenizer, prompts, per_prompt, max_length)
    shape = (len(prompts), len(per_prompt[0]) if per_prompt else len(labels) if shared else 0)
    logprob = np.zeros(shape)
    done = 0
    model.eval()
    for batch in _batches(texts, shape[1], batch_tokens):
        with torch.inference_mode():
            values = _score(model, batch, tokenizer.pad_token_id or 0)
        logprob[[text.index for text in batch]] = values
        done += len(batch)
        if on_progress:
            on_progress(done, len(prompts))
    by_index = sorted(texts, key=lambda text: text.index)
    return LabelScores(
        label_logprob=logprob,
        label_tokens=np.array([t.label_tokens for t in by_index], dtype=int).reshape(shape),
        label_chars=np.array([[len(label) for label in row] for row in per_prompt], dtype=int).reshape(shape),
        prompt_tokens=np.array([t.prompt_tokens for t in by_index], dtype=int).reshape(shape),
    )


def _tokenise(tokenizer, prompts, per_prompt, max_length) -> list[_Text]:
    """Tokenise every prompt + label as one string and find the token where the label begins."""
    joined = [p + label for p, row in zip(prompts, per_prompt, strict=True) for label in row]
    if not joined:
        return []
    encoded = tokenizer(joined, return_offsets_mapping=True, return_attention_mask=False)
    all_ids, all_offsets = iter(encoded["input_ids"]), iter(encoded["offset_mapping"])
    texts = []
    for index, (prompt, row) in enumerate(zip(prompts, per_prompt, strict=True)):
        sequences, starts = [], []
        for label in row:
            ids, offsets = next(all_ids), next(all_offsets)
            # a tokenizer that closes a text with a special token: the label is not the end of the text
            while offsets and offsets[-1][0] == offsets[-1][1] and ids[-1] in tokenizer.all_special_ids:
                ids, offsets = ids[:-1], offsets[:-1]
            start = next((i for i, (_, end) in enumerate(offsets) if end > len(prompt)), len(ids))
            if start in (0, len(ids)):
                what = "has no token of its own" if start else "has nothing before it"
                raise ScoringError(
                    f"the label {label!r} {what} behind the prompt {prompt[-60:]!r}: the tokens are "
                    f"{tokenizer.convert_ids_to_tokens(ids)[-12:]}"
                )
            if len(ids) > max_length:
                raise ScoringError(
                    f"the prompt {prompt[:60]!r}... with the label {label!r} has {len(ids):,} tokens; allowed: "
                    f"{max_length:,}"
                )
            sequences.append(ids)
            starts.append(start)
        # the last shared token predicts the first one that differs, so a suffix is never empty
        common = min(starts)
        for a, b in pairwise(sequences):
            same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            common = min(common, same)
        if not common:
            raise ScoringError(f"the texts of the prompt {prompt[:60]!r} and its labels share no first token")
        texts.append(
            _Text(
                index,
                sequences[0][:common],
                [ids[common:] for ids in sequences],
                [len(ids) - start for ids, start in zip(sequences, starts, strict=True)],
                starts,
            )
        )
    return texts


def _batches(texts: list[_Text], labels: int, batch_tokens: int):
    """Texts of like length together, longest first, so that padding is small and memory runs out at once if ever."""
    ordered = sorted(texts, key=lambda t: (-len(t.prefix), max(map(len, t.suffixes)), t.index))
    batch: list[_Text] = []
    for text in ordered:
        longest = len((batch or [text])[0].prefix)
        suffix = max(max(map(len, t.suffixes)) for t in [*batch, text])
        # a row costs its prefix once, and once more for each label that continues from a copy of its cache
        if batch and (len(batch) + 1) * max(longest, labels * suffix) > batch_tokens:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def _score(model, batch: list[_Text], pad: int) -> np.ndarray:
    """[rows, labels] log-probabilities of the labels' tokens."""
    rows, labels = len(batch), len(batch[0].suffixes)
    width = max(len(t.prefix) for t in batch)
    ids = torch.full((rows, width), pad)
    mask = torch.zeros((rows, width), dtype=torch.long)
    for i, text in enumerate(batch):
        ids[i, width - len(text.prefix) :] = torch.tensor(text.prefix)
        mask[i, width - len(text.prefix) :] = 1
    device = model.device
    ids, mask = ids.to(device), mask.to(device)
    longest = max(len(s) for t in batch for s in t.suffixes)
    more = longest > 1
    out = model(
        **_inputs(model, ids, mask, (mask.cumsum(1) - 1).clamp(min=0), logits_to_keep=1),
        past_key_values=DynamicCache(config=model.config) if more else None,
        use_cache=more,
    )
    first = out.logits[:, -1].float().log_softmax(-1)
    # the tokens of each suffix that are the label's, [rows, labels, longest]
    tokens = torch.full((rows, labels, longest), pad)
    real = torch.zeros((rows, labels, longest), dtype=torch.long)
    counts = torch.zeros((rows, labels, longest), dtype=torch.bool)
    for i, text in enumerate(batch):
        for j, suffix in enumerate(text.suffixes):
            tokens[i, j, : len(suffix)] = torch.tensor(suffix)
            real[i, j, : len(suffix)] = 1
            counts[i, j, len(suffix) - text.label_tokens[j] : len(suffix)] = True
    tokens, real, counts = tokens.to(device), real.to(device), counts.to(device)
    logprobs = torch.zeros((rows, labels, longest), device=device)
    logprobs[:, :, 0] = first.gather(1, tokens[:, :, 0])
    if more:
        cache = out.past_key_values
        cache.batch_repeat_interleave(labels)
        follow, attend = tokens.flatten(0, 1), real.flatten(0, 1)
        whole = torch.cat([mask.repeat_interleave(labels, 0), attend], 1)
        position = (whole.cumsum(1) - 1).clamp(min=0)[:, width:]
        # the last token predicts nothing
        out = model(
            **_inputs(model, follow[:, :-1], whole[:, :-1], position[:, :-1]), past_key_values=cache, use_cache=True
        )
        later = out.logits.float().log_softmax(-1).gather(2, follow[:, 1:, None])[:, :, 0]
        logprobs[:, :, 1:] = later.view(rows, labels, longest - 1)
    return (logprobs.double() * counts).sum(2).cpu().numpy()


def _inputs(model, ids, mask, positions, **more) -> dict:
    """What every causal model takes, and of the rest what this one takes (BLOOM counts no positions)."""
    accepted = inspect.signature(model.forward).parameters
    more = {"position_ids": positions, **more}
    return {"input_ids": ids, "attention_mask": mask, **{k: v for k, v in more.items() if k in accepted}}
