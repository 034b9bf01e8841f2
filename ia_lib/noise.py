"""Noise for denoising instructions, and the random numbers that everything in the kit is drawn with.

The kinds of noise and their mixture are the released ones (InstructAlign, section 3.1, and the released code): 24%
infilling, 24% deletion, 24% permutation, 8% each pair, 4% all three. Span masking is that of the paper's first
version. By default noise works on words, so that punctuation and spacing stay where they are, and never returns an
empty text. In scripts that put no blanks between words (`UNSPACED`: Thai, Lao, Khmer, Burmese, Chinese, Japanese and
the like) each user-perceived character, a letter with its marks, counts as a word; numbers there stay whole.
"""

import hashlib
import random
import re
from functools import lru_cache

import numpy as np
import regex

MIXTURE = (
    (("infilling",), 0.24),
    (("deletion",), 0.24),
    (("permutation",), 0.24),
    (("infilling", "deletion"), 0.08),
    (("infilling", "permutation"), 0.08),
    (("deletion", "permutation"), 0.08),
    (("infilling", "deletion", "permutation"), 0.04),
)

# Scripts without blanks between words. Katakana's mark of length is common to several scripts.
UNSPACED = (
    *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese", "Balinese"),
    *("Han", "Hiragana", "Katakana", "Bopomofo"),
)
_LETTER = "[[" + "".join(rf"\p{{Script={name}}}" for name in UNSPACED) + r"ーｰ]&&[\p{L}\p{M}\p{Nl}]]"
# With all its marks, and in Khmer, Burmese and Tai Tham with the letters stacked below it.
_CHARACTER = rf"(?={_LETTER})\X\p{{M}}*(?:(?<=[\u1039\u17d2\u1a60])(?={_LETTER})\X\p{{M}}*)*"
# A word is a run of letters, digits and combining marks, with apostrophes or hyphens inside or one apostrophe at its
# end (Buginese tike').
_RUN = rf"[[\w\p{{M}}]--{_LETTER}]+"
_WORD = regex.compile(rf"(?V1)({_CHARACTER}|{_RUN}(?:['’ʼ-]{_RUN})*['’ʼ]?)")
# The same, and faster, on text without such letters, and on ASCII.
_SPACED_WORD = regex.compile(r"([\w\p{M}]+(?:['’ʼ-][\w\p{M}]+)*['’ʼ]?)")
_ASCII_WORD = re.compile(r"(\w+(?:['-]\w+)*'?)", re.ASCII)
_MAY_BE_UNSPACED = re.compile("[\u0e00-\u1cff\u2e80-\U0010ffff]")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def generator(*key: object) -> random.Random:
    """A random generator that depends on `key` alone, for example (seed, epoch, sample).

    Only its `random()` is used in the kit: Python promises that sequence for every later version and every machine.
    """
    return random.Random("/".join(map(str, key)))


def pick(rng, items):
    """One of `items`, uniformly."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, n: int) -> list[int]:
    """The numbers 0 .. n - 1 in an order drawn uniformly."""
    return sorted(range(n), key=_drawn(rng, n).__getitem__)


def _drawn(rng, n: int) -> list[float]:
    """The next `n` numbers, at once if the generator can."""
    return rng.take(n) if hasattr(rng, "take") else [rng.random() for _ in range(n)]


def uniforms(key: tuple, samples: np.ndarray, count: int) -> np.ndarray:
    """[samples, count] numbers in [0, 1): a row depends on `key` and its sample alone, whatever stands beside it.

    The SplitMix64 generator, started anew for every sample. It is integer arithmetic, the same on every machine, and
    makes a block of samples at once, where a generator object per sample would cost more than the rest of its work.
    """
    with np.errstate(over="ignore"):
        start = _mixed(_seed(key) ^ _mixed(samples.astype(np.uint64) * _GOLDEN + _GOLDEN))
        return (_mixed(start[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64)) >> np.uint64(11)) * 2.0**-53


def permuted(key: tuple, positions: np.ndarray, n: int) -> np.ndarray:
    """Where a permutation of 0 .. n - 1 that depends on `key` sends `positions`, without ever holding it in memory.

    A Feistel network of eight rounds over the next even power of two; what falls outside goes through it again.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    values = positions.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    with np.errstate(over="ignore"):
        while outside.any():
            left, right = values[outside] >> shift, values[outside] & mask
            for number in range(8):
                left, right = right, left ^ (_mixed(right + _seed((*key, number))) & mask)
            values[outside] = left << shift | right
            outside = values >= n
    return values.astype(np.int64)


def _mixed(values):
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _seed(key: tuple) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "little"))


def draw_kinds(rng) -> tuple[str, ...]:
    """The kinds of noise that one sample gets, drawn from `MIXTURE`."""
    u = rng.random()
    for kinds, share in MIXTURE:
        u -= share
        if u < 0:
            return kinds
    return MIXTURE[-1][0]


