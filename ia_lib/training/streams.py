""""""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from ia_lib.randomness import generator, shuffled


@dataclass(frozen=True)
class Stream:
    name: str
    role: str
    per_step: int
    passes: bool = False


def exposure(steps: int, new_rows: int, old_rows: int, new_per_step: int, old_per_step: int) -> dict[str, float]:
    """How often training reads what: epochs over the `new_rows` of one epoch, and readings of each of `old_rows`."""
    return {
        "epochs_of_new_data": round(steps * new_per_step / new_rows, 2) if new_rows else 0.0,
        "repetitions_per_old_row": round(steps * old_per_step / old_rows, 2) if old_rows else 0.0,
    }


def steps_for(new_epochs: float, new_rows: int, new_per_step: int) -> int:
    """The least number of steps in which the `new_rows` of one epoch are read `new_epochs` times.

    The amount of replay has no part in it: n old rows come on top of a batch's n new ones. So runs with the same
    `new_epochs` see the new data equally often for every r, r = 0 included, and also where r = 0 fills its batch with
    2n new rows (`new_per_step` doubled): that run then takes half the steps.

    Raises ValueError if there is nothing to read.
    """
    if new_epochs <= 0 or new_rows < 1 or new_per_step < 1:
        raise ValueError(
            f"new_epochs: found {new_epochs} of {new_rows:,} new rows, {new_per_step} a step; allowed: all above 0"
        )
    # as a decimal: 0.1 x 30 rows are 3, and not the next number above it
    return math.ceil(Fraction(str(new_epochs)) * new_rows / new_per_step)


def endless(n: int, seed: int, name: str) -> Iterator[int]:
    """The numbers 0 .. n - 1 over and over, every pass in a fresh order that depends on (seed, pass) alone."""
    epoch = 0
    while n:
        yield from shuffled(generator(seed, name, epoch), n)
        epoch += 1


def interleave(
    new: int,
    old: int,
    steps: int,
    new_per_step: int,
    old_per_step: int,
    seed: int,
    lengths: dict[str, list[int]] | None = None,
    window: int = 1,
    alternation: str = "strict",
) -> list[tuple[str, int]]:
    """The rows of all training batches in order, as ("old" | "new", index).

    `new` rows are read once in their order (they carry their own epochs and shuffling); `old` rows are read in
    passes, each in a fresh order. With both kinds every batch strictly alternates old, new, old, new, so a batch of
    2n rows has n of each; with one kind the batch is of that kind alone.

    With `window` above 1, the rows of that many consecutive batches are sorted by length (`lengths`, in tokens, by
    kind) before they are cut into batches, and the batches are shuffled: less padding, the same rows.

    `alternation` "shuffled" then shuffles all rows, so that batches are balanced only on average, as the released code
    does.

    Raises ValueError if `new` is not exactly steps x new_per_step, if old rows are asked for and there are none, or if
    both kinds are asked for in unequal numbers.
    """
    if new != steps * new_per_step:
        raise ValueError(f"{new:,} new rows do not make {steps:,} batches of {new_per_step}")
    if steps and old_per_step and not old:
        raise ValueError(f"{old_per_step} old rows a step are asked for, but there are none to replay")
    if new_per_step and old_per_step and new_per_step != old_per_step:
        raise ValueError(f"a batch alternates old and new, it cannot hold {old_per_step} old and {new_per_step} new")
    olds = endless(old, seed, "replay order")
    rows: list[tuple[str, int]] = []
    for begin in range(0, steps, window):
        size = min(window, steps - begin)
        kinds = {
            "old": [next(olds) for _ in range(size * old_per_step)],
            "new": list(range(begin * new_per_step, (begin + size) * new_per_step)),
        }
        if window > 1:
            for kind, indices in kinds.items():
                indices.sort(key=lengths[kind].__getitem__)
        for step in shuffled(generator(seed, "windows", begin), size):
            batch = {
                kind: indices[step * len(indices) // size : (step + 1) * len(indices) // size]
                for kind, indices in kinds.items()
            }
            for i in range(max(new_per_step, old_per_step)):
                rows += [(kind, indices[i]) for kind, indices in batch.items() if indices]
    if alternation == "shuffled":
        rows = [rows[i] for i in shuffled(generator(seed, "batches"), len(rows))]
    return rows
