"""Log-probabilities of labels given prompts. This module knows models and tokenizers, and no task.

The boundary rule: prompt + label is tokenised as one string, exactly as the model would see it; a label's tokens are
those that hold at least one of its characters. A token that spans the join (" yes" behind a prompt that ends with a
blank) therefore belongs to the label. In a chat the string is the conversation up to the end of the label, which
begins right behind the assistant's header. With an encoder-decoder model the label is a text of its own, which the
decoder gives when the encoder has read the prompt (the released code feeds the prompt to the decoder too, which is not
offered); all its tokens count but those that the tokenizer itself puts around a text. An encoder gives the prompt no
log-probability, so the rules `joint` and `mean` are for causal models alone. What the texts of one prompt share is
encoded once, and every label continues from its cache.

A text that is too long loses tokens at its left: as many for every label of a prompt, so that all labels are judged
by the same context; a token that marks the beginning stays, and labels are never cut.

Scores do not depend on what is scored beside them, beyond rounding, but for bitsandbytes' LLM.int8(): where a number in
any row of a batch reaches 6, padding included, its column is multiplied in 16 bits for all rows. Measured with tiny
random models, such a score differs from that of the whole text by up to 0.23 nats where 8 bits alone change scores by
0.43, by 1.3 where outliers were put in and 8 bits change them by 2.7, and by less than 0.004 with
`llm_int8_threshold=0`, which has no outliers.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ia_lib.evaluation.prefix_cache import ScoringError, Text, check, run
from ia_lib.evaluation.rules import apply_rule
from ia_lib.models.encoding import in_chat, tokenised


@dataclass(frozen=True)
class LabelScores:
    """Scores of N prompts with L labels each; all arrays are [N, L]."""

    label_logprob: np.ndarray  # sum of the natural log-probabilities of the label's tokens, in nats
    label_tokens: np.ndarray  # tokens that count as the label's
    label_chars: np.ndarray  # characters of the label
    prompt_tokens: np.ndarray  # tokens before the label's that the model read, special tokens included
    cut_tokens: np.ndarray  # tokens that the length limit took away on the left
    # sum of the log-probabilities of the tokens before the label's but the first, in nats; None unless asked for
    prompt_logprob: np.ndarray | None = None
    # the label's log-probability behind the prompt's content-free one, in nats; None unless given
    content_free_logprob: np.ndarray | None = None

    def scores(self, rule: str = "label_sum") -> np.ndarray:
        """[N, L], under a rule of `rules`; the highest of a row is the prediction. `calibrated` needs `content_free`,
        `joint` and `mean` need `prompt_logprob`. Raises ValueError as `rules.apply_rule` does."""
        return apply_rule(rule, **{name: values for name, values in vars(self).items() if name != "cut_tokens"})


def label_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    labels: Sequence[str] | Sequence[Sequence[str]],
    *,
    prompt_logprob: bool = False,
    content_free: str | Sequence[str] | None = None,
    max_length: int = 1024,
    batch_tokens: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
    chat: bool = False,
) -> LabelScores:
    """Score every label as a continuation of every prompt.

    `labels` is one list for all prompts or one list per prompt (then all of one length). A prompt holds everything
    before the answer; with `chat` both are turns, as `encoding.in_chat` writes them. `prompt_logprob` scores prompts
    too, which costs the vocabulary at every position; `content_free` is the prompt without content, one for all or one
    for each, that the rule `calibrated` compares with. `max_length` is in tokens, label included, and never more than
    the model's positions. `batch_tokens` bounds the tokens that a batch holds in the model's cache (default: see
    `prefix_cache`); it is halved when memory runs out. `progress` shows a bar, or is called with (prompts done, prompts
    in all) after every batch.

    Raises, before the model runs, ScoringError for an empty label, a label whose tokens vanish or are all there is
    (nothing to predict them from), a label that does not fit into `max_length`, a token that the model does not know
    and a model that cannot go on from its cache; ValueError for what `encoding.in_chat` refuses, for `chat` and
    `prompt_logprob` with an encoder-decoder model and for a prompt without labels; TypeError for what is no text. A
    score that is no number (NaN) is a ScoringError too; minus infinity is a score: the model rules the label out.
    """
    for name, given in (("prompts", prompts), ("labels", labels)):
        if isinstance(given, str):
            raise ValueError(f"{name}: found the text {given[:40]!r}; allowed: a list")
    prompts, labels = _texts("prompts", prompts), list(labels)
    shared = bool(labels) and (isinstance(labels[0], str) or not isinstance(labels[0], Iterable))
    per_prompt = [_texts("labels", labels)] * len(prompts) if shared else []
    for i, row in enumerate(() if shared else labels):
        if isinstance(row, str) or not isinstance(row, Iterable):
            raise TypeError(f"labels[{i}]: found {row!r:.80}; allowed: a list, as for the prompts before")
        per_prompt.append(_texts(f"labels[{i}]", row))
    if prompts and not any(per_prompt):
        raise ValueError(f"labels: found none for {len(prompts):,} prompts; allowed: one or more")
    if len(per_prompt) != len(prompts) or len({len(row) for row in per_prompt}) > 1:
        raise ValueError("labels: give one list for all prompts, or one list of the same length for each prompt")
    if getattr(model, "peft_config", None) and hasattr(model, "get_base_model"):
        if model.active_peft_config.is_prompt_learning:
            raise ScoringError(
                "model: found prompt learning by PEFT; allowed: adapters that lie in the model, as LoRA's"
            )
        model = model.get_base_model()
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise ScoringError(
            f"model: found {type(model).__name__}; allowed: one with past_key_values, from which every label continues"
        )
    # a model with a table of positions has no more of them
    max_length = min(max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length)
    decodes = model.config.is_encoder_decoder
    if decodes:
        if model.config.decoder_start_token_id is None:
            raise ScoringError(
                f"model: found {type(model).__name__} without decoder_start_token_id; allowed: set it in model.config "
                "(for mBART the code of the answers' language)"
            )
        reads = "reads the prompt and gives it no log-probability"
        for name, given, why in (("chat", chat, "has no turns"), ("prompt_logprob", prompt_logprob, reads)):
            if given:
                raise ValueError(f"{name}: found True; allowed: False for an encoder-decoder model, which {why}")
    texts = _tokenise(tokenizer, prompts, per_prompt, max_length, chat, decodes)
    known = model.get_input_embeddings().weight.shape[0]
    if (most := max((max(ids) for text in texts for ids in (text.prefix, *text.suffixes) if ids), default=-1)) >= known:
        raise ScoringError(
            f"tokenizer: found the token {most}; allowed: below {known}, the tokens that the model knows"
        )
    shape = (len(prompts), len(per_prompt[0]) if per_prompt else len(labels) if shared else 0)
    empty = None
    if content_free is not None:
        frees = _texts("content_free", [content_free] * len(prompts) if isinstance(content_free, str) else content_free)
        if len(frees) != len(prompts):
            raise ValueError(f"content_free: found {len(frees)} prompts; allowed: one, or {len(prompts)}")
        pairs = [(free, *row) for free, row in zip(frees, per_prompt, strict=True)]
        place = {pair: i for i, pair in enumerate(dict.fromkeys(pairs))}
        more = {"max_length": max_length, "batch_tokens": batch_tokens, "chat": chat, "progress": False}
        alone = label_logprobs(model, tokenizer, [free for free, *_ in place], [row for _, *row in place], **more)
        empty = alone.label_logprob[[place[pair] for pair in pairs]].reshape(shape)

    counts = {name: np.zeros(shape, int) for name in ("label_tokens", "prompt_tokens", "cut_tokens")}
    for text in texts:
        for name, count in zip(counts, (text.label_tokens, _prompt_tokens(text, decodes), text.cut), strict=True):
            counts[name][text.row, text.columns] = count
    logprob, before = np.zeros(shape), np.zeros(shape)
    done = 0
    bar = tqdm(total=len(prompts), desc="scoring", unit="prompt", disable=progress is not True)
    was_training, pad = model.training, tokenizer.pad_token_id or 0
    model.eval()
    try:
        check(model, texts, pad)
        for batch, values, others in run(model, texts, batch_tokens, pad, prompt_logprob):
            rows = [text.row for text in batch for _ in text.columns]
            columns = [column for text in batch for column in text.columns]
            if (bad := np.isnan(values) | np.isnan(others)).any():
                row, column = rows[bad.argmax()], columns[bad.argmax()]
                raise ScoringError(
                    f"the label {per_prompt[row][column]!r:.80} behind the prompt {prompts[row][-60:]!r} has a "
                    "log-probability that is no number (NaN): the model's weights or its precision are at fault"
                )
            logprob[rows, columns], before[rows, columns] = values, others
            # labels that are scored apart from their prompt's others come right behind them
            done += sum(0 in text.columns for text in batch)
            bar.update(done - bar.n)
            if callable(progress):
                progress(done, len(prompts))
    finally:
        bar.close()
        model.train(was_training)
    return LabelScores(
        label_logprob=logprob,
        label_chars=np.array([[len(label) for label in row] for row in per_prompt], dtype=int).reshape(shape),
        **counts,
        prompt_logprob=before if prompt_logprob else None,
        content_free_logprob=empty,
    )


def _texts(name: str, texts: Iterable) -> list[str]:
    for i, text in enumerate(texts := list(texts)):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}]: found {text!r:.80}; allowed: a text")
    return texts


def _prompt_tokens(text: Text, encoder_decoder: bool) -> list[int]:
    """Of each label the tokens before it that the model read, without those that a decoder's label begins with."""
    rest = zip(text.suffixes, text.label_tokens, strict=True)
    return [len(text.prefix) + (0 if encoder_decoder else len(suffix) - count) for suffix, count in rest]