def add_noise(
    text: str, rng, probability: float = 0.2, mask: str = "___", kinds: str = "mixture", tokens: str = "words"
) -> tuple[str, str]:
    """Corrupt `text`; returns the noisy text and the kinds of noise joined by `+`.

    Infilling replaces each word by `mask` and deletion drops each word, both with `probability`; permutation brings
    all words into a new order; `kinds` is one of these or "mixture", which draws them by `MIXTURE`. What stands
    between the words stays in its place; with a deleted word goes the blank before it. Deletion keeps at least one
    word. A text without words comes back unchanged. A word is what `split` finds.

    `tokens`: "words" as above, or "nltk" as the released code has it: the tokens of NLTK's word tokenizer joined by
    blanks, so that punctuation is detached and quotes are rewritten, and deletion can leave an empty text.

    `rng` needs a method `random()`, and may have `take(n)`, n numbers at once; at most 2 + 3 x words are drawn.
    """
    drawn = draw_kinds(rng) if kinds == "mixture" else (kinds,)
    words, gaps = split(text) if tokens == "words" else _nltk(text)
    if words:
        if "infilling" in drawn:
            words = [mask if u < probability else word for u, word in zip(_drawn(rng, len(words)), words, strict=True)]
        if "deletion" in drawn:
            keep = [u >= probability for u in _drawn(rng, len(words))]
            if not any(keep) and tokens == "words":
                keep[int(rng.random() * len(keep))] = True
            words, gaps = _delete(words, gaps, keep)
        if "permutation" in drawn:
            words = [words[i] for i in shuffled(rng, len(words))]
    return _joined(words, gaps), "+".join(drawn)


def mask_words(text: str, rng, probability: float = 0.2, mask: str = "___") -> str:
    """Mask each word with `probability`, one at least: word-level conditional denoising ((IA)^1, section 3)."""
    words, gaps = split(text)
    hit = [rng.random() < probability for _ in words]
    if words and not any(hit):
        hit[int(rng.random() * len(hit))] = True
    return _joined([mask if h else word for h, word in zip(hit, words, strict=True)], gaps)


def mask_span(text: str, rng, probability: float = 0.2, mask: str = "___") -> str:
    """Put one mask in the place of a run of words: span-level conditional denoising ((IA)^1, section 3).

    The run's length is drawn uniformly from 2 .. 2 x `probability` x words (2 at least, and never the whole of a
    longer text): the papers and their code do not give it.
    """
    words, gaps = split(text)
    if not words:
        return text
    longest = max(2, round(2 * probability * len(words)))
    length = min(2 + int(rng.random() * (longest - 1)), max(1, len(words) - 1))
    begin = int(rng.random() * (len(words) - length + 1))
    words = [*words[:begin], mask, *words[begin + length :]]
    return _joined(words, [*gaps[: begin + 1], *gaps[begin + length :]])


@lru_cache(2**15)
def split(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a text and what stands around them: gaps[i] before word i, gaps[-1] at the end.

    In `UNSPACED` scripts each user-perceived character is a word: no blank says where one ends, and a run of them as
    one word would never be changed.
    """
    word = _ASCII_WORD if text.isascii() else _WORD if _MAY_BE_UNSPACED.search(text) else _SPACED_WORD
    parts = word.split(text)
    return tuple(parts[1::2]), tuple(parts[::2])


def _nltk(text: str) -> tuple[list[str], list[str]]:
    from nltk.tokenize import NLTKWordTokenizer

    # the released code cuts a text into sentences before, which needs a model to download: here the full stop of a
    # sentence that is not the last one stays with its word
    words = NLTKWordTokenizer().tokenize(text)
    return words, ["", *[" "] * (len(words) - 1), ""] if words else [""]


def _joined(words: list[str], gaps: list[str]) -> str:
    parts = [""] * (2 * len(words) + 1)
    parts[1::2] = words
    parts[::2] = gaps
    return "".join(parts)


def _delete(words: list[str], gaps: list[str], keep: list[bool]) -> tuple[list[str], list[str]]:
    """Drop the words not kept, each with the blank before it; punctuation beside a dropped word stays."""
    kept, left, carried = [], [], ""
    for word, gap, stays in zip(words, gaps, keep, strict=False):
        if stays:
            kept.append(word)
            left.append(carried + gap if left else (carried + gap).lstrip(" \t"))
            carried = ""
        elif gap != " ":
            # the blanks that a dropped word leaves at the end, and at the beginning of the text, go with it
            carried = (carried + gap if left else (carried + gap).lstrip(" \t")).rstrip(" \t")
    return kept, [*left, carried + gaps[-1]]
