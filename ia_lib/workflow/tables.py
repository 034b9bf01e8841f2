"""The table of settings: YAML rows, validated before any work starts.

A table is a YAML 1.2 file with `defaults` (fields for all rows), `runs` (a list of rows, each with a `name`) and
optionally `seeds` (every row is run once per seed, as `name-s1`, `name-s2`, ...). Every wrong field is refused with
one sentence that names file, line, run, field, what was found and what is allowed.
"""

import difflib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ia_lib.workflow.settings import PARTS, Refusal, Settings, SettingsError

_OURS = ("row", "home", "place")  # fields that are filled in here
# pydantic's words -> ours, in this order
_WORDS = {
    "Input should be ": "",
    "String should have ": "",
    "a valid boolean, unable to interpret input": "true or false",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid list": "a list",
    "greater than or equal to": "at least",
}
_FIELDS = [field for field in Settings.model_fields if field not in _OURS]


def load(path: str | Path, row: str | None = None, changes: dict[str, Any] | None = None) -> list[Settings]:
    """All runs of a table, in order; `changes` overrides fields of the row named `row`.

    Raises SettingsError for anything that is wrong, before any work.
    """
    path = Path(path)
    if changes is not None and (not isinstance(changes, dict) or {"name", *_OURS} & set(changes)):
        raise SettingsError(f"changes: found {changes!r}; allowed: fields with their values, but not name")
    table = _read(path)
    for key in table:
        if key not in ("defaults", "runs", "seeds"):
            raise SettingsError(_where(path, table, key) + _unknown(key, ["defaults", "runs", "seeds"]))
    defaults, rows, seeds = table.get("defaults") or {}, table.get("runs"), table.get("seeds")
    if not isinstance(rows, list) or not rows:
        raise SettingsError(_where(path, table, "runs") + f", field 'runs': found {rows!r}; allowed: a list of rows")
    if not isinstance(defaults, dict):
        raise SettingsError(
            _where(path, table, "defaults") + f", field 'defaults': found {defaults!r}; allowed: fields"
        )
    if seeds is not None and not (
        isinstance(seeds, list)
        and seeds
        and all(type(s) is int and s >= 0 for s in seeds)
        and len({*seeds}) == len(seeds)
    ):
        raise SettingsError(
            _where(path, table, "seeds") + f", field 'seeds': found {_plain(seeds)!r}; "
            "allowed: a list of whole numbers, each at least 0 and there once"
        )
    if "name" in defaults:
        raise SettingsError(
            _where(path, defaults, "name") + f", defaults, field 'name': found {_plain(defaults['name'])!r}; "
            "allowed: fields that rows share; each row has a name of its own"
        )
    runs = []
    for i, entry in enumerate(rows):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            found = entry["name"] if isinstance(entry, dict) and "name" in entry else entry
            where = f"{path}, line {rows.lc.item(i)[0] + 1}, run {i + 1}"
            raise SettingsError(
                f"{where}, field 'name': found {_plain(found)!r}; allowed: a name, as text, in each row"
            )
        for holder, whose in ((entry, f"run {entry['name']!r}"), (defaults, "defaults")):
            for key in _OURS:
                if key in holder:
                    raise SettingsError(f"{_where(path, holder, key)}, {whose}{_unknown(key, _FIELDS)}")
            if seeds is not None and "seed" in holder:
                raise SettingsError(
                    f"{_where(path, holder, 'seed')}, {whose}, field 'seed': found {_plain(holder['seed'])!r}; "
                    "allowed: either seed or the table's seeds"
                )
        changed = (changes or {}) if entry["name"] == row else {}
        for seed in seeds or [None]:
            values = {**_plain(defaults), **_plain(entry), "row": entry["name"]}
            if seed is not None:
                values |= {"seed": seed, "name": f"{entry['name']}-s{seed}"}
            values |= changed
            try:
                run = Settings.model_validate(values)
            except ValidationError as error:
                raise SettingsError(_explain(error, path, defaults, entry, changed)) from None
            place = f"{path}, line {rows.lc.item(i)[0] + 1}"
            run = run.model_copy(update={"home": str(path.resolve().parent), "place": place})
            runs.append(_at_seed(run, seed) if seed is not None else run)
    _check_references(runs, path)
    return runs


