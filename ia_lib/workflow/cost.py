"""What a run would take: examples, tokens, memory and hours on some GPUs, estimated without loading a model.

Training takes 6 x parameters floating-point operations a token, a forward pass 2 x parameters (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). A GPU reaches the share of its peak that stands beside it below: assumed, not measured
here, and the largest error in the estimate.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ia_lib.paths import params
from ia_lib.recipes.fields import Adapter, New
from ia_lib.training.streams import steps_for
from ia_lib.workflow.settings import Settings

# GPU -> (dense 16-bit peak in TFLOP/s by its maker's data sheet, assumed share of it, memory in GiB)
GPUS = {"T4": (65.0, 0.25, 16), "RTX 3090": (71.0, 0.35, 24), "H200": (989.0, 0.35, 141)}
# The same of others that a machine may have.
OTHER_GPUS = {
    "V100": (125.0, 0.25, 32),
    "RTX 4090": (165.0, 0.35, 24),
    "L4": (121.0, 0.25, 24),
    "A100": (312.0, 0.35, 80),
    "H100": (989.0, 0.35, 80),
}
# They have no bfloat16 of their own, in which tuning is then refused.
WITHOUT_BFLOAT16 = {"T4", "V100"}
# Parameters in millions, and how many of them are the embeddings and the output layer: of the models of the
# papers, and of those of params/chat_models.yaml by what they are said to have.
_MILLIONS = {
    "bloom-560m": (559, 257),
    "bloom-1b1": (1065, 385),
    "bloom-1b7": (1722, 514),
    "bloom-3b": (3003, 642),
    "bloom-7b1": (7069, 1028),
    "mt0-small": (300, 256),
    "mt0-base": (582, 384),
    "mt0-large": (1230, 512),
    "mt0-xl": (3742, 1024),
    "llama-7b": (6738, 262),
    "open_llama_7b": (6738, 262),
    "Baichuan2-7B-Base-LLaMAfied": (7506, 1030),
    "pythia-70m-deduped": (70, 52),
    "pythia-160m-deduped": (162, 77),
    "pythia-410m-deduped": (405, 103),
    "pythia-1b-deduped": (1012, 206),
    "pythia-1.4b-deduped": (1415, 206),
    "pythia-2.8b-deduped": (2775, 258),
    "pythia-6.9b-deduped": (6857, 413),
    "pythia-12b-deduped": (11846, 519),
    "Llama-3.2-1B-Instruct": (1236, 263),
    "Llama-3.2-3B-Instruct": (3213, 394),
    "Qwen3-1.7B": (1720, 311),
    "Qwen3-4B": (4022, 389),
    "gemma-3-1b-it": (1000, 302),
    "SmolLM3-3B": (3075, 263),
    "SmolLM2-135M-Instruct": (135, 28),
    "Llama-SEA-LION-v3-8B-IT": (8030, 1051),
    "Sailor2-1B-Chat": (988, 136),
    "Sailor2-8B-Chat": (8550, 1089),
}
# Tokens that models have logits for, by how their names begin.
_VOCABULARIES = {
    ("bloom", "mt0"): 250_880,
    ("llama-7b", "open_llama"): 32_000,
    ("pythia",): 50_432,
    ("Baichuan2",): 125_696,
    ("Llama", "SmolLM3"): 128_256,
    ("Qwen3", "Sailor2"): 151_936,
    ("gemma-3",): 262_144,
    ("SmolLM2",): 49_152,
}
# Tokens of an example where no data stage has counted them: both sentences in a template, and an xP3 row. A row of
# Alpaca in English has 112 by SmolLM2's tokenizer; in another language a tokenizer may need several times as many.
ASSUMED_TOKENS = {"new": 110, "old": 160}
_LAB_TOKENS = {"new": 50, "old": 31}  # the mini lab's instructions, as params/mini.yaml and its like have them
_ROWS = 52_000  # of a file of Alpaca's
_MIXED = 230  # of an instruction of Alpaca with words of another language in it: 164 to 306 in COMMIT's five
_TEXT_TOKENS = 90  # of a classification prompt with its labels
PASSAGE = 20  # prompts that take as long as a question on a passage, with its answer
REQUEST = 8  # prompts that take as long as a request with its answer: on the mini lab's small models, with beams more
_TRANSLATED = 11  # prompts that take as long as a sentence that is translated, compared and whose loss is measured


@dataclass(frozen=True)
class Estimate:
    """What one run would take. Hours are for training and evaluation together; None where they cannot be told."""

    parameters: int | None
    steps: int
    examples: int
    tokens: int  # read in training
    texts: int | None  # to be scored, times prompts
    memory_gib: float | None  # at the peak of training, or of evaluation for a run that does not train
    hours: dict[str, float] | None


def estimate(
    run: Settings,
    source: str | New,
    report: dict | None = None,
    texts: int | None = None,
    passages: float = 0,
    gpus: Mapping[str, tuple[float, float, int]] = GPUS,
) -> Estimate:
    """Estimate a run whose model comes from `source` (a name, a folder, or what a new one looks like); `report` is its
    data stage's report, if that is finished, `texts` how many texts are scored, without which those of the user's own
    cannot be told, `passages` how many questions on passages are asked, or what takes as long; `gpus` are those whose
    hours are told."""
    number = steps(run, report)
    tokens = round(number * _per_step(run, report))
    texts, size = prompts(run, texts), parameters(source)
    if not size:
        return Estimate(None, number, number * run.per_step, tokens, texts, None, None)
    whole = sum(operations(run, source, report, texts, passages).values())
    training = sum(memory(run, source, report).values()) if run.trains else 0
    return Estimate(
        size,
        number,
        number * run.per_step,
        tokens,
        texts,
        max(0.1, round(max(training, scoring(run, source)) / 2**30, 1)),
        {name: whole / (peak * 1e12 * share) / 3600 for name, (peak, share, _) in gpus.items()},
    )


def operations(
    run: Settings, source: str | New | int, report: dict | None = None, asked: int | None = None, passages: float = 0
) -> dict[str, float]:
    """Floating-point operations of the stages tune and evaluate, with a model (or one of so many parameters); 0 where
    its size cannot be told. `asked` are the prompts with labels, `passages` questions on them, or what takes as
    long."""
    size = source if isinstance(source, int) else parameters(source)
    asked = prompts(run) if asked is None else asked
    directions = 2 * len(run.pivots) * len([code for code in run.paired_codes if code not in run.pivots])
    sentences = directions * run.data.validation_sentences if run.measures_held_out else 0
    return {
        "tune": 6 * size * (steps(run, report) * _per_step(run, report) + _looked_at(run, report)),
        "evaluate": forward(size, (asked or 0) + _TRANSLATED * sentences + PASSAGE * passages),
    }


def forward(parameters: int, prompts: float) -> float:
    """Floating-point operations to read so many prompts."""
    return 2 * parameters * prompts * _TEXT_TOKENS


def steps(run: Settings, report: dict | None = None) -> int:
    """The steps of a run's training; of so many epochs as its data stage's report counts them, else assumed."""
    if not run.trains:
        return 0
    return (report or {}).get("steps", run.data.steps) or steps_of_epochs(run, {}) or 0


def steps_of_epochs(run: Settings, counts: Mapping[str, int]) -> int | None:
    """The steps of a run's epochs, by how many instructions the files of its languages have; of one that is not in
    `counts` that is assumed, but for the mini lab's. None where the recipe cannot tell."""
    if not hasattr(run.method, "rows_of_epoch") or run.data.epochs is None:
        return None
    assumed = run.lab.train if run.corpus == "minilab" else _ROWS
    whole = {code: counts.get(code, assumed) for code in run.method.codes(run)}
    return steps_for(run.data.epochs, run.method.rows_of_epoch(run, whole), run.per_step)


