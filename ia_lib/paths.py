"""Where things lie: the project's folder, and files that a table names."""

from pathlib import Path


def root() -> Path:
    """The project's folder: the nearest one, from here upwards, that holds notebooks/ and params/."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parent.parent):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
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
