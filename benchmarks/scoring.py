"""How fast and in how much memory labels are scored: the kit against lm-evaluation-harness and the released way.

A model of BLOOMZ-560M's shape with random weights (full vocabulary of 250,880), the three published prompts on real
NusaX text (IA_DATA, else ../shared/data; without it the mini lab's), in float32, with the same threads on all sides.
lm-evaluation-harness gets its best batch size of 1, 4 and 8; the released way scores every label on its own with the
logits of all tokens. Sides take turns, and the best of each side's rounds counts; what is built once for a model is
built before. All sides' scores of a label must agree within 1e-3 nats before any time is believed.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here comes from a hub, and asking for it takes minutes offline

import ctypes
import gc
import json
import platform
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peak import grown
from transformers import BloomConfig, BloomForCausalLM

from ia_lib.data import corpora, downloads, minilab
from ia_lib.evaluation import scoring, tasks
from ia_lib.instructions import templates
from ia_lib.models.new import train_tokenizer
from ia_lib.paths import root

TEXTS = int(sys.argv[1]) if len(sys.argv) > 1 else 4
ROUNDS = 2
TOLERANCE = 1e-3  # nats a label
LABELS = {
    "labels of 3 to 4 tokens": ["sangat buruk sekali", "tidak baik tidak buruk", "sangat baik sekali"],
    "labels of 1 token": ["buruk", "biasa", "baik"],
}


def main() -> None:
    texts, parallel = real_texts()
    # as many tokens a word as BLOOM's own tokenizer has in Indonesian, or nearly so
    tokenizer = train_tokenizer([*parallel, *(" " + label for row in LABELS.values() for label in row)] * 2, 8000)
    torch.manual_seed(1)
    config = BloomConfig(vocab_size=250_880, hidden_size=1024, n_layer=24, n_head=16)
    model = BloomForCausalLM(config).eval()
    # published prompts end with the blank before the answer; lm-evaluation-harness wants it in front of the label
    asked = [p.rstrip() for text in texts for p in templates.classification_prompts(text, "sentiment", ["a", "b", "c"])]
    harnesses = {
        size: HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, device="cpu", add_bos_token=False)
        for size in (1, 4, 8)
    }
    found = {}
    for name, words in LABELS.items():
        labels = [" " + word for word in words]
        sides = {
            "ours": lambda labels=labels: ours(model, tokenizer, asked, labels),
            **{
                f"lm_eval, batch {size}": lambda labels=labels, lm=lm: harness(lm, asked, labels)
                for size, lm in harnesses.items()
            },
            "released": lambda labels=labels: released(model, tokenizer, asked, labels),
        }
        if name != "labels of 3 to 4 tokens":
            sides.pop("released")
        found[name] = compare(name, sides, len(asked))
        tokens = scoring.label_logprobs(model, tokenizer, asked[:1], labels, progress=False)
        found[name] |= {
            "label_tokens": tokens.label_tokens[0].tolist(),
            "prompt_tokens": int(tokens.prompt_tokens[0, 0]),
        }
        ideal = min(body_alone(model, tokenizer, asked) for _ in range(ROUNDS))
        found[name]["share_of_ideal"] = round(ideal / found[name]["seconds"]["ours"], 3)
        found[name]["profile"] = profile(sides["ours"])
    print_and_end(found)


def real_texts() -> tuple[list[str], list[str]]:
    """Texts to be judged, and text to make a tokenizer from."""
    data = Path(os.environ.get("IA_DATA") or root() / "../shared/data")
    if (data / "nusax" / "sentiment" / "sundanese" / "test.csv").is_file():
        find = downloads.finder(data)
        tests = tasks.load("nusax/sentiment").read(find, ["ind", "sun", "jav", "ban"], "test")["text"][:]
        parallel = corpora.parallel(find, ["ind", "sun", "jav", "ban", "eng"], "train", "nusax").to_dict()
        step = len(tests) // TEXTS
        return tests[::step][:TEXTS], [t for code in ("ind", "sun", "jav", "ban", "eng") for t in parallel[code]]
    print("no real NusaX text: the mini lab's")
    made = [sentence["ind"] for sentence in islice(minilab.sentences(1), 1000)]
    return made[:TEXTS], made


def ours(model, tokenizer, asked, labels) -> np.ndarray:
    return scoring.label_logprobs(model, tokenizer, asked, labels, progress=False).label_logprob


def harness(lm: HFLM, asked, labels) -> np.ndarray:
    """lm-evaluation-harness' log-likelihood, by its Hugging Face backend."""
    pairs = [(prompt, label) for prompt in asked for label in labels]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    answers = lm.loglikelihood(requests, disable_tqdm=True)
    return np.array([value for value, _ in answers]).reshape(len(asked), len(labels))


