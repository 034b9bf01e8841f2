"""Judges behind an address: OpenAI's chat completions, as most servers of models have them.

The key is read from the environment when requests begin. It goes nowhere but into their header: an address that sends
on to another one is not followed, and where a server repeats the key, what it says is kept and told without it."""

import datetime
import email.utils
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
import httpx2
import tenacity
from anyio.from_thread import start_blocking_portal

from ia_lib.data.addresses import Told, shown
from ia_lib.data.files import HALF
from ia_lib.data.patience import LOG
from ia_lib.evaluation.replies import Reply

TOGETHER = 4  # requests under way at a time
PAUSE = 1.0  # seconds before a request that failed is sent again; twice as long before each further time, 60 at most
LONGEST = 600  # seconds that a server may ask to wait
_BYTES = 1 << 22  # of an answer that is read
_CHARACTERS = 20_000  # of a reply that is kept
# How a reply is asked for, unless the server says that it does not know one of these (None: left out then).
_HOW = {"max_tokens": "max_completion_tokens", "temperature": None, "seed": None}
_Name = TypeVar("_Name")
# They tell, of each answer, its headers and status line, in which a server may repeat the key.
for _library in ("httpx2", "httpcore2"):
    logging.getLogger(_library).setLevel(logging.WARNING)


class EndpointError(Told, RuntimeError):
    """An endpoint that cannot be asked, or not any more; what it has replied until then is kept."""


class _Failed(Exception):
    """A request that may be answered when it is sent again, after so many seconds at least."""

    def __init__(self, said: str, wait: float = 0):
        super().__init__(said)
        self.wait = wait


def credential(endpoint) -> str | None:
    """The key of a `fields.Endpoint`; None if it has none, which is in order for one on this machine. Raises
    EndpointError, which names the variable and not what it holds."""
    if endpoint.key is None:
        return None
    key = os.environ.get(endpoint.key, "").strip()
    if not key and not endpoint.local:
        raise EndpointError(
            f"the endpoint {endpoint.base_url}: the environment variable {endpoint.key} is not set; allowed: its key "
            "there, or another name (or nothing, for an endpoint without a key) in the field key"
        )
    if not re.fullmatch(r"[!-~]*", key):
        raise EndpointError(f"the environment variable {endpoint.key} holds blanks or letters that no key has")
    return key or None


def ask(endpoint, prompts: Iterable[tuple[_Name, str]]) -> Iterator[tuple[_Name, Reply]]:
    """The reply of a `fields.Endpoint` to each prompt, as it comes, under the name of the prompt.

    A few prompts are asked at a time. What is busy (429), broken (5xx), silent for `timeout` seconds, cut off or no
    completion is asked again, `retries` times, after pauses that double (at random a little longer) or as long as the
    server asks for. Raises EndpointError when that does not help, and at once for other answers, as 401 and 404; what
    is under way then is still waited for."""
    asking = _Asking(endpoint, credential(endpoint))
    found: SimpleQueue = SimpleQueue()
    # a loop of its own in a thread of its own, since a notebook's is running
    with start_blocking_portal() as portal:
        done = portal.start_task_soon(asking.all, iter(prompts), found.put)
        done.add_done_callback(lambda _: found.put(None))
        yield from iter(found.get, None)
        done.result()
    if asking.problem:
        raise asking.problem


