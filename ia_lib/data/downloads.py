"""Remote files, pinned: found in the data folder, else in the cache, else downloaded once, verified and recorded.

`downloads.yaml` beside this module lists them. The data folder, a mirror and the cache share one layout,
`<folder>/<source>/<file>` (`nusawrites/nusa_kalimat-mt-mad-train.csv`). Beside each file of the cache stands
`<file>.source.json` with its URL, size, sha256, the server's ETag and revision, and the time. A file is checked against
its checksum in `downloads.yaml`, or else against the record of its first download, each time it is asked for."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from filelock import FileLock
from ruamel.yaml import YAML
from urllib3.exceptions import HTTPError

from ia_lib.data.addresses import Told, shown
from ia_lib.data.patience import LOG, SECONDS, SLOW, Patience, busy, pieces


class SourceError(Told, RuntimeError):
    """A remote file cannot be had, or is not what it was; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """An entry of `downloads.yaml`; the fields are explained there."""

    name: str
    title: str
    home: str
    licence: str
    citation: str
    files: list[str]
    url: str | None = None
    hub: str | None = None
    revision: str | None = None
    checksums: dict[str, str] = field(default_factory=dict)


@lru_cache
def known() -> dict[str, Source]:
    """All sources by name."""
    entries = YAML(typ="safe").load(Path(__file__).with_suffix(".yaml"))
    return {name: Source(name, **entry) for name, entry in entries.items()}


def location(name: str, file: str, mirror: str | Path | None = None) -> str | Path:
    """Where a file of a source is to be had: a path, if the mirror is a folder, else a URL. `mirror` is a folder or an
    http(s) URL; default: the environment variable IA_MIRROR, else the publisher's server. Raises SourceError for an
    unknown source or file."""
    if name not in known():
        raise SourceError(f"found the source {name!r}; allowed: {', '.join(known())}")
    source = known()[name]
    fits = any(fnmatchcase(file, pattern) and file.count("/") == pattern.count("/") for pattern in source.files)
    if not fits or ".." in Path(file).parts:
        raise SourceError(f"the source {name} has no file {file!r}; allowed: {', '.join(source.files)}")
    mirror = str(mirror or os.environ.get("IA_MIRROR") or "")
    if mirror.startswith(("http://", "https://")):
        place = urlsplit(mirror)  # whose query, a signature perhaps, goes behind the file
        return place._replace(path=f"{place.path.rstrip('/')}/{name}/{quote(file)}").geturl()
    if mirror:
        return Path(mirror).expanduser() / name / file
    if source.hub:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(source.hub, file, repo_type="dataset", revision=source.revision)
    return source.url.format(revision=source.revision, file=quote(file))


def finder(data: str | Path | None = None, **how: Any) -> Callable[[str, str], Path]:
    """What finds a file of a source, as readers take it: in the folder `data`, if it is there, else by `fetch`, whose
    keywords are `how`."""

    def find(source: str, file: str) -> Path:
        if data is not None and (Path(data) / source / file).is_file():
            return Path(data) / source / file
        return fetch(source, file, **how)

    return find


