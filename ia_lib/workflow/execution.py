"""Executing a stage's notebook by papermill, in a kernel of this interpreter."""

import json
import os
import re
import time
from pathlib import Path

from ia_lib.data.addresses import redacted, shown
from ia_lib.paths import root
from ia_lib.workflow.stages import CHANGES, JOB, NOTEBOOKS, Stage, StageFailed, write_json


def execute(stage: Stage) -> None:
    """Run a stage's notebook by papermill; the executed notebook lies beside the stage's folder.

    Raises StageFailed with the notebook's error; then the notebook lies there as `<stage>.failed.ipynb`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running, failed = stage.notebook("running"), stage.notebook("failed")
    running.parent.mkdir(parents=True, exist_ok=True)
    # paths inside the project are given from its folder, where the kernel starts
    paths = {"table": stage.table.resolve(), "outputs_dir": stage.outputs}
    parameters = {k: str(p.relative_to(root()) if p.is_relative_to(root()) else p) for k, p in paths.items()}
    if stage.run:
        name, changes = stage.asked or (stage.run.name, {})
        parameters |= {"run": name, "changes": shown(changes)}
    environment = dict(os.environ)
    os.environ[JOB] = str(stage)
    if stage.asked:
        os.environ[CHANGES] = json.dumps(stage.asked[1])
    if stage.run and stage.run.machine.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        for attempt in range(5):
            try:
                papermill.execute_notebook(
                    root() / "notebooks" / f"{NOTEBOOKS[stage.name]}.ipynb",
                    running,
                    parameters=parameters,
                    kernel_name="python3",
                    progress_bar=False,
                    cwd=root(),
                )
                break
            except RuntimeError as error:
                # two kernels that start at once can pick the same port; nothing has run then, so begin again
                if attempt == 4 or "Kernel died before replying" not in str(error):
                    raise
                time.sleep(attempt + 1)
    except (PapermillExecutionError, DeadKernelError):
        _scrub(running, text=bool(stage.run) and not stage.run.machine.share_text)
        os.replace(running, failed)
        raise StageFailed(f"{stage} failed: {stage.failure()} (see {failed})") from None
    finally:
        os.environ.clear()
        os.environ.update(environment)
    _scrub(running)
    os.replace(running, stage.notebook())
    failed.unlink(missing_ok=True)
    if not stage.done:
        raise StageFailed(f"{stage} ended without its artefacts (see {stage.notebook()})")


def _scrub(notebook: Path, text: bool = False) -> None:
    """Take the credentials of addresses out of what a notebook's cells printed and of its errors, and with `text` what
    stands in quotes in errors, which may be somebody's sentences."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        if text and "papermill-error-cell-tag" in cell["metadata"].get("tags", []):
            cell["source"] = "an error, without the text in it, since share_text is false"
        for output in cell.get("outputs", []):
            if output["output_type"] in ("stream", "error"):
                output |= redacted(output)
            if text and output["output_type"] == "error":
                output["evalue"] = re.sub(r"'[^\n]*'|\"[^\n]*\"", "(text not shown)", output["evalue"])
                output["traceback"] = [f"{output['ename']}: {output['evalue']}"]
    write_json(notebook, content)
