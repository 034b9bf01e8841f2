"""A stage: one notebook for one run, made by papermill; its key, its manifest, and how it becomes finished.

A stage writes into `<stage>.part`, and only when everything is there, with manifest.json written last, is that folder
renamed to `<stage>`: a folder with a manifest is finished, anything else is rubbish. What a killed stage can continue
from (checkpoints) lies in `<stage>.part` and is used if the stage's key is still the same.
"""

import contextlib
import datetime
import errno
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from ia_lib.data import patience
from ia_lib.data.addresses import Told, redacted
from ia_lib.data.downloads import checksum
from ia_lib.paths import lock, root
from ia_lib.recipes.fields import Shared
from ia_lib.workflow import locks
from ia_lib.workflow.inputs import Inputs
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.sources import File, HubModel, content

NOTEBOOKS = {"data": "1_data", "tune": "2_tune", "evaluate": "3_evaluate", "judge": "3_judge", "report": "4_figures"}
# Raised by hand when a stage's artefacts change their meaning, so that old ones are made again.
STAGE_VERSION = {"data": 6, "tune": 5, "evaluate": 6, "judge": 1, "report": 6}
_VERSIONS = "ia_lib torch transformers datasets tokenizers accelerate peft bitsandbytes numpy pandas"
_PACKAGE = Path(__file__).parents[1]

# How systems and libraries say that a file cannot be written: too large, disk full, read-only, over the quota.
# PyTorch says no more than that its file is not as long as it should be.
_FULL = re.compile(r"(?i)(?:errno|os error) (?:27|28|30|122)\b|inline_container\.cc:\d+\] \. unexpected pos")
# Files that tell how fast it went.
_TOLD = re.compile(r"log\.jsonl$|index\.html$|notebooks/")
# What lies in a stage's folder only while it is being made.
_SCAFFOLDING = {"key", "progress.json", "checkpoints"}
# Set while a stage's notebook is run as a job: what it needs is there or has failed, and it must not be made again.
JOB = "IA_JOB"
# What the job's run has changed, as JSON; its notebook's parameters have it without credentials.
CHANGES = "IA_CHANGES"
# Set while finished stages whose code has changed since count as not finished (`run --changed`).
REDO = "IA_REDO"


