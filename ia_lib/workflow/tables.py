"""The table of settings: YAML rows, validated before any work starts.

A table is a YAML 1.2 file with `defaults` (fields for all rows), `runs` (a list of rows, each with a `name`) and
optionally `seeds` (every row is run once per seed, as `name-s1`, `name-s2`, ...). A row with a `grid` stands for many
(`workflow.grids`). Every wrong field is refused with one sentence that names file, line, run, field, what was found and
what is allowed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ia_lib import recipes
from ia_lib.data.yaml_files import Refusal, explain, listed, meant, place, plain, read, told, unknown, where
from ia_lib.recipes.fields import Train
from ia_lib.workflow import grids, settings
from ia_lib.workflow.settings import BLOCKS, OURS, Settings, SettingsError

_MOST = 10_000  # runs of a table with grids


def load(path: str | Path, row: str | None = None, changes: dict[str, Any] | None = None) -> list[Settings]:
    """All runs of a table, in order; `changes` overrides fields of the row named `row`.

    Raises SettingsError for anything that is wrong, before any work.
    """
    path = Path(path)
    if changes is not None and (
        not isinstance(changes, dict)
        or {"name", *OURS, *BLOCKS} & set(changes)
        or not all(isinstance(name, str) for name in changes)
    ):
        raise SettingsError(f"changes: found {told(changes)}; allowed: fields with their values, but not name")
    table = read(path, "table", SettingsError)

    def refuse(holder: Any, key: str, text: str, whose: str = "") -> None:
        raise SettingsError(f"{where(path, holder, key)}{whose and f', {whose}'}, field {key!r}: {text}")

    for key in table:
        if key not in ("defaults", "runs", "seeds"):
            refuse(table, key, unknown(key, ["defaults", "runs", "seeds"]))
    defaults, rows, seeds = table.get("defaults") or {}, table.get("runs"), table.get("seeds")
    if not isinstance(rows, list) or not rows:
        refuse(table, "runs", f"found {told(rows)}; allowed: a list of rows, each with a name")
    if not isinstance(defaults, dict):
        refuse(table, "defaults", f"found {told(defaults)}; allowed: fields with their values")
    numbers = isinstance(seeds, list) and seeds and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if seeds is not None and not (numbers and len({*seeds}) == len(seeds)):
        allowed = "a list of whole numbers, each from 0 to 4,294,967,295 and there once"
        refuse(table, "seeds", f"found {told(seeds)}; allowed: {allowed}")
    for field, allowed in (
        ("name", "fields that rows share; each row has a name of its own"),
        ("grid", "fields that rows share; a grid stands in a row"),
    ):
        if field in defaults:
            refuse(defaults, field, f"found {told(defaults[field])}; allowed: {allowed}", "defaults")
    runs = []
    for number, at, entry in _rows(path, rows, defaults, len(seeds or [None])):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            found = entry["name"] if isinstance(entry, dict) and "name" in entry else entry
            raise SettingsError(
                f"{at}, run {number}, field 'name': found {told(found)}; allowed: a name, as text, in each row"
            )
        for holder, whose in ((entry, f"run {told(entry['name'])}"), (defaults, "defaults")):
            for key in (*OURS, *BLOCKS):
                if key in holder:
                    refuse(holder, key, unknown(key, _fields(None)), whose)
            if seeds is not None and "seed" in holder:
                found = told(holder["seed"])
                refuse(holder, "seed", f"found {found}; allowed: either seed or the table's seeds", whose)
        changed = (changes or {}) if entry["name"] == row else {}
        asked = {**plain(entry), **changed}
        values = {**_shared(plain(defaults), asked), **asked, "row": entry["name"]}
        for seed in seeds or [None]:
            named = {} if seed is None else {"seed": seed, "name": f"{entry['name']}-s{seed}"}
            try:
                run = Settings.of(**{**values, **named})
            except ValidationError as error:
                known = settings.kind(values.get("recipe"))
                raise SettingsError(_explain(error, known, path, defaults, entry, changed)) from None
            except SettingsError as error:
                refuse(entry if "recipe" in entry else defaults, "recipe", str(error), f"run {told(entry['name'])}")
            if not run.trains and (field := next((name for name in asked if name in _OF_TRAINING), None)):
                allowed = "nothing, in a row that trains on nothing (it has no objective)"
                refuse(entry, field, f"found {told(asked[field])}; allowed: {allowed}", f"run {told(entry['name'])}")
            run = run.model_copy(update={"home": str(path.resolve().parent), "place": at})
            runs.append(run if seed is None else _at_seed(run, seed))
    _check_references(runs, path)
    return runs


# What says nothing to a row that does not train; where it stands in the row itself an objective has been forgotten.
_OF_TRAINING = {*Train.model_fields, "retention"}


def refused(path: Path, run: Settings, refusal: Refusal) -> SettingsError:
    """What is said of a run's field that is found wrong only with what it reads: the line is the field's."""
    table = read(path, "table", SettingsError)
    defaults = table.get("defaults") or {}
    row = next(row for *_, row in _rows(path, table["runs"], defaults) if row["name"] == run.row)
    top = refusal.field.split(".")[0]
    shared = top in defaults and top not in row
    whose = f"defaults (in run {told(run.name)})" if shared else f"run {told(run.name)}"
    return SettingsError(
        f"{where(path, defaults if shared else row, top)}, {whose}, field {refusal.field!r}: {refusal}"
    )


def _rows(path: Path, written: list, defaults: dict, seeds: int = 1) -> Iterator[tuple[int, str, Any]]:
    """The rows of a table, those of its grids too, each with its number and place in the file."""

    def fields(recipe: Any) -> list[str] | None:
        try:
            return _fields(defaults.get("recipe") if recipe is None else recipe)
        except SettingsError:
            return None  # it is told of the row

    found = 0
    for i, row in enumerate(written):
        for entry in grids.expanded(path, row, fields, max(0, _MOST // seeds - found)):
            found += 1
            yield i + 1, f"{path}, line {written.lc.item(i)[0] + 1}", entry


def needs(run: Settings) -> list[str]:
    """The names of the runs that this one builds on."""
    names = [run.model.run, run.data.past.run if run.data.past else None]
    return [name for name in dict.fromkeys(names) if name]


def _fields(recipe: Any) -> list[str]:
    """The fields of a recipe's rows."""
    return list(settings.row(settings.kind(recipe)).model_fields)


