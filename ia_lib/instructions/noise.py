"""Noise for denoising instructions.

The kinds of noise and their mixture are the released ones (InstructAlign, section 3.1, and the released code); span
masking is that of the paper's first version. By default noise works on words, so that punctuation and spacing stay
where they are, and never returns an empty text. In scripts that put no blanks between words (`UNSPACED`) each
user-perceived character, a letter with its marks, counts as a word, which else would never be changed; numbers there
stay whole."""

import re
from functools import lru_cache
from itertools import combinations

import regex

from ia_lib.randomness import shuffled, take, weighted

# Pairs (kinds, share): each kind alone, each pair, all three.
MIXTURE = [
    (kinds, share)
    for number, share in ((1, 0.24), (2, 0.08), (3, 0.04))
    for kinds in combinations(("infilling", "deletion", "permutation"), number)
]
# Scripts without blanks between words. Katakana's mark of length is common to several scripts.
UNSPACED = (
    *("Thai", "Lao", "Khmer", "Myanmar", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese", "Balinese"),
    *("Han", "Hiragana", "Katakana", "Bopomofo"),
)
_LETTER = "[[" + "".join(rf"\p{{Script={name}}}" for name in UNSPACED) + r"ーｰ]&&[\p{L}\p{M}\p{Nl}]]"
# With all its marks, and in Khmer, Burmese and Tai Tham with the letters stacked below it.
_CHARACTER = rf"(?={_LETTER})\X\p{{M}}*(?:(?<=[\u1039\u17d2\u1a60])(?={_LETTER})\X\p{{M}}*)*"
# Letters, digits and combining marks, with apostrophes or hyphens inside or one apostrophe at its end (Buginese tike').
_RUN = rf"[[\w\p{{M}}]--{_LETTER}]+"
_WORD = regex.compile(rf"(?V1)({_CHARACTER}|{_RUN}(?:['’ʼ-]{_RUN})*['’ʼ]?)")
# The same, and faster, on text without such letters, and on ASCII.
_SPACED_WORD = regex.compile(r"([\w\p{M}]+(?:['’ʼ-][\w\p{M}]+)*['’ʼ]?)")
_ASCII_WORD = re.compile(r"(\w+(?:['-]\w+)*'?)", re.ASCII)
_MAY_BE_UNSPACED = re.compile("[\u0e00-\u1cff\u2e80-\U0010ffff]")


def add_noise(
    text: str, rng, probability: float = 0.2, mask: str = "___", kinds: str = "mixture", tokens: str = "words"
) -> tuple[str, str]:
    """Corrupt `text`; returns the noisy text and the kinds of noise joined by `+`.

    Infilling replaces each word by `mask` and deletion drops each word, both with `probability`; permutation brings
    all words into a new order; `kinds` is one of these or "mixture", which draws them by `MIXTURE`. Deletion keeps at
    least one word, and with a deleted word goes the blank before it. A text without words comes back unchanged.
    `tokens`: "words" as `split` finds them, or "nltk" as the released code has it: the tokens of NLTK's word tokenizer
    joined by blanks, so that punctuation is detached and quotes are rewritten, and deletion can leave an empty text.

    `rng` needs a method `random()`, and may have `take(n)`, n numbers at once; at most 2 + 3 x words are drawn.
    """
    drawn = weighted(rng.random(), MIXTURE) if kinds == "mixture" else (kinds,)
    words, gaps = split(text) if tokens == "words" else _nltk(text)
    if words:
        if "infilling" in drawn:
            words = [mask if u < probability else word for u, word in zip(take(rng, len(words)), words, strict=True)]
        if "deletion" in drawn:
            keep = [u >= probability for u in take(rng, len(words))]
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
    """Put one mask in the place of a run of words: span-level conditional denoising ((IA)^1, section 3). The run's
    length is drawn uniformly from 2 .. 2 x `probability` x words (2 at least, and never the whole of a longer text):
    the papers and their code do not give it."""
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
    """The words of a text and what stands around them: gaps[i] before word i, gaps[-1] at the end."""
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
    return "".join(gap + word for gap, word in zip(gaps, [*words, ""], strict=True))


def _delete(words: list[str], gaps: list[str], keep: list[bool]) -> tuple[list[str], list[str]]:
    """Drop the words not kept, each with the blank before it; punctuation beside a dropped word stays."""
    kept, left, carried = [], [], ""
    for word, gap, stays in zip(words, gaps, keep, strict=False):
        before = carried + gap if left else (carried + gap).lstrip(" \t")
        if stays:
            kept.append(word)
            left.append(before)
            carried = ""
        elif gap != " ":
            # the blanks that a dropped word leaves at the end, and at the beginning of the text, go with it
            carried = before.rstrip(" \t")
    return kept, [*left, carried + gaps[-1]]
