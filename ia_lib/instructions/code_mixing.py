"""Code-mixing (COMMIT, section 3): some of a text's words are replaced by their translations, out of a dictionary.

What is drawn for a text depends on a key of its own (seed, epoch, instruction, part), two numbers for each of its
words: the same after a resume, in any number of processes, and whatever the dictionary says of other words.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import regex

from ia_lib.randomness import generator, take

Words = Literal["unicode", "spaces"]
Case = Literal["fallback", "exact"]

# What is set aside at both ends of a word: signs of ASCII, and whatever else Unicode calls punctuation or a blank.
_SIGNS = frozenset(map(chr, [*range(33, 48), *range(58, 65), *range(91, 97), *range(123, 127), 9, 10, 13]))
# Scripts whose words stand beside each other without a blank.
UNSPACED = regex.compile(r"[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Han}\p{Hiragana}\p{Katakana}]+")
_BOUNDARY = regex.compile(r"\b", regex.WORD | regex.V1)
_LETTER = regex.compile(r"[\p{L}\p{N}]")
MISSING = "words of Thai, Chinese and other scripts without blanks are found by the package icu4py: pip install icu4py"


@dataclass(frozen=True)
class Mixed:
    """A text before and after: its `pieces`, each (before, after), and how many of them are `words`, how many of those
    the dictionary has (`known`), and how many really `changed`."""

    pieces: list[tuple[str, str]]
    words: int
    known: int

    @cached_property
    def text(self) -> str:
        return "".join(after for _, after in self.pieces)

    @property
    def changed(self) -> int:
        return sum(before != after for before, after in self.pieces)


def mix(
    text: str,
    dictionary: Mapping[str, Sequence[str]],
    alpha: float,
    key: tuple,
    words: Words = "unicode",
    case: Case = "fallback",
) -> Mixed:
    """`text` with each word that `dictionary` has replaced with probability `alpha` by one of its translations,
    uniformly; all that is between words stays.

    Words are split at single blanks, with signs at their ends set aside ("spaces": as in the released code), or found
    by Unicode's rules ("unicode"; in scripts without blanks by ICU's dictionaries). With `case` "fallback" a word that
    is not found is looked up in small letters, and the translation gets its capitals. Raises ImportError for a text in
    a script without blanks where the package icu4py is missing.
    """
    if not dictionary:
        return Mixed([(text, text)], 0, 0)
    found = list(pieces(text, words))
    draws = take(generator(*key), 2 * sum(is_word for _, is_word in found))
    mixed, count, known = [], 0, 0
    for piece, is_word in found:
        after = piece
        if is_word:
            u, choice = draws[2 * count : 2 * count + 2]
            count += 1
            if several := _looked_up(piece, dictionary, case):
                known += 1
                if u < alpha:
                    after = several[int(choice * len(several))]
        mixed.append((piece, after))
    return Mixed(mixed, count, known)


def _looked_up(word: str, dictionary: Mapping[str, Sequence[str]], case: Case) -> Sequence[str]:
    if found := dictionary.get(word):
        return found
    small = word.lower()
    if case == "exact" or small == word or not (found := dictionary.get(small)):
        return ()
    if len(word) > 1 and word.isupper():
        return [other.upper() for other in found]
    # only what begins with a capital is written so; of "iPhone" nothing can be restored
    return [other[:1].upper() + other[1:] for other in found] if word[:1].isupper() else found


def pieces(text: str, words: Words = "unicode") -> Iterator[tuple[str, bool]]:
    """A text in parts, which put together are the text again, each with whether it is a word. Raises ImportError as
    `mix` does."""
    yield from _between_blanks(text) if words == "spaces" else _by_unicode(text)


def _between_blanks(text: str) -> Iterator[tuple[str, bool]]:
    for number, piece in enumerate(text.split(" ")):
        if number:
            yield " ", False
        begin, end = 0, len(piece)
        while begin < end and _is_sign(piece[begin]):
            begin += 1
        while end > begin and _is_sign(piece[end - 1]):
            end -= 1
        for part, is_word in ((piece[:begin], False), (piece[begin:end], True), (piece[end:], False)):
            if part:
                yield part, is_word


def _is_sign(character: str) -> bool:
    return character in _SIGNS or (category := unicodedata.category(character)) == "Zs" or category[0] == "P"


def _by_unicode(text: str) -> Iterator[tuple[str, bool]]:
    last = 0
    for run in [*UNSPACED.finditer(text), None]:
        begin = run.start() if run else len(text)
        for part in _BOUNDARY.split(text[last:begin]):
            if part:
                yield part, bool(_LETTER.search(part))
        if run:
            yield from ((part, True) for part in _unspaced(run.group()))
            last = run.end()


def _unspaced(text: str) -> Iterator[str]:
    try:
        from icu4py.breakers import WordBreaker
    except ImportError:
        raise ImportError(MISSING) from None
    yield from WordBreaker(text, "th")  # its dictionaries go by the script, whatever the language


class Reached:
    """How many words of some texts the dictionary has, and how many really changed."""

    def __init__(self):
        self.words = self.known = self.changed = 0

    def add(self, *mixed: Mixed) -> "Reached":
        for one in mixed:
            self.words += one.words
            self.known += one.known
            self.changed += one.changed
        return self

    def rates(self) -> dict[str, float]:
        """In percent of all words."""
        known, changed = (round(100 * count / (self.words or 1), 1) for count in (self.known, self.changed))
        return {"words_in_dictionary": known, "words_changed": changed}