def prompts(run: Settings, texts: int | None = None) -> int | None:
    """How many prompts score the texts with labels; None for texts of the user's own, unless they are counted."""
    texts = _texts(run) if texts is None else texts
    return None if texts is None else texts * 3 * len(run.evaluate.wordings)


def scoring(run: Settings, source: str | New) -> float:
    """Bytes to score with a model; 0 for one whose size cannot be told."""
    whole = 4 if run.evaluate.score_precision == "float32" else 2
    return 1.2 * _held(source, whole, run.evaluate.quantisation)


def _held(source: str | New, whole: int, quantisation: str, trained: bool = False) -> float:
    """Bytes of a model's weights, `whole` for each that is not quantised: embeddings and output layer never are, and
    have all their digits where it is `trained`."""
    parameters, ends = _parameters(source)
    if quantisation == "none":
        return whole * parameters
    return {"int8": 1, "nf4": 0.6}[quantisation] * (parameters - ends) + (4 if trained else whole) * ends


def memory(run: Settings, source: str | New, report: dict | None = None) -> dict[str, float] | None:
    """Bytes at the peak of training, of each process, by what holds them; None for a model whose size cannot be told.
    What a batch leaves behind for its gradients (activations) is the roughest of them."""
    parameters, ends = _parameters(source)
    if not parameters:
        return None
    asked, adapter = run.train, run.train.adapter
    trained, frozen = parameters, 0.0
    if adapter:
        # at rank 16 of models of 1 to 8 B some hundredth of the parameters
        trained = 0.01 * adapter.rank / 16 * parameters + (ends if adapter.embeddings else 0)
        frozen = _held(source, 4 if asked.precision == "float32" else 2, adapter.quantisation, trained=True)
    tokens = _per_step(run, report) / asked.accumulation / asked.processes
    told = tokens * (1 if asked.loss == "all" else 0.25)  # an answer is about a quarter of its example
    logits = min(3 * 4 * told * _vocabulary(source), 3 * 4 * 2**26)  # they are made in pieces
    kept = 2 * trained if (method := getattr(run.data, "retention", None)) and method.method == "ewc" else 0
    kept += trained if method and method.method == "agem" else 0
    return {
        "weights": 4 * trained + frozen,
        # several processes hold what they tell each other, too
        "gradients": 4 * trained * (2 if asked.processes > 1 else 1) + 4 * kept,
        "optimiser": {"adamw": 8, "paged_adamw_8bit": 2, "adafactor": 0.1}[asked.optimiser] * trained,
        "activations": 150 * tokens * (parameters - ends) ** 0.5 / (4 if asked.gradient_checkpointing else 1),
        "logits": logits,
    }