def tokens(
    tokenizer, prompt: str, labels: Sequence[str], *, chat: bool = False, encoder_decoder: bool = False
) -> list[tuple[list[str], list[str]]]:
    """For each label the tokens that stand before it and its own, special ones included, as `label_logprobs` has them
    for a causal or an encoder-decoder model."""
    found = []
    for text in _tokenise(tokenizer, [prompt], [list(labels)], 10**9, chat, encoder_decoder):
        rest = zip(text.suffixes, text.label_tokens, _prompt_tokens(text, encoder_decoder), strict=True)
        for suffix, count, before in rest:
            parts = (text.prefix + suffix)[:before], suffix[len(suffix) - count :]
            found.append(tuple(map(tokenizer.convert_ids_to_tokens, parts)))
    return found


def _tokenise(tokenizer, prompts, per_prompt, max_length, chat, encoder_decoder) -> list[Text]:
    """Every prompt with its labels, as the model reads them."""
    if not any(per_prompt):
        return []
    how = tokenizer, prompts, per_prompt, max_length
    return list(_apart(*how) if encoder_decoder else _in_one(*how, chat))


def _in_one(tokenizer, prompts, per_prompt, max_length, chat) -> Iterator[Text]:
    """Tokenise every prompt + label as one string and find the token where the label begins."""
    if not tokenizer.is_fast:
        raise ScoringError(
            f"tokenizer: found {type(tokenizer).__name__}; allowed: a fast one, which tells a token's characters"
        )
    texts = [("", p, "", label) for p, row in zip(prompts, per_prompt, strict=True) for label in row]
    if chat:
        texts = [turns[:4] for turns in in_chat(tokenizer, *zip(*[text[1::2] for text in texts], strict=True))]
    # a chat template writes the beginning-of-sequence token itself
    read = tokenised(tokenizer, texts, add_special_tokens=not chat)
    special, begins = set(tokenizer.all_special_ids), (sum(map(len, text[:3])) for text in texts)
    for index, (prompt, row) in enumerate(zip(prompts, per_prompt, strict=True)):
        sequences, starts = [], []
        for label in row:
            begin, (ids, offsets, _) = next(begins), next(read)
            # a tokenizer that closes a text with a special token: the label is not the end of the text
            while offsets and offsets[-1][0] == offsets[-1][1] and ids[-1] in special:
                ids, offsets = ids[:-1], offsets[:-1]
            start = next((i for i, (_, end) in enumerate(offsets) if end > begin), len(ids))
            if start in (0, len(ids)):
                what = "has no token of its own" if start or not ids else "has nothing before it"
                raise ScoringError(
                    f"the label {label!r:.80} {what} behind the prompt {prompt[-60:]!r}: the tokens are "
                    f"{tokenizer.convert_ids_to_tokens(ids)[-12:]}"
                )
            sequences.append(ids)
            starts.append(start)
        counts = [len(ids) - start for ids, start in zip(sequences, starts, strict=True)]
        if cut := max(0, max(map(len, sequences)) - max_length):
            first = int(all(ids[0] in special for ids in sequences))
            _check_room(prompt, row, counts, min(starts) - cut, max_length)
            sequences = [ids[:first] + ids[first + cut :] for ids in sequences]
        # rarely a label changes how a prompt of one word is cut, so that not even the first token is shared
        together = len({ids[0] for ids in sequences}) == 1
        for columns in [[*range(len(row))]] if together else [[i] for i in range(len(row))]:
            # the last shared token predicts the first one that differs, so a suffix is never empty
            heads = zip(*(sequences[i][: -counts[i]] for i in columns), strict=False)
            shared = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, heads)]
            suffixes = [sequences[i][len(shared) :] for i in columns]
            yield Text(index, columns, shared, suffixes, [counts[i] for i in columns], cut)


