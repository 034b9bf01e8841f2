"""What a table needs from outside is brought here beforehand, from a server that answers as the Hub and a mirror do."""

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml

pytestmark = pytest.mark.quick
COMMIT = "5" * 40
TABLE = {
    "defaults": {"corpus": "minilab", "taught": ["jav"], "tasks": ["nusax/sentiment"]},
    "runs": [{"name": "new", "model": {"name": "me/new"}}, {"name": "old", "model": {"name": "me/old"}}],
}
HUB = {
    "me/new": ["config.json", "model.safetensors", "pytorch_model.bin", "onnx/config.json", "tokenizer.json"],
    "me/old": ["config.json", "pytorch_model.bin", "training.log"],
}


def _served(path):
    return b'{"model_type": "bloom"}' if path.endswith("config.json") else path.encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] == "api" and (files := HUB.get("/".join(parts[2:4]))):
            name = "/".join(parts[2:4])
            paths = [(file, f"/{name}/resolve/{COMMIT}/{file}") for file in files]
            tree = [{"type": "file", "path": file, "size": len(_served(path)), "oid": "6" * 40} for file, path in paths]
            known = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
            body, kind = json.dumps(tree if "tree" in parts else known).encode(), "application/json"
        elif "/".join(parts[:2]) in HUB or parts[0] == "nusax":
            body, kind = _served(self.path), "text/plain"
        else:
            body, kind = b"", "text/plain"
        self.send_response(200 if body else 404)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        for name, value in (("X-Repo-Commit", COMMIT), ("Content-Type", kind), ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def test_what_a_table_needs_is_there_afterwards(tmp_path):
    table = tmp_path / "t.yaml"
    (tmp_path / "data").mkdir()
    defaults = {**TABLE["defaults"], "data_dir": str(tmp_path / "data")}
    table.write_text(yaml.safe_dump({**TABLE, "defaults": defaults}))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    where = {
        **os.environ,
        "HF_HOME": str(tmp_path / "hub"),
        "IA_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    where |= {"HF_ENDPOINT": url, "IA_MIRROR": url, "HF_HUB_OFFLINE": "0"}

    def said(command, **more):
        full = [sys.executable, "-m", "ia_lib.runs", command, str(table), "--outputs", str(tmp_path / "o")]
        done = subprocess.run(full, env={**where, **more}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    wanted = {line.removeprefix("  to be downloaded: ") for line in said("plan").splitlines() if "downloaded: " in line}
    assert {"the model me/new", "the model me/old"} < wanted
    fetched = {line.removeprefix("downloaded: ") for line in said("fetch").splitlines()}
    assert fetched == wanted
    server.shutdown()
    server.server_close()
    # of weights in both formats the safe one, and nothing that no stage reads
    models = {asked.partition("/resolve/")[0].strip("/") + " " + asked.rpartition("/")[2] for asked in server.asked
              if "/resolve/" in asked}  # fmt: skip
    assert models == {
        *("me/new config.json", "me/new model.safetensors", "me/new tokenizer.json"),
        *("me/old config.json", "me/old pytorch_model.bin"),
    }
    here = {path.name for path in (tmp_path / "hub").rglob(f"snapshots/{COMMIT}/*")}
    assert here == {"config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin"}
    assert {line.partition(" from ")[0] for line in wanted if " from " in line} == {
        path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*.csv")
    }
