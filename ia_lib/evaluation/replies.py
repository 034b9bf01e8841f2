"""Replies of endpoints, each kept in parquet as soon as it has come, so that none is paid for twice.

A store is a folder with one folder for each endpoint and model in it. There a reply is first a file of its own, which
is moved into place whole, and then a row of `replies.parquet`, where they are merged when the endpoint is done with.
Who asks an endpoint holds its folder's lock, so that processes ask it in turn: the later one finds the replies of the
earlier, and both together keep to one rate limit."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from filelock import Timeout

from ia_lib.data.files import CorpusError
from ia_lib.data.patience import LOG
from ia_lib.paths import lock

# What a reply is known by: another value of any is another request. `try` is 1, or 2 where the first was no mark.
ASKED = {
    **dict.fromkeys(("base_url", "model", "wording", "question", "answer", "language", "language_name"), pa.string()),
    **dict.fromkeys(("max_tokens", "try"), pa.int64()),
}
_SCHEMA = pa.schema(
    {
        **{"key": pa.string(), **ASKED, "reply": pa.string(), "served": pa.string()},
        **dict.fromkeys(("tokens_in", "tokens_out", "requests"), pa.int64()),
    }
)


class Reply(NamedTuple):
    """What an endpoint answered."""

    reply: str
    served: str  # what it calls its model
    tokens_in: int | None  # as it claims; None if it does not, or nonsense
    tokens_out: int | None
    requests: int  # that were sent for it, those that failed among them


class Replies:
    """The replies of one endpoint, to be used in a `with`, which holds the lock."""

    def __init__(self, store: Path, base_url: str, model: str):
        digest = hashlib.sha256(f"{base_url}\n{model}".encode()).hexdigest()[:12]
        self.folder = Path(store) / f"{re.sub(r'[^A-Za-z0-9.]+', '-', model)[-40:].strip('-.')}-{digest}"
        self._known = {"base_url": base_url, "model": model}
        self._kept: dict[str, dict] = {}

    def __enter__(self) -> "Replies":
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder / ".lock")
        try:
            self._lock.acquire(timeout=2)
        except Timeout:
            LOG.warning("waiting for another process, which asks %s for marks of %s", *self._known.values())
            self._lock.acquire()
        try:
            self._kept = {row["key"]: row for row in _rows(self.folder)}
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._merge()
        finally:
            self._lock.release()

    def get(self, asked: Mapping[str, Any]) -> Reply | None:
        """The reply to what was asked (`ASKED` without the endpoint and model), if there is one."""
        row = self._kept.get(_key({**self._known, **asked}))
        return row and Reply(*(row[name] for name in Reply._fields))

    def keep(self, asked: Mapping[str, Any], reply: Reply) -> None:
        """Write a reply; it is there, whole, when this returns."""
        asked = {**self._known, **asked}
        row = {"key": _key(asked), **asked, **reply._asdict()}
        _write([row], self.folder / f"{row['key']}.parquet")
        self._kept[row["key"]] = row

    def _merge(self) -> None:
        parts = [path for path in self.folder.glob("*.parquet") if path.name != "replies.parquet"]
        if parts:
            _write(sorted(self._kept.values(), key=lambda row: row["key"]), self.folder / "replies.parquet")
        for path in [*parts, *self.folder.glob(".*.part")]:  # what a process that was killed has left among them
            path.unlink()


def read(store: Path) -> pd.DataFrame:
    """All replies in a store, of every endpoint; for people to look at. Raises CorpusError for a broken file."""
    folders = sorted(path for path in Path(store).glob("*") if path.is_dir())
    rows = [row for folder in folders for row in {row["key"]: row for row in _rows(folder)}.values()]
    return pa.Table.from_pylist(rows, _SCHEMA).to_pandas()


def _key(asked: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([asked[name] for name in ASKED]).encode()).hexdigest()


def _rows(folder: Path) -> list[dict]:
    found = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            found += pyarrow.parquet.read_table(path, schema=_SCHEMA).to_pylist()
        except (pa.ArrowException, OSError) as error:
            said = f"these replies cannot be read ({' '.join(str(error).split())[:80]})"
            raise CorpusError(f"{path}: {said}; remove the file, and they are asked for again") from None
    return found


def _write(rows: list[dict], path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows, _SCHEMA), part)
    os.replace(part, path)