def refused(path: Path, run: Settings, refusal: Refusal) -> SettingsError:
    """What is said of a run's field that is found wrong only with what it reads: the line is the field's."""
    table = _read(path)
    rows, defaults = table["runs"], table.get("defaults") or {}
    row = next(row for row in rows if row["name"] == run.row)
    top = refusal.field.split(".")[0]
    shared = top in defaults and top not in row
    whose = f"defaults (in run {run.name!r})" if shared else f"run {run.name!r}"
    place = _where(path, defaults if shared else row, top)
    return SettingsError(f"{place}, {whose}, field {refusal.field!r}: {refusal}")


def needs(run: Settings) -> list[str]:
    """The names of the runs that this one builds on."""
    names = [run.model.run, run.past.run if run.past else None]
    return [name for name in dict.fromkeys(names) if name]


def _read(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: the table cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: the table is not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        table = YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SettingsError(f"{path}, line {line}: this is not valid YAML ({problem})") from None
    if not isinstance(table, dict):
        raise SettingsError(f"{path}, line 1: found no table; allowed: defaults, runs and seeds")
    return table


def _plain(value: Any) -> Any:
    """ruamel's containers and scalars as plain Python ones."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _at_seed(run: Settings, seed: int) -> Settings:
    """References to other runs of the table mean those of the same seed."""
    update: dict[str, Any] = {}
    if run.model.run:
        update["model"] = run.model.model_copy(update={"run": f"{run.model.run}-s{seed}"})
    if run.past and run.past.run:
        update["past"] = run.past.model_copy(update={"run": f"{run.past.run}-s{seed}"})
    return run.model_copy(update=update)


def _check_references(runs: list[Settings], path: Path) -> None:
    by_name: dict[str, Settings] = {}
    for run in runs:
        where = f"{run.place}, run {run.row!r}"
        # some machines do not tell folders apart by case
        if run.name.casefold() in {"report", "lab", *map(str.casefold, by_name)}:
            raise SettingsError(
                f"{where}, field 'name': found {run.name!r}; allowed: a name no other run or folder has, in any case"
            )
        for needed in needs(run):
            if needed not in by_name:
                field = "model" if needed == run.model.run else "past"
                above = ", ".join(by_name) or "none"
                raise SettingsError(
                    f"{where}, field '{field}.run': found {needed!r}; allowed: a run above it ({above})"
                )
            earlier = by_name[needed]
            if run.past and run.past.run == needed and not earlier.uses_old:
                raise SettingsError(f"{where}, field 'past.run': found {needed!r}; allowed: a run that has past data")
            for field in ("corpus", "seed", "lab") if run.corpus == "minilab" else ():
                # another lab would test on sentences that the earlier run was trained on
                if getattr(run, field) != getattr(earlier, field):
                    found, allowed = _short(getattr(run, field)), _short(getattr(earlier, field))
                    raise SettingsError(
                        f"{where}, field '{field}': found {found}; allowed: {allowed}, as in the run {needed!r}"
                    )
        by_name[run.name] = run
        try:
            _check_past(run, by_name)
        except Refusal as error:
            raise refused(path, run, error) from None


def _check_past(run: Settings, by_name: dict[str, Settings]) -> None:
    """Refuse what a past that is a mixture, or what runs were trained on, will not have."""
    rows = _past_rows(run, by_name)
    if rows is not None and (_replayed(run, by_name) < 1 or _replayed(run, by_name) > rows - _beside(run)):
        beside = f", {_beside(run):,} of them for validation" if _beside(run) else ""
        raise Refusal("replay", run.replay, f"what the past data has: {rows:,} rows{beside}")
    first = run
    while first.past and first.past.run:
        first = by_name[first.past.run]
    mixture = run.past.mixture if run.past else None
    splits = ["base", "train"] if run.corpus == "minilab" else ["train", "valid", "test"]
    if run.uses_old and mixture and mixture.split not in splits:
        raise Refusal("past.mixture.split", mixture.split, f"a split of the corpus {run.corpus} ({', '.join(splits)})")
    columns = ["objective", "language"] if first.past and first.past.mixture else ["language"]
    known = first.past and (first.past.mixture or first.past.xp3)
    if run.uses_old and run.replay_stratify and known and run.replay_stratify not in columns:
        raise Refusal("replay_stratify", run.replay_stratify, f"a column of the past data ({', '.join(columns)})")


def _past_rows(run: Settings, by_name: dict[str, Settings]) -> int | None:
    """How many rows the past of a run has, None if only its file tells."""
    if not run.uses_old or run.past is None:
        return None
    if run.past.mixture:
        return run.past.mixture.rows
    return _replayed(by_name[run.past.run], by_name) if run.past.run else None


def _replayed(run: Settings, by_name: dict[str, Settings]) -> int | None:
    """How many rows of its past a run is trained on, None if only a file tells."""
    rows = _past_rows(run, by_name)
    return run.replay if run.replay != "all" else rows if rows is None else rows - _beside(run)


def _beside(run: Settings) -> int:
    """The rows of its past that a run holds out."""
    return 0 if run.uses_new else run.validation_rows


def _short(value: Any) -> str:
    return repr(value.model_dump()) if isinstance(value, BaseModel) else repr(value)


def _explain(error: ValidationError, path: Path, defaults: dict, row: dict, changes: dict) -> str:
    """The first problem as one sentence."""
    problem = error.errors()[0]
    location = [
        str(part) for part in problem["loc"] if not str(part).startswith(("constrained-", "function-", "literal["))
    ]
    location = [part for part in location if part not in ("int", "str", "float", "list[str]")]
    refusal = problem.get("ctx", {}).get("error")
    if isinstance(refusal, Refusal):
        location += [refusal.field] if refusal.field else []
        text = str(refusal)
    elif problem["type"] == "extra_forbidden":
        inside: Any = Settings
        for part in location[:-1]:
            inside = PARTS.get(part, inside)
        text = _unknown(location[-1], [f for f in inside.model_fields if f not in _OURS]).removeprefix(
            f", field {location[-1]!r}: "
        )
    elif problem["type"] == "missing":
        text = "found nothing; allowed: a value for it, in the row or in defaults"
    else:
        allowed = "; or ".join(dict.fromkeys(_allowed(e) for e in error.errors() if e["loc"][:1] == problem["loc"][:1]))
        text = f"found {problem['input']!r}; allowed: {allowed}"
    top = location[0] if location else "name"
    field = ".".join(location)
    if top in changes:
        return f"changes, run {row['name']!r}, field {field!r}: {text}"
    holder: Any = row if top in row or top not in defaults else defaults
    key = top
    for part in location[1:]:
        if isinstance(holder.get(key), dict) and part in holder[key]:
            holder, key = holder[key], part
    whose = f"run {row['name']!r}"
    if top in defaults and top not in row:
        # a rule over several fields may hold in other runs
        whose = f"defaults (in {whose})" if isinstance(refusal, Refusal) else "defaults"
    return f"{_where(path, holder, key)}, {whose}, field {field!r}: {text}"


def _allowed(problem: dict) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        part = PARTS.get(problem["loc"][-1])
        return f"some of {', '.join(part.model_fields)} with their values" if part else "fields with their values"
    if problem["type"] == "too_short":
        least = problem["ctx"]["min_length"]
        return "at least one entry" if least == 1 else f"at least {least} entries"
    text = problem["msg"]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text


def _unknown(key: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f", field {key!r}: found an unknown field; {hint}allowed: {', '.join(known)}"


def _where(path: Path, holder: Any, key: Any) -> str:
    """File and line of a key, or of its holder if the key is not there."""
    try:
        line = holder.lc.key(key)[0]
    except (AttributeError, KeyError, TypeError):
        # a key that is not there itself, or that a merge key brought in
        line = getattr(getattr(holder, "lc", None), "line", 0) or 0
    return f"{path}, line {line + 1}"
