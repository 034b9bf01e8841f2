"""Plain instruction tuning: a model is trained on instructions as they are, with nothing beside them."""

from typing import Annotated, Literal

from pydantic import Field

from ia_lib.data.yaml_files import Refusal
from ia_lib.recipes import fields, instructalign
from ia_lib.recipes.fields import Count, Number
from ia_lib.training.streams import Stream, steps_for

# The base of a table of InstructAlign's is trained and scored as that paper has it.
READINGS = {
    name: reading
    for name, reading in instructalign.READINGS.items()
    if name not in instructalign.Data.model_fields or name in fields.Data.model_fields
}


class Data(fields.Data):
    """The fields of plain instruction tuning; its examples are drawn from `past`."""

    rows: Count | Literal["all"] = "all"
    stratify: str | None = None
    per_step: Count = 32
    epochs: Annotated[Number, Field(gt=0, le=10**4)] | None = None


def streams(run) -> list[Stream]:
    """One stream, read over and over, each pass in a fresh order."""
    return [Stream("instructions", "old", run.data.per_step, passes=True)]


def check(run) -> None:
    """Refuse what has nothing to train on, or no length."""
    data = run.data
    if data.past is None:
        raise Refusal("past", None, "a source of instructions (run, file, url, xp3 or mixture)")
    if (data.steps is None) == (data.epochs is None):
        found = None if data.steps is None else "steps and epochs"
        raise Refusal("steps", found, "exactly one of steps and epochs")
    if data.rows == "all" and (data.past.url or data.past.xp3):
        raise Refusal("rows", "all", "a number: a file that is not downloaded cannot be read whole")


def drawn(run) -> dict:
    """What is drawn from the past: the keywords of `replay.draw` beside pool and seed."""
    return {"r": run.data.rows, "validation_rows": run.data.validation_rows, "stratify": run.data.stratify}


def examples(run, inputs):
    """The examples of the stream (see the package)."""
    from ia_lib.instructions import replay

    pool, provenance = inputs.pool()
    frame = replay.examples(replay.draw(pool, seed=run.seed, **drawn(run)), "instructions")
    trained = int((frame["split"] == "train").sum())
    steps = run.data.steps or steps_for(run.data.epochs, trained, run.data.per_step)
    return frame, {"steps": steps, "provenance": provenance, "pool": pool}
