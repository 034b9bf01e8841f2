"""What a stage's notebook begins with."""

import json
import os
from typing import Any

from ia_lib.workflow import scheduler
from ia_lib.workflow.execution import execute
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import CHANGES, JOB, Stage


def open_stage(
    stage: str,
    table: str,
    run: str | None = None,
    outputs_dir: str = "outputs",
    changes: dict[str, Any] | None = None,
) -> Stage:
    """What a notebook begins with: the stage, ready for work, with the stages before it finished.

    Missing earlier stages are made first (by papermill, without changes to this notebook). `changes` overrides fields
    of the table's rows for this run; its artefacts then go to a run folder of their own, named after the changes.
    """
    made = Table(table, outputs_dir)
    if JOB in os.environ:
        changes = json.loads(os.environ.get(CHANGES, "{}"))
    if stage == "report":
        if JOB not in os.environ:
            made.settle()
            for line in scheduler.make(made, [s for s in made.stages() if not s.done], report=False):
                print(line)
        return made.report(finished_only=True).open()
    settings = made.run(run)
    if changes:
        settings = made.add(settings, changes)
    if JOB not in os.environ:
        made.settle([settings.name])
    if stage != "evaluate" and not settings.trains:
        raise SettingsError(f"{made.path}, run {run!r}: it trains on nothing, so it has no {stage}; allowed: evaluate")
    wanted = made.stage(settings.name, stage)
    for needed in made.missing(wanted) if JOB not in os.environ else []:
        print(f"first {needed}, which is {needed.status} ...", flush=True)
        execute(needed)
    return wanted.open()
