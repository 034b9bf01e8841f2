"""Executing a stage's notebook by papermill, in a kernel of this interpreter."""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ia_lib.data.addresses import redacted, shown
from ia_lib.paths import root
from ia_lib.workflow import devices, ending
from ia_lib.workflow.stages import CHANGES, JOB, NOTEBOOKS, Stage, StageFailed, write_json

_SOCKETS = "ia-kernel-"


def execute(stage: Stage) -> None:
    """Run a stage's notebook by papermill; the executed notebook lies beside the stage's folder.

    Raises StageFailed with the notebook's error, or with the last line of a kernel that died; then the notebook lies
    there as `<stage>.failed.ipynb`. Raises Stopped if the kernel was asked to end.
    """
    from ia_lib.workflow import kernel

    kernel.lighten()

    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    running, failed = stage.notebook("running"), stage.notebook("failed")
    running.parent.mkdir(parents=True, exist_ok=True)
    failed.unlink(missing_ok=True)
    # paths inside the project are given from its folder, where the kernel starts
    paths = {"table": stage.table.resolve(), "outputs_dir": stage.outputs}
    parameters = {k: str(p.relative_to(root()) if p.is_relative_to(root()) else p) for k, p in paths.items()}
    # numpy's products here are so small that threads take longer to agree than to multiply, and a job has its cores
    cores = str(stage.run.threads if stage.run else 1)
    environment = {JOB: str(stage), ending.PARENT: str(os.getpid()), "OPENBLAS_NUM_THREADS": cores}
    if stage.run:
        name, changes = stage.asked or (stage.run.name, {})
        parameters |= {"run": name, "changes": shown(changes)}
    if stage.asked:
        environment[CHANGES] = json.dumps(stage.asked[1])
    if stage.run and stage.run.machine.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    with _devices(stage) as chosen, _environment(environment | chosen), _sockets() as folder:
        try:
            papermill.execute_notebook(
                _literally(root() / "notebooks" / f"{NOTEBOOKS[stage.name]}.ipynb"),
                _literally(running),
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                cwd=root(),
                start_timeout=300,
                kernel_manager_class=kernel.Kernel,
                config=kernel.configured(folder),
            )
        except (PapermillExecutionError, RuntimeError) as error:
            if getattr(error, "ename", "") == "KeyboardInterrupt":
                running.unlink()
                raise ending.Stopped from None
            if isinstance(error, DeadKernelError) or "Kernel died" in str(error):
                _died(running, kernel.last_words(folder))
            elif not isinstance(error, PapermillExecutionError):
                raise
            _scrub(running, text=bool(stage.run) and not stage.run.machine.share_text)
            os.replace(running, failed)
            raise StageFailed(f"{stage} failed: {stage.failure()} (see {failed})") from None
        except KeyboardInterrupt:
            running.unlink(missing_ok=True)
            raise
    _scrub(running)
    os.replace(running, stage.notebook())
    if not stage.done:
        raise StageFailed(f"{stage} ended without its artefacts (see {stage.notebook()})")


def _devices(stage: Stage) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The GPUs of a stage that computes: one, or one for each process that trains."""
    if stage.name not in ("tune", "evaluate", "judge"):
        return contextlib.nullcontext({})
    return devices.held(stage.run.train.processes if stage.name == "tune" else 1)


def _literally(path: Path) -> str:
    """The path as papermill takes it, for which braces are parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= more
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _sockets() -> Iterator[Path]:
    """A folder for a kernel's sockets, whose paths may have about 100 characters; those of killed processes go."""
    import psutil

    home = Path(tempfile.gettempdir())
    home = home if len(str(home)) < 60 or os.name == "nt" else Path("/tmp")
    for left in home.glob(f"{_SOCKETS}*-*"):
        number = left.name.removeprefix(_SOCKETS).split("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{_SOCKETS}{os.getpid()}-", dir=home, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def _died(notebook: Path, said: Path) -> None:
    """Write into the notebook, as the error of its last cell at work, what its dead kernel said last."""
    lines = [line.strip() for line in said.read_text(errors="replace").splitlines()] if said.is_file() else []
    last = next((line for line in reversed(lines) if line), "killed from outside, or out of memory")
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    at_work = next((c for c in cells if c["metadata"].get("papermill", {}).get("status") == "running"), cells[-1])
    error = {"output_type": "error", "ename": "its kernel died", "evalue": last[:300], "traceback": [last]}
    at_work["outputs"].append(error)
    write_json(notebook, content)


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
