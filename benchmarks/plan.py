"""How long `plan` and Snakemake's start take with 500 rows: of the mini lab, and of params/paper.yaml with nine seeds.

    python benchmarks/plan.py

Seconds of the clock and of the processors; of the Snakefile also what it spends in the kit (`Table`, its stages and
keys). Nothing is run. Real data are read where they are (`IA_DATA`).

Measured on two idle cores, seconds of the clock:

| 500 rows | plan | the kit in the Snakefile | snakemake -n |
|---|---|---|---|
| the mini lab | 2.3 | 1.5 | 5.0 |
| the papers | 7.6 | 3.4 | 6.1 |
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARAMS = Path(__file__).parents[1] / "params"
MINI = """
seeds: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
defaults:
  corpus: minilab
  model: {run: base}
  past: {run: base}
  steps: 2000
  lab: {test: 300}
runs:
  - name: base
    recipe: instructions
    model: {new: {hidden: 64, layers: 2, heads: 4, vocabulary: 3000}}
    past: {mixture: {sentiment: 25, mt: 40, xss: 25, mlm: 10, rows: 60000}}
    per_step: 32
    steps: 4000
  - name: "{objective}-r{replay}"
    grid:
      objective: [tlm, mlm, xss, mt]
      replay: [0, 10, 30, 100, 300, 1000, 2000, 3000, 5000, 10000, 20000, 30000]
"""
KIT = """
import sys, time
begin = time.process_time()
from ia_lib.workflow.graph import Table
table = Table(*sys.argv[1:])
for stage in [*table.stages(), table.report()]:
    stage.marker, stage.complete
print(time.process_time() - begin)
"""


def main() -> None:
    papers = f"seeds: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n{(PARAMS / 'paper.yaml').read_text(encoding='utf-8')}"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"mini": MINI, "paper": papers}.items():
            table = Path(folder, f"{name}.yaml")
            table.write_text(text, encoding="utf-8")
            outputs, root = f"{folder}/outputs", str(PARAMS.parent)
            snakemake = ["-m", "snakemake", "-n", "--quiet", "--snakefile", f"{root}/Snakefile", "--directory", folder]
            snakemake += ["--cores", "all", "--config", f"table={table}", f"outputs={outputs}"]
            for what, command in {
                "plan": ["-m", "ia_lib.runs", "plan", str(table), "--outputs", outputs],
                "the kit in the Snakefile": ["-c", KIT, str(table), outputs],
                "snakemake -n": snakemake,
            }.items():
                found[f"{name}: {what}"] = took = _seconds(command, root)
                print(f"{name}: {what:<28}{took[0]:8.1f} s, {took[1]:.1f} s of processors", flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    print(json.dumps({"benchmark": "plan", "seconds": found, "machine": machine}))


def _seconds(command: list[str], folder: str) -> tuple[float, float]:
    """Seconds of the clock and of processors."""
    begin, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return round(time.time() - begin, 1), round(spent, 1)


if __name__ == "__main__":
    main()
