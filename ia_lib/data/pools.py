"""Pools of old instructions too large to load: random lines of a JSONL file, local or behind HTTP, by byte ranges.

The file is cut into blocks of equal size. A drawn block stands for the lines that START in it, each read to its end.
Every line starts in exactly one block and every block is as likely to be drawn as any other, so every line is as
likely to be in the pool as any other, however long it is."""

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from urllib3.exceptions import HTTPError

from ia_lib.data.addresses import shown
from ia_lib.data.downloads import read_sealed, write_sealed
from ia_lib.data.files import HALF, CorpusError, must_exist, parsed
from ia_lib.data.patience import LOG, SECONDS, SLOW, Patience, busy, pieces
from ia_lib.randomness import generator, shuffled

if TYPE_CHECKING:
    import requests
    from datasets import Dataset

# Bytes read beyond a block at once, so that its last line seldom costs a second request, and before a file without a
# line end is called no JSONL.
_TAIL = 2**13
_LONGEST_LINE = 2**26
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


class Jsonl:
    """Lines of a JSONL file as rows, block by block.

    `location` is a path or an http(s) URL. `fields` says from which field of a line each column of the pool comes, for
    example {"prompt": "inputs", "answer": "targets", "language": "lang"}; all must be text. `connections` requests are
    under way at once; the rows and their order do not depend on it. With `cache`, every block read over HTTP is kept in
    a folder below it and never asked for again; `offline` uses that folder alone.

    Raises CorpusError, here and while rows are read, for a file that is not there, is empty or changes, a server that
    does not answer byte ranges, a connection that stays cut, and a line that is no JSON object or lacks a field.
    """

    def __init__(
        self,
        location: str | Path,
        fields: dict[str, str] | None = None,
        block_bytes: int = 2**16,
        connections: int = 4,
        cache: Path | None = None,
        offline: bool = False,
    ):
        self.location, self.block_bytes, self.connections = shown(str(location)), block_bytes, connections
        self.fields = fields or {"prompt": "prompt", "answer": "answer"}
        self._folder = self._source = known = None
        remote = str(location).startswith(("http://", "https://"))
        if remote and cache:
            named = f"{shown(location, query=True)} {block_bytes}"
            self._folder = Path(cache) / hashlib.sha256(named.encode()).hexdigest()[:16]
            record = self._folder / "source"
            known = json.loads(kept) if (kept := read_sealed(record)) else None
        # for a manifest: size in bytes, the server's ETag (or date) and the Hub's revision, if there are any
        if remote and offline:
            if known is None:
                raise CorpusError(f"{self.location}: offline, and nothing of this file lies in the cache {cache}")
            self.facts = {**known, "location": self.location}
        else:
            self._source = found = _Remote(location, connections) if remote else _Local(Path(location))
            self.facts = {"location": self.location, "size": found.size, "etag": found.etag, "revision": found.revision}
            self.facts["block_bytes"] = block_bytes
            if known and (known["size"], known["etag"]) != (found.size, found.etag):
                then = f"then {known['size']:,} bytes, ETag {known['etag']}; now {found.size:,}, {found.etag}"
                remedy = f"name its old revision in the address, or remove {self._folder} to begin again"
                said = f"the file has changed since its blocks were cached ({then})"
                raise CorpusError(f"{self.location}: {said}; {remedy}")
            if self._folder and not known:
                write_sealed(record, json.dumps(self.facts).encode())
        self.size = self.facts["size"]
        if not self.size:
            raise CorpusError(f"{self.location}: the file is empty; old instructions need lines")
        self.count = -(-self.size // block_bytes)  # blocks in the grid

    def sample(self, seed: int, blocks: int = 2000, rows: int = 0) -> "Dataset":
        """The lines that start in `blocks` blocks drawn uniformly without replacement, in the order of the file: the
        columns of `fields`, and `offset` (of the line's first byte). A file with fewer blocks is read whole. Rows that
        are then drawn uniformly from the pool are equally likely but for a part of the order of 1 / blocks, since a
        block rich in lines makes the pool larger. Raises CorpusError for fewer than `rows` lines."""
        drawn = sorted(shuffled(generator(seed, "replay blocks"), self.count)[:blocks])
        pool = self._dataset(self._rows(drawn))
        if len(pool) < rows:
            more = f"fewer, or about {11 * blocks * rows // (10 * len(pool) + 1):,} blocks"
            allowed = more if len(drawn) < self.count else "what the file has"
            where = f"{len(drawn):,} of {self.count:,} blocks of {self.block_bytes:,} bytes"
            said = f"found {len(pool):,} lines in {where}, but {rows:,} are asked for"
            raise CorpusError(f"{self.location}: {said}; allowed: {allowed}")
        return pool

    def head(self, rows: int) -> "Dataset":
        """The first `rows` lines, with the columns of `sample`."""
        return self._dataset(islice(self.rows(), rows))

    def rows(self) -> Iterator[dict]:
        """All lines in order, as dictionaries with the columns of `sample`; memory does not grow with the file."""
        return self._rows(range(self.count))

    def _dataset(self, rows: Iterable[dict]) -> "Dataset":
        import pyarrow as pa
        from datasets import Dataset

        schema = pa.schema([*((name, pa.string()) for name in self.fields), ("offset", pa.int64())])
        # Part by part, and with a fingerprint of our own (datasets pickles the whole table for it): memory stays near
        # the size of the pool's text instead of several times that.
        rows, tables, digest = iter(rows), [schema.empty_table()], hashlib.sha256()
        while part := list(islice(rows, 1000)):
            tables.append(pa.Table.from_pylist(part, schema))
            digest.update(repr(part).encode())
        return Dataset(pa.concat_tables(tables), fingerprint=digest.hexdigest()[:16])

    def _rows(self, blocks: Sequence[int]) -> Iterator[dict]:
        for offset, text in self._blocks(blocks):
            for line in text.split(b"\n"):
                if line.strip():
                    yield self._row(line, offset)
                offset += len(line) + 1

    def _row(self, line: bytes, offset: int) -> dict:
        where = f"{self.location}, byte {offset:,}"
        try:
            text = line.decode("utf-8-sig" if offset == 0 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{where}: this line is not UTF-8 text ({error.reason})") from None
        record = parsed(text, where)
        for field in self.fields.values():
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str) or not value or HALF.search(value):
                raise CorpusError(f"{where}: the field {field!r} is missing, empty or no text; it must be text")
        return {column: record[field] for column, field in self.fields.items()} | {"offset": offset}

    def _blocks(self, blocks: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """The blocks in the order asked for, a few of them fetched ahead."""
        pool, left, done = ThreadPoolExecutor(self.connections), iter(blocks), 0
        ahead = deque(pool.submit(self._block, block) for block in islice(left, 4 * self.connections))
        try:
            while ahead:
                if isinstance(self._source, _Remote):
                    LOG.info("reads parts of %s: %s of %s", self.location, f"{done:,}", f"{len(blocks):,}")
                ahead.extend(pool.submit(self._block, block) for block in islice(left, 1))
                yield ahead.popleft().result()
                done += 1
        finally:
            pool.shutdown(cancel_futures=True)
            LOG.info("")

    def _block(self, block: int) -> tuple[int, bytes]:
        """The whole lines that start in a block, from the cache or the source, and the offset of the first."""
        path = self._folder and self._folder / f"{block}.lines"
        if path and (kept := read_sealed(path)) is not None:
            offset, _, lines = kept.partition(b"\n")
            return int(offset), lines
        if self._source is None:
            raise CorpusError(
                f"{self.location}: offline, and block {block} is not in the cache {self._folder}, or damaged there"
            )
        offset, lines = self._lines(block * self.block_bytes, min((block + 1) * self.block_bytes, self.size))
        if path:
            write_sealed(path, b"%d\n" % offset + lines)
        return offset, lines

    def _lines(self, begin: int, end: int) -> tuple[int, bytes]:
        # the byte before the block says whether a line starts at its first one
        start = max(begin - 1, 0)
        data = self._source.read(start, min(end + _TAIL, self.size))
        first = data.find(b"\n", 0, end - start - 1) + 1 if begin else 0
        if begin and not first:
            return begin, b""  # one long line goes through the whole block
        # the last line that starts here holds the block's last byte
        stop = data.find(b"\n", end - start - 1)
        while stop < 0 and start + len(data) < self.size:
            if len(data) > _LONGEST_LINE + self.block_bytes:
                said = f"no line end within {_LONGEST_LINE:,} bytes; a JSONL file is needed"
                raise CorpusError(f"{self.location}, byte {end:,}: {said}")
            data += self._source.read(start + len(data), min(start + 2 * len(data), self.size))
            stop = data.find(b"\n", end - start - 1)
        return start + first, data[first:] if stop < 0 else data[first:stop]


def ask(url: str, seconds: float = 20) -> None:
    """Raise CorpusError if the server does not answer byte ranges of a file, within about so many seconds."""
    found: list[Exception] = []

    def asked() -> None:
        try:
            _Remote(url, 1, seconds)
        except CorpusError as error:
            found.append(error)

    # a server that sends its answer byte by byte has no other end
    asking = Thread(target=asked, daemon=True)
    asking.start()
    asking.join(2 * seconds)
    if asking.is_alive():
        raise CorpusError(f"{shown(url)}: the server has not finished its answer within {2 * seconds:g} s")
    if found:
        raise found[0]


class _Local:
    """Bytes of a file on disk."""

    etag = revision = None

    def __init__(self, path: Path):
        must_exist(path, "file of old instructions")
        self._path, self._state = path, self._look(path.stat())
        self.size = self._state[0]

    def read(self, begin: int, end: int) -> bytes:
        with open(self._path, "rb") as file:
            if self._look(os.fstat(file.fileno())) != self._state:
                raise CorpusError(f"{self._path}: the file has changed while it was read; begin again")
            file.seek(begin)
            return file.read(end - begin)

    @staticmethod
    def _look(stat: os.stat_result) -> tuple[int, int]:
        return stat.st_size, stat.st_mtime_ns


class _Remote:
    """Bytes of a file behind HTTP, each range a request of its own; safe to use from several threads. Credentials come
    from ~/.netrc, or stand in the address."""

    def __init__(self, url: str, connections: int, seconds: float = SECONDS):
        import requests
        from requests.adapters import HTTPAdapter

        self._url, self._session, self._seconds, self._shown = url, requests.Session(), seconds, shown(url)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections))
        self.size = self.etag = self.revision = None
        self.stopped: CorpusError | None = None
        LOG.info("waits for %s", self._shown)
        self.read(0, 1)

    def read(self, begin: int, end: int) -> bytes:
        import requests

        patience, body = Patience(self._url, self._seconds), b""
        while not self.stopped:
            at = begin + len(body)  # a cut answer is gone on from
            headers = {"Range": f"bytes={at}-{end - 1}", "Accept-Encoding": "identity"}
            try:
                with self._session.get(self._url, headers=headers, stream=True, timeout=patience.timeouts) as response:
                    failed = response
                    if not busy(response):
                        # before the body is read: it may be the whole file
                        self._check(response, at, end)
                        known = len(body)
                        for chunk in pieces(response):
                            body += chunk
                            if len(body) >= known + SLOW:
                                known = len(body)
                                patience.new_byte()
                            elif len(body) < end - begin and patience.spent > 2 * self._seconds:
                                break
                            if len(body) > end - begin:
                                raise CorpusError(f"{self._shown}: the server gives more bytes than it was asked for")
                        if len(body) == end - begin:
                            return body
                        if len(body) > known:  # less than that, and the end
                            patience.new_byte()
                        failed = "the connection was cut"
            except CorpusError as error:
                self.stopped = error
                raise
            except (
                requests.RequestException,
                HTTPError,
                ValueError,
            ) as error:  # of addresses and lengths that are none
                failed = error
            if not patience.again(failed):
                place = f", within bytes {begin:,} to {end - 1:,}" if self.size else ""
                self.stopped = CorpusError(f"{self._shown}: {patience.problem}{place}")
        raise self.stopped

    def _check(self, response: "requests.Response", begin: int, end: int) -> None:
        status, found = response.status_code, _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        changed = status == 416 and self.size is not None  # the range is no longer inside the file
        if status == 206 and found and response.headers.get("Content-Encoding", "identity") == "identity":
            # The Hub names the file's own ETag and its revision where it sends the reader on to its store.
            hops = [hop.headers for hop in (*response.history, response)]
            linked, commit = (next((h[n] for h in hops if n in h), None) for n in ("X-Linked-Etag", "X-Repo-Commit"))
            etag = linked or response.headers.get("ETag") or response.headers.get("Last-Modified")
            state = int(found[3]), etag and etag.removeprefix("W/").strip('"')
            if self.size is None:
                (self.size, self.etag), self.revision = state, commit
            changed = state != (self.size, self.etag)
            if not changed and (int(found[1]), int(found[2])) == (begin, end - 1):
                return
        if changed:
            said = f"the file has changed while it was read (at first it had {self.size:,} bytes, ETag {self.etag})"
            said = f"{said}; begin again, and name a fixed revision in the address"
        elif status not in (200, 206):
            said = f"the server answers {status} {response.reason}"
        else:
            said = f"asked for bytes {begin}-{end - 1}, found status {status}"
            said = f"{said}, Content-Range {str(response.headers.get('Content-Range'))[:60]}"
            said = f"the server does not answer byte ranges ({said}); download the file and give its path"
        raise CorpusError(f"{self._shown}: {said}")
