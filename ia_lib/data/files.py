"""Texts out of files, each with its place: tables (CSV, TSV, JSONL, parquet, XLSX), TMX, XLIFF and aligned lines.

A cell is text or is refused: a number, a date, true or a list is no text, whatever it would look like. `no`, `nan` or
`null` stay what they are; blanks around a text are not part of it. Lines are counted as an editor counts them, from 1;
rows of XLSX as Excel counts them."""

import csv
import datetime
import io
import json
import math
import re
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import regex

from ia_lib.data.addresses import Told
from ia_lib.data.xml_files import XmlError, translations

# Nothing that a reader could see: blanks and characters without a width.
INVISIBLE = regex.compile(r"[\s\p{Cf}]*")
# Half of a surrogate pair, which JSON can write and UTF-8 cannot.
HALF = re.compile("[\ud800-\udfff]")
# A cell that a program has put into quotes, doubling those inside.
_WHOLE = re.compile(r'"(?:[^"]|"")*"')
_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
# How long a cell of a table may be; Python's own limit is 131,072 characters.
csv.field_size_limit(2**31 - 1)
# How text is written where a cell is none.
_REMEDY = {
    ".xlsx": "format the column as text and type it in again, or save it as CSV",
    ".jsonl": "write it in quotes",
    ".parquet": "save the column as text",
}


class CorpusError(Told, ValueError):
    """A corpus file is missing or has something wrong in it; the message names file, line and remedy."""


class CorpusWarning(UserWarning):
    """Something in a file that is read otherwise than it may have been meant."""


@dataclass(frozen=True)
class Table:
    """The columns that were asked for, as texts, and where each row stands."""

    path: Path
    cells: dict[str, list[str]]
    places: list[str]

    def __len__(self) -> int:
        return len(self.places)

    def at(self, i: int) -> str:
        return f"{self.path}, {self.places[i]}"

    def distinct(self, column: str) -> list[str]:
        """The cells of a column; raises CorpusError if one occurs twice."""
        seen: dict[str, int] = {}
        for i, cell in enumerate(self.cells[column]):
            if (first := seen.setdefault(cell, i)) != i:
                said = f"the {column} {cell!r:.80} was used before, in {self.places[first]}"
                raise CorpusError(f"{self.at(i)}: {said}; every row needs one of its own")
        return self.cells[column]


def table(path: Path, columns: list[str], **how: Any) -> Table:
    """The named columns of a file, whole; see `rows`."""
    places, found = [], []
    for place, cells in rows(path, columns, **how):
        places.append(place)
        found.append(cells)
    return Table(Path(path), dict(zip(columns, map(list, zip(*found, strict=True)), strict=True)), places)


