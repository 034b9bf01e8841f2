"""What `plan` says that training takes in memory, beside what it took.

python benchmarks/memory.py

Models with random weights (hidden 512, 8 layers, a vocabulary of 50,000), of BLOOM's shape, whose output layer shares
its weights with the embeddings, and of Llama's, where it has its own; 8 rows a step of 110 tokens, 23 of them an
answer's, in float32 with AdamW and two threads. Each is loaded and trained for three steps in a process of its own.
Beyond what the process had with all libraries loaded is what it took; bitsandbytes quantises the base while it loads.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

STEPS, ROWS, LENGTH, ANSWER, THREADS = 3, 8, 110, 23, 2
HIDDEN, LAYERS, HEADS, VOCABULARY = 512, 8, 8, 50_000
SHAPES = ("bloom", "llama")
ASKED = {
    "all weights": {},
    "adafactor": {"optimiser": "adafactor"},
    "adapter": {"adapter": {}},
    "adapter, embeddings": {"adapter": {"embeddings": True}},
    "adapter, int8": {"adapter": {"quantisation": "int8"}},
    "adapter, nf4": {"adapter": {"quantisation": "nf4"}},
    "adapter, nf4, embeddings": {"adapter": {"quantisation": "nf4", "embeddings": True}},
}


def main() -> None:
    found: dict[str, dict] = {}
    for shape in SHAPES:
        for asked in ASKED:
            command = [sys.executable, __file__, "--side", shape, asked]
            found[f"{shape}, {asked}"] = json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            print(f"{shape}, {asked}: {found[f'{shape}, {asked}']}", flush=True)
    print(json.dumps({"benchmark": "memory", "threads": THREADS, "machine": platform.machine(), **found}))


def side(shape: str, asked: str) -> None:
    from types import SimpleNamespace

    import torch
    from peak import grown
    from transformers import AutoModelForCausalLM, BloomConfig, LlamaConfig

    from ia_lib.models import adapters, load
    from ia_lib.recipes.fields import Train
    from ia_lib.training import trainer
    from ia_lib.workflow import cost

    torch.set_num_threads(THREADS)
    torch.manual_seed(1)
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    config = {
        "bloom": BloomConfig(**sizes, n_head=HEADS),
        "llama": LlamaConfig(**sizes, num_attention_heads=HEADS, intermediate_size=4 * HIDDEN),
    }[shape]
    train = Train(**ASKED[asked])
    adapter = train.adapter.model_dump() if train.adapter else None
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(10, VOCABULARY, (STEPS * ROWS, LENGTH), generator=draw).tolist()
    rows = [{"input_ids": one, "answer_start": LENGTH - ANSWER, "stream": "new", "role": "new"} for one in ids]
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(f"{folder}/model")

        def work() -> None:
            model = load.load_model(f"{folder}/model", quantisation=(adapter or {}).pop("quantisation", "none"))
            if adapter:
                model = adapters.attach(model, **adapter)
            tokenizer = SimpleNamespace(eos_token_id=3, pad_token_id=3)
            trainer.tune(model, tokenizer, rows, [], Path(folder), steps=STEPS, batch_size=ROWS, learning_rate=1e-5,
                         optimiser=train.optimiser, save_steps=10**6)  # fmt: skip

        stream = SimpleNamespace(name="new", role="new", per_step=ROWS)
        run = SimpleNamespace(train=train, data=SimpleNamespace(max_length=512), streams=[stream])
        said = sum(cost.memory(run, f"{folder}/model", {"mean_tokens": {"new": LENGTH}}).values()) / 2**20
        took = grown(work)
    print(json.dumps({"said_mib": round(said), "took_mib": round(took), "said_of_took": round(said / took, 2)}))


if __name__ == "__main__":
    if "--side" in sys.argv:
        side(*sys.argv[2:])
    else:
        main()
