"""People as judges: a sheet of answers without the models' names, and the marks that come back in it.

People are asked as a judge is (Chen et al., section 2.3): a question and an answer, a mark of 1, 2 or 3, nothing about
who answered. What says who did is a file of its own, the key, which stays with whoever reads the sheets back. Everyone
gets a copy of the sheet, called by the judge's name: `read` is called for each.
"""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import regex
from pydantic import BaseModel, ConfigDict, ValidationError

from ia_lib.data import files
from ia_lib.data.files import CorpusError
from ia_lib.randomness import generator, pick, shuffled

# What an answer is known by, and the prompt that it answers.
KEYS = ("run", "dataset", "task", "language", "example")
PROMPT = KEYS[1:]
# The columns of a sheet; people fill the last two.
COLUMNS = ("item", "language", "question", "answer", "mark", "remark")
MARKS = (1.0, 2.0, 3.0)
# Items are called by letters that no spreadsheet takes for a number or a date, and that make no words.
_LETTERS = "bcdfghjkmnpqrstvwxz"
# What begins a formula in some spreadsheet, also in full width; and the sign that is put before it.
_FORMULA = tuple("=+-@＝＋－＠'")
_UNSHOWN = regex.compile(r"[^\P{C}\n\p{Cf}]")  # control characters and halves of characters
_IGNORED = regex.compile(r"[\s\p{C}\ufffd']+")


def export(items: pd.DataFrame, sheet: Path, key: Path, seed: int) -> None:
    """Write the sheet that people mark, a CSV of `COLUMNS`, and its key, a JSON file that they must not see.

    `items` has a line for each answer: `KEYS`, `language_name, question, answer`. Equal answers to an equal question in
    one language are asked once, whoever gave them and whatever blanks stand around them. Empty answers are not asked:
    `read` gives them the lowest mark. Languages stand one behind the other, so that people find theirs; within them
    rows are shuffled by `seed`, whatever their order was.

    The sheet is UTF-8 with a byte-order mark, by which spreadsheets know it. A cell that begins as a formula does, or
    that could be taken for a number or a date, has an apostrophe before it; control characters are shown as U+FFFD.

    Raises ValueError for a missing column, two answers of one run to one prompt, and where there is nothing to ask;
    CorpusError for a sheet that is there and is another one, since it may hold somebody's marks.
    """
    sheet, key = Path(sheet), Path(key)
    if missing := [name for name in (*KEYS, "language_name", "question", "answer") if name not in items]:
        raise ValueError(f"items: found no column {missing[0]!r}; there are: {', '.join(map(str, items))}")
    if items.duplicated([*KEYS]).any():
        first = items[items.duplicated([*KEYS])].iloc[0]
        raise ValueError(f"items: found two answers of {'/'.join(str(first[name]) for name in KEYS)}; allowed: one")
    texts = items[["language", "question", "answer"]].fillna("").astype(str).itertuples(index=False)
    contents = [(language, question.strip(), answer.strip()) for language, question, answer in texts]
    asked = sorted({content for content in contents if not _empty(content[2])})
    if not asked:
        raise ValueError("items: found no answer that is not empty; allowed: one at least, or there is nothing to ask")
    names = dict(zip(asked, _names(asked, seed), strict=True))
    called = dict(zip(contents, items["language_name"], strict=True))
    order = shuffled(generator(seed, "blind sheet"), len(asked))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\r\n")
    table.writerow(COLUMNS)
    for content in sorted((asked[i] for i in order), key=lambda content: content[0]):
        _, question, answer = content
        table.writerow([names[content], *map(_shown, (called[content], question, answer)), "", ""])
    written = text.getvalue().encode("utf-8-sig")
    if sheet.exists() and sheet.read_bytes() != written:
        raise CorpusError(f"{sheet}: there is a sheet, which may hold somebody's marks; move it, or name another")
    whose = zip(items[[*KEYS]].astype(str).itertuples(index=False), contents, strict=True)
    told = {
        "items": {names[content]: content[2] for content in asked},
        "answers": [[*line, names.get(content)] for line, content in whose],
    }
    # the key first: a sheet without one is of no use
    _write(key, json.dumps(told, ensure_ascii=True, indent=1).encode())
    _write(sheet, written)