@dataclass
class Stage:
    """One stage of one run: its settings, where its inputs lie and where its artefacts go."""

    name: str
    run: Settings | None  # None for the report, which is the table's
    inputs: Inputs
    table: Path  # the table's file
    outputs: Path  # the folder of all tables' outputs
    folder: Path
    key: str  # what the finished artefacts must have been made from
    needs: list["Stage"] = field(default_factory=list)
    asked: tuple[str, dict[str, Any]] | None = None  # the run that this one was made of, and what was changed
    without: list[str] = field(default_factory=list)  # of a report, the runs that are not in it
    _started: float = field(default_factory=time.time)
    _done: tuple[float, float] = (0, 1)
    _waiting: str = ""
    _told: float = 0.0
    _spent: float = 0.0  # seconds of earlier tries that were cut off and are gone on from

    def __str__(self) -> str:
        return f"{self.run.name}: {self.name}" if self.run else self.name

    @property
    def part(self) -> Path:
        """Where the artefacts are written until all are there."""
        return self.folder.with_name(self.folder.name + ".part")

    @property
    def manifest(self) -> dict | None:
        """The manifest of the finished stage; None if there is none, or another one than was written."""
        path = self.folder / "manifest.json"
        try:
            state = path.stat()
        except OSError:
            return None
        return _manifest(path, state.st_ino, state.st_size, state.st_mtime_ns)

    @property
    def done(self) -> bool:
        """Whether the finished artefacts are those these settings and inputs would make."""
        return self.status == "finished"

    @property
    def complete(self) -> bool:
        """Whether the stage is finished and its executed notebook lies beside it."""
        return self.notebook().is_file() and self.done

    @property
    def status(self) -> str:
        """finished | missing | interrupted | damaged | files missing | settings changed | inputs changed | code changed
        (with `REDO` only)"""
        manifest = self.manifest
        if manifest is None and (self.folder / "manifest.json").exists():
            return "damaged"
        if manifest is None:
            return "interrupted" if (self.part / "key").is_file() else "missing"
        if manifest["key"] != self.key:
            return "settings changed" if self._changed_settings else "inputs changed"
        for name, size in manifest["bytes"].items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size != size:
                return "files missing"
        for needed in self.needs:
            if not needed.done or manifest["inputs"].get(str(needed)) != needed.manifest["digest"]:
                return "inputs changed"
        return "code changed" if REDO in os.environ and self.code_changed else "finished"

    @property
    def changes(self) -> str:
        """Which settings or files of the user's are other ones than those that the stage was made with, in brackets."""
        if (then := self.manifest) is None or then["key"] == self.key:
            return ""
        files = {one["file"]: one["sha256"] for one in then["sources"] if "file" in one and "sha256" in one}
        now = [source for source in self.inputs.sources.values() if isinstance(source, File) and source.name in files]
        other = [source.name.removeprefix("file/") for source in now if source.identity() != files[source.name]]
        return f" ({', '.join(found)})" if (found := self._changed_settings or other) else ""

    @property
    def _changed_settings(self) -> list[str]:
        """The settings that the stage depends on and that are other ones than those it was made with."""
        if self.run is None:
            return []
        blocks = [self.run.model_dump(mode="json"), self.manifest["settings"]]
        block = "train" if self.name == "tune" else self.name
        now, then = ({**{name: of.get(name) for name in Shared.model_fields}, **of.get(block, {})} for of in blocks)
        return [name for name in now if now[name] != then.get(name)]

    def damage(self) -> list[str]:
        """What is not as it was made, a line for each file; nothing of a stage that is not made. Reads every byte."""
        manifest = self.manifest
        if manifest is None:
            there = (self.folder / "manifest.json").exists()
            return [f"{self}: manifest.json is not what was written"] if there else []
        here = {p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file()}
        here.remove("manifest.json")
        said = []
        for name in sorted(here | set(manifest["files"])):
            if name not in here:
                said.append(f"{self}: {name} is missing")
            elif name not in manifest["files"]:
                said.append(f"{self}: {name} was not made here")
            elif checksum(self.folder / name) != manifest["files"][name]:
                said.append(f"{self}: {name} is not what was made")
        return said

    @property
    def origin(self) -> str:
        """The model that the first run of the chain has as base, empty for a new one."""
        return self.inputs.called

    @property
    def marker(self) -> Path:
        """The file that tells Snakemake that the stage is finished; its name carries the key, not its time."""
        run = f"{self.run.name}." if self.run else ""
        return self.inputs.outputs / ".jobs" / f"{run}{self.name}.{self.key[:16]}"

    @property
    def code_changed(self) -> bool:
        """Whether the code of a finished stage has changed since."""
        if (manifest := self.manifest) is None:
            return False
        return any(_hash(name) != value for name, value in manifest["code"].items())

    @property
    def log(self) -> Path:
        """Where what the stage's job says goes."""
        return self.marker.with_suffix(".log")

    @cached_property
    def _lock(self) -> FileLock:
        return lock(self.folder.with_name(f".{self.folder.name}.lock"), is_singleton=True)

    def open(self, seconds: float = 60) -> "Stage":
        """Make ready for work: inputs must be finished; leftovers of other settings are removed.

        Raises RuntimeError if an input is missing or not what was made, or another process is at work on the stage for
        more than `seconds`.
        """
        for needed in self.needs:
            if not needed.done:
                raise RuntimeError(f"{self} needs {needed}, which is {needed.status}")
        for line in [said for needed in self.needs if not self.done for said in needed.damage()]:
            raise RuntimeError(f"{self} would read what is damaged: {line}; `run --verify` makes that again")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        locks.acquire(self._lock, f"another process is at work on {self} in {self.folder.parent}", seconds)
        self._mend()
        if not self.done:
            # inputs that were made again count too: a checkpoint must not go on with other data
            made_from = [self.key, *(needed.manifest["digest"] for needed in self.needs)]
            made_from = digest([*made_from, *([_LOADED] if REDO in os.environ else [])])
            stamp = self.part / "key"
            if not stamp.is_file() or stamp.read_text() != made_from:
                shutil.rmtree(self.part, ignore_errors=True)
                self.part.mkdir()
                stamp.write_text(made_from)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                self._spent = json.loads((self.part / "progress.json").read_text(encoding="utf-8"))["seconds"]
        self._started = time.time()
        # what is waited for is told by the last stage that was opened
        for log in (patience.LOG, logging.getLogger("huggingface_hub.utils._http")):
            log.handlers, log.propagate = [_Waiting(self)], False
        patience.LOG.setLevel(logging.INFO)
        for source in self.inputs.sources.values() if not self.done else ():
            if isinstance(source, HubModel):
                source.settle()  # before its client asks on its own, with more patience
        return self

    def clear(self) -> None:
        """Take away what killed processes have left, unless one is at work on the stage or may not write there."""
        # a lock that is not to be had is an OSError too
        if self.folder.parent.is_dir():
            with contextlib.suppress(OSError), self._lock.acquire(timeout=0):
                self._mend()
                self.notebook("running").unlink(missing_ok=True)

    def _mend(self) -> None:
        """Put right what a process that was killed in `finish` or while it wrote a file has left."""
        old = self.folder.with_name(self.folder.name + ".old")
        if old.is_dir() and not self.folder.exists():
            os.replace(old, self.folder)
        shutil.rmtree(old, ignore_errors=True)
        beside = [path for path in self.folder.parent.iterdir() if path.name.startswith(f".{self.folder.name}.")]
        for path in [*beside, *self.part.rglob(".*")]:
            if path.suffix[1:].isdecimal():  # half a file (`write_json`)
                path.unlink()
        if self.done:
            shutil.rmtree(self.part, ignore_errors=True)
            self._tidy()

    def _tidy(self) -> None:
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        for name in _SCAFFOLDING - {"checkpoints"}:
            (self.folder / name).unlink(missing_ok=True)

    def progress(self, done: float, total: float, waiting: str = "") -> None:
        """Tell who watches from outside how far the stage is, or what it waits for; cheap enough to be called often."""
        now = time.monotonic()
        if now - self._told > 0.5 or done >= total or not (waiting and self._waiting):
            self._told, self._waiting, self._done = now, waiting, (done, total)
            said = {"done": done, "total": total, "waiting": waiting, "seconds": self._seconds()}
            write_json(self.part / "progress.json", said)

    def finish(self, device: str = "cpu", drawn_from: list[dict[str, Any]] | None = None) -> Path:
        """Write the manifest, put the artefacts in place and let go of the stage; returns their folder.

        `drawn_from` says what was read of sources too large to be read whole.
        """
        if not self.done:
            (self.part / "manifest.json").unlink(missing_ok=True)
            made = sorted(p for p in self.part.rglob("*") if p.is_file())
            files = {p.relative_to(self.part).as_posix(): checksum(p) for p in made}
            # what a killed stage would go on from stays until the rest is in place
            files = {name: value for name, value in files.items() if name.split("/")[0] not in _SCAFFOLDING}
            manifest = {
                "stage": self.name,
                "table": self.table.name,
                "row": self.run.row if self.run else None,
                "origin": self.origin,
                "run": self.run.name if self.run else None,
                "seed": self.run.seed if self.run else None,
                "settings": self.run.model_dump(mode="json") if self.run else None,
                "key": self.key,
                "inputs": {str(needed): needed.manifest["digest"] for needed in self.needs},
                # logs and pages tell how fast it went, which is no part of what was made
                "digest": digest({name: value for name, value in files.items() if not _TOLD.match(name)}),
                "files": files,
                "bytes": {name: (self.part / name).stat().st_size for name in files},
                "sources": [*(drawn_from or []), *self.inputs.provenance()],
                "code": self._loaded_code(),
                "versions": {"python": platform.python_version(), **_versions()},
                "git_commit": _git_commit(),
                "device": device,
                "start": _time(self._started),
                "end": _time(time.time()),
                "seconds": self._seconds(),
                "peak_memory_mb": _peak_memory_mb(),
            }
            write_json(self.part / "manifest.json", {**manifest, "seal": _seal(manifest)})
            old = self.folder.with_name(self.folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            if self.folder.exists():
                os.replace(self.folder, old)
            os.replace(self.part, self.folder)
            shutil.rmtree(old, ignore_errors=True)
            self._tidy()
        patience.LOG.handlers = []
        self._lock.release(force=True)
        return self.folder

    def _loaded_code(self) -> dict[str, str]:
        """The hashes of the notebook and of the kit's modules that this process has imported, as they were when it
        began: what is edited later has not made the stage."""
        loaded = {name.replace(".", "/") for name in sys.modules if name.split(".")[0] == _PACKAGE.name}
        names = {f"{name}{end}" for name in loaded for end in (".py", "/__init__.py")}
        notebook = f"notebooks/{NOTEBOOKS[self.name]}.ipynb"
        return {name: value for name, value in _LOADED.items() if name in names or name == notebook}

    def _seconds(self) -> float:
        """What the stage has cost so far, with earlier tries as far as they told."""
        return round(self._spent + time.time() - self._started, 1)

    def notebook(self, kind: str = "") -> Path:
        """Where the executed notebook lies; `kind` is "running", "failed" or nothing."""
        return self.folder.with_name(f"{self.folder.name}{'.' * bool(kind)}{kind}.ipynb")

    def failure(self) -> str:
        """The error that the failed notebook ends with, in one line."""
        with contextlib.suppress(OSError, ValueError):
            for cell in reversed(json.loads(self.notebook("failed").read_text(encoding="utf-8"))["cells"]):
                for output in cell.get("outputs", []):
                    if output["output_type"] == "error":
                        said = " ".join(f"{output['ename']}: {output['evalue']}".split())
                        return f"{said}; {self._full()}" if _FULL.search(said) else said
        return "its kernel died"

    def _full(self) -> str:
        """What is said of a disk that is full: how many bytes are free and, while a model is trained, about how many a
        checkpoint takes."""
        from ia_lib.workflow.cost import memory

        needs = memory(self.run, self.inputs.origin) if self.name == "tune" else None
        size = f"a checkpoint takes about {needs['weights'] + needs['optimiser']:,.0f} bytes; " if needs else ""
        return size + _room(self.folder)


class _Waiting(logging.Handler):
    """Passes on what a server is waited for: to who watches from outside, and warnings to the notebook."""

    def __init__(self, stage: Stage):
        super().__init__()
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        text = redacted(record.getMessage())
        if record.levelno >= logging.WARNING:
            print(text, flush=True)
            self._stage._told = 0
        with contextlib.suppress(OSError):  # of a finished stage there is no folder to tell it in
            self._stage.progress(*self._stage._done, text)


class StageFailed(Told, RuntimeError):
    """A stage's notebook raised an error."""


def unwritable(error: OSError, folder: Path) -> str:
    """What is said of a file that cannot be written or read: where, why, and how many bytes are free there."""
    place = Path(error.filename) if error.filename else folder
    if place.name.startswith(".") and place.suffix[1:].isdecimal():  # half a file (`write_json`)
        place = place.parent
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)
    room = f"; {_room(folder)}" if full else ""
    return f"{place}: {error.strerror or error}{room}. What was finished before is kept"


