"""How fast questions on passages are answered: the kit against lm-evaluation-harness.

python benchmarks/generation.py [QUESTIONS]

SmolLM2-135M-Instruct (`make model`) answers English questions of XQuAD (in IA_DATA, else ../shared/data) greedily in
float32, up to a new line, 32 tokens at most, with two threads. lm-evaluation-harness gets its best batch size of 1, 4,
8 and 16. Sides take turns, and the best of each side's two rounds counts; all answers must be the same before any time
is believed.
"""

import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from ia_lib.data import questions
from ia_lib.evaluation import tasks
from ia_lib.evaluation.generation import continued
from ia_lib.models import encoding, load
from ia_lib.paths import root
from ia_lib.workflow.tables import load as load_table
from ia_lib.workflow.weights import Weighed

QUESTIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 32
TOKENS, THREADS, ROUNDS = 32, 2, 2


def main() -> None:
    torch.set_num_threads(THREADS)
    folder = str(Weighed([load_table(root() / "params" / "smollm2.yaml")[0]], Path("unused")).outside.path())
    model, tokenizer = load.load_model(folder).eval(), load.load_tokenizer(folder)
    asked = prompts()
    sides = {"kit": lambda: kit(model, tokenizer, asked)}
    for size in (1, 4, 8, 16):
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, max_length=2048)
        sides[f"lm_eval, batches of {size}"] = lambda harness=harness: theirs(harness, asked)
    times, said = {name: [] for name in sides}, {}
    for _ in range(ROUNDS):
        for name, answer in sides.items():
            begun = time.perf_counter()
            said[name] = answer()
            times[name].append(time.perf_counter() - begun)
            print(f"{name}: {times[name][-1]:.1f} s", flush=True)
    same = {name: sum(a == b for a, b in zip(said["kit"], other, strict=True)) for name, other in said.items()}
    print(f"answers as the kit's: {same} of {len(asked)}; for example {said['kit'][:3]}")
    assert min(same.values()) == len(asked), "the sides do not answer alike"
    speeds = {name: len(asked) / min(took) for name, took in times.items()}
    best = max((name for name in speeds if name != "kit"), key=speeds.get)
    found = {"questions_per_second": {name: round(speed, 3) for name, speed in speeds.items()}}
    found |= {"times_as_fast": round(speeds["kit"] / speeds[best], 2), "best_of_lm_eval": best}
    print(json.dumps({"benchmark": "generation", "threads": THREADS, "machine": platform.machine(), **found}))


def prompts() -> list[str]:
    """The first questions of the file."""
    data = Path(os.environ.get("IA_DATA") or root() / "../shared/data")
    found = questions.read(next(path for path in data.rglob("xquad.en.json")))
    task = tasks.load("xquad/english")
    rows = zip(found["context"][:QUESTIONS], found["question"][:QUESTIONS], strict=True)
    return [task.prompt("eng", context, question) for context, question in rows]


def kit(model, tokenizer, asked: list[str]) -> list[str]:
    ids = encoding.asked(tokenizer, asked)
    return [text.strip() for text in continued(model, tokenizer, ids, TOKENS, [tokenizer.eos_token_id], stop="\n")]


def theirs(harness: HFLM, asked: list[str]) -> list[str]:
    how = {"until": ["\n"], "do_sample": False, "max_gen_toks": TOKENS}
    wanted = [Instance("generate_until", {}, (prompt, how), number) for number, prompt in enumerate(asked)]
    return [text.partition("\n")[0].strip() for text in harness.generate_until(wanted, disable_tqdm=True)]


if __name__ == "__main__":
    main()
