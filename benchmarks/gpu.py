"""How fast a BLOOMZ-560M is tuned on a GPU, and how far that is from what the card can do.

    python benchmarks/gpu.py [STEPS]      (default: 50 steps; one GPU with some 24 GiB)
    python benchmarks/gpu.py --try        (a small model, on a CPU too: only to see that the script works)

A model of that shape (hidden 1024, 24 layers, 16 heads, a vocabulary of 250,880) with random weights, computed in
bfloat16, AdamW, 16 new and 16 old rows a step, some 94 tokens each, 23 of them an answer's, through `trainer.tune` as a
run does it: first with the answers' loss alone, then with all tokens'. The first steps are for warming up.

The share is that of the card's own matrix rate, measured before on products of two 8192 x 8192 matrices in bfloat16.
Operations are counted as 6 a parameter of the layers and token, and 6 a number of the output layer and token that
counts: no attention, no padding, nothing computed again. Hours are those of 50,000 such steps.

Not run on a GPU yet: no number of it stands anywhere.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

from tuning import rows

ROWS, WARM, LONG, WINDOW = 16, 5, 50_000, 8
SHAPE = {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250_880}
SMALL = {"hidden_size": 64, "n_layer": 2, "n_head": 2, "vocab_size": 250_880}


def main() -> None:
    import torch

    trying = "--try" in sys.argv
    if not torch.cuda.is_available() and not trying:
        sys.exit("there is no GPU here; with --try a small model shows that the script works")
    steps = 3 if trying else int(sys.argv[1]) if len(sys.argv) > 1 else 50
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = matrix_rate(device, 512 if trying else 8192)
    print(f"matrix rate: {rate / 1e12:.2f} TFLOP/s in bfloat16", flush=True)
    found = {}
    for loss in ("answer", "all"):
        found[loss] = tuned(loss, steps, device, SMALL if trying else SHAPE, rate)
        print(f"loss: {loss}, {found[loss]}", flush=True)
    card = torch.cuda.get_device_name() if device == "cuda" else "no GPU"
    print(json.dumps({"benchmark": "gpu", "tried_only": trying, "card": card, "matrix_tflops": rate / 1e12, **found}))


def matrix_rate(device: str, size: int, times: int = 50) -> float:
    """Floating-point operations a second in products of square matrices in bfloat16."""
    import torch

    one = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    for part in (5, times):
        wait(device)
        begin = time.perf_counter()
        for _ in range(part):
            one @ one
        wait(device)
    return 2 * size**3 * times / (time.perf_counter() - begin)


def wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def tuned(loss: str, steps: int, device: str, shape: dict, rate: float) -> dict:
    import torch
    from transformers import BloomConfig, BloomForCausalLM

    from ia_lib.training import trainer
    from ia_lib.training.streams import Stream, interleave

    torch.manual_seed(1)
    model = BloomForCausalLM(BloomConfig(**shape, hidden_dropout=0.0, attention_dropout=0.0))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    drawn = rows(2 * ROWS * (WARM + steps))
    parts = {"new": drawn[::2], "old": [{**row, "stream": "old", "role": "old"} for row in drawn[1::2]]}
    lengths = {name: [len(row["input_ids"]) for row in some] for name, some in parts.items()}
    streams = [Stream(name, name, ROWS) for name in parts]
    counts = {name: len(some) for name, some in parts.items()}
    order = interleave(streams, counts, WARM + steps, 1, lengths, WINDOW)
    laid = [parts[name][index] for name, index in order]
    times = []

    def progress(step: int, of: int) -> None:
        wait(device)
        times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = SimpleNamespace(eos_token_id=3, pad_token_id=3)
        trainer.tune(model, tokenizer, laid, [], Path(folder), steps=WARM + steps, batch_size=2 * ROWS,
                     learning_rate=1e-5, loss=loss, loss_average="token", precision="bfloat16", save_steps=10**6,
                     on_progress=progress)  # fmt: skip
    seconds = times[-1] - times[WARM - 1]
    counted = laid[2 * ROWS * WARM :]
    tokens = sum(len(row["input_ids"]) for row in counted)
    scored = tokens if loss == "all" else sum(len(row["input_ids"]) - row["answer_start"] for row in counted)
    head = shape["hidden_size"] * shape["vocab_size"]
    operations = 6 * (tokens * 12 * shape["n_layer"] * shape["hidden_size"] ** 2 + scored * head)
    return {
        "tokens_per_second": round(tokens / seconds),
        "share_of_matrix_rate": round(operations / seconds / rate, 3),
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
        "hours_for_50000_steps": round(seconds / steps * LONG / 3600, 2),
    }


if __name__ == "__main__":
    main()
