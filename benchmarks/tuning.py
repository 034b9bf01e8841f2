"""How fast and in how much memory models are tuned: the kit against transformers' Trainer as it comes.

python benchmarks/tuning.py [ROUNDS]

A model of BLOOM's shape with random weights (hidden 512, 8 layers, the full vocabulary of 250,880) and random rows of
some 94 tokens, 23 of them an answer's; batches of 24, float32, AdamW, the same rows, batch after batch, on both sides,
with two threads. The plain side pads each batch to its longest row and computes the logits of all tokens; the kit sorts
rows by length within windows of eight batches. Each side runs in a process of its own, in turn with the others; the
best of its rounds counts. Memory is what the process needs at its peak beyond what it has when the model is loaded.
The limit by arithmetic counts multiplications alone: the body for all tokens (with the plain side's padding), the
output layer for those that count.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, BATCH, WINDOW, THREADS = 4, 24, 8, 2
HIDDEN, LAYERS, HEADS, VOCABULARY = 512, 8, 8, 250_880
SIDES = ["plain", "kit"]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    found: dict[str, dict] = {}
    for loss in ("answer", "all"):
        runs: dict[str, list[dict]] = {side: [] for side in SIDES}
        for _ in range(rounds):
            for side in SIDES:
                command = [sys.executable, __file__, "--side", side, loss]
                runs[side].append(json.loads(subprocess.check_output(command, text=True).splitlines()[-1]))
                print(f"loss: {loss}, {side}: {runs[side][-1]}", flush=True)
        best = {side: min(some, key=lambda run: run["seconds"]) for side, some in runs.items()}
        plain, kit = best["plain"], best["kit"]
        # the same rows: the mean of their losses must be the same whatever batches they are in
        assert abs(plain["loss"] - kit["loss"]) < 5e-3, (plain, kit)
        found[loss] = {
            "rows_per_second": {side: round(STEPS * BATCH / run["seconds"], 2) for side, run in best.items()},
            "faster": round(plain["seconds"] / kit["seconds"], 2),
            "faster_by_arithmetic": round(limit(loss), 2),
            "memory_mb": {side: round(run["memory_mb"]) for side, run in best.items()},
            "memory_share": round(kit["memory_mb"] / plain["memory_mb"], 2),
            "padding": {side: round(run["padding"], 3) for side, run in best.items()},
        }
        print(found[loss], flush=True)
    print(json.dumps({"benchmark": "tuning", "threads": THREADS, "machine": platform.machine(), **found}))


def rows(count: int = (STEPS + 1) * BATCH) -> list[dict]:
    """Random rows; those of the first batch are for warming up."""
    import torch

    draw = torch.Generator().manual_seed(1)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=draw))

    made = []
    for _ in range(count):
        start, answer = number(30, 112), number(8, 38)
        ids = torch.randint(10, VOCABULARY, (start + answer,), generator=draw).tolist()
        made.append({"input_ids": ids, "answer_start": start, "stream": "new", "role": "new"})
    return made


def limit(loss: str) -> float:
    """How many times faster it can be, if only multiplications cost time."""
    some = rows()[BATCH:]
    padded = sum(BATCH * max(len(row["input_ids"]) for row in some[i : i + BATCH]) for i in range(0, len(some), BATCH))
    tokens = sum(len(row["input_ids"]) for row in some)
    answers = sum(len(row["input_ids"]) - row["answer_start"] for row in some)
    body, head = 12 * LAYERS * HIDDEN**2, HIDDEN * VOCABULARY
    return padded * (body + head) / (tokens * body + (answers if loss == "answer" else tokens) * head)


def side(name: str, loss: str) -> None:
    import torch
    from peak import grown
    from transformers import BloomConfig, BloomForCausalLM

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    sizes = {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCABULARY}
    model = BloomForCausalLM(BloomConfig(**sizes, hidden_dropout=0.0, attention_dropout=0.0))
    took = {}
    with tempfile.TemporaryDirectory() as folder:
        memory = grown(lambda: took.update({"plain": plain, "kit": kit}[name](model, loss, folder)))
    print(json.dumps({**took, "memory_mb": memory}))


def plain(model, loss: str, folder: str) -> dict:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    def collate(some: list[dict]) -> dict:
        width = max(len(row["input_ids"]) for row in some)
        ids = torch.full((len(some), width), 3)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for place, row in enumerate(some):
            size, start = len(row["input_ids"]), row["answer_start"] if loss == "answer" else 0
            ids[place, :size] = torch.tensor(row["input_ids"])
            mask[place, :size] = 1
            labels[place, start:size] = ids[place, start:size]
        widths.append(width)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    class Times(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            times.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in (logs or {}):
                losses.append(logs["loss"])

    widths, times, losses, some = [], [], [], rows()
    options = {"per_device_train_batch_size": BATCH, "max_steps": STEPS + 1, "save_strategy": "no", "logging_steps": 1}
    arguments = TrainingArguments(folder, **options, learning_rate=1e-9, use_cpu=True, disable_tqdm=True,
                                  train_sampling_strategy="sequential", remove_unused_columns=False,
                                  report_to="none")  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=some, callbacks=[Times()])
    trainer.train()
    widths = widths[1 : STEPS + 1]
    tokens = sum(len(row["input_ids"]) for row in some[BATCH:])
    return {
        "seconds": times[-1] - times[0],
        "loss": sum(losses[1:]) / STEPS,
        "padding": 1 - tokens / (BATCH * sum(widths)),
    }


def kit(model, loss: str, folder: str) -> dict:
    from types import SimpleNamespace

    from ia_lib.training import trainer
    from ia_lib.training.streams import Stream, interleave

    some = rows()
    first, rest = some[:BATCH], some[BATCH:]
    lengths = {"new": [len(row["input_ids"]) for row in rest]}
    order = interleave([Stream("new", "new", BATCH)], {"new": len(rest)}, STEPS, 1, lengths, WINDOW)
    laid = [*first, *(rest[index] for _, index in order)]
    widths = [max(len(row["input_ids"]) for row in laid[i : i + BATCH]) for i in range(BATCH, len(laid), BATCH)]
    times, losses = [], []
    tokenizer = SimpleNamespace(eos_token_id=3, pad_token_id=3)
    trainer.tune(model, tokenizer, laid, [], Path(folder), steps=STEPS + 1, batch_size=BATCH, learning_rate=1e-9,
                 loss=loss, loss_average="token", log_steps=1, save_steps=10**6,
                 on_log=lambda record: losses.append(record["loss"]),
                 on_progress=lambda step, of: times.append(time.perf_counter()))  # fmt: skip
    return {
        "seconds": times[-1] - times[0],
        "loss": sum(losses[1:]) / STEPS,
        "padding": 1 - sum(lengths["new"]) / (BATCH * sum(widths)),
    }


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(*sys.argv[2:])
    else:
        main()