def released(model, tokenizer, asked, labels) -> np.ndarray:
    """Every label on its own behind its prompt, with the logits of all tokens."""
    found = np.zeros((len(asked), len(labels)))
    for i, prompt in enumerate(asked):
        for j, label in enumerate(labels):
            ids = torch.tensor([tokenizer(prompt + label)["input_ids"]])
            before = len(tokenizer(prompt)["input_ids"])
            with torch.inference_mode():
                told = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
            found[i, j] = told[before - 1 :].sum().item()
    return found


def body_alone(model, tokenizer, asked) -> float:
    """Seconds of one pass of the prompts through the model without its output layer: what no scorer can go below."""
    begin = time.perf_counter()
    with torch.inference_mode():
        for prompt in asked:
            model.transformer(torch.tensor([tokenizer(prompt)["input_ids"]]), use_cache=False)
    return time.perf_counter() - begin


def profile(call) -> dict[str, float]:
    """The operations that take most of the time, in percent of it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as told:
        call()
    rows = told.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    rows = sorted(rows, key=lambda row: -row.self_cpu_time_total)[:6]
    return {row.key.removeprefix("aten::"): round(100 * row.self_cpu_time_total / total, 1) for row in rows}


def compare(name: str, sides: dict, examples: int) -> dict:
    """Seconds and memory beyond the weights of every side."""
    seconds, memory, values = {}, {}, {}
    for turn in range(ROUNDS):
        for side, call in sides.items():
            if turn and side.startswith("lm_eval") and side != best(seconds):
                continue  # its other batch sizes have lost
            took, peak, values[side] = measured(call)
            seconds[side] = min(took, seconds.get(side, took))
            memory[side] = min(peak, memory.get(side, peak))
            print(f"{name}: {side}: {examples / took:.2f} examples/s, {peak:,.0f} MB beyond the weights", flush=True)
    worst = max(float(np.abs(value - values["ours"]).max()) for value in values.values())
    assert worst <= TOLERANCE, f"the sides disagree by {worst} nats"
    peer = best(seconds)
    return {
        "seconds": seconds,
        "peer": peer,
        "examples": examples,
        "memory_mb": memory,
        "largest_difference": worst,
        "ratio": seconds[peer] / seconds["ours"],
        "memory_ratio": memory["ours"] / memory[peer],
    }


def best(seconds: dict) -> str:
    return min((side for side in seconds if side.startswith("lm_eval")), key=seconds.get)


def measured(call) -> tuple[float, float, np.ndarray]:
    """Seconds, the peak of memory in MB above what was held before, and the answer."""
    gc.collect()
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)
    found = {}

    def work() -> None:
        begin = time.perf_counter()
        found["value"] = call()
        found["took"] = time.perf_counter() - begin

    memory = grown(work, every=0.002)
    return found["took"], memory, found["value"]


def print_and_end(found: dict) -> None:
    several, single = found.values()
    ratios = {
        "lm_eval_several_tokens": several["ratio"],
        "lm_eval_one_token": single["ratio"],
        "released_several_tokens": several["seconds"]["released"] / several["seconds"]["ours"],
        "memory_several_tokens": several["memory_ratio"],
        "memory_one_token": single["memory_ratio"],
        "share_of_ideal_several_tokens": several["share_of_ideal"],
        "share_of_ideal_one_token": single["share_of_ideal"],
    }
    sides = [
        {name: {"examples_per_s": round(row["examples"] / row["seconds"][side(row)], 3),
                "memory_mb": round(row["memory_mb"][side(row)]), "side": side(row)}
         for name, row in found.items()}
        for side in (lambda row: "ours", lambda row: row["peer"])
    ]  # fmt: skip
    sizes = {
        name: {k: row[k] for k in ("label_tokens", "prompt_tokens", "largest_difference", "profile")}
        for name, row in found.items()
    }
    print(
        json.dumps(
            {
                "name": "scoring",
                "ratios": {name: round(value, 3) for name, value in ratios.items()},
                "ours": sides[0],
                "theirs": sides[1],
                "sizes": sizes,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
                f"torch {torch.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()
