"""No secret in anything that is written, and no text of somebody's that becomes a script."""

import json
import os
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import test_report
import torch
from plotly.io import to_json
from test_pools import Server

from ia_lib.data.addresses import redacted, shown
from ia_lib.data.files import CorpusError, own_csv
from ia_lib.data.patience import LOG
from ia_lib.models import load
from ia_lib.paths import root
from ia_lib.recipes.fields import Data
from ia_lib.report import figures, page
from ia_lib.report.page import find_chromium
from ia_lib.workflow import duration, progress
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


# What somebody's text may hold: each would be seen as a heading, a picture, a formula or a dialogue if it were no text.
SCRIPTS = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "</title><b>b</b>{{7*7}}{% raw %}",
    '<a href="javascript:alert(3)">%{x}</a>',
    "$x^2$ &lt;i&gt; %{y}",
]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report whose task, labels, languages, models, texts and notebooks are scripts."""
    outputs, folder = tmp_path_factory.mktemp("outputs"), tmp_path_factory.mktemp("report")
    runs = []
    for number, row in enumerate(("base", "tlm")):
        table = pd.concat([test_report.scores(0.3 + 0.4 * number).assign(task=task) for task in SCRIPTS[:2]])
        table[["label", "gold"]] = table[["label", "gold"]].replace(dict(zip(test_report.NAMES, SCRIPTS, strict=False)))
        names = dict(zip(("eng", "ind", "sun", "jav", "bbc"), SCRIPTS, strict=True))
        more = {"languages": names, "model": {"run": "base" if number else None, "name": SCRIPTS[3], "new": None}}
        runs.append(test_report.evaluate(outputs, table, row, **more))
        errors = own_csv(runs[-1] / "errors.csv")
        errors.assign(text=(SCRIPTS * len(errors))[: len(errors)]).to_csv(runs[-1] / "errors.csv", index=False)
        shown = pd.DataFrame({SCRIPTS[0]: SCRIPTS}, index=SCRIPTS)
        data = {"text/html": shown._repr_html_(), "text/plain": repr(shown)}
        drawn = figures.loss_curve(pd.DataFrame({"step": [1], "loss": [2.0]}), SCRIPTS[0]).to_plotly_json()
        outs = [
            nbformat.v4.new_output("execute_result", data),
            nbformat.v4.new_output("stream", text="\n".join(SCRIPTS)),
            nbformat.v4.new_output("display_data", {"application/vnd.plotly.v1+json": json.loads(to_json(drawn))}),
            nbformat.v4.new_output("error", ename=SCRIPTS[0], evalue=SCRIPTS[1], traceback=SCRIPTS),
        ]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(repr(SCRIPTS), outputs=outs)])
        nbformat.write(notebook, outputs / row / "data.ipynb")
    page.write(folder, SCRIPTS[0], runs, [])
    return folder


def test_texts_of_others_are_text_in_the_report(report):
    """Of every page: no tag of theirs, and each text is there as text."""
    pages = [*report.glob("*.html"), *report.glob("figures/*.html"), *report.glob("notebooks/*.html")]
    assert len(pages) == 1 + 7 + 6
    for path in pages:
        found = Tags()
        found.feed(path.read_text(encoding="utf-8"))
        assert not found.wrong, path
    found = Tags()
    found.feed((report / "index.html").read_text(encoding="utf-8"))
    assert all(script in "".join(found.texts) for script in SCRIPTS)


class Tags(HTMLParser):
    """Collects texts, and tags that can only come from `SCRIPTS`."""

    def __init__(self):
        super().__init__()
        self.wrong, self.texts, self._script = [], [], False

    def handle_starttag(self, tag, attributes):
        self._script = tag == "script"
        said = dict(attributes)
        if tag in ("b", "i", "img") or "javascript:" in (said.get("href") or "") or "onerror" in said:
            self.wrong.append(self.get_starttag_text())

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script and data.strip().startswith("alert"):
            self.wrong.append(data)
        if not self._script:
            self.texts.append(data)


@pytest.mark.skipif(find_chromium() is None, reason="no Chromium is found (install chromium)")
def test_texts_of_others_are_text_in_a_browser(report):
    from playwright import sync_api

    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        tab, said = browser.new_page(), []
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.on("pageerror", lambda error: said.append(str(error)))
        for path in [report / "index.html", *report.glob("figures/*.html"), *report.glob("notebooks/*-data.html")]:
            tab.goto(path.as_uri())
            tab.wait_for_selector(".js-plotly-plot .main-svg")
            assert tab.locator(".main-svg a, .main-svg [style*='bold']").count() == 0, path
        tab.goto((report / "index.html").as_uri())
        tab.wait_for_selector(".js-plotly-plot .main-svg")
        drawn = " ".join(tab.locator(".js-plotly-plot .xtick text, .js-plotly-plot .gtitle").all_text_contents())
        assert all(script.replace(" ", "") in drawn.replace(" ", "") for script in SCRIPTS)
        # where the mouse stands over a cell of the heat map
        tab.locator(".js-plotly-plot:has(.heatmaplayer) .nsewdrag").first.hover()
        hovered = tab.locator(".hoverlayer .hovertext").first.text_content()
        assert any(script[:20] in hovered for script in SCRIPTS), hovered
        browser.close()
    assert said == []


def test_a_link_leads_to_every_figure(report):
    links = re.findall(r'href="(figures/[^"]*)"', (report / "index.html").read_text(encoding="utf-8"))
    assert links
    assert all((report / link).is_file() for link in links)


class Evil:
    """What a pickle does when it is read by a careless program."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.quick