def _room(folder: Path) -> str:
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    usage = shutil.disk_usage(there)
    return f"{usage.free:,} of {usage.total:,} bytes are free in {there}"


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _seal(manifest: dict[str, Any]) -> str:
    """What tells that a manifest is the one that was written."""
    return digest({name: value for name, value in manifest.items() if name != "seal"})


def _code(*stages: str) -> dict[str, str]:
    """The hashes of all that the kit's work on stages may depend on: its modules, and the stages' notebooks."""
    files = {path.relative_to(_PACKAGE.parent).as_posix(): path for path in sorted(_PACKAGE.rglob("*.py"))}
    notebooks = [root() / "notebooks" / f"{NOTEBOOKS[stage]}.ipynb" for stage in stages]
    files |= {f"notebooks/{path.name}": path for path in notebooks if path.is_file()}
    return {name: checksum(path) for name, path in files.items()}


def _hash(name: str) -> str | None:
    """The hash, as it is now, of a file that `_code` names."""
    path = (root() if name.startswith("notebooks/") else _PACKAGE.parent) / name
    return content(path) if path.is_file() else None


@cache
def _manifest(path: Path, *state: int) -> dict[str, Any] | None:
    """What a manifest says while its file's `state` is the same: stages ask each other often."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        return found if text == _dumped(found) and found["seal"] == _seal(found) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


_LOADED = _code(*NOTEBOOKS)


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS.split():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _git_commit() -> str | None:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root(), capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _peak_memory_mb() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Linux counts in kilobytes, macOS in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024**2 if sys.platform == "darwin" else 1024)


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file at once: who reads it sees the old or the new one, never half."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(_dumped(value), encoding="utf-8")
    os.replace(part, path)


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True)
