"""Servers that do not answer: how long and how often they are asked, and what is said meanwhile.

What is waited for goes to the logger "ia_lib": a warning where a server has to be asked again, information else."""

import logging
import socket
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ia_lib.data.addresses import redacted, shown

if TYPE_CHECKING:
    import requests

LOG = logging.getLogger("ia_lib")
SLOW = 1024  # bytes that must come within `SECONDS`, or the server counts as hanging
CONNECT = 10  # seconds
SECONDS = 60  # in a row without a new byte
TRIES = 6  # in a row without a new byte
PAUSE = 1.0  # seconds before the second of them; twice as long before each further one
# A server that is not there, or not who it says, will hardly be so a minute later.
_HOPELESS = (ConnectionRefusedError, socket.gaierror, ssl.SSLError)
_BUSY = (408, 429, 500, 502, 503, 504)


class Patience:
    """Asks an address a few times: `TRIES` in a row without a new byte and `seconds` at most, and twice a server that
    refuses or that nobody knows."""

    def __init__(self, address: str, seconds: float = SECONDS):
        self.address, self.seconds, self.problem = shown(address), seconds, ""
        # to connect, and between two pieces of an answer; a server that hangs is asked twice
        self.timeouts = (min(CONNECT, seconds / 2), seconds / 2)
        self._since, self._tries = time.monotonic(), 0

    @property
    def spent(self) -> float:
        """Seconds since more came than ever before."""
        return time.monotonic() - self._since

    def new_byte(self) -> None:
        """More has come than ever before: what has failed until now is forgiven."""
        if self._tries > 0:
            LOG.info("%s: goes on", self.address)
        self._since, self._tries = time.monotonic(), -1

    def again(self, failed: "Exception | requests.Response | str") -> bool:
        """Whether to ask once more after an error, a busy server's answer or what else went wrong; waits before it
        returns. When it is not, `problem` says what was wrong and how often."""
        self._tries += 1
        self.problem, most, asked = _said(failed, self.timeouts)
        pause, spent = max(PAUSE * 2 ** (self._tries - 1), asked), time.monotonic() - self._since
        if self._tries >= most or spent + pause > self.seconds:
            self.problem += f"; asked {self._tries} times in {spent:.0f} s" if self._tries > 1 else ""
            return False
        again = f"asked again in {pause:g} s, time {self._tries + 1} of {most}"
        LOG.warning("%s: %s; %s", self.address, self.problem, again)
        time.sleep(pause)
        return True


def pieces(answer: "requests.Response") -> Iterator[bytes]:
    """The bytes of a streamed answer as they come; a piece is not waited for until it has some size."""
    return iter(lambda: answer.raw.read1(1 << 14), b"")


def busy(answer: "requests.Response") -> bool:
    """Whether a server says that it may answer later."""
    return answer.status_code in _BUSY


def _said(failed, timeouts: tuple[float, float]) -> tuple[str, int, float]:
    """What went wrong, how often to ask at most, and how many seconds the server asks to wait."""
    import requests

    if isinstance(failed, str):
        return failed, TRIES, 0
    if isinstance(failed, requests.Response):
        wait = failed.headers.get("Retry-After", "")
        wait = float(wait) if wait.isdecimal() and len(wait) < 10 else 0
        asks = f" and asks to wait {wait:,.0f} s" if wait else ""
        return f"the server answers {failed.status_code} {failed.reason}{asks}", TRIES, wait
    causes, cause = [], failed
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    # the libraries that ask have each their own errors, of the same names
    names = {type(one).__name__ for one in causes}
    if "ConnectTimeout" in names:
        return f"no connection within {timeouts[0]:g} s", TRIES, 0
    if names & {"ReadTimeout", "ReadTimeoutError"}:
        return f"not a byte within {timeouts[1]:g} s", TRIES, 0
    if own := next((one.strerror for one in reversed(causes) if isinstance(one, OSError) and one.strerror), None):
        whose = "the proxy does not answer" if "ProxyError" in names else "no connection"
        return f"{whose} ({own})", 2 if any(isinstance(one, _HOPELESS) for one in causes) else TRIES, 0
    if names & {"ChunkedEncodingError", "ConnectionError", "ProtocolError", "RemoteProtocolError"}:
        return "the connection was cut", TRIES, 0
    return redacted(" ".join(str(failed).split()))[:200], 1, 0  # what cannot be asked at all