def fitting(run: Settings, source: str | New, gib: float, report: dict | None = None) -> tuple[str, float] | None:
    """Fields with which training would take less than `gib`, the least change first, and how much it then takes (GiB);
    None where none of them is enough, or the model's size cannot be told."""
    most = run.per_step // len(run.streams) // run.train.processes
    parts = [n for n in range(run.train.accumulation + 1, most + 1) if most % n == 0]
    saving = {**({"accumulation": most} if parts else {}), "gradient_checkpointing": True}
    ways = [*({"accumulation": n} for n in parts), saving, {**saving, "optimiser": "adafactor"}]
    adapted = run.train.adapter or Adapter()
    shielded = (method := getattr(run.data, "retention", None)) and method.method == "ssu"
    # no adapter beside what it cannot be beside; a quantised model must not have one already
    for bits in () if shielded or run.model.new else ("none", "int8", "nf4") if run.model.name else ("none",):
        ways.append({**saving, "adapter": adapted.model_copy(update={"quantisation": bits})})
    for way in ways:
        needs = memory(run.changed(**way), source, report)
        if needs and sum(needs.values()) / 2**30 < gib:
            return ", ".join(f"{name}: {_said(value)}" for name, value in way.items()), sum(needs.values()) / 2**30
    return None


def too_large(run: Settings, source: str | New, free: float, report: dict | None = None) -> str:
    """In words, what training takes if that is more than `free` bytes, and what would fit; nothing if it fits."""
    needs = memory(run, source, report)
    if needs is None or sum(needs.values()) < free:
        return ""
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in needs.items())
    said = (
        f"training takes about {sum(needs.values()) / 2**30:.1f} GiB ({parts}), and {free / 2**30:.1f} GiB are free; "
    )
    found = fitting(run, source, free / 2**30, report)
    return said + (f"with {found[0]} about {found[1]:.1f} GiB" if found else "a smaller model is needed")


def _said(value) -> str:
    if isinstance(value, Adapter):
        return "{}" if value.quantisation == "none" else f"{{quantisation: {value.quantisation}}}"
    return str(value).lower()


def _per_step(run: Settings, report: dict | None) -> float:
    """Tokens of a step."""
    lengths = _lengths(run, report)
    return sum(stream.per_step * lengths[stream.role] for stream in run.streams)


def _looked_at(run: Settings, report: dict | None) -> float:
    """Tokens of the old instructions that a method against forgetting looks at before the first step; of a whole pool
    they are known once the data stage has read it."""
    method = getattr(run.data, "retention", None)
    if not run.trains or not method or method.method == "agem":
        return 0.0
    rows = (report or {}).get("old_rows", 0) if run.data.replay == "all" else run.data.replay
    return rows * _lengths(run, report)["old"]


