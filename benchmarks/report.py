"""How long the report of a table takes: of the five rows of the mini lab as they are, and of 40 rows with three seeds,
made from those by adding noise to their scores, so that no two rows give the same answers.

Needs a finished params/mini.yaml: `make reproduce` first. Prints seconds, the size of the page and its largest file.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from ia_lib.report import page

ROWS, SEEDS = 40, (1, 2, 3)


def main(finished: Path) -> None:
    runs = sorted(path.parent for path in finished.glob("*/evaluate/manifest.json"))
    with tempfile.TemporaryDirectory() as folder:
        report(runs, Path(folder) / "five", "the mini lab")
        many = [copy(finished, Path(folder), row, seed) for row in range(ROWS) for seed in SEEDS]
        report(many, Path(folder) / "many", f"{ROWS} rows, {len(SEEDS)} seeds each")


def report(runs: list[Path], folder: Path, what: str) -> None:
    folder.mkdir(parents=True)
    begin = time.perf_counter()
    page.write(folder, folder.name, runs, [])
    took, index = time.perf_counter() - begin, (folder / "index.html").stat().st_size
    largest = max((p.stat().st_size, p.name) for p in folder.rglob("*") if p.is_file() and "plotly" not in p.name)
    print(
        f"{what}: {took:.1f} s; index.html {index / 1e6:.2f} MB; largest file {largest[1]}, {largest[0] / 1e6:.2f} MB"
    )


def copy(finished: Path, folder: Path, row: int, seed: int) -> Path:
    """A row made from one of the mini lab's, with other answers; returns the folder of its evaluation."""
    names = ["base", "mlm", "tlm", "tlm-r0", "xss"]
    old = names[0] if row == 0 else names[1 + row % 4]
    called = "base" if row == 0 else f"{old}-{row}"
    new = folder / f"{called}-s{seed}"
    shutil.copytree(finished / old, new, ignore=shutil.ignore_patterns("model", "*.safetensors"))
    for path in new.glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        settings = manifest["settings"] | {"name": new.name, "row": called, "seed": seed}
        settings["model"] = settings["model"] | {"run": f"base-s{seed}" if settings["model"]["run"] else None}
        path.write_text(json.dumps(manifest | {"settings": settings}))
    path = new / "evaluate" / "scores.parquet"
    scores = pd.read_parquet(path)
    noise = np.random.default_rng([row, seed]).gumbel(scale=0.5 + row / ROWS, size=len(scores))
    scores.assign(label_logprob=scores["label_logprob"] + noise).to_parquet(path, index=False)
    return new / "evaluate"


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/mini"))
