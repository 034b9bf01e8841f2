"""Texts out of files, each with its place: tables (CSV, TSV, JSONL, parquet, XLSX), TMX and aligned lines.

Every cell is text: an id 7 becomes "7", and `no`, `nan` or `null` stay what they are; blanks around it are not part of
it. Lines are counted as an editor counts them, from 1; rows of XLSX as Excel counts them."""

import csv
import io
import json
import math
import re
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from xml.parsers import expat

import regex

from ia_lib.data.addresses import Told

TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".xlsx", ".tmx")

# Nothing that a reader could see: blanks and characters without a width.
INVISIBLE = regex.compile(r"[\s\p{Cf}]*")
# Half of a surrogate pair, which JSON can write and UTF-8 cannot.
HALF = re.compile("[\ud800-\udfff]")
# A cell that a program has put into quotes, doubling those inside.
_WHOLE = re.compile(r'"(?:[^"]|"")*"')
_QUOTED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')
# How long a cell of a table may be; Python's own limit is 131,072 characters.
csv.field_size_limit(2**31 - 1)
# Inline elements of a TMX segment whose content is mark-up of the original document and no text.
_CODES = {"bpt", "ept", "it", "ph", "ut"}


class CorpusError(Told, ValueError):
    """A corpus file is missing or has something wrong in it; the message names file, line and remedy."""


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
                said = f"the {column} {cell!r} was used before, in {self.places[first]}"
                raise CorpusError(f"{self.at(i)}: {said}; every row needs one of its own")
        return self.cells[column]


def table(path: Path, columns: list[str], gaps: bool = False) -> Table:
    """The named columns of a file; its ending says how it is read. Cells may be empty with `gaps` alone. CSV may be
    separated by commas or, as Excel does in many countries, by semicolons. TSV knows no quotes: a quote is a character.
    Of a TMX file the columns are languages (`mad`, which `mad-ID` matches too) and `tuid`. Raises CorpusError for a
    missing file, column or cell, another encoding, and rows with too few or too many cells."""
    path = Path(path)
    readers = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".parquet": _parquet, ".xlsx": _xlsx, ".tmx": _tmx}
    if path.suffix.lower() not in readers:
        raise CorpusError(f"{path}: found the ending {path.suffix!r}; allowed for a table: {', '.join(TABLES)}")
    must_exist(path)
    cells, places = readers[path.suffix.lower()](path, columns)
    if not places:
        raise CorpusError(f"{path}: the table has no rows; it needs at least one")
    for name, column in cells.items():
        for cell, place in zip(column, places, strict=True):
            if isinstance(cell, list | dict):
                raise CorpusError(f"{path}, {place}: the column {name!r} holds {cell!r:.40}; it must be text")
        cells[name] = column = [_text(cell).strip() for cell in column]
        for cell, place in zip(column, places, strict=True):
            if HALF.search(cell):
                raise CorpusError(f"{path}, {place}: the column {name!r} holds half a character; write it whole")
            if not gaps and INVISIBLE.fullmatch(cell):
                raise CorpusError(f"{path}, {place}: the column {name!r} is empty; fill the cell or remove the row")
    return Table(path, cells, places)


def own_csv(path: Path):
    """A CSV file of the kit's own as a data frame; an empty cell is missing, and `nan` and `no` are language codes."""
    import pandas as pd

    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def lines(path: Path) -> list[str]:
    """The lines of a text file, none of them empty. Raises CorpusError as `table` does."""
    must_exist(path := Path(path))
    return text_lines(path.read_bytes(), str(path))


def text_lines(raw: bytes, name: str) -> list[str]:
    """The lines of a text, none of them empty; `name` is what an error calls it."""
    # only the line feed ends a line: what Unicode calls a line separator can stand in a sentence
    found = [line.strip() for line in _decode(raw, name).removesuffix("\n").split("\n")]
    for number, line in enumerate(found, 1):
        if INVISIBLE.fullmatch(line):
            raise CorpusError(f"{name}, line {number}: the line is empty; every line needs a text, in all languages")
    return found


def records(path: Path) -> list[tuple[int, dict]]:
    """The objects of a JSONL file with the numbers of their lines; empty lines are passed over. Raises CorpusError as
    `table` does, and for a line that is no JSON object."""
    must_exist(path)
    found = []
    for number, line in enumerate(_decode(path.read_bytes(), str(path)).split("\n"), 1):
        if line.strip():
            found.append((number, parsed(line, f"{path}, line {number}")))
            if not isinstance(found[-1][1], dict):
                raise CorpusError(f"{path}, line {number}: this is no JSON object but {line.strip()[:40]!r}")
    return found


def parsed(line: str, where: str):
    """What a line of JSON holds; `where` is what an error calls it."""
    try:
        return json.loads(line)
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


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, said = raw[: error.start].count(b"\n") + 1, f"{error.reason} at byte {error.start}"
        raise CorpusError(f"{name}, line {line}: the file is not UTF-8 text ({said}); save it as UTF-8") from None