def rows(
    path: Path, columns: Sequence[str], *, whole: Collection[str] = (), gaps: bool = False, sheet: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """The named columns of a file, row by row: its place and its cells; its ending says how it is read.

    Cells may be empty with `gaps` alone. In the columns `whole` (ids, labels) a whole number is the text of its digits.
    Of a workbook the `sheet` is read, by default the first; further ones that have rows are named in a CorpusWarning.
    CSV may be separated by commas or, as Excel does in many countries, by semicolons. TSV knows no quotes: a quote is a
    character. Of TMX and XLIFF the columns are languages (`mad`, which `mad-ID` matches too) and `tuid`, the unit's id.
    Bytes in parquet are UTF-8. Raises CorpusError for a missing file, column or cell, a doubled column, a cell that is
    no text, another encoding, and rows with too few or too many cells.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in _READERS:
        raise CorpusError(f"{path}: found the ending {path.suffix!r}; allowed for a table: {', '.join(TABLES)}")
    if sheet and ending != ".xlsx":
        raise CorpusError(f"{path}: found the sheet {sheet!r}; allowed: none, since only workbooks (.xlsx) have sheets")
    must_exist(path)
    found = _xlsx(path, columns, sheet) if sheet else _READERS[ending](path, columns)
    empty = True
    for place, cells in found:
        empty = False
        if len(columns) > 1 and all(isinstance(cell, str) and cell.strip() == name for cell, name in
                                    zip(cells, columns, strict=True)):  # fmt: skip
            raise CorpusError(f"{path}, {place}: this row is the header once more; remove it")
        yield place, [_cell(cell, f"{path}, {place}", name, name in whole, gaps, ending) for cell, name in
                      zip(cells, columns, strict=True)]  # fmt: skip
    if empty:
        raise CorpusError(f"{path}: the table has no rows; it needs at least one")


def _cell(value: Any, where: str, name: str, whole: bool, gaps: bool, ending: str) -> str:
    """A cell as text, without blanks around it. Raises CorpusError for one that is none."""
    found = text(value, where, name, whole, _REMEDY.get(ending, "write it as text")).strip()
    if not gaps and INVISIBLE.fullmatch(found):
        raise CorpusError(f"{where}: the column {name!r} is empty; fill the cell or remove the row")
    return found


def text(value: Any, where: str, name: str, whole: bool = False, remedy: str = "write it as text") -> str:
    """A cell of a column as text: bytes as UTF-8, nothing as no text, and with `whole` a whole number as its digits.
    Raises CorpusError for all else, for half a character and for a NUL."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            said = f"the column {name!r} holds bytes that are not UTF-8 text ({error.reason} at byte {error.start})"
            raise CorpusError(f"{where}: {said}; save them as text") from None
    elif value is None or (isinstance(value, float) and math.isnan(value)):
        value = ""
    elif whole and (type(value) is int or (isinstance(value, float) and value.is_integer() and abs(value) < 2**53)):
        value = str(int(value))
    elif not isinstance(value, str):
        kind = "true or false" if isinstance(value, bool) else "a number" if isinstance(value, int | float) else ""
        kind = kind or ("a date or time" if isinstance(value, datetime.date | datetime.time) else type(value).__name__)
        said = f"the column {name!r} holds {str(value)[:40]!r} ({kind}); it must be text"
        raise CorpusError(f"{where}: {said}: {remedy}")
    if HALF.search(value):
        raise CorpusError(f"{where}: the column {name!r} holds half a character; write it whole")
    if "\0" in value:
        raise CorpusError(f"{where}: the column {name!r} holds a NUL character; the file is damaged or no UTF-8 text")
    return value


def own_csv(path: Path):
    """A CSV file of the kit's own as a data frame; an empty cell is missing, and `nan` and `no` are language codes."""
    import pandas as pd

    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file, none of them empty. Raises CorpusError as `rows` does."""
    must_exist(path := Path(path))
    with open(path, "rb") as file:
        yield from text_lines(file, str(path))


def text_lines(raw: Iterator[bytes], name: str) -> Iterator[str]:
    """The lines of a text, none of them empty; `name` is what an error calls it."""
    number = 0
    # only the line feed ends a line: what Unicode calls a line separator can stand in a sentence
    for number, line in enumerate(raw, 1):
        text = decoded(line, name, number).strip()
        if INVISIBLE.fullmatch(text):
            raise CorpusError(f"{name}, line {number}: the line is empty; every line needs a text, in all languages")
        if "\0" in text:
            raise CorpusError(f"{name}, line {number}: found a NUL character; the file is damaged or no UTF-8 text")
        if "\r" in text:
            said = "found a carriage return in a line, as old Macs end theirs"
            raise CorpusError(f"{name}, line {number}: {said}; save the file with line feeds")
        yield text
    if not number:
        raise CorpusError(f"{name}, line 1: the line is empty; every line needs a text, in all languages")


def records(path: Path) -> Iterator[tuple[int, dict]]:
    """The objects of a JSONL file with the numbers of their lines; empty lines are passed over. Raises CorpusError as
    `rows` does, and for a line that is no JSON object."""
    must_exist(path)
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            if (line := decoded(raw, str(path), number)).strip():
                record = parsed(line, f"{path}, line {number}")
                if not isinstance(record, dict):
                    raise CorpusError(f"{path}, line {number}: this is no JSON object but {line.strip()[:40]!r}")
                yield number, record


def document(path: Path):
    """What a JSON file holds. Raises CorpusError as `records` does."""
    must_exist(path)
    with open(path, "rb") as file:
        lines = [decoded(line, str(path), number) for number, line in enumerate(file, 1)]
    return parsed("".join(lines), str(path))


def parsed(line: str, where: str):
    """What a line of JSON holds; `where` is what an error calls it."""
    try:
        return json.loads(line, object_pairs_hook=_object)
    except _Doubled as error:
        wrong = f"the name {str(error)[:40]!r} stands twice in one object; give each a name of its own"
    except json.JSONDecodeError as error:
        wrong = f"this is no JSON object ({error.msg})"
    except RecursionError:
        wrong = "this is no JSON object but lists or objects nested too deep to be read"
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        wrong = "a number has too many digits to be read; write it as text, in quotes"
    raise CorpusError(f"{where}: {wrong}")


def must_exist(path: Path, what: str = "file") -> None:
    if not path.is_file():
        raise CorpusError(f"{path}: there is no such {what}; correct its name, or the folder it is looked for in")


class _Doubled(Exception):
    """A name that a JSON object has twice, the second of which would silently count."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Doubled(next(name for i, name in enumerate(names) if name in names[:i]))
    return found


def decoded(line: bytes, name: str, number: int) -> str:
    """A line of a text, the first one without its byte-order mark. Raises CorpusError for what is not UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        said = f"{error.reason} at byte {error.start} of the line"
        raise CorpusError(f"{name}, line {number}: the file is not UTF-8 text ({said}); save it as UTF-8") from None


def _places(path: Path | str, columns: Sequence[str], found: Sequence[Any], place: str) -> list[int]:
    """Where the columns stand in a header. Raises CorpusError for one that is not there, or there twice."""
    names = [unicodedata.normalize("NFC", str(name).strip()) for name in found]
    asked = [unicodedata.normalize("NFC", name) for name in columns]
    for name in asked:
        if name not in names:
            raise CorpusError(f"{path}: there is no column {name!r}; found: {', '.join(names)[:200]}")
        if names.count(name) > 1:
            raise CorpusError(f"{path}, {place}: there are several columns {name!r}; give each a name of its own")
    return [names.index(name) for name in asked]


def _text(path: Path) -> Iterator[str]:
    """The lines of a text as the csv module wants them, with their ends."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and line.startswith(b"PK\x03\x04"):
                raise CorpusError(
                    f"{path}: this is no table of text but a workbook or ZIP; save it as CSV, or as .xlsx"
                )
            # a file from an old Mac ends its lines by a carriage return alone
            yield from io.StringIO(decoded(line, str(path), number), newline="")


def _csv(path: Path, columns: Sequence[str]):
    header = next(_text(path), "")
    return _separated(path, columns, delimiter=";" if ";" in header and "," not in header else ",", strict=True)


def _tsv(path: Path, columns: Sequence[str]):
    """A quote is a character of the text, unless cells are quoted as spreadsheets do it: those that begin with a quote
    are quoted whole, and quotes inside are doubled."""
    doubled = False
    for cell in (cell.strip() for line in _text(path) for cell in line.split("\t") if cell.lstrip().startswith('"')):
        if not _WHOLE.fullmatch(cell):
            doubled = False
            break
        doubled = doubled or bool(_QUOTED.fullmatch(cell))
    quoting = csv.QUOTE_MINIMAL if doubled else csv.QUOTE_NONE
    return _separated(path, columns, delimiter="\t", quoting=quoting, strict=doubled)


def _separated(path: Path, columns: Sequence[str], **dialect):
    reader = csv.reader(_text(path), **dialect)
    header, indices, begin = None, [], 1
    try:
        for row in reader:
            place, begin = f"line {begin}", reader.line_num + 1
            if not any(row):
                continue
            if header is None:
                header, indices = row, _places(path, columns, row, place)
            elif len(row) != len(header):
                remedy = "put a cell that has the separator in it into quotes, or remove what is too much"
                raise CorpusError(
                    f"{path}, {place}: found {len(row)} cells, but the header has {len(header)}; {remedy}"
                )
            else:
                yield place, [row[i] for i in indices]
    except csv.Error as error:
        raise CorpusError(f"{path}, line {begin}: this is no table ({error}); mend the quotes of the row") from None
    if header is None:
        raise CorpusError(f"{path}: this is no table: the file is empty")


def _jsonl(path: Path, columns: Sequence[str]):
    for number, record in records(path):
        cells = list(record.values())
        yield f"line {number}", [cells[i] for i in _places(f"{path}, line {number}", columns, list(record), "")]


def _parquet(path: Path, columns: Sequence[str]):
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            asked = [names[i] for i in _places(path, columns, names, "its schema")]
            number = 0
            for batch in file.iter_batches(1000, columns=list(dict.fromkeys(asked))):
                for cells in zip(*(batch[name].to_pylist() for name in asked), strict=True):
                    number += 1
                    yield f"row {number}", list(cells)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path}: this is no parquet file ({' '.join(str(error).split())[:80]})") from None


