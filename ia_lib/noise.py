"""Noise for denoising instructions: infilling, deletion and permutation of words.

The mixture is the released one (InstructAlign, section 3.1, and the released code): 24% infilling, 24% deletion,
24% permutation, 8% each pair, 4% all three. It works on words, so that punctuation and spacing stay where they are,
and it never returns an empty text.
"""

import random

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

# A word is a run of letters, digits and combining marks, with apostrophes or hyphens inside or one apostrophe at its
# end (Buginese tike').
_WORD = regex.compile(r"[\w\p{M}]+(?:['’ʼ-][\w\p{M}]+)*['’ʼ]?")


def generator(*key: object) -> random.Random:
    """A random generator that depends on `key` alone, for example (seed, epoch, sample).

    Only its `random()` is used in the kit: Python promises that sequence for every later version and every machine.
    """
    return random.Random("/".join(map(str, key)))


def pick(rng: random.Random, items):
    """One of `items`, uniformly."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: random.Random, n: int) -> list[int]:
    """The numbers 0 .. n - 1 in an order drawn uniformly."""
    return [i for _, i in sorted((rng.random(), i) for i in range(n))]


def draw_kinds(rng: random.Random) -> tuple[str, ...]:
    """The kinds of noise that one sample gets, drawn from `MIXTURE`."""
    u = rng.random()
    for kinds, share in MIXTURE:
        u -= share
        if u < 0:
            return kinds
    return MIXTURE[-1][0]


def add_noise(text: str, rng: random.Random, probability: float = 0.2, mask: str = "___") -> tuple[str, str]:
    """Corrupt `text`; returns the noisy text and the kinds of noise joined by `+`.

    Infilling replaces each word by `mask` and deletion drops each word, both with `probability`; permutation brings
    all words into a new order. What stands between the words stays in its place; with a deleted word goes the blank
    before it. Deletion keeps at least one word. A text without words comes back unchanged.
    """
    kinds = draw_kinds(rng)
    spans = [m.span() for m in _WORD.finditer(text)]
    if not spans:
        return text, "+".join(kinds)
    words = [text[a:b] for a, b in spans]
    # gaps[i] stands before word i; gaps[-1] ends the text
    ends = [0] + [b for _, b in spans]
    gaps = [text[end:start] for end, (start, _) in zip(ends, spans, strict=False)] + [text[ends[-1] :]]
    if "infilling" in kinds:
        words = [mask if rng.random() < probability else word for word in words]
    if "deletion" in kinds:
        keep = [rng.random() >= probability for _ in words]
        if not any(keep):
            keep[int(rng.random() * len(keep))] = True
        words, gaps = _delete(words, gaps, keep)
    if "permutation" in kinds:
        words = [words[i] for i in shuffled(rng, len(words))]
    return "".join(gap + word for gap, word in zip(gaps, words, strict=False)) + gaps[-1], "+".join(kinds)


def _delete(words: list[str], gaps: list[str], keep: list[bool]) -> tuple[list[str], list[str]]:
    """Drop the words not kept, each with the blank before it; punctuation beside a dropped word stays."""
    kept, left, carried = [], [], ""
    for word, gap, stays in zip(words, gaps, keep, strict=False):
        gap = carried + gap if kept else (carried + gap).lstrip(" \t")
        if stays:
            kept.append(word)
            left.append(gap)
        carried = "" if stays else gap.rstrip(" \t")
    return kept, [*left, carried + gaps[-1]]
