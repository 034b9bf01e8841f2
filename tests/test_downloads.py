import hashlib
import json
import re
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from ia_lib.data import downloads, patience

pytestmark = pytest.mark.quick
FILE = "mt/train.csv"
TEXT = "".join(f"{i},kalimat {i}\n" for i in range(20_000)).encode()


class Server(ThreadingHTTPServer):
    """Serves `files` with ranges; `cut` is the most bytes of one answer, after which the connection breaks."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {f"/nusax/{FILE}": TEXT}
        self.cut: int | None = None
        self.status: int | None = None
        self.tags = self.ranges = True
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server: Server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        body = server.files.get(self.path)
        status = server.status or (200 if body is not None else 404)
        if status != 200:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        begin = 0
        if wanted and server.ranges and self.headers.get("If-Range") in (None, tag):
            begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206 if begin < len(body) else 416
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if server.tags:
            self.send_header("ETag", tag)
        self.send_header("X-Repo-Commit", "1234567")
        body = body[begin:] if status != 416 else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut])
        if server.cut is not None and server.cut < len(body):
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(patience, "PAUSE", 0)
    made = Server()
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_a_file_is_downloaded_once_and_recorded(server, cache):
    path = downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    assert path == cache / "nusax" / FILE
    assert path.read_bytes() == TEXT
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache) == path
    assert server.asked == [None]
    (record,) = downloads.provenance("nusax", [path])["files"]
    assert record["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert (record["file"], record["bytes"], record["revision"]) == (FILE, len(TEXT), "1234567")
    assert record["url"] == f"{server.url}/nusax/{FILE}"
    assert set(record) == {"file", "url", "etag", "revision", "bytes", "sha256", "time"}


def test_a_cut_download_goes_on_where_it_was(server, cache):
    server.cut = 100_000
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache).read_bytes() == TEXT
    begins = [int(asked[6:-1]) for asked in server.asked[1:]]
    assert len(begins) == len(TEXT) // 100_000
    assert begins == sorted(set(begins))
    assert begins[0] > 80_000


def test_a_later_call_resumes(server, cache):
    server.cut, server.ranges = 100_000, False
    with pytest.raises(downloads.SourceError, match="could not be downloaded"):
        downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    assert len(server.asked) == 1 + patience.TRIES
    server.cut, server.ranges = None, True
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache).read_bytes() == TEXT
    assert int(server.asked[-1][6:-1]) > 80_000
    assert [p.name for p in (cache / "nusax/mt").iterdir() if ".part" in p.name] == []


@pytest.mark.parametrize("tags", [True, False])
def test_parts_of_two_versions_are_never_joined(server, cache, tags):
    server.cut, server.ranges, server.tags = 100_000, False, tags
    with pytest.raises(downloads.SourceError):
        downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    server.cut, server.ranges = None, True
    server.files[f"/nusax/{FILE}"] = new = TEXT.replace(b"kalimat", b"ukara")
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache).read_bytes() == new


def test_a_shorter_version_is_brought_again(server, cache):
    path = cache / "nusax" / FILE
    path.parent.mkdir(parents=True)
    part, version = path.with_name("train.csv.part"), path.with_name("train.csv.part.version")
    server.files[f"/nusax/{FILE}"] = b"short"
    part.write_bytes(TEXT)
    version.write_text(f'"{hashlib.sha256(b"short").hexdigest()[:8]}"')
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache).read_bytes() == b"short"


def test_a_file_that_changed_at_its_source_is_refused(server, cache):
    path = downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    record = path.with_name("train.csv.source.json")
    path.unlink()
    server.files[f"/nusax/{FILE}"] = b"other"
    with pytest.raises(
        downloads.SourceError, match="has changed, it does not have the checksum recorded on 20"
    ) as refusal:
        downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    assert not path.exists()
    assert f"delete {record} to take the new one" in str(refusal.value)
    record.unlink()
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache).read_bytes() == b"other"


def test_a_pinned_checksum_holds_for_mirrors_and_the_cache(server, cache, monkeypatch):
    monkeypatch.setitem(downloads.known()["nusax"].checksums, FILE, "0" * 64)
    with pytest.raises(downloads.SourceError, match="the checksum that is pinned"):
        downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    path = cache / "nusax" / FILE
    assert not path.exists()
    path.write_bytes(TEXT)
    with pytest.raises(downloads.SourceError, match="the checksum that is pinned"):
        downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    monkeypatch.setitem(downloads.known()["nusax"].checksums, FILE, hashlib.sha256(TEXT).hexdigest())
    assert downloads.fetch("nusax", FILE, mirror=server.url, cache=cache) == path


def test_a_damaged_file_of_the_cache_is_refused(server, cache):
    path = downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    path.write_bytes(TEXT[:-1])
    with pytest.raises(downloads.SourceError, match=r"train.csv: the file has changed.*delete it to get it again"):
        downloads.fetch("nusax", FILE, offline=True, cache=cache)


def test_offline_needs_the_cache_alone(server, cache):
    with pytest.raises(downloads.SourceError, match="not in the cache, and offline is set") as refusal:
        downloads.fetch("nusax", FILE, mirror=server.url, offline=True, cache=cache)
    assert f"{server.url}/nusax/{FILE}" in str(refusal.value)
    assert "IA_DATA" in str(refusal.value)
    assert server.asked == []
    downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    server.status = 503
    assert downloads.fetch("nusax", FILE, mirror=server.url, offline=True, cache=cache).read_bytes() == TEXT


def test_a_server_without_the_file_is_asked_once_and_a_busy_one_a_few_times(server, cache):
    with pytest.raises(downloads.SourceError, match="404"):
        downloads.fetch("nusax", "mt/test.csv", mirror=server.url, cache=cache)
    assert len(server.asked) == 1
    server.status = 503
    with pytest.raises(downloads.SourceError, match="503"):
        downloads.fetch("nusax", FILE, mirror=server.url, cache=cache)
    assert len(server.asked) == 1 + patience.TRIES


def test_many_at_once_bring_a_file_once(server, cache):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: downloads.fetch("nusax", FILE, mirror=server.url, cache=cache), range(8)))
    assert {path.read_bytes() for path in paths} == {TEXT}
    assert len(server.asked) == 1


def test_a_folder_is_a_mirror(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("IA_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("IA_CACHE", str(cache))
    with pytest.raises(downloads.SourceError, match="the mirror has no such file"):
        downloads.fetch("nusax", FILE)
    there = tmp_path / "mirror/nusax" / FILE
    there.parent.mkdir(parents=True)
    there.write_bytes(TEXT)
    path = downloads.fetch("nusax", FILE)
    assert path == cache / "nusax" / FILE
    assert downloads.provenance("nusax", [path])["files"][0]["url"] == str(there)


def test_the_data_folder_comes_first(tmp_path, server, cache):
    mine = tmp_path / "nusax" / FILE
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    assert downloads.finder(tmp_path, mirror=server.url, cache=cache)("nusax", FILE) == mine
    assert downloads.finder(tmp_path / "none", mirror=server.url, cache=cache)("nusax", FILE).read_bytes() == TEXT
    assert downloads.provenance("nusax", [mine])["files"] == [
        {"file": FILE, "url": None, "bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    ]


def test_a_copy_laid_into_the_cache_is_recorded(cache):
    path = cache / "nusax" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(TEXT)
    assert downloads.fetch("nusax", FILE, offline=True, cache=cache) == path
    assert json.loads(path.with_name("train.csv.source.json").read_text())["url"] == "found in the cache"


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("nowhere", "a.csv", "found the source 'nowhere'; allowed: nusax, nusawrites"),
        ("nusax", "mt/../../a.csv", "has no file"),
        ("nusax", "mt/a/b.csv", "has no file"),
        ("nusax", "code/main.py", "has no file 'code/main.py'; allowed: sentiment"),
    ],
)
def test_only_files_of_a_source_are_fetched(cache, name, file, message):
    with pytest.raises(downloads.SourceError, match=re.escape(message)):
        downloads.fetch(name, file, cache=cache)


def test_every_source_says_what_it_is(monkeypatch):
    monkeypatch.delenv("IA_MIRROR", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    for name, source in downloads.known().items():
        assert source.licence
        assert source.citation
        assert (source.url is None) != (source.hub is None)
        assert downloads.provenance(name)["citation"] == source.citation
    assert downloads.location("nusawrites", "nusa_kalimat-mt-mad-train.csv").endswith(
        "IndoNLP/nusa-writes/main/data/nusa_kalimat-mt-mad-train.csv"
    )
    assert downloads.location("xp3", "id/merged_id.jsonl").endswith(
        "/datasets/bigscience/xP3/resolve/main/id/merged_id.jsonl"
    )
    assert re.fullmatch("[0-9a-f]{64}", downloads.known()["flores"].checksums["flores200_dataset.tar.gz"])
