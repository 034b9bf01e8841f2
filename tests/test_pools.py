import collections
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import pytest
from scipy import stats

from ia_lib.data import patience, pools
from ia_lib.data.files import CorpusError
from ia_lib.instructions import replay
from ia_lib.randomness import generator

pytestmark = pytest.mark.quick


class Server:
    """Serves one file by byte ranges; a test sets what goes wrong, as a function of the number of the request."""

    def __init__(self, content: bytes):
        self.content, self.etag, self.ranges = content, lambda n: '"first"', True
        self.status = self.cut = self.gone = self.hang = lambda n: None
        self.after, self._closed = None, threading.Event()
        self.requests: list[tuple[int, int]] = []
        self.heads: list[tuple[str, str | None]] = []  # of every request its path and who asks
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self):
                asked = self.headers["Range"].removeprefix("bytes=").split("-")
                begin, end = int(asked[0]), int(asked[1]) + 1
                with lock:
                    outer.requests.append((begin, end))
                    outer.heads.append((self.path, self.headers["Authorization"]))
                    n = len(outer.requests)
                if outer.hang(n):
                    outer._closed.wait(5)
                if outer.gone(n) or outer.hang(n):
                    self.close_connection = True
                    return
                body = outer.content[begin:end] if outer.ranges else outer.content
                self.send_response(outer.status(n) or (200 if not outer.ranges else 206 if body else 416))
                if outer.ranges:
                    self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{len(outer.content)}")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", outer.etag(n))
                if outer.after:
                    self.send_header("Retry-After", str(outer.after))
                self.end_headers()
                if outer.cut(n):
                    body, self.close_connection = body[: len(body) // 2], True
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # a client that hangs up
        self.url = f"http://127.0.0.1:{self._http.server_port}/merged.jsonl"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._closed.set()
        self._http.shutdown()
        self._http.server_close()


def jsonl(lines: int, longest: int, seed: int = 1) -> bytes:
    """Lines from about 30 to `longest` bytes, as many short as long ones; some hold letters of two bytes."""
    rng = generator(seed, "lines")
    rows = [{"inputs": f"{i} " + "xé"[i % 7 == 0] * int(longest ** rng.random()), "targets": "y"} for i in range(lines)]
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


FIELDS = {"prompt": "inputs", "answer": "targets"}
CONTENT = jsonl(1500, 6000)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "merged.jsonl"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(patience, "PAUSE", 0)
    server = Server(CONTENT)
    yield server
    server.close()


def numbers(rows) -> list[int]:
    return [int(prompt.split()[0]) for prompt in rows["prompt"]]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n"])
def test_every_line_starts_in_exactly_one_block_of_any_size(tmp_path, monkeypatch, end):
    # so drawing n of N blocks uniformly gives every line the same probability n / N
    monkeypatch.setattr(pools, "_TAIL", 5)
    texts = ["{}", '{"a": 1}', '{"b": "é€"}', '{"c": "' + "z" * 90 + '"}', "[]"]
    (tmp_path / "f.jsonl").write_bytes("\n".join(texts).encode() + end)
    for size in range(1, 130):
        file = pools.Jsonl(tmp_path / "f.jsonl", FIELDS, block_bytes=size)
        blocks = [file._block(k)[1].decode().split("\n") for k in range(file.count)]
        assert [line.strip() for block in blocks for line in block if line.strip()] == texts, size


def test_the_pool_does_not_favour_long_lines(server, tmp_path):
    # a cache, since chi-square wants many samples of one file
    file = pools.Jsonl(server.url, FIELDS, block_bytes=2048, cache=tmp_path, connections=2)
    offsets, lengths = [0], []
    for line in CONTENT.splitlines():
        lengths.append(len(line))
        offsets.append(offsets[-1] + len(line) + 1)
    rank = {line: place for place, line in enumerate(sorted(range(1500), key=lambda i: (lengths[i], i)))}
    deciles, naive = collections.Counter(), collections.Counter()
    for seed in range(40):
        pool = file.sample(seed, blocks=250, rows=50)
        drawn = numbers(replay.draw(pool, 50, seed))
        deciles.update(rank[i] // 150 for i in drawn)
        rng = generator(seed, "naive")
        for _ in range(50):  # the line that a random byte falls into: what must not be done
            byte = rng.random() * len(CONTENT)
            naive[rank[next(i for i in range(1500) if offsets[i + 1] > byte)] // 150] += 1
    assert stats.chisquare([deciles[d] for d in range(10)]).pvalue > 0.001
    assert stats.chisquare([naive[d] for d in range(10)]).pvalue < 1e-6
    assert len(server.requests) < 2 * file.count + 1


def test_blocks_are_drawn_uniformly_and_rows_say_where_they_come_from(path):
    file, places = pools.Jsonl(path, FIELDS, block_bytes=512), collections.Counter()
    for seed in range(20):
        offsets = file.sample(seed, blocks=400)["offset"][:]
        assert len(set(offsets)) == len(offsets)
        places.update(offset // 512 * 10 // file.count for offset in offsets)
    for offset, prompt in file.sample(1, blocks=20).select_columns(["offset", "prompt"]).to_pandas().to_numpy():
        assert json.loads(CONTENT[offset:].split(b"\n")[0])["inputs"] == prompt
    # a block's share of the lines is not the same everywhere; the expectation is
    every = collections.Counter(offset // 512 * 10 // file.count for offset in file.head(1500)["offset"])
    total = sum(places.values())
    assert stats.chisquare([places[d] for d in range(10)], [every[d] / 1500 * total for d in range(10)]).pvalue > 0.001


def test_two_thousand_blocks_from_1_or_8_connections_and_from_disk_are_the_same(path, server):
    options = {"fields": FIELDS, "block_bytes": 256}
    one = pools.Jsonl(server.url, connections=1, **options).sample(5, blocks=2000)
    begins = {begin for begin, _ in server.requests}
    eight = pools.Jsonl(server.url, connections=8, **options).sample(5, blocks=2000)
    assert len(begins) >= 2000
    assert one.to_dict() == eight.to_dict() == pools.Jsonl(path, **options).sample(5, blocks=2000).to_dict()
    assert 0 < len(one) < 1500


def test_a_file_smaller_than_the_blocks_asked_for_is_read_whole(path, server):
    file = pools.Jsonl(server.url, FIELDS)
    assert file.count < 2000
    assert numbers(file.sample(1)) == list(range(1500))
    assert file.facts == {
        "location": server.url,
        "size": len(CONTENT),
        "etag": "first",
        "revision": None,
        "block_bytes": 2**16,
    }
    with pytest.raises(CorpusError, match="allowed: what the file has"):
        file.sample(1, rows=1501)
    with pytest.raises(CorpusError, match=r"found \d+ lines in 3 of [\d,]+ blocks .* or about \d+ blocks"):
        pools.Jsonl(path, FIELDS, block_bytes=1024).sample(1, blocks=3, rows=100)


def test_lines_stream_in_order_and_a_reservoir_takes_them(path, server):
    file = pools.Jsonl(server.url, FIELDS, block_bytes=1024)
    assert [row["prompt"] for row in islice(file.rows(), 40)] == list(file.head(40)["prompt"])
    assert len(server.requests) < 80  # what lies behind is not asked for
    rows = replay.reservoir(pools.Jsonl(path, FIELDS).rows(), 25, 1)
    assert len({row["offset"] for row in rows}) == 25
    released = replay.draw(file.head(30 + replay.BUFFER), 30, 1, sampling="released")
    whole = replay.draw(pools.Jsonl(path, FIELDS).head(1500), 30, 1, sampling="released")
    assert released.to_dict() == whole.to_dict()


def test_cut_connections_are_asked_again(path, server):
    server.cut = lambda n: n % 5 == 0
    server.gone = lambda n: n % 13 == 3
    server.status = lambda n: 503 if n % 11 == 4 else None
    expected = pools.Jsonl(path, FIELDS, block_bytes=8192).sample(1, blocks=60)
    assert pools.Jsonl(server.url, FIELDS, block_bytes=8192).sample(1, blocks=60).to_dict() == expected.to_dict()


def test_a_connection_that_stays_cut_is_said(server):
    server.gone = lambda n: n > 3
    said = r"merged.jsonl: the connection was cut; asked 6 times in 0 s, within bytes \d"
    with pytest.raises(CorpusError, match=said):
        pools.Jsonl(server.url, FIELDS, connections=1).sample(1)
    server.close()
    with pytest.raises(CorpusError, match=r"no connection \(Connection refused\); asked 2 times in 0 s"):
        pools.Jsonl(server.url, FIELDS)


def test_what_came_before_a_cut_is_not_asked_for_again(server):
    server.cut = lambda n: n == 2
    assert numbers(pools.Jsonl(server.url, FIELDS, 2**22, connections=1).sample(1)) == list(range(1500))
    (_, end), (again, same) = server.requests[1:]
    assert same == end
    assert len(CONTENT) // 2 - 2**12 <= again <= len(CONTENT) // 2


def test_a_server_that_hangs_is_waited_for_no_longer_than_is_said(server, caplog):
    server.hang = lambda n: n > 1
    file = pools._Remote(server.url, 1, seconds=0.4)
    with pytest.raises(CorpusError, match=r"not a byte within 0.2 s; asked 2 times in 0 s, within bytes 0 to 9$"):
        file.read(0, 10)
    assert "not a byte within 0.2 s; asked again in 0 s, time 2 of 6" in caplog.text
    assert len(server.requests) == 3
    with pytest.raises(CorpusError, match=r"not a byte within 0\.2 s"):
        file.read(10, 20)  # what waits behind it need not wait for itself
    assert len(server.requests) == 3


def test_a_busy_server_says_how_long_it_will_be_busy(server):
    server.status, server.after = lambda n: 503, 3600
    with pytest.raises(CorpusError, match=r"answers 503 Service Unavailable and asks to wait 3,600 s$"):
        pools.Jsonl(server.url, FIELDS)
    assert len(server.requests) == 1


def test_a_server_without_ranges_or_without_the_file_is_said(server):
    server.ranges = False
    with pytest.raises(CorpusError, match=r"does not answer byte ranges .*download the file and give its path"):
        pools.Jsonl(server.url, FIELDS)
    server.status = lambda n: 404
    with pytest.raises(CorpusError, match="the server answers 404 Not Found"):
        pools.Jsonl(server.url, FIELDS)


@pytest.mark.parametrize("what", ["etag", "longer", "shorter"])
def test_a_file_that_changes_between_requests_is_refused(server, what):
    file = pools.Jsonl(server.url, FIELDS)
    if what == "etag":
        server.etag = lambda n: '"second"' if n > 4 else '"first"'
    else:
        server.content = CONTENT + b"{}\n" if what == "longer" else CONTENT[:9]
    with pytest.raises(CorpusError, match="the file has changed while it was read"):
        file.sample(1, blocks=1 if what == "shorter" else 2000)


def test_a_local_file_that_changes_is_refused(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(CONTENT)
    file = pools.Jsonl(tmp_path / "f.jsonl", FIELDS)
    (tmp_path / "f.jsonl").write_bytes(CONTENT[:-9])
    with pytest.raises(CorpusError, match="has changed while it was read"):
        file.sample(1)


def test_cached_blocks_are_not_asked_for_again(server, tmp_path):
    options = {"fields": FIELDS, "block_bytes": 16384, "connections": 1, "cache": tmp_path}
    expected = pools.Jsonl(server.url, FIELDS, 16384).sample(1, blocks=30)
    server.requests.clear()
    server.status = lambda n: 404 if n > 20 else None
    with pytest.raises(CorpusError, match="404"):
        pools.Jsonl(server.url, **options).sample(1, blocks=30)
    with pytest.raises(CorpusError, match=r"offline, and block \d+ is not in the cache"):
        pools.Jsonl(server.url, **options, offline=True).sample(1, blocks=30)
    server.status = lambda n: None
    before = set(server.requests[:20])
    server.requests.clear()
    assert pools.Jsonl(server.url, **options).sample(1, blocks=30).to_dict() == expected.to_dict()
    assert before & set(server.requests) == {(0, 1)}  # is it still the same file?
    server.requests.clear()
    assert pools.Jsonl(server.url, **options, offline=True).sample(1, blocks=30).to_dict() == expected.to_dict()
    assert not server.requests
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(CorpusError, match="offline, and nothing of this file"):
        pools.Jsonl(server.url + "2", **options, offline=True)
    server.etag = lambda n: '"second"'
    with pytest.raises(CorpusError, match=r"changed since its blocks were cached \(then .* first; now .* second\)"):
        pools.Jsonl(server.url, **options)


def bad_lines():
    good = b'{"inputs": "a", "targets": "b"}\n'
    yield good + b'{"inputs": "a", "tar\n', "byte 32: this is no JSON object"
    yield good + b"[" * 100_000, "byte 32: this is no JSON object but lists or objects nested too deep"
    yield good + b'{"inputs": ' + b"1" * 5000 + b"}", "byte 32: a number has too many digits"
    yield good + b'["inputs"]\n', "byte 32: the field 'inputs' is missing"
    yield good + b'{"inputs": "a", "targets": ""}\n', "byte 32: the field 'targets' is missing, empty or no text"
    yield b'{"inputs": "\\ud83d", "targets": "b"}\n', "byte 0: the field 'inputs' is missing, empty or no text"
    yield good + b'{"inputs": "\xff", "targets": "b"}\n', "byte 32: this line is not UTF-8 text"
    yield b"", "the file is empty"


@pytest.mark.parametrize(("content", "sentence"), list(bad_lines()))
def test_bad_lines_are_named(tmp_path, content, sentence):
    (tmp_path / "f.jsonl").write_bytes(content)
    with pytest.raises(CorpusError, match=sentence):
        pools.Jsonl(tmp_path / "f.jsonl", FIELDS).sample(1)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"inputs": "a", "targets": "b"}\r\n')
    assert pools.Jsonl(tmp_path / "f.jsonl", FIELDS).sample(1)[0] == {"prompt": "a", "answer": "b", "offset": 0}


def test_what_is_no_jsonl_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "_LONGEST_LINE", 2**16)
    (tmp_path / "f.bin").write_bytes(b"\0" * 2**20)
    with pytest.raises(CorpusError, match="no line end within 65,536 bytes"):
        pools.Jsonl(tmp_path / "f.bin", FIELDS).sample(1)
    with pytest.raises(CorpusError, match="there is no such file"):
        pools.Jsonl(tmp_path / "none.jsonl", FIELDS)
