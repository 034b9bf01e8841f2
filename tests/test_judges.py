import json
import logging
import math
import os
import random
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from ia_lib.data.files import CorpusError
from ia_lib.data.yaml_files import Refusal
from ia_lib.evaluation import endpoint, judges, replies
from ia_lib.evaluation.endpoint import EndpointError
from ia_lib.evaluation.judges import JudgeWarning, marks, parsed
from ia_lib.instructions import judging
from ia_lib.instructions.templates import PromptError
from ia_lib.recipes.fields import Endpoint, Judge

KEY = "sk-Not_A.Real+Key/7f3a=="
OURS = judging.read()
SHORT = judging.Wording(prompt="[QUESTION]|[ANSWER]|[LANGUAGE]. The mark:", again="Once more:")


def items(count: int = 3, **columns) -> pd.DataFrame:
    rows = [
        {"dataset": "open", "task": "open", "language": "eng", "language_name": "English", "example": f"{i}",
         "question": f"question {i}", "answer": f"answer {i}", "reference": ""}
        for i in range(count)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


# What is a mark


GIVEN = r"""
2 | 2. | **2** | _2_ | [[2]] | "2" | (2) | ２ | ২ | Score: 2 | Mark: **2** | {"score": 2} | score=2
2/3 | Rating: 2 / 3 | 2 out of 3 | 2 (out of 3) | I would give 2 out of 3. | I'd say it is 2 out of 3.
I'd rate it a 2. | The mark is 2, since it is short. | On a scale of 1 to 3, I would give this a 2. | 2 points
2 - but short | 2\n\nThe answer is partly right.
Score 2 | <score>2</score> | I'd give it a solid 2. | This answer deserves a 2 because it stops.
<think>1 or 3?</think>\n2
"""
NOT_GIVEN = """
A good answer. | 2 or 3 | 1, 2, 3 | 1-3 | between 1 and 3 | 0 | 5 | 23 | Score: 12 | -2 | 2.5 | 2,5 | 2/5 | 2 out of 10
1/2 | 5/3 | 2% | 2nd | x2 | GPT-3 | two | It names 3 cities | 3 cities are named. | I give 3 reasons
I cannot give it a 3.
Never give it 3. | I would not give 3 | The answer doesn't deserve a 3 | 1. The answer is good.
the response gives 3, which is wrong | The correct answer is 2, but it says 7 | I give 1 point for grammar
It has 2 out of 3 facts | <think>I give 2. | 2 of 3 facts are right | I would give this a 2 out of | ２３ | 1０
"""


def cut(replies: str) -> list[str]:
    return [reply.strip().replace("\\n", "\n") for reply in re.split(r"[|\n]", replies.strip())]


@pytest.mark.quick
@pytest.mark.parametrize("reply", cut(GIVEN))
def test_marks_that_are_said_in_words(reply):
    assert parsed(reply) == parsed(f" {reply}\n") == 2
    # and so for every mark, where no scale stands beside it
    if not re.search("3|1", reply):
        assert [parsed(re.sub("[2２২]", str(mark), reply)) for mark in (1, 3)] == [1, 3]


@pytest.mark.quick
@pytest.mark.parametrize("reply", ["", *cut(NOT_GIVEN)])
def test_replies_that_are_no_marks(reply):
    assert parsed(reply) is None


@pytest.mark.quick
def test_a_long_reply_takes_no_long_time():
    for reply in (
        "a" * 20_000,
        "score:" + ":" * 20_000 + "2",
        "<think>" * 2_800 + "2",
        "9 " * 10_000,
        "2" + " " * 20_000,
    ):
        parsed(reply)


# Wordings and fields


@pytest.mark.quick
def test_the_wording_is_filled_once_and_texts_that_look_like_slots_stay():
    said = OURS.ask("Is [ANSWER] a word?", "[LANGUAGE]", "Bulgarian")
    assert said.count("Is [ANSWER] a word?") == said.count("\n[LANGUAGE]\n") == said.count("Bulgarian") == 1
    assert OURS.ask("q", "a", "Bulgarian", again=True) == f"{OURS.ask('q', 'a', 'Bulgarian')}\n{OURS.again}"
    comment = (Path(judging.params()) / "judges" / "wording.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert "this kit's own" in comment


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt: '[QUESTION] [ANSWER]'", "line 1, field 'prompt': found '[QUESTION] [ANSWER]', without [LANGUAGE]"),
        ("prompt: '[QUESTION] [ANSWER] [LANGUAGE] [ANSWER]'", "found '[ANSWER]', 2 times; allowed"),
        ("prompt: '[QUESTION] [ANSWER] [LANGUAGE] [LABEL]'", "found '[LABEL]'; allowed: [QUESTION], [ANSWER], "),
        ("again: x\nprompt: 3", "line 2, field 'prompt': found 3; allowed: text"),
        ("prompt: '[QUESTION] [ANSWER] [LANGUAGE]'\nagain: '[ANSWER]'", "line 2, field 'again': found '[ANSWER]'"),
        ("prompt: '[QUESTION] [ANSWER] [LANGUAGE]'\nagian: x", "line 2, field 'agian': found an unknown field"),
        ("again: x", "field 'prompt': found nothing"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_wording_is_said(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(PromptError) as error:
        judging.read(tmp_path / "mine.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"base_url": "ftp://x/v1"}, "base_url"),
        ({"base_url": "https://me:secret@x/v1"}, "base_url"),
        ({"base_url": "https://x/v1?key=secret"}, "base_url"),
        ({"base_url": "https://x:secret/v1"}, "base_url"),
        ({"key": "sk-secret"}, "key"),
        ({"key": "secret"}, "key"),
        ({"retries": -1}, "retries"),
        ({"timeout": 0}, "timeout"),
        ({"price_in": 1.0}, ""),
    ],
)
def test_refused_endpoints_show_no_secret(fields, field):
    with pytest.raises(ValidationError) as error:
        Judge.model_validate({"endpoint": {"base_url": "https://x/v1", "model": "m", **fields}})
    (one,) = error.value.errors()
    assert one["loc"] == ("endpoint", field)[: 2 if field else 1]
    assert "secret" not in str(error.value) + str(one["msg"])


@pytest.mark.quick
def test_a_judge_is_exactly_one():
    for wrong in ({}, {"rule": "overlap", "people": "a.csv"}, {"rule": "overlap", "wording": "a.yaml"}):
        with pytest.raises((ValidationError, Refusal)):
            Judge.model_validate(wrong)
    at = Judge.model_validate({"endpoint": {"base_url": "http://[::1]:8000/v1/", "model": "m"}}).endpoint
    assert (at.base_url, at.key, at.local) == ("http://[::1]:8000/v1", "OPENAI_API_KEY", True)
    assert [
        Endpoint(base_url=f"http://{host}/v1", model="m").local for host in ("localhost:1", "127.1.2.3", "x.org")
    ] == [*(True, True, False)]


# The rule


@pytest.mark.quick
def test_the_rule_marks_by_the_words_of_the_reference(tmp_path):
    told = [
        ("Paris, the city.", "paris the CITY", 3),
        ("Paris", "Paris or London", 2),  # F1 0.5
        ("Paris", "Paris or London then", 1),  # 0.4
        ("", "Paris", 1),
        (" ", "Paris", 1),
        ("東京です", "東京です。", 3),
    ]
    answers, references, expected = map(list, zip(*told, strict=True))
    frame = items(len(told), answer=answers, reference=references)
    marked = marks(Judge(rule="overlap"), frame, tmp_path, wording=OURS)
    assert list(marked.columns) == list(judges.MARKED)
    assert marked["mark"].tolist() == expected
    assert marked[["requests", "cost"]].sum().tolist() == [0, 0]
    with pytest.raises(CorpusError, match="open/open, eng, example 1: found no reference"):
        marks(Judge(rule="overlap"), items(2, reference=["x", ""]), tmp_path, wording=OURS)
    with pytest.raises(CorpusError, match="example 0: found nan as answer; allowed: text"):
        marks(Judge(rule="overlap"), items(1, answer=[math.nan]), tmp_path, wording=OURS)


# Endpoints that misbehave


class Server(ThreadingHTTPServer):
    """Answers requests by what `script` says, one after another, then by `always`; `asked` are bodies and headers."""

    daemon_threads, block_on_close = True, False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list = []
        self.always = says("2")
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.ended, self.lock = Event(), Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.asked]

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server: Server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            how = server.script.pop(0) if server.script else server.always
        how(self, body)

    def give(self, status: int, body: bytes, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def says(text, usage=None, **more):
    answer = {"model": "tiny", "choices": [{"message": {"role": "assistant", "content": text}}], **more}
    answer |= {} if usage is None else {"usage": usage}
    return lambda handler, _: handler.give(200, json.dumps(answer).encode())


def status(code, body="{}", **headers):
    return lambda handler, _: handler.give(code, body.encode(), **headers)


def raw(body: bytes):
    return lambda handler, _: handler.give(200, body)


def hung_up(handler, _):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def closes(handler, _):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


# Both would answer in the end.
def stalls(handler, body):
    if not handler.server.ended.wait(4):
        says("2")(handler, body)


def drips(handler, _):
    answer = b" " * 80 + json.dumps({"choices": [{"message": {"content": "2"}}]}).encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(answer)))
    handler.end_headers()
    for byte in answer:
        handler.server.ended.wait(0.04)
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()


def floods(handler, _):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000000")
    handler.end_headers()
    while not handler.server.ended.is_set():
        handler.wfile.write(b" " * 100_000)


def served(made, ended):
    """A server at work; `ended` lets go of requests that it holds back."""
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    ended.set()
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(endpoint, "PAUSE", 0)
    made = Server()
    yield from served(made, made.ended)


def judge(server, **fields) -> Judge:
    return Judge.model_validate({"endpoint": {"base_url": server.url, "model": "tiny", "timeout": 5, **fields}})


@pytest.mark.quick
@pytest.mark.parametrize(
    "wrong",
    [status(500), status(503, "<html><b>busy</b>"), status(529), raw(b"<html>"), raw(b"[1, 2"), raw(b"[]"),
     raw(b"\xff"), raw(b"[" * 100_000), raw(b'{"choices": []}'), raw(b'{"choices": [{"message": {"content": 2}}]}'),
     hung_up, floods, raw(b'{"error": {"message": "overloaded"}}'), closes],
)  # fmt: skip
def test_what_fails_for_a_while_is_asked_again(server, tmp_path, wrong):
    server.script = [wrong, wrong]
    marked = marks(judge(server), items(1), tmp_path, wording=SHORT)
    assert marked[["mark", "tries", "requests"]].iloc[0].tolist() == [2, 1, 3]
    assert server.prompts() == ["question 0|answer 0|English. The mark:"] * 3


@pytest.mark.quick
def test_a_server_is_given_the_time_that_it_asks_for(server, tmp_path, caplog):
    server.script = [status(429, Retry_After="1")]
    assert marks(judge(server), items(1), tmp_path, wording=SHORT)["requests"].tolist() == [2]
    assert server.times[1] - server.times[0] >= 1
    assert "it answers 429 and asks to wait 1 s; asked again in 1 s, time 2 of 6" in caplog.text
    for asked in ("601", "Tue, 01 Jan 2999 00:00:00 GMT"):
        server.always = status(429, Retry_After=asked)
        with pytest.raises(EndpointError, match=r"answers 429 and asks to wait [\d,]+ s, which is more than 600 s"):
            marks(judge(server), items(1, answer="other"), tmp_path, wording=SHORT)
    server.always, server.script = says("2"), [status(429, Retry_After="soon")]
    assert marks(judge(server), items(1, answer="more"), tmp_path, wording=SHORT)["requests"].tolist() == [2]


@pytest.mark.quick
@pytest.mark.parametrize("silent", [stalls, drips])
def test_a_server_that_never_answers_ends_the_work_and_replies_stay(server, tmp_path, silent):
    def only_one(handler, body):
        (says("3") if "question 0" in body["messages"][0]["content"] else silent)(handler, body)

    server.always = only_one
    with pytest.raises(EndpointError) as error:
        marks(judge(server, timeout=0.3, retries=2), items(3), tmp_path, wording=SHORT)
    assert str(error.value) == (
        f"the endpoint {server.url}: no answer within 0.3 s; asked 3 times; what it has replied is kept, and a "
        "later run asks for the rest"
    )
    assert replies.read(tmp_path)["question"].tolist() == ["question 0"]
    server.always, server.asked = says("2"), []
    assert marks(judge(server), items(3), tmp_path, wording=SHORT)["mark"].tolist() == [3, 2, 2]
    assert sorted(server.prompts()) == [f"question {i}|answer {i}|English. The mark:" for i in (1, 2)]


@pytest.mark.quick
def test_nobody_there(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server.url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"no connection; asked 3 times"):
            marks(judge(server, retries=2), items(1), tmp_path, wording=SHORT)


@pytest.mark.quick
@pytest.mark.parametrize("reply", ["I think that it is good.", "5", "23", "2 or 3", "", None, [{"type": "image"}]])
def test_a_reply_that_is_no_mark_is_asked_for_once_more_and_then_reported(server, tmp_path, reply):
    server.always = says(reply)
    for sent in (2, 0):  # the second time nothing at all
        server.asked = []
        with pytest.warns(JudgeWarning, match="1 of 1 answers have no mark"):
            marked = marks(judge(server), items(1), tmp_path, wording=SHORT)
        assert marked["mark"].isna().all()
        assert (marked["reply"][0], marked["tries"][0]) == (reply if isinstance(reply, str) else "", 2)
        assert len(server.asked) == sent
        assert server.prompts()[1:] == ["question 0|answer 0|English. The mark:\nOnce more:"] * (sent // 2)


@pytest.mark.quick
def test_the_second_reply_may_be_a_mark(server, tmp_path):
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    server.script = [says("2 or 3", usage), says([{"type": "text", "text": "3"}], usage)]
    at = judge(server, price_in=2.0, price_out=30.0)
    marked = marks(at, items(1), tmp_path, wording=SHORT)
    assert marked.iloc[0].tolist() == [3, "3", 2, 2, 200, 20, pytest.approx((200 * 2 + 20 * 30) / 1e6)]
    assert marks(at, items(1), tmp_path, wording=SHORT).equals(marked)
    assert len(server.asked) == 2


@pytest.mark.quick
@pytest.mark.parametrize(
    "usage",
    [None, "many", [], {}, {"prompt_tokens": -5, "completion_tokens": 10**30}, {"prompt_tokens": "7"},
     {"prompt_tokens": True}, {"prompt_tokens": math.inf, "completion_tokens": math.nan}, {"prompt_tokens": {"a": 1}}],
)  # fmt: skip
def test_tokens_that_are_not_told_or_cannot_be_are_unknown(server, tmp_path, usage):
    server.always = says("1", usage, model={"name": 3})
    marked = marks(judge(server, price_in=1, price_out=1), items(2), tmp_path, wording=SHORT)
    assert marked["mark"].tolist() == [1, 1]
    assert marked[["tokens_in", "tokens_out", "cost"]].isna().all(axis=None)
    sent = replies.read(tmp_path)
    assert sent[["tokens_in", "tokens_out"]].isna().all(axis=None)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (400, "answers 400, and so refuses the request; context too long"),
        (401, "answers 401: it does not accept the key in the environment variable OPENAI_API_KEY"),
        (403, "answers 403"),
        (404, "answers 404: it has no http://"),
    ],
)
def test_what_will_not_change_is_told_at_once(server, tmp_path, code, said):
    server.always = status(code, '{"error": {"message": "context\\ntoo long"}}')
    with pytest.raises(EndpointError) as error:
        marks(judge(server), items(1), tmp_path, wording=SHORT)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(server.asked) == 1


