"""InstructAlign (arXiv 2305.13627; first version (IA)^1): cross-lingual instructions, beside replay of old ones."""

from itertools import permutations
from typing import Annotated, Literal

from pydantic import Field, StrictBool

from ia_lib.data.yaml_files import Refusal
from ia_lib.recipes import fields
from ia_lib.recipes.fields import Count, Number, Share
from ia_lib.training.streams import Stream, steps_for

OBJECTIVES = ("tlm", "mt", "xss", "mlm", "word", "span")

# What a reading of the method means, field by field: (paper, released code, corrected). docs/fidelity.md explains them.
READINGS = {
    "pivots": (["eng", "ind"], ["eng"], ["eng", "ind"]),
    "teach_known": (False, True, False),
    "noise": ("infilling", "mixture", "mixture"),
    "noise_tokens": ("words", "nltk", "words"),
    "tlm_names": ("own", "swapped", "own"),
    "xss_negatives": ("random", "corrupted", "mixed"),
    "drop_test_overlap": (False, False, True),
    "hold_out": ("sentence", "row", "sentence"),
    "validation_rows": (256, 1000, 256),
    "replay_sampling": ("uniform", "released", "uniform"),
    "alternation": ("strict", "shuffled", "strict"),
    "loss": ("answer", "all", "answer"),
    "end_of_sequence": (True, False, True),
    "cut": ("prompt", "end", "prompt"),
    "max_length": (256, 128, 256),
    "scoring_rule": ("joint", "mean", "label_sum"),
    "label_order": ("documented", "shuffled", "documented"),
    "majority_of": ("train", "test", "train"),
    "quantisation": ("int8", "int8", "none"),
}


class Data(fields.Data):
    """InstructAlign's own fields."""

    teach_known: StrictBool = False
    objective: str = "none"
    noise: Literal["mixture", "infilling", "deletion", "permutation"] = "mixture"
    noise_tokens: Literal["words", "nltk"] = "words"
    noise_probability: Share = 0.2
    mask: str = Field("___", min_length=1)
    tlm_names: Literal["own", "swapped"] = "own"
    xss_negatives: Literal["random", "hard", "mixed", "corrupted"] = "mixed"
    hold_out: Literal["sentence", "row"] = "sentence"
    replay: Annotated[int, Field(ge=0, le=10**9, strict=True)] | Literal["all"] = 0
    replay_sampling: Literal["uniform", "released"] = "uniform"
    replay_stratify: str | None = None
    retention: fields.Retention | None = None  # what old instructions are for, if they are not to be trained on
    new_epochs: Annotated[Number, Field(gt=0, le=10**4)] | None = None
    new_per_step: Count = 16
    old_per_step: Count = 16


def streams(run) -> list[Stream]:
    """Old instructions and new ones; without an objective none, since replay alone teaches nothing."""
    if run.data.objective == "none":
        return []
    new = Stream("instructions", "new", run.data.new_per_step)
    old = [Stream("replay", "old", run.data.old_per_step, passes=True)]
    return [*old, new] if run.data.replay and not _kept(run) else [new]


def parallel(run) -> list[str]:
    """The pivots, and the languages that are taught."""
    return list(dict.fromkeys([*run.pivots, *_taught(run)])) if streams(run) else []


