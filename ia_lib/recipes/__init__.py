"""One module for each paper's method: the fields it adds to a row, its readings, and the examples it trains on.

In: a row's settings, and `inputs`, which reads what the row may read (`workflow.inputs.Inputs`). Out: the streams that
training takes in turn, and their examples. A row names its recipe by `recipe: NAME`, the name of a module here, which
has

- `Data`: a subclass of `fields.Data` with the recipe's own fields (`Train` and `Evaluate` likewise, if it adds some)
- `streams(run) -> list[Stream]`: what a batch is made of; none, if the row trains on nothing
- `examples(run, inputs) -> (frame, facts)`: the examples of all streams (columns: `instructions.COLUMNS` and its own),
  and what else is known, if it is: `steps`, where the row does not say them; `rows_of_epoch`, of the streams that are
  read once; the `pool` that was drawn from, and its `provenance`; what else belongs into report.json (`report`)
- `drawn(run) -> dict | None`, if it draws from the run's past: the keywords of `replay.draw` beside pool and seed
- `READINGS`, if it has any: field -> its value as the paper says, as the released code does, corrected;
  or a function of the row's fields that tells it
- `check(run)`, if it has rules over several fields; raises `fields.Refusal`
- `places(run) -> list[(source, file)]`, if it reads files that no other field of a row names
- `look(run, inputs)`, if it reads files that nobody else looks through: raises what is wrong in them, before any work
- `parallel(run) -> list[str]`, if it trains on parallel text: the languages that it reads
"""

import importlib
import pkgutil
from functools import cache
from types import ModuleType

FIDELITY = ("paper", "released", "corrected")


@cache
def names() -> list[str]:
    """The recipes that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "fields")


@cache
def load(name: str) -> ModuleType:
    """A recipe's module."""
    return importlib.import_module(f"{__name__}.{name}")
