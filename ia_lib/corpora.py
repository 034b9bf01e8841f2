"""Parallel text, labelled tasks and past instruction data, read from plain local files.

A corpus folder has the layout of the NusaX release, and the mini lab writes the same:

    mt/<split>.csv                        one column per language, one sentence per line in all of them
    sentiment/<language>/<split>.csv      id, text, label

Columns and folders are named as NusaX names them (`indonesian`, `toba_batak`, ...).
"""

import json
from pathlib import Path

import pandas as pd
from datasets import Dataset

from ia_lib import languages

# The labels of a task in the data set's documented order, which is the order of the options in prompts.
LABELS = {"sentiment": ["negative", "neutral", "positive"]}


class CorpusError(ValueError):
    """A corpus file is missing or has something wrong in it; the message names file, line and remedy."""


def column(language: str) -> str:
    """What NusaX calls a language in its files."""
    return languages.name(language).lower().replace(" ", "_")


def parallel(folder: Path, codes: list[str], split: str = "train") -> Dataset:
    """Parallel sentences: columns `sentence_id` and one per language code, no empty text.

    Raises CorpusError for a missing file or column and for an empty cell.
    """
    path = Path(folder) / "mt" / f"{split}.csv"
    frame = _read(path, [column(code) for code in codes])
    data = {"sentence_id": [f"{split}-{i}" for i in range(len(frame))]}
    for code in codes:
        data[code] = frame[column(code)].tolist()
    return Dataset.from_dict(data)


def labelled(folder: Path, task: str, codes: list[str], split: str) -> Dataset:
    """Labelled texts: columns `task, language, example, text, label`; `example` is the file's own id.

    Raises CorpusError for a missing file or column, an empty cell and a label that the task does not have.
    """
    rows: dict[str, list] = {name: [] for name in ("task", "language", "example", "text", "label")}
    for code in codes:
        path = Path(folder) / task / column(code) / f"{split}.csv"
        frame = _read(path, ["id", "text", "label"])
        again = frame.index[frame["id"].duplicated()]
        if len(again):
            raise CorpusError(f"{path}, row {again[0] + 1}: the id {frame['id'][again[0]]!r} was used before")
        for line, label in enumerate(frame["label"]):
            if label not in LABELS[task]:
                raise CorpusError(
                    f"{path}, row {line + 1}: found the label {label!r}; allowed: {', '.join(LABELS[task])}"
                )
        rows["task"] += [task] * len(frame)
        rows["language"] += [code] * len(frame)
        rows["example"] += frame["id"].tolist()
        rows["text"] += frame["text"].tolist()
        rows["label"] += frame["label"].tolist()
    return Dataset.from_dict(rows)


def past(path: Path | None, prompt: str = "prompt", answer: str = "answer") -> Dataset:
    """Past instruction data from a JSONL or parquet file: columns `prompt, answer` and, where the file has them,
    `objective` (what kind of instruction it is) and `language`. No path means no past: an empty data set. Of a file
    that the kit itself wrote for a run, only what the run was trained on counts.

    Raises CorpusError for a missing file, a line that is no JSON object and a missing or empty field.
    """
    if path is None:
        return Dataset.from_dict({"prompt": [], "answer": []})
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"{path}: there is no such file of past instruction data")
    if path.suffix == ".parquet":
        records = [r for r in pd.read_parquet(path).to_dict("records") if r.get("split", "train") == "train"]
    else:
        records = []
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            try:
                lines = file.readlines()
            except UnicodeDecodeError as error:
                raise CorpusError(f"{path}: the file is not UTF-8 text ({error.reason})") from None
        for number, line in enumerate(lines, 1):
            try:
                records += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise CorpusError(f"{path}, line {number}: this is no JSON object ({error.msg})") from None
    for number, record in enumerate(records, 1):
        for field in (prompt, answer):
            if not isinstance(record, dict) or not isinstance(record.get(field), str) or not record[field]:
                raise CorpusError(f"{path}, line {number}: the field {field!r} is missing or empty; it must be text")
    optional = [name for name in ("objective", "language") if records and all(name in r for r in records)]
    return Dataset.from_dict(
        {
            "prompt": [r[prompt] for r in records],
            "answer": [r[answer] for r in records],
            **{name: [r[name] for r in records] for name in optional},
        }
    )


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV file as strings; blanks around a text are not part of it."""
    if not path.is_file():
        raise CorpusError(f"{path}: there is no such file; set data_dir (or the variable IA_DATA) to its folder")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: the file is not UTF-8 text ({error.reason} at byte {error.start})") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
        raise CorpusError(f"{path}: this is no CSV table ({' '.join(str(error).split())})") from None
    for name in columns:
        if name not in frame:
            raise CorpusError(f"{path}: there is no column {name!r}; found: {', '.join(frame.columns)}")
        frame[name] = frame[name].str.strip()
        empty = frame.index[frame[name] == ""]
        if len(empty):
            raise CorpusError(f"{path}, row {empty[0] + 1}: the column {name!r} is empty; every row needs a text")
    return frame
