"""What a large corpus costs: `plan` and the data stage with 10, 100,000 and 1,000,000 pairs of one's own.

Each runs in a process of its own. Prints the seconds and the peak memory beyond that of the same process with ten
pairs, in MB (10^6 bytes); pages of the mapped corpus that the process has read count as its memory. Sizes can be named.

Measured on two cores with other work on them, one thread, pairs of about 80 letters in TSV, `plan` of two rows:

| pairs | plan | data stage |
|---|---|---|
| 10 | 5.1 s | 4.5 s |
| 100,000 | 6.5 s, +29 MB | 6.8 s, +57 MB |
| 1,000,000 | 18.2 s, +231 MB | 27.8 s, +338 MB |
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from ia_lib.data import minilab
from ia_lib.models import new
from ia_lib.randomness import generator

SIZES = [int(size) for size in sys.argv[1:]] or [10, 100_000, 1_000_000]
TABLE = """
defaults:
  corpus: own
  known: [eng, ind]
  taught: [jav]
  unseen: []
  pivots: [ind]
  held_out: true
  parallel: {file: pairs.tsv}
  model: {name: model}
  objective: tlm
  steps: 20
  validation_sentences: 4
runs:
  - {name: one}
  - {name: other, objective: mt}
"""
PLAN = "from ia_lib.workflow.command_line import main; assert not main(['plan', sys.argv[1], '--outputs', sys.argv[2]])"
DATA = """
from ia_lib.workflow import work
from ia_lib.workflow.graph import Table
work.make_data(Table(*sys.argv[1:]).stage("one", "data").open())
"""
MEASURED = """
import resource, sys, time
begin = time.time()
{}
print(time.time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, file=sys.stderr)
"""


def write(folder: Path, pairs: int) -> None:
    """A table, its model and so many pairs, of which every tenth repeats another's source."""
    rng = generator(1, "scale")
    words = [word for sentence in islice(minilab.sentences(1), 200) for word in sentence["ind"].split()]
    with open(folder / "pairs.tsv", "w", encoding="utf-8") as file:
        file.write("ind\tjav\n")
        said = ""
        for i in range(pairs):
            said = said if i % 10 == 9 else " ".join(words[int(rng.random() * len(words))] for _ in range(12)) + f" {i}"
            file.write(f"{said}\t{said[::-1]}{i}\n")
    (folder / "table.yaml").write_text(TABLE, encoding="utf-8")
    tokenizer = new.train_tokenizer([" ".join(words)], 700)
    new.new_model(len(tokenizer), 1, hidden=16, layers=1, heads=2).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")


def main() -> None:
    base: dict[str, float] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), size)
            for what, code in (("plan", PLAN), ("data", DATA)):
                command = [sys.executable, "-c", MEASURED.format(code), f"{folder}/table.yaml", f"{folder}/outputs"]
                done = subprocess.run(
                    command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
                )
                if done.returncode:
                    sys.exit(done.stderr)
                seconds, memory = map(float, done.stderr.split()[-2:])
                more = memory - base.setdefault(what, memory)
                print(
                    json.dumps({"pairs": size, "what": what, "seconds": round(seconds, 1), "MB": round(more)}),
                    flush=True,
                )


if __name__ == "__main__":
    main()
