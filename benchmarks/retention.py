"""What the methods against forgetting cost: a step's time, the preparation's, and memory.

python benchmarks/retention.py [ROUNDS]

A model of BLOOM's shape with random weights (hidden 512, 8 layers, a vocabulary of 5,000: 28 million parameters), 8 new
rows a step of some 94 tokens, 23 of them an answer's, in float32 with AdamW and two threads. Beside them replay and
A-GEM read 8 old rows a step; EWC and SSU look at 32 old rows before. Each side runs in a process of its own, in turn
with the others; the best of its rounds counts. Memory is what the process needs at its peak beyond what it has when the
model is loaded: gradients, AdamW's moments, activations, and what the method holds.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, ROWS, KEPT, THREADS = 8, 8, 32, 2
HIDDEN, LAYERS, HEADS, VOCABULARY = 512, 8, 8, 5_000
SIDES = ["nothing", "replay", "ewc", "agem", "ssu", "lora"]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    runs: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(rounds):
        for name in SIDES:
            command = [sys.executable, __file__, "--side", name]
            runs[name].append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
            print(f"{name}: {runs[name][-1]}", flush=True)
    best = {name: min(some, key=lambda run: run["step"]) for name, some in runs.items()}
    least = best["nothing"]
    found = {
        name: {
            "step_seconds": round(run["step"], 2),
            "times_a_step": round(run["step"] / least["step"], 2),
            "seconds_a_row_before": round(run["before"] / KEPT, 2),
            "memory_mb": round(run["memory_mb"]),
            "times_the_memory": round(run["memory_mb"] / least["memory_mb"], 2),
        }
        for name, run in best.items()
    }
    print(json.dumps({"benchmark": "retention", "threads": THREADS, "machine": platform.machine(), **found}))


def side(name: str) -> None:
    from types import SimpleNamespace

    import torch
    from peak import grown
    from transformers import BloomConfig, BloomForCausalLM

    from ia_lib.models import adapters
    from ia_lib.training import retention, trainer

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    sizes = {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCABULARY}
    model = BloomForCausalLM(BloomConfig(**sizes, hidden_dropout=0.0, attention_dropout=0.0))
    if name == "lora":
        model = adapters.attach(model, rank=16, alpha=32)
    method = {"ewc": retention.Elastic, "agem": retention.AveragedGem, "ssu": retention.Shield}.get(
        name, retention.Retention
    )()
    old = ROWS if name in ("replay", "agem") else 0
    rows, kept = made(["new"] * ROWS + ["old"] * old), made(["old"])[:KEPT] if name in ("ewc", "ssu") else []
    before, times, prepare = [0.0], [], method.prepare

    def timed(*given) -> None:
        begun = time.perf_counter()
        prepare(*given)
        before[0] = time.perf_counter() - begun

    method.prepare = timed
    tokenizer = SimpleNamespace(eos_token_id=3, pad_token_id=3)
    with tempfile.TemporaryDirectory() as folder:
        memory = grown(lambda: trainer.tune(
            model, tokenizer, rows, [], Path(folder), steps=STEPS + 1, batch_size=ROWS + old, learning_rate=1e-5,
            save_steps=10**6, retention=method, kept=kept,
            on_progress=lambda step, of: times.append(time.perf_counter())))  # fmt: skip
    took = {"step": (times[-1] - times[0]) / STEPS, "before": before[0]}
    print(json.dumps({**took, "memory_mb": memory}))


def made(roles: list[str]) -> list[dict]:
    """Random rows for all steps, a batch of these roles after another; the first batch is for warming up."""
    import torch

    draw = torch.Generator().manual_seed(1)
    found = []
    for role in roles * (max(KEPT, STEPS + 1) if len(roles) == 1 else STEPS + 1):
        start, answer = (int(torch.randint(*ends, (1,), generator=draw)) for ends in ((30, 113), (8, 39)))
        ids = torch.randint(10, VOCABULARY, (start + answer,), generator=draw).tolist()
        found.append({"input_ids": ids, "answer_start": start, "stream": role, "role": role})
    return found


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(sys.argv[2])
    else:
        main()