def _shared(defaults: dict, row: dict) -> dict:
    """The defaults that concern a row: a field that only other recipes have says nothing to it."""
    try:
        own = _fields(row.get("recipe", defaults.get("recipe")))
    except SettingsError:
        return defaults  # it is told of the row
    others: set[str] = set()
    for recipe in recipes.names() if set(defaults) - {*own} else ():
        with contextlib.suppress(SettingsError):
            others |= {*_fields(recipe)}
    return {name: value for name, value in defaults.items() if name in own or name not in others}


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
    folded: set[str] = set()
    for run in runs:
        where = f"{run.place}, run {told(run.row)}"
        # some machines do not tell folders apart by case
        if run.name.casefold() in folded:
            raise SettingsError(
                f"{where}, field 'name': found {run.name!r}; allowed: a name no other run has, in any case"
            )
        for needed in needs(run):
            if needed not in by_name:
                field = "model" if needed == run.model.run else "past"
                above = f"a run above it ({listed(by_name, needed) or 'none'})"
                said = f"found {told(needed)}; {meant(needed, list(by_name))}allowed: {above}"
                raise SettingsError(f"{where}, field '{field}.run': {said}")
            earlier = by_name[needed]
            if needed == run.model.run:
                _check_between(where, run, earlier)
            past = run.data.past and run.data.past.run == needed
            # what a method against forgetting looks at is not trained on
            if past and (not drawn(earlier) or all(stream.role == "new" for stream in earlier.streams)):
                allowed = "a run that is trained on old instructions"
                raise SettingsError(f"{where}, field 'past.run': found {needed!r}; allowed: {allowed}")
            for field in ("corpus", "seed", "lab") if run.corpus == "minilab" else ():
                # another lab would test on sentences that the earlier run was trained on, another split hold them out
                if getattr(run, field) != getattr(earlier, field):
                    found, allowed = _short(getattr(run, field)), _short(getattr(earlier, field))
                    raise SettingsError(
                        f"{where}, field '{field}': found {found}; allowed: {allowed}, as in the run {needed!r}"
                    )
            both = run.parallel_codes and earlier.parallel_codes and needed == run.model.run
            for field in ("sentences", "validation_sentences") if run.corpus == "minilab" and both else ():
                if getattr(run.data, field) != getattr(earlier.data, field):
                    found, allowed = told(getattr(run.data, field)), told(getattr(earlier.data, field))
                    raise SettingsError(
                        f"{where}, field '{field}': found {found}; allowed: {allowed}, as in the run {told(needed)}"
                    )
        by_name[run.name] = run
        folded.add(run.name.casefold())
        try:
            _check_past(run, by_name)
        except Refusal as error:
            raise refused(path, run, error) from None


def _check_between(where: str, run: Settings, earlier: Settings) -> None:
    """Refuse as base weights between two models, which are kept nowhere, and such weights of a run that has no base or
    does not train."""
    said = ""
    if earlier.model.interpolate is not None:
        said = "a run whose model does not lie between two others"
    elif run.model.interpolate is not None and (not earlier.trains or earlier.model.new):
        said = "a run that trains and has a trained model as base"
    if said:
        raise SettingsError(f"{where}, field 'model.run': found {told(earlier.name)}; allowed: {said}")


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
        raise Refusal(field, asked["r"], f"what the past has: {rows:,} instructions{beside}")
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
        raise Refusal(field, asked["stratify"], f"a column of the old instructions ({', '.join(columns)})")


def _past_rows(run: Settings, by_name: dict[str, Settings]) -> int | None:
    """How many instructions the past of a run has, None if only its file tells."""
    past = run.data.past
    if past.mixture:
        return past.mixture.rows
    return _draws(by_name[past.run], by_name) if past.run else None


def _draws(run: Settings, by_name: dict[str, Settings]) -> int | None:
    """How many instructions of its past a run is trained on, None if only a file tells."""
    asked, rows = drawn(run), _past_rows(run, by_name)
    return asked["r"] if asked["r"] != "all" else rows if rows is None else rows - asked["validation_rows"]


def _short(value: Any) -> str:
    return told(value.model_dump() if isinstance(value, BaseModel) else value)


def _explain(
    error: ValidationError, known: type[Settings], path: Path, defaults: dict, row: dict, changes: dict
) -> str:
    """The first problem as one sentence."""
    values = {**plain(defaults), **plain(row), **changes}
    location, text = explain(error, settings.row(known), values)
    if error.errors()[0]["type"] == "missing":
        text += ", in the row or in defaults"
    top = location[0] if location else "name"
    field = ".".join(location)
    if top in changes:
        return f"changes, run {told(row['name'])}, field {told(field)}: {text}"
    shared = top in defaults and top not in row
    whose = f"run {told(row['name'])}"
    if shared:
        # a rule over several fields may hold in other runs
        whose = f"defaults (in {whose})" if "error" in error.errors()[0].get("ctx", {}) else "defaults"
    holder, key = place(defaults if shared else row, location)
    return f"{where(path, holder, key)}, {whose}, field {told(field)}: {text}"