def _xlsx(path: Path, columns: Sequence[str], sheet: str | None = None):
    try:
        import openpyxl
        from openpyxl.utils.escape import unescape
    except ImportError:
        raise CorpusError(f"{path}: reading XLSX needs the package openpyxl; install it or save as CSV") from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        found = {one.title: one for one in book.worksheets}
        if sheet and sheet not in found:
            raise CorpusError(f"{path}: there is no sheet {sheet!r}; found: {', '.join(found)}")
        if said := unread(path, sheet):
            warnings.warn(said, CorpusWarning, stacklevel=2)
        first = found[sheet or next(iter(found))]
        first.reset_dimensions()  # some programs write wrong ones
        formulas = _formulas(path, first.title)
        cells = first.iter_rows()
        header = [cell.value for cell in next(cells, ())]
        indices = _places(path, columns, ["" if name is None else name for name in header], "row 1")
        for number, row in enumerate(cells, 2):
            for i, name in zip(indices, columns, strict=True):
                if (i >= len(row) or row[i].value is None) and (number, i) in formulas():
                    said = f"the column {name!r} holds a formula whose result was not saved"
                    raise CorpusError(
                        f"{path}, row {number}: {said}; save the file in a spreadsheet, or write the text"
                    )
            if any(cell.value is not None and str(cell.value).strip() for cell in row):
                asked = [row[i] if i < len(row) else None for i in indices]
                for cell, name in zip(asked, columns, strict=True):
                    if cell is not None and cell.data_type == "e":
                        said = f"the column {name!r} holds the error {cell.value}; mend the formula or write the text"
                        raise CorpusError(f"{path}, row {number}: {said}")
                values = [cell.value if cell is not None else None for cell in asked]
                # as _x000D_ for what XML cannot hold
                yield f"row {number}", [unescape(value) if isinstance(value, str) else value for value in values]
    except CorpusError:
        raise
    except Exception as error:  # openpyxl and zipfile raise what they like for a file that is no workbook
        raise CorpusError(f"{path}: this is no XLSX workbook ({' '.join(str(error).split())[:80]})") from None


