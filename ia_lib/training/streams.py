"""Which examples training reads, and in which order: named streams in strict turn (InstructAlign, section 3.2)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, islice
from typing import Literal

from ia_lib.randomness import generator, shuffled


@dataclass(frozen=True)
class Stream:
    """Examples to train on, `per_step` of them in every batch; `name` and `role` are theirs in examples.parquet. With
    `passes` they are read over and over, every pass in a fresh order; else once, in the order they have (such examples
    carry their own epochs and shuffling)."""

    name: str
    role: Literal["new", "old"]  # whether they teach something, or keep what the model knows
    per_step: int
    passes: bool = False


def exposure(steps: int, new_rows: int, old_rows: int, new_per_step: int, old_per_step: int) -> dict[str, float]:
    """How often training reads what: epochs over the `new_rows` of one epoch, and readings of each of `old_rows`."""
    return {
        "epochs_of_new_data": round(steps * new_per_step / new_rows, 2) if new_rows else 0.0,
        "repetitions_per_old_row": round(steps * old_per_step / old_rows, 2) if old_rows else 0.0,
    }


def steps_for(new_epochs: float, new_rows: int, new_per_step: int) -> int:
    """The least number of steps in which the `new_rows` of one epoch are read `new_epochs` times, whatever the amount
    of replay, which comes on top of a batch's new examples. Raises ValueError if there is nothing to read."""
    if new_epochs <= 0 or new_rows < 1 or new_per_step < 1:
        said = f"found {new_epochs} of {new_rows:,} new examples, {new_per_step} a step"
        raise ValueError(f"new_epochs: {said}; allowed: all above 0")
    # as a decimal: 0.1 x 30 are 3, and not the next number above it
    return math.ceil(Fraction(str(new_epochs)) * new_rows / new_per_step)


def endless(n: int, seed: int, name: str) -> Iterator[int]:
    """The numbers 0 .. n - 1 over and over, every pass in a fresh order that depends on (seed, name, pass) alone."""
    for epoch in count() if n else ():
        yield from shuffled(generator(seed, name, epoch), n)


def interleave(
    streams: Sequence[Stream],
    rows_of: Mapping[str, int],
    steps: int,
    seed: int,
    lengths: Mapping[str, Sequence[int]] | None = None,
    window: int = 1,
    alternation: str = "strict",
) -> list[tuple[str, int]]:
    """The examples of all training batches in order, as (stream's name, index among the stream's `rows_of`).

    Every batch has each stream's `per_step` examples, in the same turn: the k-th of a stream's n stands in the middle
    of the batch's k-th n-th, and of those with the same place old ones come first, then those of the stream that is
    listed first: old, new, old, new; or new, old, new, new.

    With `window` above 1, the examples of that many consecutive batches are sorted by length (`lengths`, in tokens, by
    stream) before they are cut into batches, and the batches are shuffled: less padding, the same examples.
    `alternation` "shuffled" then shuffles all, so that batches are balanced only on average, as in the released code.

    Raises ValueError if a stream that is read once has not exactly steps x per_step examples, or one in passes has
    none.
    """
    first = next((stream for stream in streams if stream.passes), None)
    orders: dict[str, Iterator[int]] = {}
    for stream in streams:
        name, rows = stream.name, rows_of[stream.name]
        if not stream.passes and rows != steps * stream.per_step:
            raise ValueError(f"{name}: {rows:,} examples do not make {steps:,} batches of {stream.per_step}")
        if stream.passes and not rows and steps * stream.per_step:
            raise ValueError(f"{name}: {stream.per_step} examples a step are asked for, but there are none to read")
        # one key for the first such stream, whatever it is called; further ones must not have the same order
        key = "replay order" if stream is first else f"order of {name}"
        orders[name] = endless(rows, seed, key) if stream.passes else iter(range(rows))
    # sorting leaves what has the same place in the order of the list
    turns = sorted(
        ((stream, k) for stream in streams for k in range(stream.per_step)),
        key=lambda turn: (Fraction(2 * turn[1] + 1, turn[0].per_step), turn[0].role == "new"),
    )
    read: list[tuple[str, int]] = []
    for begin in range(0, steps, window):
        size = min(window, steps - begin)
        held = {stream.name: list(islice(orders[stream.name], size * stream.per_step)) for stream in streams}
        if window > 1:
            for name, indices in held.items():
                indices.sort(key=lengths[name].__getitem__)
        for step in shuffled(generator(seed, "windows", begin), size):
            read += [(stream.name, held[stream.name][step * stream.per_step + k]) for stream, k in turns]
    if alternation == "shuffled":
        read = [read[i] for i in shuffled(generator(seed, "batches"), len(read))]
    return read