def _lengths(run: Settings, report: dict | None) -> dict[str, float]:
    """Tokens of an example, by its role."""
    mean = (report or {}).get("mean_tokens", {})
    new = [tokens for name, tokens in mean.items() if name.startswith("new")]
    # plain text is cut where it is as long as an example may be
    assumed = run.data.max_length if getattr(run.data, "texts", None) else ASSUMED_TOKENS["new"]
    assumed = _MIXED if getattr(run.data, "alpha", 0) and run.data.instructions and run.data.mix else assumed
    lab = run.corpus == "minilab" and not getattr(run.data, "texts", None)
    assumed, old = (_LAB_TOKENS["new"], _LAB_TOKENS["old"]) if lab else (assumed, ASSUMED_TOKENS["old"])
    found = {"new": sum(new) / len(new) if new else assumed, "old": old}
    return {role: min(run.data.max_length, mean.get(role, tokens)) for role, tokens in found.items()}


def assumptions(gpus: Mapping[str, tuple[float, float, int]] = GPUS) -> str:
    """The formula and the assumed numbers of `gpus`, to be printed under the estimates."""
    told = "; ".join(
        f"{name} {share:.0%} of {peak:g} TFLOP/s in 16 bits, {gib} GiB" for name, (peak, share, gib) in gpus.items()
    )
    return (
        "hours = (6 x parameters x training tokens + 2 x parameters x scored tokens; a held-out sentence to be "
        f"translated counts as {_TRANSLATED} prompts, a question on a passage as {PASSAGE}, a request as {REQUEST}) / "
        "(peak x assumed share): "
        f"{told}. In float32 a GPU takes several times as long.\n"
        "Memory, of one process: 16 bytes a parameter that is trained (of a frozen one 4, 16 bits: 2, int8: 1, nf4: "
        "0.6, the embeddings never quantised) and a batch's activations to train; the weights alone to score.\n"
        "Where no data stage has counted them: "
        f"{ASSUMED_TOKENS['new']} tokens a new instruction ({_ROWS:,} in a file of Alpaca's), "
        f"{ASSUMED_TOKENS['old']} an old one (the mini lab's: {_LAB_TOKENS['new']} and {_LAB_TOKENS['old']}), "
        f"{_TEXT_TOKENS} a scored prompt."
    )


def parameters(source: str | New) -> int:
    """How many parameters a model has; 0 where that cannot be told."""
    return _parameters(source)[0]


def _parameters(source: str | New) -> tuple[int, int]:
    """How many there are, and how many of them are the embeddings and the output layer; 0 where that cannot be told."""
    if isinstance(source, New):
        ends = source.vocabulary * source.hidden
        return ends + source.layers * 12 * source.hidden**2, ends
    name = source.rpartition("/")[2].replace("bloomz", "bloom")
    if name in _MILLIONS:
        whole, ends = _MILLIONS[name]
        return whole * 10**6, ends * 10**6
    return _counted(source) if (Path(source) / "config.json").is_file() else (0, 0)


def _vocabulary(source: str | New) -> int:
    """Tokens that a model has logits for; 0 where that cannot be told."""
    if isinstance(source, New):
        return source.vocabulary
    if (Path(source) / "config.json").is_file():
        return json.loads((Path(source) / "config.json").read_text(encoding="utf-8")).get("vocab_size") or 0
    name = source.rpartition("/")[2]
    return next((tokens for begins, tokens in _VOCABULARIES.items() if name.startswith(begins)), 0)


@cache
def _counted(folder: str) -> tuple[int, int]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM).from_config(config)
    # the same weights, where they are tied
    ends = {part.weight for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part is not None}
    return model.num_parameters(), sum(weight.numel() for weight in ends)


def _texts(run: Settings) -> int | None:
    """How many texts are scored, by the sizes that the papers state; None for texts of the user's own."""
    asked, total = run.evaluate, 0
    if asked.tests or any(name.endswith((".yaml", ".yml")) for name in run.named_tasks.values()):
        return None
    for name in run.named_tasks.values():
        corpus, _, task = name.rpartition("/")
        if corpus == "minilab":
            sizes = [run.lab.test] * len(run.tested_codes)
        else:
            sizes = [n for (c, t, code), n in _sizes().items() if (c, t) == (corpus, task) and code in run.tested_codes]
        total += sum(min(size, asked.examples or size) for size in sizes)
    return total


@cache
def _sizes() -> dict[tuple[str, str, str], int]:
    path = params() / "published" / "instructalign_dataset_statistics.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return {(r["dataset"], r["task"], r["language"]): int(r["test"]) for r in csv.DictReader(file) if r["test"]}