def _text(value) -> str:
    """A cell as text; nothing and not-a-number are empty."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _check_columns(where: Path | str, columns: list[str], found) -> None:
    for name in columns:
        if name not in found:
            raise CorpusError(f"{where}: there is no column {name!r}; found: {', '.join(map(str, found))}")


def _csv(path: Path, columns: list[str]):
    text = _decode(path.read_bytes(), str(path))
    header = text.split("\n", 1)[0]
    return _separated(path, text, columns, delimiter=";" if ";" in header and "," not in header else ",", strict=True)


def _tsv(path: Path, columns: list[str]):
    """A quote is a character of the text, unless cells are quoted as spreadsheets do it: those that begin with a quote
    are quoted whole, and quotes inside are doubled."""
    text = _decode(path.read_bytes(), str(path))
    opened = [cell.strip() for line in text.splitlines() for cell in line.split("\t") if cell.lstrip().startswith('"')]
    quoted = any(map(_QUOTED.fullmatch, opened)) and all(map(_WHOLE.fullmatch, opened))
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    return _separated(path, text, columns, delimiter="\t", quoting=quoting, strict=quoted)


def _separated(path: Path, text: str, columns: list[str], **dialect):
    reader = csv.reader(io.StringIO(text, newline=""), **dialect)
    rows, places, begin = [], [], 1
    try:
        for row in reader:
            if any(row):
                rows.append(row)
                places.append(f"line {begin}")
            begin = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"{path}, line {begin}: this is no table ({error}); mend the quotes of the row") from None
    if not rows:
        raise CorpusError(f"{path}: this is no table: the file is empty")
    header = [name.strip() for name in rows[0]]
    _check_columns(path, columns, header)
    for name in columns:
        if header.count(name) > 1:
            raise CorpusError(f"{path}, line 1: there are several columns {name!r}; give each a name of its own")
    for row, place in zip(rows, places, strict=True):
        if len(row) != len(header):
            remedy = "put a cell that has the separator in it into quotes, or remove what is too much"
            raise CorpusError(f"{path}, {place}: found {len(row)} cells, but the header has {len(header)}; {remedy}")
    return {name: list(map(itemgetter(header.index(name)), rows[1:])) for name in columns}, places[1:]


def _jsonl(path: Path, columns: list[str]):
    found = records(path)
    for number, record in found:
        _check_columns(f"{path}, line {number}", columns, record)
    return {name: [record[name] for _, record in found] for name in columns}, [f"line {number}" for number, _ in found]


def _parquet(path: Path, columns: list[str]):
    import pyarrow.parquet

    try:
        _check_columns(path, columns, pyarrow.parquet.read_schema(path).names)
        found = pyarrow.parquet.read_table(path, columns=columns)
    except pyarrow.ArrowException as error:
        raise CorpusError(f"{path}: this is no parquet file ({' '.join(str(error).split())[:80]})") from None
    return {name: found[name].to_pylist() for name in columns}, [f"row {i + 1}" for i in range(found.num_rows)]


def _xlsx(path: Path, columns: list[str]):
    import pandas as pd

    try:
        frame = pd.read_excel(path, dtype=object, na_filter=False)
    except ImportError:
        raise CorpusError(f"{path}: reading XLSX needs the package openpyxl; install it or save as CSV") from None
    except Exception as error:  # openpyxl and zipfile raise what they like for a file that is no workbook
        raise CorpusError(f"{path}: this is no XLSX workbook ({error})") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    _check_columns(path, columns, frame.columns)
    # Excel's row 1 is the header
    rows = [i for i, row in enumerate(frame.itertuples(index=False)) if any(_text(cell).strip() for cell in row)]
    return {name: [frame[name].iloc[i] for i in rows] for name in columns}, [f"row {i + 2}" for i in rows]


def _tmx(path: Path, columns: list[str]):
    """Translation units in their order. Entities that the file itself declares are refused, so that it can neither read
    other files nor swell."""
    units: list[tuple[int, dict[str, str]]] = []
    unit: dict[str, str] = {}
    tags: dict[str, None] = {}
    tag, text, depth, codes = "", [], 0, 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal unit, tag, text, depth, codes
        if name == "tu":
            unit = {"tuid": attributes.get("tuid", "")}
            units.append((parser.CurrentLineNumber, unit))
        elif name == "tuv":
            tag = (attributes.get("xml:lang") or attributes.get("lang") or "").lower()
            tags[tag] = None
        elif name == "seg":
            text, depth, codes = [], 1, 0
        elif depth:
            depth += 1
            codes += name in _CODES

    def end(name: str) -> None:
        nonlocal depth, codes
        if name == "seg":
            # the first variant of a language counts
            unit.setdefault(tag, " ".join("".join(text).split()))
        elif depth > 1:
            codes -= name in _CODES
        depth = max(depth - 1, 0)

    def characters(data: str) -> None:
        if depth and not codes:
            text.append(data)

    def entity(name: str, *_) -> None:
        where = f"{path}, line {parser.CurrentLineNumber}"
        raise CorpusError(f"{where}: the file declares an entity ({name!r}); write its text out")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = characters, entity
    try:
        with open(path, "rb") as file:
            parser.ParseFile(file)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise CorpusError(f"{path}, line {error.lineno}: this is no TMX ({reason}); export the memory again") from None
    cells = {}
    for name in columns:
        matches = [t for t in tags if name.lower() in (t, t.split("-")[0])] if name != "tuid" else ["tuid"]
        if not matches:
            raise CorpusError(f"{path}: there is no language {name!r}; found: {', '.join(tags) or 'none'}")
        cells[name] = [next((u[t] for t in matches if t in u), "") for _, u in units]
    return cells, [f"unit {i + 1} in line {line}" for i, (line, _) in enumerate(units)]