@pytest.mark.quick
def test_nobody_waits_for_what_is_lost(server, tmp_path):
    def one_is_refused(handler, body):
        if "question 0" in body["messages"][0]["content"]:
            return status(429, Retry_After="300")(handler, body)
        time.sleep(0.3)
        return status(400)(handler, body)

    server.always = one_is_refused
    with pytest.raises(EndpointError, match="answers 400"):
        marks(judge(server), items(20), tmp_path, wording=SHORT)
    assert len(server.asked) == endpoint.TOGETHER


@pytest.mark.quick
def test_no_key_goes_to_another_address(server, tmp_path):
    other = Server()
    thread = Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.always = status(307, Location=f"{other.url}/chat/completions?token={KEY}")
    with pytest.raises(EndpointError, match="answers 307, which sends on to http") as error:
        marks(judge(server), items(1), tmp_path, wording=SHORT)
    assert KEY not in str(error.value)
    other.shutdown()
    other.server_close()
    thread.join()
    assert (len(server.asked), len(other.asked)) == (1, 0)


@pytest.mark.quick
def test_the_key_is_sent_and_written_nowhere(server, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    echo = f"Bearer {KEY} and {KEY.lower()}"
    server.script = [
        status(500, json.dumps({"error": {"message": "x" * 140 + echo}}), X_Key=KEY),
        says(f"{echo}: 2 or 3", model=KEY, id=KEY),
        says(f"{echo} 5"),
    ]
    with pytest.warns(JudgeWarning) as warned:
        marked = marks(judge(server), items(1), tmp_path, wording=SHORT)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    errors = []
    for code in (400, 401, 404, 429, 500):
        server.always = status(code, json.dumps({"detail": echo}), Retry_After="0")
        with pytest.raises(EndpointError) as error:
            marks(judge(server, retries=1), items(1, answer="other"), tmp_path, wording=SHORT)
        errors.append(str(error.value))
    assert all("[key]" in error for error in errors)
    written = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    everything = [written, replies.read(tmp_path).to_csv(), marked.to_csv(), caplog.text, *capfd.readouterr(), *errors]
    everything += [str(warning.message) for warning in warned]
    for part in (KEY, KEY.lower(), KEY[:9]):
        assert not any(part in text for text in everything), part
    assert "[key]" in marked["reply"][0]


@pytest.mark.quick
def test_without_a_key(server, tmp_path, monkeypatch):
    far = Judge.model_validate({"endpoint": {"base_url": "https://judge.invalid/v1", "model": "m", "key": "MY_KEY"}})
    with pytest.raises(EndpointError, match="the environment variable MY_KEY is not set"):
        marks(far, items(1), tmp_path, wording=SHORT)
    monkeypatch.setenv("MY_KEY", "two words")
    with pytest.raises(EndpointError, match="MY_KEY holds blanks") as error:
        marks(far, items(1), tmp_path, wording=SHORT)
    assert "two" not in str(error.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    marks(judge(server), items(1), tmp_path, wording=SHORT)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    marks(judge(server, key=None), items(2), tmp_path, wording=SHORT)
    assert len(server.headers) == 2
    assert not any("Authorization" in headers for headers in server.headers)


@pytest.mark.quick
def test_a_server_that_does_not_know_how_it_is_asked(server, tmp_path):
    def picky(handler, body):
        for name in ("seed", "temperature", "max_tokens"):
            if name in body:
                said = {"error": {"message": f"Unsupported parameter: '{name}'. Use 'max_completion_tokens'."}}
                return handler.give(400, json.dumps(said).encode())
        return says("2")(handler, body)

    server.always = picky
    marked = marks(judge(server, max_tokens=7), items(9), tmp_path, wording=SHORT)
    assert marked["mark"].tolist() == [2] * 9
    assert server.asked[0].keys() - {"model", "messages"} == {"max_tokens", "temperature", "seed"}
    assert server.asked[-1].keys() - {"model", "messages"} == {"max_completion_tokens"}
    assert server.asked[-1]["max_completion_tokens"] == 7
    assert marked["requests"].sum() == len(server.asked) <= 9 + 3 * endpoint.TOGETHER


@pytest.mark.quick
def test_marks_stand_in_the_order_of_the_items_and_equal_ones_are_asked_about_once(server, tmp_path):
    def slowly(handler, body):
        number = int(re.search(r"answer (\d+)", body["messages"][0]["content"])[1])
        time.sleep(random.random() / 50)
        says(str(number % 3 + 1), {"prompt_tokens": 1000, "completion_tokens": 1})(handler, body)

    server.always, told = slowly, []
    frame = pd.concat([items(20), items(20)[::-1]]).set_axis([*range(100, 140)])
    marked = marks(judge(server, price_in=1000, price_out=0), frame, tmp_path, wording=SHORT, progress=told.append)
    assert marked.index.equals(frame.index)
    assert marked["mark"].tolist() == [int(i) % 3 + 1 for i in frame["example"]]
    assert len(server.asked) == 20
    assert (len(marked), int(marked["mark"].isna().sum())) == (40, 0)
    assert marked[["tries", "requests"]].sum().tolist() == [20, 20]
    assert marked[["tokens_in", "tokens_out"]].sum(skipna=False).tolist() == [20_000, 20]
    assert marked["cost"].sum(skipna=False) == pytest.approx(20)
    assert sum(told) == 40
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    assert [path.name for path in folder.glob("*.parquet")] == ["replies.parquet"]
    # another language, wording or model is another request; a later time, rate or price is not
    before = (folder / "replies.parquet").read_bytes()
    marks(judge(server, timeout=9, per_minute=9, price_in=5, price_out=5), frame, tmp_path, wording=SHORT)
    assert len(server.asked) == 20
    assert (folder / "replies.parquet").read_bytes() == before
    marks(judge(server), items(1, language_name="Danish", language="dan"), tmp_path, wording=SHORT)
    marks(judge(server), items(1), tmp_path, wording=SHORT.model_copy(update={"again": "Again:"}))
    marks(judge(server, model="other"), items(1), tmp_path, wording=SHORT)
    assert len(server.asked) == 23
    assert marks(judge(server), items(1)[:0], tmp_path, wording=SHORT).empty


@pytest.mark.quick
def test_those_who_share_a_store_ask_once_and_no_faster_than_allowed(server, tmp_path):
    found = []

    def one():
        found.append(marks(judge(server, per_minute=600), items(6), tmp_path, wording=SHORT))

    threads = [Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(frame.equals(found[0]) for frame in found)
    assert len(server.asked) == 6
    assert max(server.times) - min(server.times) > 0.3  # 0.5, but for what the machine does


@pytest.mark.quick
def test_halves_of_letters_and_odd_texts_do_no_harm(server, tmp_path):
    server.always = raw(b'{"choices": [{"message": {"content": "\\ud83d \\u0000 2"}}], "model": "\\udc00"}')
    frame = items(
        4,
        answer=pd.Series(["\ud83d", "", "[QUESTION]", "x" * 100_000], dtype=object),
        question=["a\0b", "", "\u2028", "?"],
    )
    first = marks(judge(server), frame, tmp_path, wording=SHORT)
    assert len(server.asked) == 4
    assert marks(judge(server), frame, tmp_path, wording=SHORT).equals(first)
    assert len(server.asked) == 4
    assert "[QUESTION]|" not in server.prompts()


@pytest.mark.quick
def test_a_broken_store_is_told(server, tmp_path):
    marks(judge(server), items(1), tmp_path, wording=SHORT)
    (path,) = tmp_path.rglob("replies.parquet")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorpusError, match=r"replies.parquet: these replies cannot be read .*; remove the file"):
        marks(judge(server), items(1), tmp_path, wording=SHORT)


# Models here


@pytest.mark.quick
@pytest.mark.parametrize("talks", [False, True])
def test_the_likeliest_label_of_a_model_here(tmp_path, chat_model, turns_tokenizer, talks):
    from chats import CHATS

    turns_tokenizer.chat_template = CHATS["gemma3"].template
    told, frame = [], items(5, answer=["yes yes", "the food was good", "", "tidak", "x"])
    one = Judge.model_validate({"model": {"name": "tiny", "chat": talks}})
    load = lambda: (chat_model, turns_tokenizer)  # noqa: E731
    marked = marks(one, frame, tmp_path, wording=OURS, load=load, progress=told.append)
    assert sum(told) == 5
    for row, got in zip(frame.to_dict("records"), marked["mark"], strict=True):
        prompt = OURS.ask(row["question"], row["answer"], "English")
        scores = []
        for label in "123":
            if talks:
                turns = [{"role": "user", "content": prompt}]
                head = turns_tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
                ids = turns_tokenizer(head + label, add_special_tokens=False)["input_ids"]
                begin = len(turns_tokenizer(head, add_special_tokens=False)["input_ids"])
            else:
                ids = turns_tokenizer(f"{prompt} {label}")["input_ids"]
                begin = len(ids) - 1
            with torch.inference_mode():
                steps = chat_model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(steps[i - 1, ids[i]].item() for i in range(begin, len(ids))))
        assert got == np.argmax(scores) + 1


@pytest.fixture(scope="module")
def twos(tokenizer, tmp_path_factory) -> Path:
    """A folder with a tiny model that says 2 and nothing else, and a tokenizer with a chat template."""
    from copy import deepcopy

    from chats import CHATS
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(3)
    sizes = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 4096}
    model = AutoModelForCausalLM.from_config(GPT2Config(**sizes, bos_token_id=0, eos_token_id=1, pad_token_id=2)).eval()
    (two,) = tokenizer("2", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.fill_(1)
        model.transformer.wte.weight[two] = 1
    folder = tmp_path_factory.mktemp("twos")
    again = deepcopy(tokenizer)
    again.chat_template = CHATS["qwen3"].template
    model.save_pretrained(folder)
    again.save_pretrained(folder)
    return folder


def loaded(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.quick
def test_what_a_model_here_says(twos, tmp_path, monkeypatch):
    one = Judge.model_validate({"model": {"name": str(twos), "by": "generation"}})
    model, tokenizer = loaded(twos)
    told = []
    with pytest.warns(JudgeWarning, match="3 of 3 answers have no mark"):
        marked = marks(one, items(3), tmp_path, wording=OURS, load=lambda: (model, tokenizer), progress=told.append)
    assert marked["reply"].tolist() == ["2" * judges._NEW] * 3
    assert (marked["tries"].tolist(), sum(told)) == ([2, 2, 2], 3)
    monkeypatch.setattr(judges, "_NEW", 1)
    marked = marks(one, items(3), tmp_path, wording=OURS, load=lambda: (model, tokenizer))
    assert (marked["mark"].tolist(), marked["tries"].tolist()) == ([2, 2, 2], [1, 1, 1])
    asked = [len(tokenizer(OURS.ask(f"question {i}", f"answer {i}", "English"))["input_ids"]) for i in range(3)]
    assert marked["tokens_in"].tolist() == asked


@pytest.mark.quick
@pytest.mark.parametrize("by", ["labels", "generation"])
def test_an_answer_that_is_too_long_loses_its_end(twos, tmp_path, by, monkeypatch):
    monkeypatch.setattr(judges, "_NEW", 1)
    one = Judge.model_validate({"model": {"name": str(twos), "by": by}})
    frame = items(2, answer=["word " * 9000, "short"])
    with pytest.warns(JudgeWarning, match="1 of 2 answers are longer than the judge can read"):
        marked = marks(one, frame, tmp_path, wording=OURS, load=lambda: loaded(twos))
    assert marked["mark"].tolist() == [2, 2]
    assert marked["tokens_in"][0] <= 4096
    with pytest.raises(CorpusError, match="example 1: the question and the judge's wording have"):
        marks(one, items(2, question=["q", "word " * 9000]), tmp_path, wording=OURS, load=lambda: loaded(twos))


# A real endpoint: the server that transformers brings along


class Proxy(Server):
    """Passes requests on to `to`, those behind the first `most` not before `free` is set."""

    def __init__(self, to: str):
        super().__init__()
        self.to, self.most, self.free = to, 10**9, Event()
        self.always = self.passed

    def passed(self, handler, body):
        if len(self.asked) > self.most:
            self.free.wait(60)
        request = urllib.request.Request(f"{self.to}{handler.path}", json.dumps(body).encode(), method="POST")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                handler.give(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            handler.give(error.code, error.read())


@pytest.fixture(scope="module")
def real(twos):
    pytest.importorskip("fastapi", reason="transformers' server needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        Path(sys.executable).with_name("transformers"),
        "serve",
        twos,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = twos.parent / "server.log"
    with open(log, "w") as out:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=out, stderr=out, env=environment)
    for _ in range(1200):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(30)


@pytest.fixture
def counted(real, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    proxy = Proxy(real)
    yield from served(proxy, proxy.free)


def test_a_real_endpoint_is_asked_once(counted, twos, tmp_path):
    one = judge(counted, model=str(twos), max_tokens=1, timeout=60, price_in=10.0, price_out=20.0)
    marked = marks(one, items(6), tmp_path, wording=OURS)
    assert marked["mark"].tolist() == [2] * 6
    assert len(counted.asked) == 6
    _, tokenizer = loaded(twos)
    for i, row in marked.iterrows():
        turns = [{"role": "user", "content": OURS.ask(f"question {i}", f"answer {i}", "English")}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert (row["tokens_in"], row["tokens_out"]) == (len(ids), 1)
        assert row["cost"] == pytest.approx((len(ids) * 10 + 20) / 1e6)
    assert marks(one, items(6), tmp_path, wording=OURS).equals(marked)
    assert len(counted.asked) == 6
    # more answers, and a length at which it says 22, which is no mark
    marks(one, items(8), tmp_path, wording=OURS)
    assert len(counted.asked) == 8
    with pytest.warns(JudgeWarning, match="2 of 2 answers have no mark"):
        marks(judge(counted, model=str(twos), max_tokens=2, timeout=60), items(2), tmp_path, wording=OURS)
    assert len(counted.asked) == 12
    with pytest.raises(EndpointError, match="answers 400, and so refuses the request; Server is pinned to"):
        marks(judge(counted, model="another"), items(1), tmp_path, wording=OURS)


def test_who_is_killed_in_the_middle_goes_on_with_the_rest(counted, twos, tmp_path):
    one = judge(counted, model=str(twos), max_tokens=1, timeout=60)
    code = (
        "import sys, pandas as pd\nfrom ia_lib.evaluation.judges import marks\n"
        "from ia_lib.instructions import judging\nfrom ia_lib.recipes.fields import Judge\nmarks("
        "Judge.model_validate_json(sys.argv[1]), pd.read_json(sys.argv[2], dtype=str), "
        "sys.argv[3], wording=judging.read())"
    )
    items(10).to_json(tmp_path / "items.json")
    counted.most = 5
    store = tmp_path / "store"
    process = subprocess.Popen(
        [sys.executable, "-c", code, one.model_dump_json(), tmp_path / "items.json", store],
        cwd=Path(judges.__file__).parents[2],
    )
    while len(replies.read(store)) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(counted.asked) <= 5 + endpoint.TOGETHER
    counted.most = 10**9
    counted.free.set()
    sent = len(counted.asked)
    marked = marks(one, items(10), store, wording=OURS)
    assert marked["mark"].tolist() == [2] * 10
    assert len(counted.asked) - sent == 5
    assert len(replies.read(store)) == 10
    assert not list(store.rglob("*.part"))
