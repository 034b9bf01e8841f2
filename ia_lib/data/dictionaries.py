"""Bilingual dictionaries: words and their translations, out of MUSE's files, TSV without a header, or two columns of a
table."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ia_lib.data import files
from ia_lib.data.files import CorpusError, CorpusWarning

_BAD = "no word and its translation with a tab or one blank between them"


@dataclass(frozen=True)
class Dictionary:
    """The `translations` of every word, in the file's order; how many `pairs` the file has, how many of them are
    `identical`, and the places of its rows that are no pair (`bad`)."""

    translations: dict[str, list[str]]
    pairs: int
    identical: int
    bad: list[str]

    def counts(self) -> dict[str, int]:
        """For reports."""
        return {
            "pairs": self.pairs,
            "words": len(self.translations),
            "words_with_several_translations": sum(len(found) > 1 for found in self.translations.values()),
            "identical_pairs": self.identical,
            "bad_rows": len(self.bad),
        }


def read(
    path: Path,
    source: str | None = None,
    target: str | None = None,
    *,
    reverse: bool = False,
    identical: bool = True,
    sheet: str | None = None,
) -> Dictionary:
    """The pairs of a file; `source` and `target` are columns of a table. Without them each line is a pair: of a .tsv
    file with a tab between, of any other with a tab or, where there is none, one blank, as MUSE's are. `reverse`
    exchanges the two sides. Without `identical`, pairs of a word and itself are left out. A pair that stands there
    twice counts once.

    Lines that are no pair and rows with an empty cell are left out, with a CorpusWarning. Raises CorpusError for a
    table without `source` and `target`, for what `files.rows` refuses, and for a file without a pair.
    """
    path, bad = Path(path), []
    if not source and path.suffix.lower() in {*files.TABLES} - {".tsv"}:
        raise CorpusError(
            f"{path}: found a table, but no columns; allowed: one with `source` and `target`, its columns"
        )
    found: dict[str, dict[str, None]] = {}
    pairs = same = 0
    rows = _columns(path, source, target, sheet, bad) if source and target else _lines(path, bad)
    for one, other in rows:
        word, translation = (other, one) if reverse else (one, other)
        pairs += 1
        same += word == translation
        if identical or word != translation:
            found.setdefault(word, {})[translation] = None
    bad_is = "a pair with an empty cell" if source else _BAD
    if not pairs:
        said = f"{bad[0]} is {bad_is}" if bad else "it is empty"
        raise CorpusError(f"{path}: found no pair of words ({said}); a dictionary needs at least one")
    if not found:
        raise CorpusError(f"{path}: all {pairs:,} pairs are of a word and itself; allowed: others, or identical: true")
    if bad:
        more = f" and {len(bad) - 3:,} more" if len(bad) > 3 else ""
        said = f"{len(bad):,} of {pairs + len(bad):,} rows of the file are left out ({', '.join(bad[:3])}{more})"
        warnings.warn(f"{path}: {said}: each is {bad_is}", CorpusWarning, stacklevel=2)
    return Dictionary({word: list(several) for word, several in found.items()}, pairs, same, bad)


def _columns(path: Path, source: str, target: str, sheet: str | None, bad: list[str]) -> Iterator[list[str]]:
    for place, cells in files.rows(path, [source, target], gaps=True, sheet=sheet):
        if any(files.INVISIBLE.fullmatch(cell) for cell in cells):
            bad.append(place)
        else:
            yield cells


def _lines(path: Path, bad: list[str]) -> Iterator[list[str]]:
    files.must_exist(path)
    tabs = path.suffix.lower() == ".tsv"
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            line = files.decoded(raw, str(path), number).strip("\r\n")
            if not line.strip():
                continue
            parts = [part.strip() for part in line.split("\t" if tabs or "\t" in line else " ")]
            if len(parts) == 2 and all(parts):
                yield parts
            else:
                bad.append(f"line {number}")
