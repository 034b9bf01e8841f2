"""No secret in anything that is written, and no text of somebody's that becomes a script."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_pools import Server

from ia_lib.data.addresses import redacted, shown
from ia_lib.data.files import CorpusError
from ia_lib.paths import root
from ia_lib.recipes.fields import Data
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError

# Each is searched for as it stands, so none is a part of anything else.
IN_ADDRESSES = {
    "user": "Zwaluw",
    "password": "kievit77",
    "signature": "9f8e7d6cSIGN",
    "token": "hf_inAddress",
    "#": "frag5",
}
IN_ENVIRONMENT = {
    "HF_TOKEN": "hf_Grutto00000000000000000000000000",
    "HTTPS_PROXY": "http://wulp:tureluur88@127.0.0.1:9",
    "AWS_SECRET_ACCESS_KEY": "scholekster99",
    "IA_MIRROR": "http://bergeend:wintertaling66@127.0.0.1:9/data?sig=smient55",
}
SECRETS = [*IN_ADDRESSES.values(), "hf_Grutto", "tureluur88", "scholekster99", "wintertaling66", "bergeend", "smient55"]

TABLE = """
defaults:
  corpus: minilab
  lab: {base: 30, train: 20, valid: 6, test: 6}
  known: [eng, ind]
  taught: [sun]
  unseen: []
  recipe: instructions
  rows: 30
  validation_rows: 4
  steps: 2
  per_step: 2
  mirror: MIRROR
runs:
  - {name: good, past: {url: "ADDRESS"}, model: {new: {hidden: 8, layers: 1, heads: 1, vocabulary: 300}}}
"""


def with_secrets(url: str, path: str) -> str:
    named = IN_ADDRESSES
    place = url.replace("://", f"://{named['user']}:{named['password']}@").rpartition("/")[0]
    return f"{place}/{path}?X-Amz-Signature={named['signature']}&token={named['token']}#{named['#']}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    lines = [{"prompt": f"Say {i} again: ", "answer": f"number {i} is {i * 7}"} for i in range(400)]
    made = Server(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    yield made
    made.close()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **IN_ENVIRONMENT, "IA_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "ia_lib.runs", *arguments, "--outputs", str(folder / "outputs")]
    return subprocess.run(command, cwd=root(), env=environment, capture_output=True, text=True, timeout=600)


def search(folder: Path, *said: subprocess.CompletedProcess, but: tuple[str, ...] = ("table.yaml",)) -> None:
    """Look for every secret in all that was written or said."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in but]
    texts = {str(path): path.read_bytes() for path in files}
    texts |= {f"said by {one.args}": (one.stdout + one.stderr).encode() for one in said}
    found = [(secret, place) for secret in SECRETS for place, text in texts.items() if secret.encode() in text]
    found += [(secret, str(path)) for secret in SECRETS for path in folder.rglob(f"*{secret}*")]
    assert found == []


def test_secrets_of_addresses_and_of_the_environment_are_used_and_never_written(tmp_path, server):
    address, table = with_secrets(server.url, "merged.jsonl"), tmp_path / "table.yaml"
    table.write_text(TABLE.replace("ADDRESS", address).replace("MIRROR", with_secrets(server.url, "")))
    said = [run(tmp_path, what, str(table)) for what in ("plan", "run", "show")]
    said += [run(tmp_path, "show", str(table), "good")]
    assert [one.returncode for one in said] == [0] * 4, said
    assert (tmp_path / "outputs/table/report/index.html").is_file()
    # they were used
    assert {path for path, _ in server.heads} == {"/merged.jsonl?" + address.partition("?")[2].partition("#")[0]}
    assert all(head and head.startswith("Basic ") for _, head in server.heads)
    # what is written says that there was a query
    manifest = json.loads((tmp_path / "outputs/table/good/data/manifest.json").read_text())
    assert manifest["settings"]["data"]["past"]["url"] == manifest["sources"][0]["location"] == f"{server.url}?..."
    search(tmp_path, *said)


