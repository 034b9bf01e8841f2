"""YAML files that people write (tables of settings, tasks, prompts): read with the lines of their keys, checked against
a pydantic model, and refused in one sentence by file, line, field, what was found and what is allowed."""

import difflib
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Discriminator, StringConstraints, Tag, ValidationError

from ia_lib.data.addresses import Told

# Text in one line that is not empty; numbers, true, false and lists are no text.
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")
]
# So many values may a file hold when its aliases are written out, and so many names does a sentence list.
_VALUES, _LISTED = 100_000, 12
_DIRECTIVE = re.compile(r"^%YAML[ \t]+(?!1\.2\s*$)(\S*)", re.MULTILINE)
# pydantic's words -> ours, in this order
_WORDS = {
    **{"Input should be ": "", "String should have ": "", "greater than or equal to": "at least"},
    **{"a valid boolean, unable to interpret input": "true or false", "a valid boolean": "true or false"},
    **{"a valid integer": "a whole number", "a valid number": "a number"},
    **{"a valid string": "text", "a valid list": "a list, as [one, two]"},
}
_Model = TypeVar("_Model", bound=BaseModel)


class Refusal(Told, ValueError):
    """A value that a rule refuses: `field` (with dots) is where it stands, seen from the part that has the rule;
    `among` are names that may have been meant; `said` is what is wrong with it, if that is not plain."""

    def __init__(self, field: str, found: Any, allowed: str, among: Iterable[str] = (), said: str = ""):
        super().__init__(f"found {told(found)}{said and f', {said}'}; {meant(found, among)}allowed: {allowed}")
        self.field = field


def told(value: Any) -> str:
    """A value as YAML has it, in 80 characters at most."""
    said = _yaml(plain(value))
    return said if len(said) <= 80 else f"{said[:77]}..."


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_yaml(part)}" for name, part in islice(value.items(), 20)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value[:20])) + "]"
    return repr(value) if isinstance(value, str | int | float) else str(value)


def meant(found: Any, among: Iterable[str]) -> str:
    """`did you mean ...? ` for the nearest of some names, in any case; nothing where none is near. Of a mapping, what
    the nearest key stands for."""
    if not isinstance(found, str):
        return ""
    asked, stands = found[:100].casefold(), among if isinstance(among, dict) else {name: name for name in among}
    names = {name.casefold(): name for name in stands}
    close = difflib.get_close_matches(asked, names, n=5)
    # letters in another order before letters of another word
    close.sort(key=lambda name: (name != asked, sorted(name) != sorted(asked)))
    return f"did you mean {stands[names[close[0]]]!r}? " if close else ""


def listed(names: Iterable[str], found: Any = "") -> str:
    """Names for a sentence: all of a few, of many those that are nearest to `found`, or else the first."""
    names = list(names)
    if len(names) <= _LISTED:
        return ", ".join(names)
    few = difflib.get_close_matches(str(found)[:100], names, n=3, cutoff=0.4) or names[:3]
    return f"{', '.join(few)} and {len(names) - len(few)} others"


def either(one: Any, fields: Any) -> Any:
    """The type of a value that is `fields` if it is written as fields (a mapping), and `one` if it is anything else."""
    tagged = Annotated[one, Tag("one")] | Annotated[fields, Tag("fields")]
    return Annotated[tagged, Discriminator(lambda v: "fields" if isinstance(v, dict | BaseModel) else "one")]


