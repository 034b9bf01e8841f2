"""Addresses as they may be written down: without what may hold credentials."""

import re
from collections.abc import Callable
from typing import Any

# An address in a text; a path or a query alone, as libraries name what they asked a server for.
_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://\S+|(?<=url: )/\S+|(?<=[\w/])\?[\w.%~+-]+=\S+""")
# A user with a password before a host, with or without a scheme.
_USER = re.compile(r"""(?<!\w)[^\s/:@'"(]+:[^\s@'"]+@(?=[\w.-]+[:/])""")
# What begins a list of names and values where no question mark does.
_QUERY = re.compile(r"(?:%3[fF]|[;&])(?=[\w.-]+=)")
# What stands behind an address in a text and is no part of it.
_BEHIND = re.compile(r"""(?:\\n|['"`)\]}>,;.:])*$""")


def shown(value: Any, query: bool = False) -> Any:
    """An address without user, password, query and fragment, `?...` for the query unless it is to be kept; other text
    as it is. Of lists and dictionaries all texts."""
    return _each(value, lambda text: _shown(text, query))


def redacted(value: Any) -> Any:
    """A text with every address in it as it may be shown. Of lists and dictionaries all texts."""
    return _each(value, lambda text: _USER.sub("", _ADDRESS.sub(_replaced, text)))


class Told(Exception):
    """An error whose text is for people to read, so that no address in it holds credentials."""

    def __init__(self, text: str = ""):
        super().__init__(redacted(text))


def _each(value: Any, how: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return how(value)
    if isinstance(value, dict):
        return {_each(name, how): _each(part, how) for name, part in value.items()}
    return [_each(part, how) for part in value] if isinstance(value, list) else value


def _shown(address: str, keep: bool) -> str:
    scheme, mark, rest = address.partition("://")
    if not mark:
        # as rsync and git write addresses
        return _USER.sub("", address)
    if ":" in rest.partition("/")[0] and "@" in rest.partition("?")[0]:
        # a password may have a slash in it; of an address with a port and @ in its path too much is lost then
        rest = rest.partition("?")[0].rpartition("@")[2] + "".join(rest.partition("?")[1:])
    if hidden := _QUERY.search(rest.partition("?")[0]):
        rest = f"{rest[: hidden.start()]}?{rest[hidden.end() :]}"
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    host, path = rest[:end].rpartition("@")[2], rest[end:]
    name, _, port = host.rpartition(":")
    if port and name and not port.isdigit() and not host.endswith("]"):
        # no port: half of a user and a password that was cut, or that has a sign in it that ends a host
        host, path = ("", path.rpartition("@")[2]) if "@" in path else (f"{name}:...", "")
    path, _, asked = path.partition("#")[0].partition("?")
    return f"{scheme}://{host}{path}" + (f"?{asked if keep else '...'}" if asked else "")


def _replaced(found: re.Match) -> str:
    behind = _BEHIND.search(found[0]).start()
    text, rest = found[0][:behind], found[0][behind:]
    if rest.startswith("...") and text.endswith("?"):  # it has been replaced before
        text, rest = text[:-1], f"?{rest}"
    if "://" in text:
        return _shown(text, keep=False) + rest
    path, query, _ = text.partition("?")
    return f"{path}{query and '?...'}{rest}"
