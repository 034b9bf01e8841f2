"""Where things lie: the project's folder, and files that a table names."""

from pathlib import Path

# What tells the kit's folder from another project's that has notebooks/ and params/ too.
_MARKS = ("notebooks/1_data.ipynb", "notebooks/install.py", "params/tasks")


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