class _Asking:
    def __init__(self, endpoint, key: str | None):
        self.endpoint, self.key, self.problem = endpoint, key, None
        self.url = f"{endpoint.base_url}/chat/completions"
        self.how = {"max_tokens": endpoint.max_tokens, "temperature": 0, "seed": 1}
        self.next = 0.0  # when the next request may be sent

    async def all(self, prompts: Iterator[tuple[Any, str]], found) -> None:
        self.stop = anyio.Event()
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        options = {"timeout": None, "follow_redirects": False, "trust_env": not self.endpoint.local}
        async with httpx2.AsyncClient(headers=headers, **options) as self.client, anyio.create_task_group() as group:
            for _ in range(TOGETHER):
                group.start_soon(self._some, prompts, found)

    async def _some(self, prompts, found) -> None:
        for name, prompt in prompts:
            try:
                found((name, await self._reply(prompt)))
            except EndpointError as error:
                self.problem = self.problem or error
                self.stop.set()
            if self.problem:
                return

    async def _reply(self, prompt: str) -> Reply:
        tries = self.endpoint.retries + 1
        pauses = tenacity.wait_exponential_jitter(PAUSE, max=60 * PAUSE, jitter=PAUSE)
        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Failed),
            stop=tenacity.stop_any(tenacity.stop_after_attempt(tries), lambda _: self.stop.is_set()),
            wait=lambda state: max(pauses(state), state.outcome.exception().wait),
            sleep=self._sleep,
            before_sleep=self._told,
            reraise=True,
        )
        sent = [0]
        try:
            return await again(self._once, prompt, sent)
        except _Failed as failed:
            times = f"; asked {sent[0]} times" if sent[0] > 1 else ""
            kept = "what it has replied is kept, and a later run asks for the rest"
            raise EndpointError(f"the endpoint {self.endpoint.base_url}: {failed}{times}; {kept}") from None

    async def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than there is something to wait for."""
        with anyio.move_on_after(seconds):
            await self.stop.wait()

    async def _told(self, state: tenacity.RetryCallState) -> None:
        again = f"asked again in {state.upcoming_sleep:.0f} s, time {state.attempt_number + 1} of "
        again += str(self.endpoint.retries + 1)
        LOG.warning("%s: %s; %s", self.endpoint.base_url, state.outcome.exception(), again)

    async def _once(self, prompt: str, sent: list[int]) -> Reply:
        """One reply, of one request, unless the server does not know how it is asked for."""
        while True:
            body = {"model": self.endpoint.model, "messages": [{"role": "user", "content": prompt}], **self.how}
            await self._turn()
            sent[0] += 1
            status, headers, content = await self._sent(body)
            said = self._said(content)
            unknown = next((name for name in _HOW if name in body and re.search(rf"\b{name}\b", said)), None)
            if status not in (400, 422) or not unknown:
                break
            # for all requests from now on; one that went out before this one came back has the old form
            if unknown in self.how:
                value, other = self.how.pop(unknown), _HOW[unknown]
                self.how |= {other: value} if other else {}
                LOG.info("%s: asked without %s from now on (%s)", self.endpoint.base_url, unknown, said)
        if 200 <= status < 300:
            return self._read(content, sent[0])
        if status in (408, 429) or status >= 500:
            wait = _seconds(headers.get("Retry-After", ""))
            asks = f" and asks to wait {wait:,.0f} s" if wait else ""
            if wait > LONGEST:
                raise self._error(f"answers {status}{asks}, which is more than {LONGEST:,} s", said)
            # nobody else need ask in the meantime
            self.next = max(self.next, anyio.current_time() + wait)
            raise _Failed(f"it answers {status}{asks}{said and f' ({said})'}", wait)
        raise self._error(*self._refused(status, headers), said)

    async def _turn(self) -> None:
        """Wait for a request's turn, of which there are `per_minute`."""
        turn = max(self.next, anyio.current_time())
        self.next = turn + 60 / self.endpoint.per_minute if self.endpoint.per_minute else self.next
        await self._sleep(turn - anyio.current_time())
        if self.stop.is_set():
            raise _Failed("it was not asked any more")

    async def _sent(self, body: dict) -> tuple[int, Any, bytes]:
        seconds = self.endpoint.timeout
        try:
            # for the whole of it, since a server may also send a byte now and then
            with anyio.fail_after(seconds):
                async with self.client.stream("POST", self.url, json=body) as answer:
                    content = b""
                    async for piece in answer.aiter_bytes():
                        content += piece
                        if len(content) > _BYTES:
                            break
                    return answer.status_code, answer.headers, content
        except TimeoutError:
            raise _Failed(f"no answer within {seconds:g} s") from None
        except httpx2.DecodingError:
            raise _Failed("its answer is compressed in a way that cannot be read") from None
        except httpx2.TransportError as error:
            known = {httpx2.ConnectError: "no connection", httpx2.ProxyError: "the proxy does not answer"}
            raise _Failed(known.get(type(error), "the connection was cut")) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._error("cannot be asked", self._plain(str(error), 200)) from None

    def _refused(self, status: int, headers) -> tuple[str, str]:
        """What an answer means that asking again would not change, and what to do."""
        key, told = self.endpoint.key, f"answers {status}"
        if 300 <= status < 400:
            to = self._plain(shown(headers.get("Location", "")), 200)
            return f"{told}, which sends on to {to or 'nowhere'}", "allowed: the address itself, as base_url"
        if status in (401, 403):
            sent = f"the key in the environment variable {key}" if self.key else "a request without a key"
            return f"{told}: it does not accept {sent}", "allowed: a key that may use the model"
        if status == 404:
            model = f"the model {self.endpoint.model!r}"
            return f"{told}: it has no {self.url}, or not {model}", "allowed: an address that most often ends with /v1"
        return f"{told}, and so refuses the request", ""

    def _error(self, *parts: str) -> EndpointError:
        return EndpointError(f"the endpoint {self.endpoint.base_url}: it {'; '.join(filter(None, parts))}")

    def _read(self, content: bytes, requests: int) -> Reply:
        answer = _json(content)
        try:
            text = answer["choices"][0]["message"]["content"]
            if isinstance(text, list):
                text = "".join(part.get("text") or "" for part in text if part.get("type") == "text")
            if not isinstance(text, str | None):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError):
            said = self._said(content)
            raise _Failed(f"what it answers is no chat completion{said and f' ({said})'}") from None
        usage = answer.get("usage")
        counts = (_count(usage.get(name)) if isinstance(usage, dict) else None for name in _USAGE)
        served = answer.get("model")
        served = self._plain(served, 200) if isinstance(served, str) else ""
        return Reply(self._clean(text or "")[:_CHARACTERS], served, *counts, requests)

    def _said(self, content: bytes) -> str:
        """What a server says of an error, in a few words; nothing of an answer that is none."""
        said = _json(content)
        if isinstance(said, dict):
            said = next((said[name] for name in ("error", "detail", "message") if said.get(name)), "")
            said = said.get("message", said) if isinstance(said, dict) else said
        elif said is None:
            said = re.sub(r"<[^>]*>", " ", content.decode("utf-8", "replace"))
        return self._plain(said if isinstance(said, str) else json.dumps(said), 160)

    def _plain(self, text: str, longest: int) -> str:
        said = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", self._clean(text)).split())
        return said if len(said) <= longest else f"{said[: longest - 3]}..."

    def _clean(self, text: str) -> str:
        """A server's words as they may be written down: without the key, and without halves of letters."""
        if self.key and len(self.key) > 3:  # less is no secret, and may be a mark
            text = re.sub(re.escape(self.key), "[key]", text, flags=re.IGNORECASE)
        return HALF.sub("\ufffd", text)


_USAGE = ("prompt_tokens", "completion_tokens")


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _count(claimed: Any) -> int | None:
    """A number of tokens, if it can be one."""
    whole = isinstance(claimed, int) and not isinstance(claimed, bool) and 0 <= claimed < 10**8
    return claimed if whole else None


def _seconds(asked: str) -> float:
    """How long a server asks to wait, in seconds or until a date; 0 if that is not to be understood."""
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", asked.strip()):
        return float(asked)
    try:
        until = email.utils.parsedate_to_datetime(asked)
    except (TypeError, ValueError):
        return 0
    until = until if until.tzinfo else until.replace(tzinfo=datetime.UTC)
    return max(0.0, (until - datetime.datetime.now(datetime.UTC)).total_seconds())