@pytest.mark.parametrize("what", ["pickle", "code", "code of a known kind"])
def test_nothing_that_a_model_brings_along_is_run(tmp_path, model, tokenizer, what, monkeypatch):
    folder, marker = tmp_path / "model", tmp_path / "it-was-run"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if what == "pickle":
        (folder / "model.safetensors").unlink()
        torch.save({"transformer.ln_f.weight": Evil(marker)}, folder / "pytorch_model.bin")
    else:
        config = json.loads((folder / "config.json").read_text())
        config |= {"auto_map": {f"Auto{kind}": f"evil.{kind}" for kind in ("Config", "ModelForCausalLM", "Tokenizer")}}
        (folder / "config.json").write_text(json.dumps(config | ({"model_type": "evil"} if what == "code" else {})))
        code = "from transformers import BloomConfig as Config, BloomForCausalLM as ModelForCausalLM"
        (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n{code}\nTokenizer = Config\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what somebody would say who is asked
    if what == "code of a known kind":
        load.load_model(str(folder))  # by what transformers itself knows of the kind
    else:
        with pytest.raises((ValueError, OSError, pickle.UnpicklingError)):
            load.load_model(str(folder))
    assert not marker.exists()


HUB = """
import socket, sys
from pathlib import Path
from huggingface_hub import get_session
from ia_lib.data.downloads import SourceError
from ia_lib.workflow import sources
sources.SECONDS = 2
model = sources.HubModel("owner/name", None, Path(sys.argv[1]) / "revisions.json")
try:
    model.settle()
except SourceError as error:
    print(error)
with socket.create_server(("127.0.0.1", 0)) as silent:
    sources._unanswered.clear()
    for _ in range(3):
        try:
            get_session().get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=None)
        except Exception as error:
            print(type(error).__name__)
"""


@pytest.mark.quick
def test_a_hub_that_does_not_answer_is_told_without_its_password(tmp_path):
    more = {"HF_ENDPOINT": "http://bergeend:wintertaling66@127.0.0.1:9", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    environment = {**os.environ, **more, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", HUB, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    said = "(no connection (Connection refused); asked 2 times in 1 s)"
    assert done.stdout.splitlines() == [
        f"the model owner/name: the Hub does not tell its commit {said}",
        *["ReadTimeout"] * 2,  # a request without a time-out has one
        "SourceError",  # enough has been asked without an answer
    ]
    search(tmp_path, done)


@pytest.mark.quick
def test_what_a_stage_waits_for_stands_in_the_progress_line(table, tmp_path, capsys):
    stage = Table(table, tmp_path / "outputs").stage("base", "data").open()
    stage.notebook("running").touch()
    watch = progress.Watch([stage], duration.Machine(1e11, 2))
    LOG.info("reads parts of %s", "http://u:p@h/x?a=1")
    watch.look()
    assert "base: data 0% (reads parts of http://h/x?...)" in capsys.readouterr().out
    LOG.warning("http://h/x: no connection; asked again in 1 s")
    assert capsys.readouterr().out == "http://h/x: no connection; asked again in 1 s\n"  # in the notebook
    watch.next_line = 0
    watch.look()
    assert "base: data 0% (http://h/x: no connection; asked again in 1 s)" in capsys.readouterr().out
    stage.progress(1, 2)
    watch.next_line = 0
    watch.look()
    line = capsys.readouterr().out
    assert "base: data 50%" in line
    assert "(" not in line
    LOG.handlers = []
    stage._lock.release(force=True)
