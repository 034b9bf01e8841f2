"""Translations out of XML: TMX memories, and XLIFF 1.2 and 2 as translation programs exchange them.

Text is taken as a reader of the document would see it: a tag that stands for a break or for something that is not text
leaves a blank, one that only formats leaves nothing, and mark-up of the original is no text."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.parsers import expat


class XmlError(ValueError):
    """A file that cannot be read; the message names file, line and remedy."""


_UNITS = {"tu", "trans-unit", "unit"}
# What holds a text, and in what: a proposal inside a unit has a source and target of its own, which do not count.
_HOLDERS = {"seg": {"tuv"}, **{side: {"trans-unit", "segment", "ignorable"} for side in ("source", "target")}}
# Inline elements whose content is mark-up of the original document and no text.
_CODES = {"bpt", "ept", "it", "ph", "ut", "sub"}
# Inline elements that stand for something in the text; all others surround a part of it.
_ALONE = {"it", "ph", "ut", "x"}
# Words by which programs mark what only formats, and what breaks a line or a paragraph.
_FORMAT = re.compile(r"(?:x-|fmt|xlf:)*(?:b|bold|i|italic|u|ulined|underlined?|color|font|link|hlink|scap|fmt)")
_FORMAT_TAG = re.compile(r"</?(?:a|b|big|code|em|font|i|mark|s|small|span|strong|su[bp]|tt|u)\b[^>]*/?>", re.IGNORECASE)
_BREAK = re.compile(r"(?:x-|xlf:)*(?:lb|pb|br|newline|linebreak|tab|div|h[1-6]|hr|li|ol|p|seg|t[dhr]|ul)")
_BREAK_TAG = re.compile(r"</?(?:br|div|h[1-6]|hr|li|[ou]l|p|t[dhr]|w:br|w:tab)\b", re.IGNORECASE)
# A blank that nothing has to keep: at an end, beside another one, or before what closes a sentence.
_GAP = "\ufdd0"  # which no text has
_CLOSING = re.compile(rf"{_GAP}+(?=[.,;:!?…)\]}}»”])")
_DELETED = re.compile(r"x-\w+-deleted")  # what a program that tracks changes keeps of old text
_UNTRANSLATED = {"new", "needs-translation", "initial"}


def translations(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The units of a file in their order, each with its place and the texts in the languages `columns` (`mad`, which
    `mad-ID` matches too); the column `tuid` is the unit's id. Of several texts in one language the first counts; one
    that is not translated is empty.

    Raises XmlError for a language that the file does not have, for entities, which it could use to read other files
    or to swell, and for a file that is no XML.
    """
    tags: dict[str, None] = {}
    for _, unit in _units(path):
        tags |= dict.fromkeys(unit)
    tags.pop("tuid", None)
    matches = []
    for name in columns:
        own = ["tuid"] if name == "tuid" else [tag for tag in tags if name.lower() in (tag, tag.split("-")[0])]
        own.sort(key=lambda tag: tag != name.lower())  # the language itself before its variants
        if not own:
            raise XmlError(f"{path}: there is no language {name!r}; found: {', '.join(tags) or 'none'}")
        matches.append(own)
    for number, (line, unit) in enumerate(_units(path), 1):
        cells = [next((unit[tag] for tag in own if tag in unit), "") for own in matches]
        yield f"unit {number} in line {line}", cells


