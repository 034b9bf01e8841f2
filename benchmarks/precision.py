"""What fewer bits change, in the form of InstructAlign's Table 11: accuracy and macro F1, precision and recall in full
precision, in 16 bits, and in bitsandbytes' 8 and 4 bits, and how many predictions flip against full precision.

    python benchmarks/precision.py [MODEL]

MODEL is a folder or the Hub name of any causal or encoder-decoder model; it is asked the sentiment of NusaX' test texts
if they are there (IA_DATA, else ../shared/data), else of the mini lab's. By default it is the mini lab's base, which is
trained first (some minutes) unless `make reproduce` has done so.
"""

import json
import os
import platform
import sys
import time

import pandas as pd
import torch
from datasets import concatenate_datasets
from transformers import AutoTokenizer

from ia_lib.data import downloads, minilab
from ia_lib.evaluation import choice, measures, tasks
from ia_lib.models.load import computing_device, load_model
from ia_lib.paths import root
from ia_lib.workflow.graph import Table
from ia_lib.workflow.scheduler import execute

CODES, TEXTS = ["eng", "ind", "sun", "jav"], 100
WAYS = {
    "float32": ("none", "float32"),
    "bfloat16": ("none", "bfloat16"),
    "float16": ("none", "float16"),
    "int8": ("int8", "float32"),
    "nf4": ("nf4", "float32"),
}
METRICS = ["accuracy", "macro_f1", "macro_precision", "macro_recall"]


def main() -> None:
    own = len(sys.argv) < 2
    if own:
        table = Table(root() / "params" / "mini.yaml", root() / "outputs")
        if failed := execute(table, ["base"]):
            sys.exit(f"the mini lab's base could not be made: {failed}")
        source = table.stage("base", "evaluate").inputs.tuned_model[0]
        sizes = {"base": 10, "train": 10, "valid": 10, "test": 300}
        folder = minilab.write(root() / "outputs" / ".precision", 1, CODES, sizes)
        task, find = tasks.load("minilab/sentiment"), lambda _, file: folder / file
    else:
        source = sys.argv[1]
        task = tasks.load("nusax/sentiment")
        find = downloads.finder(os.environ.get("IA_DATA") or root() / "../shared/data")
    tests = concatenate_datasets([task.read(find, [code], "test").select(range(TEXTS)) for code in CODES])
    where = computing_device(os.cpu_count())
    tokenizer = AutoTokenizer.from_pretrained(source)
    rows, answers = [], {}
    for name, (quantisation, precision) in WAYS.items():
        model = load_model(source, device=where, quantisation=quantisation, precision=precision)
        begin = time.perf_counter()
        scores = choice.score(model, tokenizer, tests, [task])
        seconds = time.perf_counter() - begin
        found = measures.measures(measures.choices(scores), {"all": CODES}).query("language == 'all'")
        line = found.set_index("metric")["value"]
        answers[name] = measures.predictions(scores)["predicted"].to_numpy()
        flips = int((answers[name] != answers["float32"]).sum())
        rows.append({"precision": name, **line[METRICS].round(2), "flips": flips, "of": len(answers[name])})
        rows[-1] |= {
            "texts_per_s": round(len(answers[name]) / seconds, 1),
            "mb": round(model.get_memory_footprint() / 2**20, 1),
        }
    print(pd.DataFrame(rows).to_string(index=False))
    print(
        f"\n{len(tests)} texts in {', '.join(CODES)}, three prompts; by chance {100 / len(task.labels):.1f}% are right"
    )
    full, *others = ({key: value for key, value in row.items() if key != "precision"} for row in rows)
    names = list(WAYS)[1:]
    result = {
        "name": "precision",
        "ratios": {
            f"{name}_flips": round(row["flips"] / row["of"], 4) for name, row in zip(names, others, strict=True)
        },
        "ours": dict(zip(names, others, strict=True)),
        "theirs": {"float32": full},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, device {where}, torch {torch.__version__}",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
