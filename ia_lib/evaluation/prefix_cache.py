"""Log-probabilities of continuations, in tokens: what texts share is read once, and each goes on from its cache."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from inspect import signature
from weakref import WeakSet

import numpy as np
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

# Logits that are held at a time: 128 MB in float32.
_LOGITS = 2**25


@dataclass
class Text:
    """A prompt with labels of it, tokenised: what these texts share, and how each goes on.

    An encoder's `prefix` is the whole prompt, and the suffixes are the labels.
    """

    row: int
    columns: list[int]
    prefix: list[int]
    suffixes: list[list[int]]
    # of each suffix: how many tokens at its end are the label's
    label_tokens: list[int]
    # tokens that the length limit took away
    cut: int

    def halves(self) -> list["Text"]:
        """The text twice, each with half of its labels."""
        middle = (len(self.columns) + 1) // 2
        return [
            Text(self.row, self.columns[part], self.prefix, self.suffixes[part], self.label_tokens[part], self.cut)
            for part in (slice(middle), slice(middle, None))
        ]

    def within(self, limit: int) -> list["Text"]:
        """The text as often as needed for its labels to have no more than `limit` tokens each time."""
        if len(self.columns) == 1 or sum(map(len, self.suffixes)) <= limit:
            return [self]
        return [part for half in self.halves() for part in half.within(limit)]


# Models whose continuations were compared with whole texts.
_CHECKED: WeakSet = WeakSet()


class ScoringError(ValueError):
    """Something that cannot be scored: a prompt and label, which the message names with their tokens, or a model."""


def check(model, texts: list[Text], pad: int) -> None:
    """Score one short text from the cache and whole, until a model has once gone on with several tokens: some families
    cannot, or count positions otherwise, and say nothing. Raises ScoringError for such a model."""
    text = min(texts, key=lambda t: (-min(2, max(map(len, t.suffixes))), len(t.prefix)), default=None)
    if text is None or model in _CHECKED:
        return
    # the last tokens of a prompt do
    prefix, suffix = text.prefix[-24:], max(text.suffixes, key=len)
    decodes = model.config.is_encoder_decoder
    begun = [model.config.decoder_start_token_id] if decodes else prefix
    said = torch.tensor([begun + suffix], device=model.device)
    given = {"input_ids": torch.tensor([prefix], device=model.device)} if decodes else {}
    given["decoder_input_ids" if decodes else "input_ids"] = said[:, :-1]
    name = type(model).__name__
    with torch.inference_mode():
        # a model that cannot even do this says itself what it lacks
        told = model(**given).logits[0].float().log_softmax(-1).gather(1, said[0, 1:, None])
    try:
        (found,), _ = _score(model, [Text(0, [0], prefix, [suffix], [len(suffix)], 0)], pad, False)
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if should_reduce_batch_size(error):
            raise
        raise ScoringError(
            f"model: found {name}, which cannot go on from its cache ({error}); allowed: one that can"
        ) from None
    expected = told[-len(suffix) :].double().sum().item()
    if np.isnan([found, expected]).all():
        return  # the scores themselves will be refused
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    bound = (1e-3 if exact else 0.2) * max(1.0, abs(expected) ** 0.5)
    # both may be minus infinity
    if not (found == expected or abs(found - expected) <= bound):
        raise ScoringError(
            f"model: found {name}, which gives {found:.4f} from its cache and {expected:.4f} for the same text as a "
            "whole; allowed: one for which these are equal"
        )
    if len(suffix) > 1:
        _CHECKED.add(model)


def run(model, texts: list[Text], batch_tokens: int | None, pad: int, whole_prompt: bool):
    """Yields for each batch its texts and, for all suffixes in their order, the log-probabilities of the labels' tokens
    and (zeros unless `whole_prompt`) of those before them, but the first.

    Texts of like length come together, longest first, so that padding is small and memory runs out at once if ever;
    then batches get smaller.
    """
    limit = max(1, _LOGITS // model.config.get_text_config(decoder=True).vocab_size)
    left = [part for text in texts for part in text.within(limit)]
    left.sort(key=lambda t: (-len(t.prefix), max(map(len, t.suffixes)), t.row, t.columns))
    budget = batch_tokens or _batch_tokens(model)
    copied = model.config.is_encoder_decoder or not plain(DynamicCache(config=model.config))
    while left:
        count, kept, labels = 0, 0, 0
        while count < len(left):
            text = left[count]
            # the shared prefix lies in the cache once; in some caches once more for every label that goes on from it
            copies = sum(len(suffix) > 1 for suffix in text.suffixes) if copied else 0
            tokens = len(left[0].prefix) + max(map(len, text.suffixes))
            kept += max(len(left[0].prefix), copies * tokens)
            labels += 1 + sum(map(len, text.suffixes))
            if count and (kept > budget or labels > limit):
                break
            count += 1
        batch = left[:count]
        try:
            found = _score(model, batch, pad, whole_prompt)
        except RuntimeError as error:
            if not should_reduce_batch_size(error) or (count == 1 and len(batch[0].columns) == 1):
                raise
            if count == 1:
                left[:1] = batch[0].halves()
            budget = max(1, min(budget, kept) // 2)
            clear_device_cache(garbage_collection=True)
            continue
        left = left[count:]
        yield batch, *found


def _batch_tokens(model) -> int:
    """How many tokens of the model's cache fill 96 MB on a CPU, where more hardly makes it faster, or 1 GB."""
    config = model.config.get_text_config(decoder=True)
    layers, width = getattr(config, "num_hidden_layers", 24), getattr(config, "hidden_size", 1024)
    room = 3 * 2**25 if model.device.type == "cpu" else 2**30
    return min(8192, max(64, room // (2 * layers * width * model.dtype.itemsize)))


@torch.inference_mode()
def _score(model, batch: list[Text], pad: int, whole_prompt: bool) -> tuple[np.ndarray, np.ndarray]:
    """[labels of all texts] log-probabilities of the labels' tokens and, if asked for, of those before them."""
    decodes, device = model.config.is_encoder_decoder, model.device
    # a causal model goes on where its prompts end, all at one place; an encoder's positions begin where they begin
    ids, mask = padded([text.prefix for text in batch], pad, "right" if decodes else "left", device)
    # the suffixes, and which of their tokens are the label's, [suffixes, longest]
    suffixes = [suffix for text in batch for suffix in text.suffixes]
    owner = torch.tensor([i for i, text in enumerate(batch) for _ in text.suffixes], device=device)
    follow, attend = padded(suffixes, pad, "right", device)
    ends = [len(s) - n for s, n in zip(suffixes, (n for t in batch for n in t.label_tokens), strict=True)]
    counts = attend.bool() & (torch.arange(follow.shape[1]) >= torch.tensor(ends)[:, None]).to(device)
    wanted = attend.bool() if whole_prompt else counts
    # suffixes of one token are known from the prefix alone
    longer = attend.sum(1) > 1
    goes_on = bool(longer.any())
    logprobs, told = (torch.zeros(shape, dtype=torch.double, device=device) for shape in (follow.shape, mask.shape))
    every, rest = owner[longer], follow[longer]
    # the last token of a suffix predicts nothing
    then = {"use_cache": True, "logits_to_keep": wanted[longer, 1:]}
    with _later(model) if goes_on and not (decodes or whole_prompt) else nullcontext([]) as hidden:
        if decodes:
            # the token that every answer begins with predicts the first of each suffix
            begin = torch.searchsorted(owner, torch.arange(len(batch), device=device))
            start = torch.full_like(follow[begin, :1], model.config.decoder_start_token_id)
            out = forward(model, input_ids=ids, attention_mask=mask, decoder_input_ids=start, use_cache=goes_on)
            last, cache = out.logits[:, -1], out.past_key_values
            if goes_on:
                state = BaseModelOutput(last_hidden_state=out.encoder_last_hidden_state[every])
                then |= {"encoder_outputs": state, "attention_mask": mask[every], "decoder_input_ids": rest[:, :-1]}
        else:
            cache = DynamicCache(config=model.config) if goes_on or whole_prompt else None
            last = _read(model, ids, mask, cache, told if whole_prompt else None)
            if goes_on:
                whole = torch.cat([mask[every], attend[longer]], 1)[:, :-1]
                position = (whole.cumsum(1) - 1).clamp(min=0)[:, mask.shape[1] :]
                then |= {"input_ids": rest[:, :-1], "attention_mask": whole, "position_ids": position}
        if goes_on:
            _continue(cache, every)
            logits = _logits(model, **then, past_key_values=cache)
            if hidden:
                last, logits = logits.split([len(batch), len(logits) - len(batch)])
            keep = then["logits_to_keep"]
            found = logprobs[longer]
            found[:, 1:][keep] = _chosen(logits, rest[:, 1:][keep])
            logprobs[longer] = found
    logprobs[:, 0] = _chosen(last, follow[:, 0], owner)
    values = logprobs.where(counts, 0).sum(1)
    # the shared prefix, and of each suffix what is not yet the label's
    others = logprobs.where(wanted & ~counts, 0).sum(1) + told[:, :-1].sum(1)[owner]
    return values.cpu().numpy(), others.cpu().numpy()


def _read(model, ids, mask, cache, told) -> torch.Tensor:
    """Read prefixes, which end at one place, into the cache; returns the logits behind them, [rows, vocabulary], and
    fills `told` with the log-probability of every token but the last, at the place before it."""
    keep = torch.zeros_like(mask, dtype=torch.bool)
    step = ids.shape[1]
    if told is not None:
        # a token counts if it and the one before it are real: the first of a text is predicted by nothing
        keep[:, :-1] = (mask[:, :-1] * mask[:, 1:]).bool()
        # so few places at a time that their logits stay small
        step = max(1, _LOGITS // (model.config.get_text_config().vocab_size * len(ids)))
    keep[:, -1] = True
    following, position = ids.roll(-1, 1), (mask.cumsum(1) - 1).clamp(min=0)
    for begin in range(0, ids.shape[1], step):
        part = slice(begin, begin + step)
        given = {
            "input_ids": ids[:, part],
            "attention_mask": mask[:, : begin + step],
            "position_ids": position[:, part],
        }
        given |= {"past_key_values": cache, "use_cache": cache is not None}
        logits = _logits(model, **given, logits_to_keep=keep[:, part])
        if told is not None:
            told[:, part][keep[:, part]] = _chosen(logits, following[:, part][keep[:, part]])
    return logits if len(logits) <= len(ids) else logits[keep[:, part].sum(1).cumsum(0) - 1]


@contextmanager
def _later(model) -> Iterator[list[torch.Tensor]]:
    """Lets the output layer pass by what it would compute, and do it with the next call: its weights, half of a small
    model's, are read once for a batch. A model that does not hand it the wanted places alone computes at once. Gives
    what was passed by, if anything was."""
    hidden: list[torch.Tensor] = []

    def take(_, given):
        if given[0].ndim != 2:
            return None
        if not hidden:
            hidden.append(given[0])
            return (given[0][:0],)
        return (torch.cat([*hidden, given[0]]),)

    with model.get_output_embeddings().register_forward_pre_hook(take):
        yield hidden


def plain(cache: DynamicCache) -> bool:
    """Whether all layers of a cache keep all that was read and nothing else."""
    return all(type(layer) is DynamicLayer for layer in cache.layers)


class _Copies(DynamicLayer):
    """A layer of a cache from which copies of its rows go on for one call; the copies are not kept."""

    def __init__(self, layer: DynamicLayer, rows: torch.Tensor):
        super().__init__()
        self.__dict__ |= layer.__dict__
        self.rows = rows

    def update(self, keys, values, *args, **kwargs):
        return tuple(torch.cat([old[self.rows], new], -2) for old, new in ((self.keys, keys), (self.values, values)))


def _continue(cache, rows: torch.Tensor) -> None:
    """Let rows of the cache go on, each as often as it is named."""
    if isinstance(cache, DynamicCache) and plain(cache):
        cache.layers = [_Copies(layer, rows) for layer in cache.layers]
    else:
        # as in a beam search; unlike the cache's other ways to multiply rows, models with linear attention know it
        cache.reorder_cache(rows)


def _logits(model, *, logits_to_keep: torch.Tensor, **given) -> torch.Tensor:
    """Logits of the places of a boolean table, row by row: [places, vocabulary]. The output layer is computed for those
    alone where the model can do that."""
    logits = forward(model, **given, logits_to_keep=logits_to_keep).logits
    return logits if logits.ndim == 2 else logits[logits_to_keep]


def _chosen(logits: torch.Tensor, targets: torch.Tensor, owner: torch.Tensor | None = None) -> torch.Tensor:
    """Log-probabilities of the targets, each in the row of its owner, or in its own: [targets]."""
    owner = torch.arange(len(targets), device=logits.device) if owner is None else owner
    # few rows at a time, since their exponentials take as much room
    norm = [part.float().logsumexp(1) for part in logits.split(4)]
    return (logits[owner, targets].float() - torch.cat(norm)[owner]).double() if norm else logits.new_zeros(0).double()


def padded(sequences: list[list[int]], value: int, side: str, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and which of them are real, [rows, tokens]."""
    ids = [torch.tensor(sequence) for sequence in sequences]
    mask = [torch.ones_like(row) for row in ids]
    return tuple(
        pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side).to(device)
        for rows, fill in ((ids, value), (mask, 0))
    )


def forward(model, **given):
    """Call the model with what it takes of the arguments (BLOOM counts no positions)."""
    accepted = signature(model.forward).parameters
    return model(**{name: value for name, value in given.items() if name in accepted})