def read(sheet: Path, key: Path) -> pd.DataFrame:
    """The marks of a sheet: `KEYS`, `answer` (what was marked) and `mark` (1 to 3; NaN where it was left empty or its
    row is not there), a line for each answer that was exported, in that order. An empty answer has mark 1, which nobody
    was asked for.

    The sheet is CSV with commas or semicolons, TSV or XLSX, with its columns in any order and others beside them.
    Raises CorpusError with file and line for another mark than 1, 2 and 3, an item that the key does not have or that
    stands there twice, an answer that is not the item's (the marks were sorted without the rest, or another program has
    changed the text), and a missing column; for a key that is none as well.
    """
    known = _key(Path(key))
    found = files.table(sheet, ["item", "answer", "mark"], whole=["item", "mark"], gaps=True)
    marks = {None: MARKS[0]}
    for i, item in enumerate(found.distinct("item")):
        if item not in known.items:
            raise CorpusError(f"{found.at(i)}: found the item {item!r:.80}; allowed: an item of {key}")
        if _compared(found.cells["answer"][i]) != _compared(known.items[item]):
            remedy = "sort whole rows, save as UTF-8, or write the marks into the sheet as it was exported"
            raise CorpusError(f"{found.at(i)}: the answer is not that of the item {item!r}; {remedy}")
        marks[item] = _mark(found.cells["mark"][i], found.at(i))
    lines = [[*line[:-1], known.items.get(line[-1], ""), marks.get(line[-1], float("nan"))] for line in known.answers]
    return pd.DataFrame(lines, columns=[*KEYS, "answer", "mark"]).astype({"mark": float})


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: dict[str, str]  # item: its answer
    answers: list[tuple[str, str, str, str, str, str | None]]  # whose it is, and its item; none was asked if empty


def _key(path: Path) -> _Key:
    try:
        return _Key.model_validate(files.document(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise CorpusError(f"{path}, field {where!r}: this is no key of a blind sheet ({first['msg']})") from None


def _mark(cell: str, where: str) -> float:
    if not cell:
        return float("nan")
    try:
        mark = float(cell.replace(",", "."))  # 2,0 in many countries
    except ValueError:
        mark = None
    if mark not in MARKS:
        raise CorpusError(f"{where}: found the mark {cell!r:.80}; allowed: 1, 2, 3, or an empty cell")
    return mark


def _names(contents: Iterable[tuple[str, ...]], seed: int) -> list[str]:
    """A name for each of the contents, which depends on it and says nothing of it."""
    found: dict[str, None] = {}
    for content in contents:
        rng, name = generator(seed, "blind item", *content), ""
        while len(name) < 7 or name in found:
            name += pick(rng, _LETTERS)
        found[name] = None
    return list(found)


def _empty(text: str) -> bool:
    return bool(files.INVISIBLE.fullmatch(text))


def _shown(text: str) -> str:
    """A cell as a spreadsheet leaves it alone. Short texts with digits may be dates in some language."""
    text = _UNSHOWN.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " "))
    number = any(map(str.isnumeric, text)) and (len(text) <= 40 or not any(map(str.isalpha, text)))
    return f"'{text}" if number or text.startswith(_FORMULA) else text


def _compared(text: str) -> str:
    """Of a cell what programs leave as it is: neither blanks nor line ends, nor the apostrophe that keeps it a text,
    nor what stands behind the 32,767 characters that a spreadsheet's cell holds."""
    return _IGNORED.sub("", unicodedata.normalize("NFC", text[:30_000])).casefold()[:10_000]


def _write(path: Path, content: bytes) -> None:
    """At once: who reads the file sees the old or the new one, never half."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    os.replace(part, path)
