"""Where things lie: the project's folder, files that a table names, and locks for what processes share."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import FileLock

# What tells the kit's folder from another project's that has notebooks/ and params/ too.
_MARKS = ("notebooks/1_data.ipynb", "notebooks/install.py", "params/tasks")
# Where Colab's `drive.mount` puts Google Drive. Unmounted, such a folder lies on the machine that is gone tomorrow.
_DRIVES = ("/content/drive", "/content/gdrive")


def root() -> Path:
    """The kit's folder: the nearest one, from here upwards, that holds its notebooks and params, or the package's."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parent.parent):
        if all((folder / mark).exists() for mark in _MARKS):
            return folder
    return here


def params() -> Path:
    """params/ beside the package in a checkout; in an installed wheel it lies inside the package."""
    beside = Path(__file__).parent.parent / "params"
    return beside if beside.is_dir() else Path(__file__).parent / "params"


def locate(path: str | Path, *folders: str | Path) -> Path:
    """A path that is found in the first of `folders` that has it, else as given from here, or from the project's."""
    path = Path(path).expanduser()
    for folder in folders:
        if folder and (Path(folder) / path).exists():
            return Path(folder) / path
    return path if path.is_absolute() or path.exists() else root() / path


def unmounted(path: Path) -> Path | None:
    """The place of Google Drive on Colab that `path` lies in, if Drive is not there; else None."""
    inside = (drive for drive in map(Path, _DRIVES) if path.is_relative_to(drive))
    return next((drive for drive in inside if not os.path.ismount(drive)), None)


def lock(path: Path, **more: Any) -> "FileLock":
    """A lock, not yet held, in the file `path`, whose folder is there; it is free when its process has ended, however
    that was. Where the file system knows no locks, as some mounted drives, it lies on this machine instead: a file that
    merely is there would still be there after the machine that wrote it, and nobody would go on.

    Raises OSError where the folder cannot be written to.
    """
    from filelock import FileLock

    return FileLock(path if _locks(path) else _beside_the_machine(path), **more)


def _locks(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows, where every disk knows locks
        return True
    # a file of its own: asking must not disturb who holds the lock
    asked = path.with_name(f".{path.name}.{os.getpid()}")
    with open(asked, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            return False
        finally:
            asked.unlink()


def _beside_the_machine(path: Path) -> Path:
    """A file in this machine's own temporary folder that stands for `path`."""
    folder = Path(tempfile.gettempdir()) / f"ia-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.lock"