def check(run) -> None:
    """Refuse what does not go together."""
    data, new, past = run.data, run.data.objective != "none", run.data.past
    parts = data.objective.split("+")
    if new and (set(parts) - set(OBJECTIVES) or len(set(parts)) < len(parts)):
        allowed = f"none, or some of {', '.join(OBJECTIVES)} joined by +"
        among = ["+".join(some) for number in (1, 2, 3) for some in permutations(OBJECTIVES, number)]
        raise Refusal("objective", data.objective, allowed, ["none", *among])
    if not new and data.replay == "all":
        raise Refusal("replay", "all", "an objective beside it; with recipe: instructions the past is all")
    if not new:
        return
    if not run.taught:
        raise Refusal("taught", run.taught, f"at least one language, since the objective is {data.objective}")
    if data.replay and past is None:
        allowed = f"a source of old instructions (run, file, url, xp3 or mixture), since replay is {data.replay}"
        raise Refusal("past", None, allowed)
    if data.replay == "all" and (past.url or past.xp3):
        raise Refusal("replay", "all", "a number: a file that is not downloaded cannot be replayed whole")
    if data.replay_sampling == "released" and past and len(past.xp3 or []) > 1:
        raise Refusal("past.xp3", past.xp3, "one language, where replay_sampling is released")
    if data.replay_sampling == "released" and data.replay_stratify:
        raise Refusal("replay_stratify", data.replay_stratify, "nothing, where replay_sampling is released")
    if (data.steps is None) == (data.new_epochs is None):
        found = None if data.steps is None else "steps and new_epochs"
        raise Refusal("steps", found, "exactly one of steps and new_epochs for a run that trains")
    if data.retention and not data.replay:
        raise Refusal(
            "replay", 0, f"a number of old instructions, by which {data.retention.method} tells what is to be kept"
        )
    if data.retention and data.retention.method == "agem" and run.train.alternation != "strict":
        raise Refusal("alternation", run.train.alternation, "strict, where retention is agem: every step needs both")
    if data.retention and data.retention.method == "ssu":
        if run.train.adapter:
            raise Refusal("adapter", "an adapter", "nothing, where retention is ssu, which keeps parts of whole layers")
        if run.train.weight_decay:
            raise Refusal(
                "weight_decay", run.train.weight_decay, "0, where retention is ssu: no weight kept may shrink"
            )
    if data.replay and not _kept(run) and data.new_per_step != data.old_per_step:
        raise Refusal("old_per_step", data.old_per_step, f"new_per_step ({data.new_per_step}): a batch alternates")


def drawn(run) -> dict | None:
    """What is drawn from the past: the keywords of `replay.draw` beside pool and seed; None where nothing is."""
    data = run.data
    if data.objective == "none" or not data.replay:
        return None
    return {"r": data.replay, "validation_rows": 0, "stratify": data.replay_stratify, "sampling": data.replay_sampling}


def plan(run):
    """How the instructions are made."""
    from ia_lib.instructions.cross_lingual import Plan

    names = "objective noise noise_tokens noise_probability mask xss_negatives tlm_names"
    chosen = {name: getattr(run.data, name) for name in names.split()}
    more = {"seed": run.seed, "names": run.languages, "templates": run.templates}
    return Plan(pivots=run.pivots, taught=_taught(run), **chosen, **more)


def examples(run, inputs):
    """The examples of both streams (see the package)."""
    import pandas as pd

    from ia_lib.instructions import cross_lingual, replay

    data, how, text = run.data, plan(run), inputs.usable()
    held_out = data.validation_sentences, data.validation_rows, data.hold_out
    epoch = cross_lingual.rows_of_epoch(text, how, *held_out)
    steps = data.steps or steps_for(data.new_epochs, epoch, data.new_per_step)
    frames = [cross_lingual.make(text, how, steps * data.new_per_step, *held_out)]
    pool, provenance = inputs.pool()
    if asked := drawn(run):
        old = replay.examples(replay.draw(pool, seed=run.seed, **asked), "replay")
        frames.append(old.assign(split="kept") if _kept(run) else old)
    facts = {"steps": steps, "rows_of_epoch": epoch, "provenance": provenance, "pool": pool}
    return pd.concat(frames, ignore_index=True), facts


def _kept(run) -> bool:
    """Whether old instructions are looked at before training, and stand in no batch."""
    return run.data.retention is not None and run.data.retention.method != "agem"


def _taught(run) -> list[str]:
    partners = [code for code in run.known if code not in run.pivots] if run.data.teach_known else []
    return [*partners, *run.taught]