def _units(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = _Reader(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.characters
    parser.EntityDeclHandler = lambda name, *_: reader.refuse(f"the file declares an entity ({name!r})")
    # named in a file that points to another one, it would vanish
    parser.SkippedEntityHandler = lambda name, _: reader.refuse(f"the file does not say what &{name}; means")
    reader.parser = parser
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 16):
                parser.Parse(chunk)
                yield from reader.finished()
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise XmlError(f"{path}, line {error.lineno}: this is no XML ({reason}); export the file again") from None
    yield from reader.finished()


class _Reader:
    """What the parser finds, as units."""

    def __init__(self, path: Path):
        self.path, self.done, self.above = path, [], []
        self.languages = {"source": "", "target": ""}  # of XLIFF, for the whole file
        self.line, self.texts, self.ident = 0, {}, ""
        self.tag, self.state, self.text, self.depth, self.codes, self.code = "", "", [], 0, 0, ""

    def refuse(self, said: str) -> None:
        raise XmlError(f"{self.path}, line {self.parser.CurrentLineNumber}: {said}; write its text out")

    def finished(self) -> Iterator[tuple[int, dict[str, str]]]:
        yield from self.done
        self.done = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        own = attributes.get("xml:lang") or attributes.get("lang")
        if self.depth:
            self.depth += 1
            self._inline(name, attributes)
        elif name in ("xliff", "file"):
            for side, names in (("source", ("srcLang", "source-language")), ("target", ("trgLang", "target-language"))):
                self.languages[side] = next((attributes[n] for n in names if n in attributes), self.languages[side])
        elif name in _UNITS:
            self.line, self.texts = self.parser.CurrentLineNumber, {}
            self.ident = attributes.get("tuid") or attributes.get("id") or ""
        elif name == "tuv":
            self.tag = (own or "").lower()
        elif name in ("segment", "ignorable"):
            self.state = attributes.get("state", "")
        elif name in _HOLDERS and self.above[-1:] and self.above[-1] in _HOLDERS[name]:
            self.text, self.depth, self.codes = [], 1, 0
            if name != "seg":
                self.tag = (own or self.languages[name]).lower()
            if self.above[-1] == "trans-unit":
                self.state = attributes.get("state", "")
        self.above.append(name)

    def end(self, name: str) -> None:
        name = name.rpartition(":")[2]
        self.above.pop()
        if self.depth > 1 and self.codes:
            self.codes -= 1
            if not self.codes and name in _CODES:
                self._stands(name, self.code)
        elif self.depth == 1:
            # a target that is marked as not yet translated is often the source again
            text = "" if name == "target" and self.state in _UNTRANSLATED else "".join(self.text)
            self.texts.setdefault(self.tag, []).append((self.above[-1], text))
        elif not self.depth and name in _UNITS:
            self.done.append((self.line, {"tuid": self.ident, **{t: self._joined(p) for t, p in self.texts.items()}}))
        self.depth = max(self.depth - 1, 0)

    def characters(self, data: str) -> None:
        if self.codes:
            self.code += data
        elif self.depth:
            self.text.append(data)

    def _inline(self, name: str, attributes: dict[str, str]) -> None:
        if self.codes:
            self.codes += 1
            return
        kinds = ("type", "ctype", "mtype", "subType", "equiv-text", "equiv", "disp")
        said = " ".join(attributes[kind] for kind in kinds if kind in attributes)
        if name == "cp":  # a character that XML cannot hold
            self.refuse(f"the character {attributes.get('hex', '')} is no text")
        elif name in _CODES or (name == "mrk" and _DELETED.fullmatch(attributes.get("mtype", ""))):
            self.codes, self.code = 1, said + " "
        else:
            self._stands(name, said)

    def _stands(self, name: str, said: str) -> None:
        """What an inline element leaves in the text."""
        words = said.lower().split()
        breaks = any(map(_BREAK.fullmatch, words)) or _BREAK_TAG.search(said) or "\n" in said or "\t" in said
        formats = any(map(_FORMAT.fullmatch, words)) or _FORMAT_TAG.search(said)
        if breaks or (name in _ALONE and not formats):
            self.text.append(_GAP)

    def _joined(self, parts: list[tuple[str, str]]) -> str:
        """The text in one language: of TMX the first one, of XLIFF its segments; what stands between them is told in
        between if it is told at all."""
        if parts[0][0] == "tuv":
            parts = parts[:1]
        if any(not text.strip() for holder, text in parts if holder == "segment"):
            return ""
        told = any(holder == "ignorable" for holder, _ in parts)
        text = ("" if told else " ").join(text for _, text in parts)
        return " ".join(_CLOSING.sub("", text).replace(_GAP, " ").split())