def _formulas(path: Path, title: str):
    """A function that gives the (row, index of the column) of a sheet's formulas, for which it reads the file once."""
    import openpyxl

    @cache
    def found() -> set[tuple[int, int]]:
        rows = openpyxl.load_workbook(path, read_only=True)[title].iter_rows()
        return {(n, i) for n, row in enumerate(rows, 1) for i, cell in enumerate(row) if cell.data_type == "f"}

    return found


def unread(path: Path, sheet: str | None = None) -> str | None:
    """What is said of a workbook whose further sheets have rows too, if none was chosen."""
    import openpyxl

    if sheet:
        return None
    first, *others = openpyxl.load_workbook(path, read_only=True).worksheets
    further = [one.title for one in others if any(any(row) for row in one.iter_rows(values_only=True))]
    said = f"{path}: read was the sheet {first.title!r}, and not {', '.join(map(repr, further))}"
    return f"{said}; name the one that is meant in the field sheet" if further else None


def _xml(path: Path, columns: Sequence[str]):
    try:
        yield from translations(path, columns)
    except XmlError as error:
        raise CorpusError(str(error)) from None


_READERS = {
    **{".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".parquet": _parquet, ".xlsx": _xlsx},
    **{".tmx": _xml, ".xlf": _xml, ".xliff": _xml},
}
# The endings of files that `rows` reads.
TABLES = tuple(_READERS)