def _apart(tokenizer, prompts, per_prompt, max_length) -> Iterator[Text]:
    """Tokenise prompts for the encoder and labels for the decoder. What the tokenizer puts before a label is read with
    it and does not count; what it puts behind is left out."""
    labels = list(dict.fromkeys(label for row in per_prompt for label in row))
    said = dict(zip(labels, _framed(tokenizer, labels, "text_target"), strict=True))
    read = _framed(tokenizer, prompts, "text")
    for index, (prompt, row) in enumerate(zip(prompts, per_prompt, strict=True)):
        ids, first, last = read[index]
        suffixes = [suffix[: len(suffix) - behind] for suffix, _, behind in map(said.get, row)]
        counts = [len(suffix) - said[label][1] for label, suffix in zip(row, suffixes, strict=True)]
        if 0 in counts:
            label = row[counts.index(0)]
            raise ScoringError(f"the label {label!r:.80} has no token of its own behind the prompt {prompt[-60:]!r}")
        cut = max(0, len(ids) + max(map(len, suffixes)) - max_length)
        left = len(ids) - cut
        _check_room(prompt, row, counts, left if left >= first + last else 0, max_length)
        yield Text(index, [*range(len(row))], ids[:first] + ids[first + cut :], suffixes, counts, cut)


def _framed(tokenizer, texts: list[str], kind: str) -> list[tuple[list[int], int, int]]:
    """Tokens of each text, and how many of them the tokenizer itself has put before it and behind it. A special token
    that stands in the text, or for what the tokenizer does not know, is the text's own."""
    read = list(tokenised(tokenizer, [("", text) for text in texts], kind))
    encoded = [ids for ids, _, _ in read]
    if tokenizer.is_fast:
        own = [[not added for added in mask] for _, _, mask in read]
        spans = [(row.index(True), len(row) - row[::-1].index(True)) if any(row) else (0, 0) for row in own]
    else:
        # other tokenizers' masks cannot be relied on: where the text's tokens stand when nothing is added
        plain = [ids for ids, _, _ in tokenised(tokenizer, [("", text) for text in texts], kind, False)]
        pairs = list(zip(encoded, plain, strict=True))
        begins = [next((i for i in range(len(ids)) if ids[i : i + len(own)] == own), 0) for ids, own in pairs]
        spans = [(begin, begin + len(own)) for begin, own in zip(begins, plain, strict=True)]
    return [(ids, begin, len(ids) - end) for ids, (begin, end) in zip(encoded, spans, strict=True)]


def _check_room(prompt: str, labels: list[str], tokens: list[int], left: int, max_length: int) -> None:
    if left < 1:
        most = max(tokens)
        raise ScoringError(
            f"the label {labels[tokens.index(most)]!r:.80} has {most:,} tokens and leaves no room for the prompt "
            f"{prompt[:60]!r}; allowed: {max_length:,} tokens in all (max_length)"
        )
