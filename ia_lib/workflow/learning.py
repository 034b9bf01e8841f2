"""What notebook 2 draws of a run: the batch in which the instruction that `pictures` follows is read, and how much each
token of its answer surprises the model, before training and after it. Texts that are not to be shared are in no
picture."""

import inspect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ia_lib.report import drawings
from ia_lib.report.drawings import Drawing
from ia_lib.workflow import pictures, show
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.stages import Stage
from ia_lib.workflow.work import Tuned, Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _place(stage: Stage, begun: Tuning) -> int | None:
    """Where the followed instruction is first read, from 0; None, if never."""
    columns = ["role", "split", "language", "prompt", "answer"]
    row = pictures.followed(stage.run, pd.read_parquet(stage.inputs.examples, columns=columns))
    places = (place for place, one in enumerate(begun.rows) if row is not None and one["example"] == row.name)
    return next(places, None)


def batch(stage: Stage, begun: Tuning) -> Drawing:
    """The batch in which the followed instruction is read first, or the run's first: its examples in turn, as bars of
    tokens."""
    from ia_lib.training.batches import weigh

    run, size, place = stage.run, begun.per_step, _place(stage, begun)
    number = (place or 0) // size
    rows = weigh(begun.rows[number * size :][:size], size, run.train.loss, run.train.loss_average)
    bars = [(row["role"], row["first"], len(row["input_ids"]) - row["first"]) for row in rows]
    every, counted = sum(len(row["input_ids"]) for row in rows), sum(loss for *_, loss in bars)
    counts = ", ".join(f"{sum(role == one for role, *_ in bars)} {one}" for one in ("old", "new")
                       if any(role == one for role, *_ in bars))  # fmt: skip
    here = "Our sentence is not read in these steps" if place is None else f"Ours is number {place % size + 1}"
    said = (
        f"Batch {number + 1:,} of {len(begun.rows) // size:,} has {counts} instructions, {every:,} tokens in all; the "
        f"loss is computed on {counted:,} of them ({counted / every:.0%}). {here}."
    )
    return drawings.batch("A batch", bars, said, None if place is None else place % size)


def texts(stage: Stage, begun: Tuning, rows: int = 6) -> str:
    """Some examples of the same batch, decoded from their tokens, the answer in double brackets; an arrow at the one
    that is followed."""
    size, place = begun.per_step, _place(stage, begun)
    first = (place or 0) // size * size
    begin = max(first, min((place or 0) - rows // 2, first + size - rows))
    told = show.decoded(stage.run, begun.tokenizer, begun.rows[begin : min(begin + rows, first + size)])
    lines = []
    for number, row in enumerate(told.itertuples(), begin):
        text = f"{row.prompt}[[{row.answer}]]".replace("\n", "↵")
        lines.append(f"{'→' if number == place else ' '} {number - first + 1:>3} {row.role} | {text}")
    return "\n".join(lines)


def lengths(begun: Tuning) -> Drawing:
    """How long the instructions are that training reads."""
    by = {role: [len(row["input_ids"]) for row in begun.rows if row["role"] == role] for role in ("old", "new")}
    groups = {role: (values, role) for role, values in by.items() if values}
    told = [f"{role} ones: a median of {np.median(values):.0f} tokens, {max(values):,} at most"
            for role, values in by.items() if values]  # fmt: skip
    return drawings.lengths("How long the instructions are", groups, "; ".join(told).capitalize() + ".")


def curve(tuned: Tuned) -> Drawing | None:
    """The loss (nats) against steps, in training and on what is held out."""
    lines, told = {}, []
    for name, column, colour in (("training", "loss", "new"), ("held out (validation)", "validation_loss", "noise")):
        found = tuned.log.dropna(subset=[column]) if column in tuned.log else pd.DataFrame()
        if len(found):
            lines[name] = list(found["step"]), list(found[column]), colour
            first, last, least = (
                found[column].iloc[0],
                found[column].iloc[-1],
                found.loc[found[column].idxmin(), "step"],
            )
            told.append(f"{name} loss goes from {first:.2f} to {last:.2f} nats, lowest at step {int(least):,}")
    if not lines:
        return pictures.nothing("Nothing was logged: the run has fewer steps than its field log_steps says.")
    return drawings.curves("Loss (nats)", lines, "; ".join(told).capitalize() + ".", "steps")


@dataclass(frozen=True)
class Surprise:
    """How much each token of an answer surprised a model (nats), as a picture."""

    drawing: Drawing
    nats: list[float]

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        return self.drawing._repr_mimebundle_()


def surprise(stage: Stage, begun: Tuning, model: "PreTrainedModel | None" = None, before: Surprise | None = None):
    """How much the answer of the followed instruction surprises a model, token by token: the base, or another one,
    which then also answers the prompt freely; beside what it was `before`."""
    run, place = stage.run, _place(stage, begun)
    if place is None:
        return pictures.nothing("Our sentence is not read in these steps, so that it has no loss.")
    row, tokenizer = begun.rows[place], begun.tokenizer
    nats, right, ids = _nats(model or begun.model, tokenizer, row, run.train.loss)
    share = run.machine.share_text
    names = pictures.pronounced(tokenizer, ids) if share else [str(i) for i in range(1, len(ids) + 1)]
    mean, level = float(np.mean(nats)), math.log(len(tokenizer))
    said = (
        f"{'Now: ' if model else ''}{mean:.2f} nats a token on average, as much as a guess among "
        f"{math.exp(mean):,.1f} equally likely tokens; {right} of {len(nats)} tokens are the model's own first choice."
    )
    if before:
        said += f" Before training: {np.mean(before.nats):.2f} nats."
    if model:
        said += _freely(run, model, tokenizer, row)
    title = f"What each token of the answer costs{' after training' if model else ' before training'}"
    drawn = drawings.losses(title, names, nats, said, before.nats if before else None, level)
    return Surprise(drawn, nats)


def _freely(run: Settings, model, tokenizer, row: dict) -> str:
    from ia_lib.evaluation import generation

    (line,) = run.shown(generation.answers(model, tokenizer, [row])).to_dict("records")
    said, true = (drawings.cut(line[name], 120) or "nothing" for name in ("model", "answer"))
    return f" Asked freely it answers “{said}”; true is “{true}”."


def _nats(model, tokenizer, row: dict, loss: str) -> tuple[list[float], int, list[int]]:
    """Of the tokens of an example that count: their losses (nats), how many are the model's first choice, and their
    ids."""
    import torch

    from ia_lib.models.adapters import plain
    from ia_lib.training.batches import Collator, weigh

    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    begin = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    given: dict[str, Any] = Collator(pad, begin)(weigh([row], 1, loss))
    counted, targets = given.pop("weights") > 0, given.pop("targets")
    accepted = inspect.signature(plain(model).forward).parameters
    read = {name: value.to(model.device) for name, value in given.items() if name in accepted}
    training = model.training
    model.eval()
    # no inference mode: what a model keeps of this, it may train with
    with torch.no_grad():
        logits = model(**read, use_cache=False).logits[counted.to(model.device)].float().cpu()
    model.train(training)
    found = targets[counted]
    nats = torch.nn.functional.cross_entropy(logits, found, reduction="none")
    return nats.tolist(), int((logits.argmax(-1) == found).sum()), found.tolist()
