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

from ia_lib import recipes
from ia_lib.data.yaml_files import Refusal
from ia_lib.workflow import settings
from ia_lib.workflow.settings import BLOCKS, OURS, Settings, SettingsError

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


def load(path: str | Path, row: str | None = None, changes: dict[str, Any] | None = None) -> list[Settings]:
    """All runs of a table, in order; `changes` overrides fields of the row named `row`.

    Raises SettingsError for anything that is wrong, before any work.
    """
    path = Path(path)
    if changes is not None and (not isinstance(changes, dict) or {"name", *OURS} & set(changes)):
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
            for key in OURS:
                if key in holder:
                    raise SettingsError(
                        f"{_where(path, holder, key)}, {whose}{_unknown(key, settings.allowed(settings.kind()))}"
                    )
            if seeds is not None and "seed" in holder:
                raise SettingsError(
                    f"{_where(path, holder, 'seed')}, {whose}, field 'seed': found {_plain(holder['seed'])!r}; "
                    "allowed: either seed or the table's seeds"
                )
        changed = (changes or {}) if entry["name"] == row else {}
        for seed in seeds or [None]:
            values = {**_shared(_plain(defaults), _plain(entry)), **_plain(entry), "row": entry["name"]}
            if seed is not None:
                values |= {"seed": seed, "name": f"{entry['name']}-s{seed}"}
            values |= changed
            try:
                run = Settings.of(**values)
            except ValidationError as error:
                known = settings.kind(values.get("recipe"))
                raise SettingsError(_explain(error, known, path, defaults, entry, changed)) from None
            except SettingsError as error:
                holder = entry if "recipe" in entry else defaults
                where = f"{_where(path, holder, 'recipe')}, run {entry['name']!r}"
                raise SettingsError(f"{where}, field 'recipe': {error}") from None
            place = f"{path}, line {rows.lc.item(i)[0] + 1}"
            run = run.model_copy(update={"home": str(path.resolve().parent), "place": place})
            runs.append(_at_seed(run, seed) if seed is not None else run)
    _check_references(runs, path)
    return runs


def _shared(defaults: dict, row: dict) -> dict:
    """The defaults that concern a row: a field that only other recipes have says nothing to it."""
    recipe = row.get("recipe", defaults.get("recipe"))
    others = {name for other in recipes.names() for name in settings.allowed(settings.kind(other))}
    if recipe is not None and recipe not in recipes.names():
        return defaults
    own = settings.allowed(settings.kind(recipe))
    return {name: value for name, value in defaults.items() if name not in others or name in own}


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
    names = [run.model.run, run.data.past.run if run.data.past else None]
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
    if run.data.past and run.data.past.run:
        update["past"] = run.data.past.model_copy(update={"run": f"{run.data.past.run}-s{seed}"})
    return run.changed(**update)


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
            if run.data.past and run.data.past.run == needed and not drawn(earlier):
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


def drawn(run: Settings) -> dict[str, Any] | None:
    """What a run draws from its past: the keywords of `replay.draw` beside pool and seed; None where nothing is."""
    return run.method.drawn(run) if hasattr(run.method, "drawn") else None


def _check_past(run: Settings, by_name: dict[str, Settings]) -> None:
    """Refuse what a past that is a mixture, or what runs were trained on, will not have."""
    asked = drawn(run)
    if asked is None:
        return
    past, rows, found = run.data.past, _past_rows(run, by_name), _draws(run, by_name)
    if rows is not None and not 1 <= found <= rows - asked["validation_rows"]:
        beside = f", {asked['validation_rows']:,} of them for validation" if asked["validation_rows"] else ""
        field = "replay" if hasattr(run.data, "replay") else "rows"
        raise Refusal(field, asked["r"], f"what the past data has: {rows:,} rows{beside}")
    splits = ["base", "train"] if run.corpus == "minilab" else ["train", "valid", "test"]
    if past.mixture and past.mixture.split not in splits:
        allowed = f"a split of the corpus {run.corpus} ({', '.join(splits)})"
        raise Refusal("past.mixture.split", past.mixture.split, allowed)
    field = "replay_stratify" if hasattr(run.data, "replay_stratify") else "stratify"
    if asked["stratify"] and past.stream:
        raise Refusal(field, asked["stratify"], "nothing, with a past that is read as a stream")
    first = past
    while first.run:
        first = by_name[first.run].data.past
    columns = ["objective", "language"] if first.mixture else ["language"]
    if asked["stratify"] and (first.mixture or first.xp3) and asked["stratify"] not in columns:
        raise Refusal(field, asked["stratify"], f"a column of the past data ({', '.join(columns)})")


def _past_rows(run: Settings, by_name: dict[str, Settings]) -> int | None:
    """How many rows the past of a run has, None if only its file tells."""
    past = run.data.past
    if past.mixture:
        return past.mixture.rows
    return _draws(by_name[past.run], by_name) if past.run else None


def _draws(run: Settings, by_name: dict[str, Settings]) -> int | None:
    """How many rows of its past a run is trained on, None if only a file tells."""
    asked, rows = drawn(run), _past_rows(run, by_name)
    return asked["r"] if asked["r"] != "all" else rows if rows is None else rows - asked["validation_rows"]


def _short(value: Any) -> str:
    return repr(value.model_dump()) if isinstance(value, BaseModel) else repr(value)


def _explain(
    error: ValidationError, known: type[Settings], path: Path, defaults: dict, row: dict, changes: dict
) -> str:
    """The first problem as one sentence."""
    problem = error.errors()[0]
    location = [
        str(part) for part in problem["loc"] if not str(part).startswith(("constrained-", "function-", "literal["))
    ]
    location = [part for part in location if part not in ("int", "str", "float", "list[str]")]
    location = location[1:] if location[:1] and location[0] in BLOCKS else location
    refusal = problem.get("ctx", {}).get("error")
    if isinstance(refusal, Refusal):
        location += [refusal.field] if refusal.field else []
        text = str(refusal)
    elif problem["type"] == "extra_forbidden":
        inside = _part(known, location[:-1])
        fields = list(inside.model_fields) if inside is not known else settings.allowed(known)
        text = _unknown(location[-1], fields).removeprefix(f", field {location[-1]!r}: ")
    elif problem["type"] == "missing":
        text = "found nothing; allowed: a value for it, in the row or in defaults"
    else:
        allowed = "; or ".join(
            dict.fromkeys(_allowed(e, known) for e in error.errors() if e["loc"][:1] == problem["loc"][:1])
        )
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


def _part(known: type[Settings], location: list[str]) -> type[BaseModel]:
    block = settings.blocks(known).get(location[0]) if location else None
    return settings.part_of(known.model_fields[block].annotation if block else known, location)


def _allowed(problem: dict, known: type[Settings]) -> str:
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        location = [str(part) for part in problem["loc"] if part not in BLOCKS]
        part = _part(known, location)
        return (
            f"some of {', '.join(part.model_fields)} with their values"
            if part is not known
            else "fields with their values"
        )
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
