"""Dirt in texts that no reader refuses: traces of mark-up, lost or invisible letters, a wrong language.

Everything here only counts and shows; the texts stay as they are."""

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import regex

from ia_lib.data.identification import alike, langid

if TYPE_CHECKING:
    import numpy as np

# What a text holds -> what to do about it.
KINDS = {
    "HTML entities": "turn them into the characters that they stand for",
    "lost characters (U+FFFD)": "the file was read in a wrong encoding once; get it again",
    "invisible characters": "take them out: a model reads them as letters",
    "control or private characters": "take them out: no reader sees them, or everyone sees something else",
    "HTML tags": "take them out, or turn them into what they stand for",
    "control tokens": "take them out: the model reads them as plain text here, and they are no sentence's own",
    "letters of a wrong encoding": "the text is UTF-8 that was read as Windows-1252; get it again",
}
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Joiners are letters of some scripts, and hold emoji together.
_INVISIBLE = regex.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\u2800\u3164\ufeff\ufff9-\ufffb]"
    r"|[\U000e0000-\U000e007f]|(?<=[\p{Latin}\p{Greek}\p{Cyrillic}\s])[\u200c\u200d]"
)
_UNPRINTED = regex.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]|\p{Co}")
# One that ends, breaks a line or says more than its name; a letter between angle brackets alone may be a letter.
_TAG = re.compile(r"<br\s*/?>|</(?:a|b|div|em|font|h[1-6]|i|li|ol|p|small|span|strong|su[bp]|t[dhr]|table|u|ul)>"
                  r"|<(?:a|div|font|img|p|span|t[dhr]|table)\s[^<>]*=[^<>]*>", re.IGNORECASE)  # fmt: skip
# What chat templates put between turns, and tokenizers between texts.
CONTROL = re.compile(
    r"<\|[\w-]{1,40}\|>|<\uff5c[^\uff5c<>]{1,40}\uff5c>|</?s>|\[/?INST\]|<</?SYS>>|</?think>"
    r"|<(?:start|end)_of_turn>|<(?:pad|unk|bos|eos|mask|sep|cls)>|\[(?:PAD|UNK|MASK|SEP|CLS)\]|<extra_id_\d+>"
)
# Runs of what Windows-1252 has beyond ASCII, and what a letter or sign in UTF-8 becomes when it is read as that.
_WINDOWS = {bytes([i]).decode("cp1252", "ignore") or chr(i): i for i in range(128, 256)}
_WINDOWS |= {chr(i): i for i in range(128, 256)}
_RUN = re.compile(f"[{''.join(map(re.escape, _WINDOWS))}]{{2,}}")
# Some letters also stand alone before a closing quote: of those it takes two.
_UTF8 = re.compile(
    rb"[\xc2-\xc5][\x80-\xbf]|\xe2[\x80-\xbf]{2}|\xf0[\x80-\xbf]{3}"
    rb"|(?:[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}){2}"
)
# Sampled texts of a column, how many of them are looked at as one, and the share that makes a majority clear.
SAMPLE, _TOGETHER, _CLEAR = 200, 10, 0.8
SHOWN = 80  # characters of a text, at most


@dataclass
class Found:
    """How many texts hold each of `KINDS`, and of each the first one's place in its own words."""

    texts: int = 0
    counts: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, texts: Iterable[str], tokens: re.Pattern | None = None) -> "Found":
        """Look at more texts; `tokens` finds a tokenizer's special tokens."""
        for text in texts:
            self.texts += 1
            for kind, begin in kinds(text, tokens).items():
                self.counts[kind] += 1
                if kind not in self.examples:
                    begin = max(0, begin - SHOWN // 2)
                    self.examples[kind] = text[begin : begin + SHOWN]
        return self

    def warnings(self, what: str, share_text: bool = True) -> list[str]:
        """In plain words; `what` says which texts they are."""
        said = []
        for kind, count in self.counts.items():
            example = f" (such as {self.examples[kind]!r})" if share_text else ""
            said.append(f"{count:,} of {self.texts:,} texts {what} hold {kind}{example}: {KINDS[kind]}")
        return said


def kinds(text: str, tokens: re.Pattern | None = None) -> dict[str, int]:
    """Those of `KINDS` that a text holds, and where each begins."""
    found: dict[str, int] = {}
    entity, lost, invisible, unprinted, tag, control, encoding = KINDS
    if "&" in text and (match := next((m for m in _ENTITY.finditer(text) if html.unescape(m[0]) != m[0]), None)):
        found[entity] = match.start()
    if match := (tokens and tokens.search(text)) or (("<" in text or "[" in text) and CONTROL.search(text)):
        found[control] = match.start()
    if match := "<" in text and _TAG.search(text):
        found[tag] = match.start()
    if not text.isprintable() and (match := _UNPRINTED.search(text)):
        found[unprinted] = match.start()
    if not text.isascii():
        if (place := text.find("\u00ef\u00bb\u00bf")) >= 0:
            found[encoding] = place
        if (place := text.find("\ufffd")) >= 0:
            found[lost] = place
        if match := _INVISIBLE.search(text):
            found[invisible] = match.start()
        if match := next((m for m in _RUN.finditer(text) if _UTF8.search(bytes(map(_WINDOWS.get, m[0])))), None):
            found[encoding] = match.start()
    return found


def out_of_proportion(first: "np.ndarray", second: "np.ndarray") -> "np.ndarray":
    """Which pairs have lengths far from the others': more than four times the median of their ratios or less than a
    quarter, where the longer one has 20 characters at least. `first, second`: arrays of characters."""
    import numpy as np

    if not len(first):
        return np.zeros(0, bool)
    ratios = np.log(np.maximum(first, 1) / np.maximum(second, 1))
    return (np.abs(ratios - np.median(ratios)) > np.log(4)) & (np.maximum(first, second) >= 20)


def other_language(code: str, texts: Sequence[str]) -> str | None:
    """The language that a clear majority of texts which should be in `code` is in, as its code; None where that is the
    right one, or the identifier (py3langid) does not know it and finds no English."""
    step = max(1, len(texts) // SAMPLE)
    sample = list(texts[::step])[:SAMPLE]
    # several at once, since a short text says little
    parts = ["\n".join(sample[i : i + _TOGETHER]) for i in range(0, len(sample), _TOGETHER)]
    if not parts or sum(map(len, parts)) < 200:
        return None
    identifier = langid()
    known = alike(code) & set(identifier.labels)
    (found, count), *_ = Counter(identifier.classify(part)[0] for part in parts).most_common()
    if found in known or found == "zxx" or count < _CLEAR * len(parts) or not (known or found == "en"):
        return None
    return found
