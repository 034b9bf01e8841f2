"""Many rows written as one: a row with `grid` stands for a row of every combination of the grid's values.

    - name: "lora-{size}-{budget}"
      grid:
        size: {560m: {model: {name: bigscience/bloom-560m}}, 1b1: {model: {name: bigscience/bloom-1b1}}}
        budget: [multilingual, english]

An axis is a list of values for the field of that name, or short names with the fields that each sets. `{size}` and
`{budget}` are its slots: each stands in the name, and may stand in any other text of the row.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ia_lib.data.yaml_files import line, meant, plain, told, unknown, where
from ia_lib.workflow.settings import SettingsError

_AXIS = re.compile(r"[\w-]+")
_SLOT = re.compile(r"\{([\w-]+)\}")
# Slots of the kit's own in names of files.
_TAKEN = ("tag", "split", "name", "code")
_UNFIT = re.compile(r"[^A-Za-z0-9_.+-]+")


@dataclass(frozen=True)
class _Choice:
    """One value of an axis: what its slot reads in a text, and what a text that is nothing but the slot becomes."""

    axis: str
    text: str
    value: Any
    fields: dict  # that it sets
    named: bool  # whether it has a short name: a bare value whose axis is no field is a slot alone

    @property
    def fit(self) -> str:
        """The text as a name can have it."""
        return _UNFIT.sub("-", self.text)


class _Lines:
    """Where the keys of a mapping stand, as ruamel tells it."""

    def __init__(self, line: int, keys: dict[Any, int]):
        self.line, self._keys = line, keys

    def key(self, key: Any) -> tuple[int]:
        return (self._keys[key],)


class _Map(dict):
    def __init__(self, values: dict, lines: _Lines):
        super().__init__(values)
        self.lc = lines


class _List(list):
    def __init__(self, values: list, lines: Any):
        super().__init__(values)
        self.lc = lines


def expanded(path: Path, row: Any, fields: Callable[[Any], list[str] | None], most: int) -> Iterator[Any]:
    """The rows that a row of a table stands for, the first axis slowest: itself if it has no grid. They know the lines
    that their fields are from. `fields` gives the fields of a recipe as a row names it (None if it does not), or None
    where there is no such recipe.

    Raises SettingsError for a grid that cannot be used, or that makes more than `most` rows.
    """
    if not isinstance(row, dict) or "grid" not in row or not isinstance(row.get("name"), str):
        yield row
        return
    grid = _Grid(path, row)
    if (count := math.prod(map(len, grid.axes))) > most:
        grid.refuse(row, "grid", "grid", f"found {count:,} rows; allowed: {most:,} at most, with what the table has")
    for chosen in product(*grid.axes):
        yield grid.row(chosen, fields)


class _Grid:
    """A row with its axes."""

    def __init__(self, path: Path, row: dict):
        self.path, self.written, self.grid = path, row, row["grid"]
        if not isinstance(self.grid, dict) or not self.grid:
            self.refuse(row, "grid", "grid", f"found {told(self.grid)}; allowed: fields with lists of values")
        self.axes = [self._axis(key) for key in self.grid]
        names = [axis[0].axis for axis in self.axes]
        slots, asked = set(_SLOT.findall(row["name"])), ", ".join(f"{{{name}}}" for name in names)
        if without := [name for name in names if name not in slots]:
            allowed = f"a name with {{{without[0]}}} in it, so that each row has its own"
            self.refuse(row, "name", "name", f"found {told(row['name'])}; allowed: {allowed}")
        if other := [slot for slot in slots if slot not in names]:
            self.refuse(row, "name", "name", f"found {{{other[0]}}}; {meant(other[0], names)}allowed: {asked}")
        self.shared = {key: value for key, value in row.items() if key not in ("name", "grid")}
        # where slots stand beside the name
        self.used = _slots([self.shared, [choice.fields for axis in self.axes for choice in axis if choice.named]])

    def refuse(self, holder: Any, key: Any, field: str, text: str) -> None:
        said = f"{where(self.path, holder, key)}, run {told(self.written['name'])}, field {told(field)}"
        raise SettingsError(f"{said}: {text}")

    def row(self, chosen: tuple[_Choice, ...], fields: Callable[[Any], list[str] | None]) -> dict:
        """The row of one combination."""
        texts, values = {c.axis: c.text for c in chosen}, {c.axis: c.value for c in chosen}
        recipe = next((c.fields["recipe"] for c in chosen if "recipe" in c.fields), self.shared.get("recipe"))
        known = fields(self._filled(recipe, texts, values))
        made = {"name": self.written["name"], **self.shared}
        lines = {key: line(self.written, key) for key in made}
        for choice in chosen:
            for key, value in choice.fields.items():
                if not choice.named and key in self.used and (key in self.shared or (known and key not in known)):
                    continue  # the row says what it is for
                field = f"grid.{choice.axis}" + (f".{choice.text}.{_text(key)}" if choice.named else "")
                if key in made:
                    allowed = "each field once, in the row or in one axis of its grid"
                    self.refuse(choice.fields, key, field, f"found {told(_text(key))} twice; allowed: {allowed}")
                if not choice.named and known and key not in known:
                    more = f", and {{{key}}} stands nowhere in the row but in its name"
                    self.refuse(choice.fields, key, field, unknown(key, known, more))
                made[key], lines[key] = value, line(choice.fields, key)
        name = _SLOT.sub(lambda slot: {c.axis: c.fit for c in chosen}[slot[1]], made.pop("name"))
        found = {key: self._filled(value, texts, values) for key, value in made.items()}
        return _Map({"name": name, **found}, _Lines(line(self.written, None), lines))

    def _axis(self, key: Any) -> list[_Choice]:
        name, given = _text(key) or str(key), self.grid[key]
        field = f"grid.{name}"
        if name in _TAKEN or not _AXIS.fullmatch(name):
            allowed = f"letters, digits, _ and -, but not {', '.join(_TAKEN)}, which names of files have"
            self.refuse(self.grid, key, field, f"found {told(name)}; allowed: {allowed}")
        if not isinstance(given, dict | list) or not given:
            allowed = "a list of values, or short names with fields; at least one"
            self.refuse(self.grid, key, field, f"found {told(given)}; allowed: {allowed}")
        named, found = isinstance(given, dict), []
        for part in given if named else range(len(given)):
            text, at = (_text(part), f"{field}.{_text(part)}") if named else (_text(given[part]), field)
            fields = ({} if given[part] is None else given[part]) if named else _one(name, given, part)
            if text is None:
                allowed = f"a plain value, or a short name for it, as {{{name}: {{short: {{...}}}}}}"
                self.refuse(given, part, at, f"found {told(given[part])}; allowed: {allowed}")
            if not isinstance(fields, dict):
                self.refuse(given, part, at, f"found {told(fields)}; allowed: fields with their values")
            if inside := next((one for one in ("name", "grid") if one in fields), None):
                allowed = "fields of a row, as model: {name: ...}, but neither name nor grid"
                self.refuse(fields, inside, f"{at}.{inside}", f"found {told(inside)}; allowed: {allowed}")
            choice = _Choice(name, text, text if named else given[part], fields, named)
            nothing = not any(letter.isalnum() for letter in choice.fit)
            if nothing or any(choice.fit.casefold() == other.fit.casefold() for other in found):
                said = "what a name cannot have" if nothing else f"{choice.fit!r} in two names"
                allowed = "values that differ in letters and digits, or short names for them"
                self.refuse(given, part, at, f"found {told(text)}, {said}; allowed: {allowed}")
            found.append(choice)
        return found

    def _filled(self, value: Any, texts: dict[str, str], values: dict[str, Any]) -> Any:
        """A value with its slots filled, and with the lines that it had."""
        if isinstance(value, str):
            alone = _SLOT.fullmatch(value)
            if alone and alone[1] in values:
                return values[alone[1]]
            return _SLOT.sub(lambda slot: texts.get(slot[1], slot[0]), value)
        if isinstance(value, list):
            return _List([self._filled(part, texts, values) for part in value], value.lc)
        if not isinstance(value, dict):
            return value
        keys = {key: _SLOT.sub(lambda slot: texts.get(slot[1], slot[0]), str(key)) for key in value}
        if double := next((key for key in keys.values() if [*keys.values()].count(key) > 1), None):
            self.refuse(value, None, "grid", f"found {told(double)} twice in one place; allowed: names that differ")
        found = {keys[key]: self._filled(part, texts, values) for key, part in value.items()}
        return _Map(found, _Lines(line(value, None), {keys[key]: line(value, key) for key in value}))


def _one(name: str, values: list, number: int) -> _Map:
    """A bare value as the field that its axis is called after."""
    at = line(values, number)
    return _Map({name: values[number]}, _Lines(at, {name: at}))


def _text(value: Any) -> str | None:
    """What a value's slot reads; nothing for one that needs a short name."""
    value = plain(value)
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list):
        parts = [_text(part) for part in value]
        return None if None in parts or any(isinstance(part, list) for part in value) else "+".join(parts) or "none"
    return str(value) if isinstance(value, str | int | float) else None


def _slots(value: Any) -> set[str]:
    """The slots that stand in a value's texts."""
    if isinstance(value, str):
        return set(_SLOT.findall(value))
    parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(_slots, parts))
