"""What a run would take: examples, tokens, memory and hours on some GPUs, estimated without loading a model.

Training takes 6 x parameters floating-point operations a token, a forward pass 2 x parameters (Kaplan et al. 2020,
arXiv 2001.08361, section 2.1). A GPU reaches the share of its peak that stands beside it below: assumed, not measured
here, and the largest error in the estimate.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ia_lib.paths import params
from ia_lib.recipes.fields import New
from ia_lib.workflow.settings import Settings

# GPU -> (dense 16-bit peak in TFLOP/s by its maker's data sheet, assumed share of it, memory in GiB)
GPUS = {"T4": (65.0, 0.25, 16), "RTX 3090": (71.0, 0.35, 24), "H200": (989.0, 0.35, 141)}
# Parameters in millions, of the models of the papers.
_MILLIONS = {
    "bloom-560m": 559,
    "bloom-1b1": 1065,
    "bloom-1b7": 1722,
    "bloom-3b": 3003,
    "bloom-7b1": 7069,
    "mt0-small": 300,
    "mt0-base": 582,
    "mt0-large": 1230,
    "mt0-xl": 3742,
}
# Tokens of a row where no data stage has counted them: both sentences in a template, and an xP3 row.
ASSUMED_TOKENS = {"new": 110, "old": 160}
_TEXT_TOKENS = 90  # of a classification prompt with its labels


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


def estimate(run: Settings, source: str | New, report: dict | None = None, texts: int | None = None) -> Estimate:
    """Estimate a run whose model comes from `source` (a name, a folder, or what a new one looks like); `report` is its
    data stage's report, if that is finished, `texts` how many texts are scored, without which those of the user's own
    cannot be told."""
    steps = ((report or {}).get("steps", run.data.steps) or 0) if run.trains else 0
    mean = (report or {}).get("mean_tokens", {})
    new = [tokens for name, tokens in mean.items() if name.startswith("new")]
    lengths = {
        "new": sum(new) / len(new) if new else ASSUMED_TOKENS["new"],
        "old": mean.get("old", ASSUMED_TOKENS["old"]),
    }
    per_step = sum(stream.per_step * min(run.data.max_length, lengths[stream.role]) for stream in run.streams)
    tokens = round(steps * per_step)
    texts, parameters = _texts(run) if texts is None else texts, _parameters(source)
    texts = None if texts is None else texts * 3 * len(run.evaluate.wordings)
    if parameters is None:
        return Estimate(None, steps, steps * run.per_step, tokens, texts, None, None)
    operations = 6 * parameters * tokens + 2 * parameters * (texts or 0) * _TEXT_TOKENS
    bytes_each = {"none": 4 if run.evaluate.score_precision == "float32" else 2, "int8": 1, "nf4": 0.5}[
        run.evaluate.quantisation
    ]
    training = _to_train(run, parameters, per_step) if run.trains else 0
    return Estimate(
        parameters,
        steps,
        steps * run.per_step,
        tokens,
        texts,
        round(max(training, bytes_each * parameters * 1.2) / 2**30, 1),
        {name: operations / (peak * 1e12 * share) / 3600 for name, (peak, share, _) in GPUS.items()},
    )


def _to_train(run: Settings, parameters: int, per_step: float) -> float:
    """Bytes: weights, gradients and two moments of AdamW in 32 bits (of a frozen model its weights alone), and what a
    batch of `per_step` tokens leaves behind, roughly."""
    asked, adapter = run.train, run.train.adapter
    left = 120 * per_step / asked.accumulation * parameters**0.5 / (4 if asked.gradient_checkpointing else 1)
    if not adapter:
        return 16 * parameters + left
    whole = 4 if asked.precision == "float32" else 2
    frozen = {"none": whole, "int8": 1, "nf4": 0.6}[adapter.quantisation] * parameters
    # at rank 16 of models of 1 to 8 B some hundredth of the parameters; both ends of a small model a quarter
    return frozen + 16 * parameters * (0.01 * adapter.rank / 16 + (0.25 if adapter.embeddings else 0)) + left


def assumptions() -> str:
    """The formula and the assumed numbers, to be printed under the estimates."""
    gpus = "; ".join(
        f"{name} {share:.0%} of {peak:g} TFLOP/s in 16 bits, {gib} GiB" for name, (peak, share, gib) in GPUS.items()
    )
    return (
        "hours = (6 x parameters x training tokens + 2 x parameters x scored tokens) / (peak x assumed share): "
        f"{gpus}. In float32 a GPU takes several times as long. "
        "Memory: 16 bytes a parameter that is trained (of a frozen one 4, 16 bits: 2, int8: 1, nf4: 0.6) and a batch's "
        "activations to train, 4 (16 bits: 2, int8: 1, nf4: 0.5) to "
        "score. Where no data stage has counted them: "
        f"{ASSUMED_TOKENS['new']} tokens a new row, {ASSUMED_TOKENS['old']} an old one, "
        f"{_TEXT_TOKENS} a scored prompt."
    )


def _parameters(source: str | New) -> int | None:
    if isinstance(source, New):
        return source.vocabulary * source.hidden + source.layers * 12 * source.hidden**2
    name = source.rpartition("/")[2].replace("bloomz", "bloom")
    if name in _MILLIONS:
        return _MILLIONS[name] * 10**6
    return _counted(source) if (Path(source) / "config.json").is_file() else None


@cache
def _counted(folder: str) -> int:
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.from_pretrained(folder)).num_parameters()


def _texts(run: Settings) -> int | None:
    """How many texts are scored, by the sizes that the papers state; None for texts of the user's own."""
    asked, total = run.evaluate, 0
    if asked.tests or any(name.endswith((".yaml", ".yml")) for name in run.named_tasks.values()):
        return None
    for name in run.named_tasks.values():
        corpus, _, task = name.rpartition("/")
        if corpus == "minilab":
            sizes = [run.lab.test] * len(run.codes)
        else:
            sizes = [n for (c, t, code), n in _sizes().items() if (c, t) == (corpus, task) and code in run.codes]
        total += sum(min(size, asked.examples or size) for size in sizes)
    return total


@cache
def _sizes() -> dict[tuple[str, str, str], int]:
    path = params() / "published" / "instructalign_dataset_statistics.csv"
    with open(path, encoding="utf-8", newline="") as file:
        return {(r["dataset"], r["task"], r["language"]): int(r["test"]) for r in csv.DictReader(file) if r["test"]}