def fetch(
    name: str, file: str, *, mirror: str | Path | None = None, offline: bool = False, cache: str | Path | None = None
) -> Path:
    """A file of a source in the cache, downloaded if it is not there yet. Several processes can ask at once. `mirror`:
    see `location`; `cache`: see `cache_folder`; `offline`: nothing but the cache. A cut download is resumed, by a later
    call too. Raises SourceError if the file cannot be had, or if it is not the one that is pinned or recorded."""
    place = location(name, file, mirror)
    path = cache_folder(cache) / name / file
    if not path.is_file():
        by_hand = f"or put a copy of your own at {name}/{file} in the data folder (data_dir or the variable IA_DATA)"
        if offline:
            said = "the file is not in the cache, and offline is set; run once without offline to get it from"
            raise SourceError(f"{path}: {said} {place}, {by_hand}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                _bring(place, name, file, path, by_hand)
    if said := _changed(name, file, path, path):
        raise SourceError(f"{path}: {said}; delete it to get it again")
    if not _record(path):
        _write_record(path, path, {"file": file, "url": "found in the cache"})
    return path


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where fetched files lie: as given, else the environment variable IA_CACHE, else ~/.cache/ia_lib."""
    return Path(cache or os.environ.get("IA_CACHE") or "~/.cache/ia_lib").expanduser()


def provenance(name: str, paths: Iterable[Path] = ()) -> dict[str, Any]:
    """What a manifest says of a source: `source, title, home, licence, citation, revision, files`. `files` has the
    record of each of `paths` (the first download's, or for a file of the data folder what it is now)."""
    files = []
    for path in map(Path, paths):
        now = {"url": None, "bytes": path.stat().st_size, "sha256": checksum(path)}
        files.append(_record(path) or {"file": path.as_posix().rpartition(f"/{name}/")[2], **now})
    said = {part: getattr(known()[name], part) for part in ("title", "home", "licence", "citation", "revision")}
    return {"source": name, **said, "files": files}


def _changed(name: str, file: str, content: Path, path: Path) -> str:
    """What is said of `content` if it is not what is pinned, or was recorded for the cache's `path`; else nothing."""
    pinned, record, digest = known()[name].checksums.get(file), _record(path), checksum(content)
    expected = pinned or record.get("sha256", digest)
    said = "the checksum that is pinned" if pinned else f"the checksum recorded on {record.get('time')}"
    found = f"(found {digest}, expected {expected})"
    return "" if digest == expected else f"the file has changed, it does not have {said} {found}"


def _bring(place: str | Path, name: str, file: str, path: Path, by_hand: str) -> None:
    """Put a file that is not in the cache there, if it is the one that is pinned or was there before."""
    part = Path(f"{path}.part")
    if isinstance(place, Path):
        if not place.is_file():
            raise SourceError(f"{place}: the mirror has no such file; add it there, {by_hand}")
        shutil.copyfile(place, part)
        origin = {"url": str(place)}
    else:
        origin = _download(place, part, by_hand)
    if said := _changed(name, file, part, path):
        part.unlink()
        accept = "" if file in known()[name].checksums else f", delete {_record_path(path)} to take the new one"
        remedy = f"nothing was kept; use a server that has the old one{accept}"
        raise SourceError(f"{place}: {said}; {remedy}, {by_hand}")
    # the record first: a file without one would be taken on trust
    _write_record(path, part, {"file": file, **origin})
    os.replace(part, path)


def _download(url: str, part: Path, by_hand: str) -> dict[str, Any]:
    """Bring `url` into the file `part`, going on from what is there; returns what the server said of it. Only bytes of
    the same version are joined: the ETag (or date) of what `part` holds is kept beside it, and a server that has
    another version by now sends that from its beginning."""
    import requests

    version_path, patience, most = Path(f"{part}.version"), Patience(url), 0
    LOG.info("fetches %s", shown(url))
    while True:
        have = part.stat().st_size if part.is_file() and version_path.is_file() else 0
        # compressed in transit, a file would have other byte positions
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": version_path.read_text(encoding="utf-8")}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=patience.timeouts) as answer:
                said = answer.headers
                if answer.status_code == 416:
                    part.unlink()
                    raise _Odd("the server has fewer bytes than were brought before")
                if busy(answer):
                    raise _Odd(answer)
                if answer.status_code not in (200, 206):
                    patience.problem = f"the server answers {answer.status_code} {answer.reason}"
                    break
                if answer.status_code != 206:
                    have = 0
                    # a weak ETag does not promise the same bytes
                    version = said.get("ETag", "W/")
                    version = said.get("Last-Modified", "") if version.startswith("W/") else version
                    version_path.unlink(missing_ok=True)
                    if version:
                        version_path.write_text(version, encoding="utf-8")
                elif "Range" not in headers:
                    raise _Odd("the server gives a part of the file")
                elif not said.get("Content-Range", "").startswith(f"bytes {have}-"):
                    raise _Odd("the server gives other bytes than it was asked for")
                total = have + int(said["Content-Length"]) if "Content-Length" in said else None
                if "html" in said.get("Content-Type", "") and not url.endswith((".html", ".htm")):
                    raise _Odd("the server gives a web page, as where one has to log in")
                with open(part, "ab" if have else "wb") as out:
                    for chunk in pieces(answer):
                        out.write(chunk)
                        have += len(chunk)
                        if have >= most + SLOW or have == total:
                            most = have
                            patience.new_byte()
                        elif patience.spent > SECONDS:
                            raise _Odd(f"fewer than {SLOW:,} bytes came in {SECONDS} s")
            if not part.stat().st_size:
                raise _Odd("the server gives an empty file")
            if total is None or part.stat().st_size == total:
                version_path.unlink(missing_ok=True)
                steps = [*answer.history, answer]  # the Hub names the commit before it sends us on
                commit = next((s.headers["X-Repo-Commit"] for s in steps if "X-Repo-Commit" in s.headers), None)
                LOG.info("")
                return {"url": shown(url), "etag": said.get("ETag"), "revision": commit}
            failed = f"{part.stat().st_size:,} of {total:,} bytes came"
        except _Odd as odd:
            (failed,) = odd.args
        except (requests.RequestException, HTTPError, ValueError) as error:  # of lengths and addresses that are none
            failed = error
        if not patience.again(failed):
            break
    remedy = "try again later, name a mirror (mirror or the variable IA_MIRROR)"
    raise SourceError(f"{url}: the file could not be downloaded ({patience.problem}); {remedy}, {by_hand}")


class _Odd(Exception):
    """An answer that is not what was asked for, and may be the next time."""


def _record_path(path: Path) -> Path:
    return Path(f"{path}.source.json")


def _record(path: Path) -> dict[str, Any]:
    record = _record_path(path)
    if not record.is_file():
        return {}
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        if not isinstance(found["sha256"], str):
            raise TypeError
        return found
    except (ValueError, TypeError, KeyError):
        raise SourceError(f"{record}: the record is damaged; delete it and {path.name} to get the file again") from None


def _write_record(path: Path, content: Path, origin: dict[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**origin, "bytes": content.stat().st_size, "sha256": checksum(content), "time": now}
    write_whole(_record_path(path), (json.dumps(record, indent=1) + "\n").encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whoever else writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def write_sealed(path: Path, content: bytes) -> None:
    """`write_whole`, with a hash of the content in front of it, for `read_sealed`."""
    write_whole(path, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def read_sealed(path: Path) -> bytes | None:
    """What `write_sealed` wrote; None if there is nothing, or something else by now."""
    try:
        seal, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if seal == hashlib.sha256(content).hexdigest().encode() else None


def checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