def read(path: Path, what: str, error: type[Exception]) -> dict:
    """The fields of a file, with their lines. Raises `error` if it cannot be read; `what` is what it is then called."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if path.exists() and not path.is_file():
        raise error(f"{path}: found no file, but a folder or the like; allowed: a {what}, which is a YAML file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = [str(path.with_name(file.name)) for file in path.parent.glob("*.y*ml")]
        said = f"there is no such file; {meant(str(path), near)}"
        raise error(f"{path}: {said}allowed: a {what}, which is a YAML file") from None
    except OSError as problem:
        raise error(f"{path}: the {what} cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError as problem:
        raise error(f"{path}: the {what} is not UTF-8 text ({problem.reason} at byte {problem.start})") from None
    if version := _DIRECTIVE.search(text):
        line = text[: version.start()].count("\n") + 1
        raise error(f"{path}, line {line}: found {version[0][:40]!r}; allowed: YAML 1.2, without this line")
    try:
        tags = (event for event in YAML(typ="rt").parse(text) if getattr(event, "tag", None))
        if tagged := next(tags, None):
            place = f"{path}, line {tagged.start_mark.line + 1}"
            raise error(f"{place}: found the tag {str(tagged.tag)[:80]!r}; allowed: values without tags")
        fields = YAML(typ="rt").load(text)
        if _larger(fields, _VALUES):
            said = f"its aliases stand for more than {_VALUES:,} values"
            raise error(f"{path}, line 1: found too much ({said}); allowed: a {what} that can be written out")
    except YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        said = " ".join(str(getattr(problem, "problem", None) or problem).split()).partition(" with value")[0][:120]
        said += ": write \\ in single quotes, or / instead" if "escape" in said else ""
        raise error(f"{path}, line {mark.line + 1 if mark else 1}: this is not valid YAML ({said})") from None
    except error:
        raise
    except RecursionError:
        raise error(f"{path}, line 1: this is not valid YAML (lists or fields nested too deep to be read)") from None
    except Exception as problem:  # what the parser lets through, as whole numbers of thousands of digits
        said = " ".join(str(problem).split())[:120]
        raise error(f"{path}, line 1: this is not valid YAML (a value that cannot be read: {said})") from None
    if isinstance(fields, dict):
        return fields
    raise error(f"{path}, line 1: found {told(fields)}; allowed: a {what}, which has fields with values")


def validated(model: type[_Model], path: Path, fields: dict, error: type[Exception]) -> _Model:
    """What `read` gave as a `model`; raises `error` for the first thing that is wrong."""
    values = plain(fields)
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        location, text = explain(problem, model, values)
        raise error(f"{where(path, *place(fields, location))}, field {'.'.join(location)!r}: {text}") from None


def explain(error: ValidationError, model: type[BaseModel], values: dict) -> tuple[list[str], str]:
    """The first thing that is wrong with `values`: the names that lead to it, and `found ...; allowed: ...`."""
    problem = error.errors()[0]
    location = _location(problem, values)
    if cause := problem.get("ctx", {}).get("error"):
        return location + [part for part in getattr(cause, "field", "").split(".") if part], str(cause)
    if problem["type"] == "extra_forbidden":
        bare = problem["input"] is None  # as in {objective: tlm, xss}
        more = ", which has no value: a comma begins a new field" if bare else ""
        known = _names(model, location[:-1])
        holder = next((name for name in known if location[-1] in _names(model, [*location[:-1], name])), None)
        more += f", which is one of {holder}, as {holder}: {{{location[-1]}: ...}}" if holder and not bare else ""
        return location, unknown(location[-1], known, more)
    if problem["type"] == "missing":
        return location, "found nothing; allowed: a value for it"
    if problem["type"] == "literal_error":
        among = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        return location, f"found {told(problem['input'])}; {meant(problem['input'], among)}allowed: {listed(among)}"
    same = (other for other in error.errors() if _location(other, values) == location)
    allowed = "; or ".join(dict.fromkeys(_allowed(other, model, location) for other in same))
    return location, f"found {told(problem['input'])}; allowed: {allowed}"


def unknown(key: Any, known: Iterable[str], more: str = "") -> str:
    """What is said of a name that nobody knows."""
    known = list(known)
    return f"found an unknown field{more}; {meant(key, known)}allowed: {listed(known, key)}"


def place(holder: Any, location: Iterable[str]) -> tuple[Any, Any]:
    """What holds the value at a location, as far as it is there, and the value's key in it."""
    inside, key = holder, None
    for part in location:
        if (found := _key(inside, part)) is None:
            return holder, part if key is None else key
        holder, key, inside = inside, found, inside[found]
    return holder, key


def where(path: Path, holder: Any, key: Any) -> str:
    """File and line of a key, or of its holder if the key is not there."""
    return f"{path}, line {line(holder, key) + 1}"


def line(holder: Any, key: Any) -> int:
    """The line of a key, counted from 0, or of its holder if the key is not there."""
    try:
        return holder.lc.key(key)[0]
    except (AttributeError, KeyError, TypeError):
        # a key that is not there itself, or that a merge key brought in
        return getattr(getattr(holder, "lc", None), "line", 0) or 0


def plain(value: Any) -> Any:
    """ruamel's containers and scalars as plain Python ones."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _larger(value: Any, most: int) -> bool:
    """Whether a value is made of more than so many, each alias counted as what it stands for."""
    left, open_ = most, [value]
    while open_:
        one = open_.pop()
        left -= 1
        if left < 0:
            return True
        open_ += list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
    return False


def _key(holder: Any, part: str) -> Any:
    """The key of a mapping, or the index of a list, that is written so; None if there is none."""
    keys = holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
    return next((key for key in keys if str(key) == part), None)


def _location(problem: dict, values: Any) -> list[str]:
    """Where a problem is, without pydantic's own names of the kinds that a value may be of."""
    location = []
    for i, part in enumerate(problem["loc"]):
        key = _key(values, str(part))
        if key is not None:
            values = values[key]
        elif problem["type"] != "missing" or i + 1 < len(problem["loc"]):
            continue
        location.append(str(part))
    return location


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    """The models that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _names(model: type[BaseModel] | None, location: Iterable[str]) -> list[str]:
    """What the fields at a location of a model are called; nothing if there are no named fields."""
    for part in location:
        field = next((f for n, f in model.model_fields.items() if part == (f.alias or n)), None) if model else None
        # an index of a list, or a key of a free mapping, leads to what its field is made of
        if field is not None:
            model = next(iter(_models(field.annotation)), None)
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _allowed(problem: dict, model: type[BaseModel], location: list[str]) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        names = _names(model, location)
        # what is most often written without its field
        bare = next((name for name in ("name", "file") if name in names and isinstance(problem["input"], str)), None)
        example = f", as {{{bare}: {told(problem['input'])}}}" if bare else ""
        return f"some of {', '.join(names)} with their values{example}" if names else "fields with their values"
    if problem["type"] == "too_short":
        least = problem["ctx"]["min_length"]
        return "at least one entry" if least == 1 else f"at least {least} entries"
    if problem["type"] == "string_pattern_mismatch":
        return "text in one line, without control characters"
    if problem["type"] == "int_type" and isinstance(problem["input"], float):
        return "a whole number, written without a point"
    text = problem["msg"]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text
