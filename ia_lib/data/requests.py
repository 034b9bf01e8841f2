"""Requests to be answered freely, in JSONL files whose line n is the same request in every language."""

import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ia_lib.data import files
from ia_lib.data.files import CorpusError, CorpusWarning

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS = ("example", "question", "reference")


def read(path: Path, prompt: str = "prompt", reference: str | None = None, skip: bool = False) -> "Dataset":
    """Columns `example, question, reference`: the number of a request's line, by which the files of several languages
    belong together whatever ids they give, the request, and an answer that is right ("" where none is known).

    Raises CorpusError for a missing file, for no request at all, and for a line that is no JSON object or has no
    request; with `skip` such lines are left out, and a CorpusWarning names the first and says how many they are.
    """
    files.must_exist(path := Path(path))
    found, broken = _read(path, path.stat().st_mtime_ns, prompt, reference)
    if broken and not skip:
        raise CorpusError(f"{broken[0]}; correct the line, or set broken: skip in the task to go on without it")
    if broken:
        said = f"{broken[0]}; {len(broken):,} {'such lines are' if len(broken) > 1 else 'such line is'} left out"
        warnings.warn(said, CorpusWarning, stacklevel=2)
    if not len(found):
        raise CorpusError(f"{path}: there are no requests in it; it needs at least one")
    return found


@lru_cache(maxsize=32)
def _read(path: Path, time: int, prompt: str, reference: str | None) -> tuple["Dataset", list[str]]:
    from datasets import Dataset

    rows, broken = [], []
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                if (line := files.decoded(raw, str(path), number)).strip():
                    rows.append((str(number), *_request(line, f"{path}, line {number}", prompt, reference)))
            except CorpusError as error:
                broken.append(str(error))
    return Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}), broken


def _request(line: str, place: str, prompt: str, reference: str | None) -> tuple[str, str]:
    record = files.parsed(line, place)
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: this is no JSON object but {line.strip()[:40]!r}")
    for field in filter(None, (prompt, reference)):
        if field not in record:
            raise CorpusError(f"{place}: there is no field {field!r}; found: {', '.join(record)[:200]}")
    asked = files.text(record[prompt], place, prompt)
    if files.INVISIBLE.fullmatch(asked):
        raise CorpusError(f"{place}: the field {prompt!r} is empty")
    return asked, files.text(record[reference], place, reference) if reference else ""
