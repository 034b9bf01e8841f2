"""Checkpoints of a run that can be trusted: their files are what was written, by hashes that are written last."""

import contextlib
import json
import re
import shutil
from pathlib import Path

from ia_lib.data.downloads import checksum, read_sealed, write_sealed

# What the files of a checkpoint were when it was written.
_SUMS = "files.sums"
_CHECKPOINT = re.compile(r"checkpoint-\d+")


def seal(checkpoint: Path) -> None:
    """Say that a checkpoint is whole; only such a one is gone on from."""
    write_sealed(checkpoint / _SUMS, json.dumps(_listed(checkpoint)).encode())


def last(folder: Path) -> str | None:
    """The last checkpoint that is what was written, as is the best one that it names; later ones are removed, with a
    word."""
    for path in _found(folder):
        if _is_whole(path) and ((best := _best(path)) is None or best == path or _is_whole(best)):
            return str(path)
        print(f"{path.name} is not whole: training goes on from the one before it")
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    return None


def prune(folder: Path) -> None:
    """Remove all checkpoints but the last two and the best ones that these name. Trainer would do so before the last
    one is sealed, and take from the one before it the best that it names."""
    found = _found(folder)
    kept = {*found[:2], *(best for path in found[:2] if (best := _best(path)))}
    for path in set(found) - kept:
        shutil.rmtree(path)


def _found(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the last one first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir() and _CHECKPOINT.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def _best(checkpoint: Path) -> Path | None:
    """The best checkpoint so far, if one names any: by its name, since the folder may have been moved."""
    with contextlib.suppress(OSError, ValueError):  # of a damaged one
        best = json.loads((checkpoint / "trainer_state.json").read_text()).get("best_model_checkpoint")
        return checkpoint.with_name(Path(best).name) if best else None
    return None


def _is_whole(checkpoint: Path) -> bool:
    kept = read_sealed(checkpoint / _SUMS)
    return kept is not None and json.loads(kept) == _listed(checkpoint)


def _listed(checkpoint: Path) -> dict[str, str]:
    """The hashes of a checkpoint's files."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != _SUMS)
    return {path.relative_to(checkpoint).as_posix(): checksum(path) for path in files}
