"""What a notebook begins with: its parameters, checked, and its stage, ready for work."""

import ast
import json
import os
import warnings
from typing import Any

from ia_lib.data.yaml_files import meant, told
from ia_lib.workflow import scheduler
from ia_lib.workflow.execution import execute
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import CHANGES, JOB, Stage

# How a cell of papermill's begins.
_INJECTED = "# Parameters"


def check_parameters() -> None:
    """Refuse a parameter that papermill was given and the notebook does not have (papermill itself only warns), and a
    value of another kind than the notebook's own. Raises SettingsError."""
    from IPython import get_ipython

    shell = get_ipython()
    cells = shell.user_ns.get("In", []) if shell else []
    own = next((cell for cell in cells if "kit" in _assigned(cell) and not cell.startswith(_INJECTED)), "")
    values = {name: ast.literal_eval(value) for name, value in _assigned(own).items()}
    for cell in cells:
        for name in _assigned(cell) if cell.startswith(_INJECTED) else ():
            if name not in values:
                known = ", ".join(values)
                further = "; fields of a row go into changes" if "changes" in values else ""
                said = f"found {told(name)}; {meant(name, list(values))}allowed: {known}{further}"
                raise SettingsError(f"parameters: {said}")
    for name, default in values.items():
        found = shell.user_ns.get(name)
        kinds = (str, type(None)) if default is None else type(default)
        if not isinstance(found, kinds) or (isinstance(default, str) and not found.strip()):
            allowed = "fields with their values" if isinstance(default, dict) else "text"
            raise SettingsError(f"parameters, {name}: found {told(found)}; allowed: {allowed}")


def _assigned(source: str) -> dict[str, ast.expr]:
    """The names that a cell gives values to; none, if it is no Python."""
    try:
        lines = ast.parse(source).body
    except (SyntaxError, ValueError):
        return {}
    return {
        target.id: line.value
        for line in lines
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    }


def without_bars_of_loading() -> None:
    """Let transformers load weights without a bar, which says nothing to a reader. The bars of downloads and the kit's
    own stay."""
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    downloads = not are_progress_bars_disabled()
    disable_progress_bar()  # which takes those of downloads away too
    if downloads:
        enable_progress_bars()


def open_stage(
    stage: str,
    table: str,
    run: str | None = None,
    outputs_dir: str = "outputs",
    changes: dict[str, Any] | None = None,
) -> Stage:
    """What a notebook begins with: the stage, ready for work, with the stages before it finished.

    Missing earlier stages are made first (by papermill, without changes to this notebook). `changes` overrides fields
    of the row; what is made then goes to a run folder of its own, named after the changes.
    """
    check_parameters()
    if stage in ("tune", "evaluate", "judge"):
        without_bars_of_loading()
    # what is warned of, without the line of code that does it
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    made = Table(table, outputs_dir)
    if JOB in os.environ:
        changes = json.loads(os.environ.get(CHANGES, "{}"))
    if stage == "report":
        if JOB not in os.environ:
            made.settle()
            for line in scheduler.make(made):
                print(line)
        return made.report(finished_only=True).open()
    settings = made.run(run)
    if changes:
        settings = made.add(settings, changes)
    if JOB not in os.environ:
        made.settle([settings.name])
    if stage not in (allowed := made.stages_of(settings)):
        why = "has no free answers that a judge marks" if stage == "judge" else "trains on nothing"
        said = f"it {why}, so it has no {stage}; allowed: {', '.join(allowed)}"
        raise SettingsError(f"{made.path}, run {run!r}: {said}")
    wanted = made.stage(settings.name, stage)
    for needed in made.missing(wanted) if JOB not in os.environ else []:
        print(f"first {needed}, which is {needed.status} ...", flush=True)
        execute(needed)
    return wanted.open()
