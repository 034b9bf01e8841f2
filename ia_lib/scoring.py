"""Log-probabilities of labels given prompts. This module knows models and tokenizers, and no task.

The boundary rule: prompt + label is tokenised as one string, exactly as the model would see it; a label's tokens are
those that hold at least one of its characters. A token that spans the join (" yes" behind a prompt that ends with a
blank) therefore belongs to the label. In a chat the string is the conversation up to the end of the label, which
begins right behind the assistant's header. With an encoder-decoder model the label is a text of its own, which the
decoder gives when the encoder has read the prompt (the released code feeds the prompt to the decoder too, which is not
offered). What the texts of one prompt share is encoded once, and every label continues from its cache.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutput

from ia_lib.prompts import in_chat


class ScoringError(ValueError):
    """A prompt and label that cannot be scored; the message names both and their tokens."""


RULES = ("label_sum", "label_mean", "label_per_char", "joint", "mean_all")


def apply_rule(rule: str, label_logprob, label_tokens, label_chars, prompt_tokens=None, prompt_logprob=None):
    """The scores of labels under a rule (see `LabelScores.scores`), from arrays or columns of one shape."""
    if rule == "label_sum":
        return label_logprob
    if rule == "label_mean":
        return label_logprob / label_tokens
    if rule == "label_per_char":
        return label_logprob / label_chars
    if rule not in RULES:
        raise ValueError(f"rule: found {rule!r}; allowed: {', '.join(RULES)}")
    if prompt_logprob is None:
        raise ValueError(f"rule: found {rule!r}, but prompts were not scored; allowed: score with prompt_logprob=True")
    whole = prompt_logprob + label_logprob
    return whole if rule == "joint" else whole / (prompt_tokens + label_tokens - 1)


@dataclass(frozen=True)
class LabelScores:
    """Scores of N prompts with L labels each; all arrays are [N, L]."""

    label_logprob: np.ndarray  # sum of the natural log-probabilities of the label's tokens, in nats
    label_tokens: np.ndarray  # tokens that count as the label's
    label_chars: np.ndarray  # characters of the label
    prompt_tokens: np.ndarray  # tokens before the label's, special tokens included
    # sum of the log-probabilities of the tokens before the label's but the first, in nats; None unless asked for
    prompt_logprob: np.ndarray | None = None

    def scores(self, rule: str = "label_sum") -> np.ndarray:
        """[N, L]; the highest of a row is the prediction. `label_sum` is the label's log-probability given the
        prompt; `label_mean` divides it by the label's tokens and `label_per_char` by its characters. `joint` is the
        log-probability of prompt and label (InstructAlign, section 4: the same choice) and `mean_all` its mean over
        all predicted tokens (the released code); both need `prompt_logprob`. Raises ValueError for any other rule."""
        return apply_rule(
            rule, self.label_logprob, self.label_tokens, self.label_chars, self.prompt_tokens, self.prompt_logprob
        )


@dataclass
class _Text:
    """A prompt with its labels, tokenised: what all its texts share, and how each goes on.

    An encoder's `prefix` is the whole prompt, and the suffixes are the labels.
    """

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
    chat: bool = False,
    max_length: int = 1024,
    batch_tokens: int = 8192,
    prompt_logprob: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> LabelScores:
    """Score every label as a continuation of every prompt.

    `labels` is one list for all prompts or one list per prompt (then all of one length). A prompt holds everything
    before the answer; with `chat` it is a user's turn and a label an assistant's, in the tokenizer's chat template, as
    `prompts.in_chat` writes them. `batch_tokens` bounds rows x tokens of a batch; results do not depend on it beyond
    rounding. `on_progress(done, total)` is called with the number of prompts after every batch.

    Raises ScoringError for an empty label, a label whose tokens vanish or are all there is (nothing to predict them
    from), and a text of more than `max_length` tokens; ValueError for what `prompts.in_chat` refuses and for `chat`
    with an encoder-decoder model.
    """
    shared = bool(labels) and isinstance(labels[0], str)
    per_prompt = [list(labels)] * len(prompts) if shared else [list(row) for row in labels]
    if len(per_prompt) != len(prompts) or len({len(row) for row in per_prompt}) > 1:
        raise ValueError("labels: give one list for all prompts, or one list of the same length for each prompt")
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ScoringError(
            f"model: found {type(model).__name__}; allowed: one with past_key_values, from which every label continues"
        )
    if model.config.is_encoder_decoder:
        if chat:
            raise ValueError("chat: found true; allowed: false for an encoder-decoder model, which has no turns")
        texts = _tokenise_apart(tokenizer, prompts, per_prompt, max_length)
    else:
        texts = _tokenise(tokenizer, prompts, per_prompt, max_length, chat)
    shape = (len(prompts), len(per_prompt[0]) if per_prompt else len(labels) if shared else 0)
    logprob, before = np.zeros(shape), np.zeros(shape)
    done = 0
    model.eval()
    if prompt_logprob:
        if model.config.is_encoder_decoder:
            raise ValueError("prompt_logprob: found True; allowed: False for an encoder-decoder model")
        # the vocabulary at every position: as few positions at once as keep it below 256 MB
        batch_tokens = min(batch_tokens, 2**26 // model.get_output_embeddings().weight.shape[0])
    for batch in _batches(texts, shape[1], batch_tokens):
        with torch.inference_mode():
            values, others = _score(model, batch, tokenizer.pad_token_id or 0, prompt_logprob)
        places = [text.index for text in batch]
        logprob[places], before[places] = values, others
        done += len(batch)
        if on_progress:
            on_progress(done, len(prompts))
    by_index = sorted(texts, key=lambda text: text.index)
    return LabelScores(
        label_logprob=logprob,
        label_tokens=np.array([t.label_tokens for t in by_index], dtype=int).reshape(shape),
        label_chars=np.array([[len(label) for label in row] for row in per_prompt], dtype=int).reshape(shape),
        prompt_tokens=np.array([t.prompt_tokens for t in by_index], dtype=int).reshape(shape),
        prompt_logprob=before if prompt_logprob else None,
    )


def _tokenise(tokenizer, prompts, per_prompt, max_length, chat) -> list[_Text]:
    """Tokenise every prompt + label as one string and find the token where the label begins."""
    pairs = [(p, label) for p, row in zip(prompts, per_prompt, strict=True) for label in row]
    if not pairs:
        return []
    if chat:
        turns = in_chat(tokenizer, *zip(*pairs, strict=True))
        pairs = [(before + prompt + header, label) for before, prompt, header, label, _ in turns]
    # a chat template writes the beginning-of-sequence token itself
    encoded = tokenizer(
        [p + label for p, label in pairs],
        add_special_tokens=not chat,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    tokenised = zip((len(p) for p, _ in pairs), encoded["input_ids"], encoded["offset_mapping"], strict=True)
    texts = []
    for index, (prompt, row) in enumerate(zip(prompts, per_prompt, strict=True)):
        sequences, starts = [], []
        for label in row:
            begin, ids, offsets = next(tokenised)
            # a tokenizer that closes a text with a special token: the label is not the end of the text
            while offsets and offsets[-1][0] == offsets[-1][1] and ids[-1] in tokenizer.all_special_ids:
                ids, offsets = ids[:-1], offsets[:-1]
            start = next((i for i, (_, end) in enumerate(offsets) if end > begin), len(ids))
            if start in (0, len(ids)):
                what = "has no token of its own" if start else "has nothing before it"
                raise ScoringError(
                    f"the label {label!r} {what} behind the prompt {prompt[-60:]!r}: the tokens are "
                    f"{tokenizer.convert_ids_to_tokens(ids)[-12:]}"
                )
            _check_length(prompt, label, len(ids), max_length)
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


def _tokenise_apart(tokenizer, prompts, per_prompt, max_length) -> list[_Text]:
    """Tokenise prompts for the encoder and labels for the decoder; the token that closes a label is none of its own."""
    if not prompts:
        return []
    read = tokenizer(list(prompts), return_attention_mask=False)["input_ids"]
    labels = list(dict.fromkeys(label for row in per_prompt for label in row))
    said = dict(zip(labels, tokenizer(text_target=labels, return_attention_mask=False)["input_ids"], strict=True))
    special = set(tokenizer.all_special_ids)
    texts = []
    for index, (prompt, ids, row) in enumerate(zip(prompts, read, per_prompt, strict=True)):
        suffixes, counts = [], []
        for label in row:
            suffix = said[label]
            while suffix and suffix[-1] in special:
                suffix = suffix[:-1]
            if not suffix:
                raise ScoringError(f"the label {label!r} has no token of its own")
            _check_length(prompt, label, len(ids) + len(suffix), max_length)
            suffixes.append(suffix)
            # a special token may also stand before the label
            counts.append(sum(token not in special for token in suffix))
        texts.append(_Text(index, ids, suffixes, counts, [len(ids)] * len(row)))
    return texts


def _check_length(prompt: str, label: str, tokens: int, allowed: int) -> None:
    if tokens > allowed:
        raise ScoringError(
            f"the prompt {prompt[:60]!r}... with the label {label!r} has {tokens:,} tokens; allowed: {allowed:,}"
        )


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


def _score(model, batch: list[_Text], pad: int, whole_prompt: bool) -> tuple[np.ndarray, np.ndarray]:
    """[rows, labels] log-probabilities of the labels' tokens and, if asked for, of those before them."""
    decodes = model.config.is_encoder_decoder
    rows, labels = len(batch), len(batch[0].suffixes)
    longest = max(len(s) for t in batch for s in t.suffixes)
    # a causal model goes on where its prompts end, all at one place; an encoder's positions begin where they begin
    ids, mask = _pad([text.prefix for text in batch], pad, "right" if decodes else "left", model.device)
    # the suffixes, and which of their tokens are the label's, [rows, labels, longest]
    suffixes = [suffix for text in batch for suffix in text.suffixes]
    follow, attend = _pad(suffixes, pad, "right", model.device)
    ends = [len(s) - n for s, n in zip(suffixes, (n for t in batch for n in t.label_tokens), strict=True)]
    counts = attend.bool() & (torch.arange(longest) >= torch.tensor(ends)[:, None]).to(model.device)
    if decodes:
        # the token that every answer begins with predicts the first of each suffix
        start = model.prepare_decoder_input_ids_from_labels(follow[::labels, :1])
        first = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": start}
    else:
        first = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
        first |= {"logits_to_keep": 0 if whole_prompt else 1}
    more = longest > 1
    cache = None if decodes or not more else DynamicCache(config=model.config)
    out = _forward(model, **first, past_key_values=cache, use_cache=more)
    if whole_prompt:
        told = out.logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
        # a token counts if it and the one before it are real: the first of a text is predicted by nothing
        prefix = (told.double() * (mask[:, 1:] * mask[:, :-1])).sum(1)
    logprobs = torch.zeros(follow.shape, device=model.device)
    logprobs[:, 0] = out.logits[:, -1].float().log_softmax(-1).gather(1, follow[:, 0].view(rows, labels)).flatten()
    if more:
        cache = out.past_key_values
        every = torch.arange(rows, device=model.device).repeat_interleave(labels)
        # as in a beam search; unlike the cache's other ways to multiply rows, models with linear attention know it
        cache.reorder_cache(every)
        # the last token predicts nothing
        if decodes:
            state = BaseModelOutput(last_hidden_state=out.encoder_last_hidden_state[every])
            then = {"encoder_outputs": state, "attention_mask": mask[every], "decoder_input_ids": follow[:, :-1]}
        else:
            whole = torch.cat([mask[every], attend], 1)[:, :-1]
            position = (whole.cumsum(1) - 1).clamp(min=0)[:, mask.shape[1] :]
            then = {"input_ids": follow[:, :-1], "attention_mask": whole, "position_ids": position}
        out = _forward(model, **then, past_key_values=cache, use_cache=True)
        logprobs[:, 1:] = out.logits.float().log_softmax(-1).gather(2, follow[:, 1:, None])[:, :, 0]
    values = (logprobs.double() * counts).sum(1).view(rows, labels).cpu().numpy()
    if not whole_prompt:
        return values, np.zeros_like(values)
    # the shared prefix, and of each suffix what is not yet the label's
    others = (logprobs.double() * (attend.bool() & ~counts)).sum(1).view(rows, labels)
    return values, (others + prefix[:, None]).cpu().numpy()


def _pad(sequences: list[list[int]], value: int, side: str, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers and which of them are real, [rows, tokens]."""
    ids = [torch.tensor(sequence) for sequence in sequences]
    mask = [torch.ones_like(row) for row in ids]
    return tuple(
        pad_sequence(rows, batch_first=True, padding_value=fill, padding_side=side).to(device)
        for rows, fill in ((ids, value), (mask, 0))
    )


def _forward(model, **given):
    """Call the model with what it takes of the arguments (BLOOM counts no positions)."""
    accepted = inspect.signature(model.forward).parameters
    return model(**{name: value for name, value in given.items() if name in accepted})