def test_secrets_are_not_in_what_is_said_of_a_failure(tmp_path, server):
    table = tmp_path / "table.yaml"
    text = TABLE.replace("ADDRESS", with_secrets(server.url, "merged.jsonl"))
    table.write_text(text.replace("MIRROR", with_secrets(server.url, "")))
    server.status = lambda n: 404 if n > 2 else None  # it is there when it is asked before work
    failed = run(tmp_path, "run", str(table))
    assert failed.returncode == 1
    assert f"{server.url}?...: the server answers 404" in failed.stderr
    assert (tmp_path / "outputs/table/good/data.failed.ipynb").is_file()
    server.close()
    refused = run(tmp_path, "run", str(table))
    assert refused.returncode == 1
    assert f"run 'good': {server.url}?...: no connection (Connection refused); asked 2 times" in refused.stderr
    search(tmp_path, failed, refused)


def test_changes_with_an_address_reach_the_stage_and_no_file(tmp_path, server, monkeypatch):
    monkeypatch.setenv("IA_CACHE", str(tmp_path / "cache"))
    from ia_lib.workflow import notebook

    table, address = tmp_path / "table.yaml", with_secrets(server.url, "merged.jsonl")
    table.write_text(TABLE.replace("ADDRESS", "http://127.0.0.1:9/x.jsonl").replace("MIRROR", "null"))
    changes = {"past": {"url": address}}
    # the stage before it is made by papermill
    stage = notebook.open_stage("tune", str(table), "good", str(tmp_path / "outputs"), changes)
    assert stage.run.data.past.url == address
    stage._lock.release()
    assert len(server.heads) > 1
    search(tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://host/a.jsonl", "https://host/a.jsonl"),
        ("https://user:pw@host:80/a/b.jsonl?tok=1#x", "https://host:80/a/b.jsonl?..."),
        ("https://tok@host", "https://host"),
        ("https://host/a@b/c", "https://host/a@b/c"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://user:p/w@host/x?y", "https://host/x?..."),
        ("https://user:cut-off-before-the-host", "https://user:..."),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
        ("a folder/b?c=d.csv", "a folder/b?c=d.csv"),
    ],
)
def test_an_address_is_shown_without_credentials(address, expected):
    assert shown(address) == expected


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("found 'https://u:p@h/x?t=1'; allowed: no", "found 'https://h/x?...'; allowed: no"),
        (
            "Max retries exceeded with url: /m.jsonl?SECRET (Caused",
            "Max retries exceeded with url: /m.jsonl?... (Caused",
        ),
        ("{'past': {'url': 'https://h/x?a=1'}}", "{'past': {'url': 'https://h/x?...'}}"),
        ("see https://h/x. Then (https://h/y).", "see https://h/x. Then (https://h/y)."),
        ("asked for /x?token=1, got none", "asked for /x?..., got none"),
        ("is it? yes", "is it? yes"),
        (["a", {"https://u@h": 3}], ["a", {"https://h": 3}]),
    ],
)
def test_a_text_is_redacted(text, expected):
    assert redacted(text) == redacted(expected) == expected


@pytest.mark.quick
def test_a_dump_and_an_error_hold_no_credentials():
    data = Data(past={"url": "https://u:p@h/x?a=1"}, templates="https://u:p@h/y")
    assert data.past.url == "https://u:p@h/x?a=1"
    assert "u:p" not in repr(data) + str(data.model_dump())
    assert str(CorpusError("https://u:p@h/x: no")) == "https://h/x: no"


@pytest.mark.quick
@pytest.mark.parametrize(
    "field",
    [
        "past: SECRET",
        "past: {url: [SECRET]}",
        "past: {url: 'ftp:SECRET'}",
        "past: {file: SECRET}",
        "model: {name: SECRET}",
        "model: SECRET",
        "mirror: [SECRET]",
        "SECRET: 3",
        "corpus: SECRET",
        "data_dir: {SECRET: 3}",
        "tasks: [SECRET]",
        "templates: SECRET",
        "wordings: [SECRET]",
    ],
)
def test_a_refusal_quotes_no_credentials(tmp_path, field):
    table, secret = tmp_path / "table.yaml", with_secrets("https://example.org/", "x.jsonl")
    text = TABLE.replace("ADDRESS", "http://127.0.0.1:9/x.jsonl").replace("MIRROR", "null")
    table.write_text(f"{text}  - name: bad\n    {field.replace('SECRET', repr(secret))}\n")
    with pytest.raises(SettingsError) as refusal:
        Table(table, tmp_path / "outputs").check()
    assert not [one for one in SECRETS if one in str(refusal.value)], str(refusal.value)
