"""How fast an adapter is tuned: the kit against soup-cli, which runs trl's SFTTrainer.

python benchmarks/soup.py PYTHON [ROUNDS]

PYTHON is the interpreter of an environment with `soup-cli[train]`, which needs another version of some packages than
the kit. A chat model of Llama's shape with random weights (hidden 384, 6 layers, a vocabulary of 8,000) and the same
conversations for both: made-up words, some 90 tokens each, the answer's alone in the loss. LoRA of rank 16 and alpha 32
at all linear layers, batches of 8, 24 steps, AdamW, float32, two threads. The kit sorts rows by length within windows
of eight batches. Counted is the time from the end of the first step to the end of the last one, the best of the rounds.
"""

import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS, BATCH, WINDOW, THREADS = 24, 8, 8, 2
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WATCH = """
import json, runpy, sys, time
import torch
from transformers import Trainer, TrainerCallback
torch.set_num_threads({threads})
class Watch(TrainerCallback):
    times, losses = [], []
    def on_step_end(self, args, state, control, **more):
        self.times.append(time.perf_counter())
    def on_train_end(self, args, state, control, **more):
        losses = [line["loss"] for line in state.log_history if "loss" in line]
        json.dump({{"seconds": self.times[-1] - self.times[0], "steps": len(self.times), "losses": losses}},
                  open({file!r}, "w"))
begin = Trainer.__init__
def init(self, *given, **named):
    begin(self, *given, **named)
    self.add_callback(Watch())
Trainer.__init__ = init
sys.argv = ["soup", "--no-telemetry", "--no-audit-log", "train", "--config", "soup.yaml", "--yes"]
runpy.run_module("soup_cli", run_name="__main__")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        rows = conversations()
        tokenizer = make(home / "model", rows)
        found: dict[str, dict] = {}
        for turn in range(int(sys.argv[2]) if len(sys.argv) > 2 else 3):
            for name, side in {
                "soup": soup(home / f"soup{turn}", rows, sys.argv[1]),
                "kit": kit(home / f"kit{turn}", home / "model", rows, tokenizer),
            }.items():
                print(f"{name}: {side['seconds']:.1f} s", flush=True)
                found[name] = min(found.get(name, side), side, key=lambda one: one["seconds"])
    speed = {name: round((STEPS - 1) * BATCH / side["seconds"], 2) for name, side in found.items()}
    facts = {"rows_per_second": speed, "faster": round(found["soup"]["seconds"] / found["kit"]["seconds"], 2)}
    facts["losses"] = {name: [round(loss, 3) for loss in side["losses"][:: STEPS - 1]] for name, side in found.items()}
    print(json.dumps({"benchmark": "soup", "threads": THREADS, "machine": platform.machine(), **facts}))


def conversations() -> list[dict]:
    draw = random.Random(1)
    words = [
        "".join(draw.choice("ktpmnslr") + draw.choice("aiueo") for _ in range(draw.randint(1, 4))) for _ in range(4000)
    ]

    def text(low: int, high: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    return [{"instruction": text(15, 75), "input": "", "output": text(4, 25)} for _ in range(STEPS * BATCH)]


def make(folder: Path, rows: list[dict]):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ia_lib.models.new import train_tokenizer

    trained = train_tokenizer([row["instruction"] + " " + row["output"] for row in rows], 8000)
    marks = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"], "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, chat_template=TEMPLATE, **marks)
    sizes = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=len(tokenizer), **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def soup(home: Path, rows: list[dict], python: str) -> dict:
    home.mkdir()
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "base": "../model",
        "task": "sft",
        "data": {
            "train": "./rows.jsonl",
            "format": "alpaca",
            "val_split": 0.0,
            "max_length": 256,
            "train_on_responses_only": True,
        },
        "training": {
            **{"epochs": 1, "lr": 1e-4, "batch_size": BATCH, "gradient_accumulation_steps": 1, "logging_steps": 1},
            **{"quantization": "none", "optimizer": "adamw_torch", "warmup_ratio": 0.0, "weight_decay": 0.0},
            "lora": {"r": 16, "alpha": 32, "dropout": 0.0, "target_modules": "auto"},
        },
        "output": "./out",
    }
    (home / "soup.yaml").write_text(json.dumps(config))
    (home / "watch.py").write_text(WATCH.format(threads=THREADS, file=str(home / "times.json")))
    done = subprocess.run([python, "watch.py"], cwd=home, capture_output=True, text=True, check=False)
    if not (home / "times.json").is_file():
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return json.loads((home / "times.json").read_text())


def kit(home: Path, model: Path, rows: list[dict], tokenizer) -> dict:
    import torch

    from ia_lib.models import adapters, load
    from ia_lib.models.encoding import encode
    from ia_lib.training import trainer
    from ia_lib.training.streams import Stream, interleave

    torch.set_num_threads(THREADS)
    prompts, answers = ([row[name] for row in rows] for name in ("instruction", "output"))
    encoded, _ = encode(tokenizer, prompts, answers, 256, chat=True)
    encoded = [{**row, "stream": "new", "role": "new"} for row in encoded]
    lengths = {"new": [len(row["input_ids"]) for row in encoded]}
    order = interleave([Stream("new", "new", BATCH)], {"new": len(rows)}, STEPS, 1, lengths, WINDOW)
    adapted = adapters.attach(load.load_model(str(model)), rank=16, alpha=32)
    times, losses = [], []
    trainer.tune(adapted, tokenizer, [encoded[index] for _, index in order], [], home, steps=STEPS,
                 batch_size=BATCH, learning_rate=1e-4, loss_average="token", log_steps=1, save_steps=10**6,
                 on_log=lambda record: losses.append(record["loss"]),
                 on_progress=lambda step, of: times.append(time.perf_counter()))  # fmt: skip
    return {"seconds": times[-1] - times[0], "steps": len(times), "losses": losses}


if __name__ == "__main__":
    main()
