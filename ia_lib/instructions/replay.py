"""Which old instructions are replayed: r of a pool (InstructAlign, section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from ia_lib.data import corpora
from ia_lib.instructions import COLUMNS
from ia_lib.randomness import generator, shuffled

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

# Instructions that the released code's streaming shuffle holds at a time.
BUFFER = 1000


def reservoir(rows: Iterable, r: int, seed: int) -> list:
    """r instructions drawn uniformly without replacement from the whole of a stream whose length is not known (all of
    them, if there are fewer), in an order drawn uniformly too. Holds r at a time."""
    rng, kept = generator(seed, "reservoir"), []
    # Algorithm R: the (i + 1)-th takes a place with probability r / (i + 1)
    for i, row in enumerate(rows):
        if i < r:
            kept.append(row)
        elif (place := int(rng.random() * (i + 1))) < r:
            kept[place] = row
    return [kept[i] for i in shuffled(rng, len(kept))]


def buffered(rows: Iterable, seed: int, buffer: int = BUFFER) -> Iterator:
    """The released code's streaming shuffle: a full buffer gives up one of its instructions, drawn uniformly, for the
    next. The first r that come out are from the first r + buffer, and no more need be read for them."""
    rng, held = generator(seed, "buffered"), []
    for row in rows:
        if len(held) < buffer:
            held.append(row)
        else:
            place = int(rng.random() * buffer)
            yield held[place]
            held[place] = row
    yield from (held[i] for i in shuffled(rng, len(held)))


def draw(
    pool: Dataset,
    r: int | str,
    seed: int,
    validation_rows: int = 0,
    stratify: str | None = None,
    sampling: str = "uniform",
) -> Dataset:
    """The instructions to replay: r ("all" for every one) of `pool`, in the order they were drawn.

    With `sampling="uniform"` they are drawn uniformly without replacement from the whole pool. `stratify` names a
    column of it: every value of that column then gets an equal share of the r; one with too few gives all it has, and
    the others share the rest. With `sampling="released"` they are the first r of `buffered`, and each prompt gets the
    one blank that the released code puts between it and its answer.

    Adds the columns `pool_row` (its index in the pool) and `split`. `validation_rows` further ones get the split
    "validation"; r = "all" then means all others. Unless the sampling is the released one, no prompt of theirs is one
    that is trained on (as `corpora.normalised` reads it): those that share theirs stay together, and there are fewer of
    them where all that is left are groups too large.

    Raises ValueError if the pool has too few instructions, no such column, or none whose prompt can be held out, or for
    a sampling that there is not.
    """
    from datasets import Dataset

    if sampling not in ("uniform", "released") or (stratify and sampling == "released"):
        beside = f" with stratify {stratify!r}" if stratify else ""
        raise ValueError(f"replay: found sampling {sampling!r}{beside}; allowed: uniform, or released unstratified")
    if stratify and (stratify not in pool.column_names or stratify in ("prompt", "answer")):
        columns = ", ".join(name for name in pool.column_names if name not in ("prompt", "answer")) or "it has none"
        allowed = f"a column that the old instructions have besides prompt and answer ({columns})"
        raise ValueError(f"replay: found stratify {stratify!r}; allowed: {allowed}")
    count = len(pool) - validation_rows if r == "all" else r
    if count + validation_rows > len(pool) or (r == "all" and count < 1):
        beside = f" beside {validation_rows:,} for validation" if validation_rows else ""
        said = f"found {r}{beside}, but there are {len(pool):,} old instructions"
        most = len(pool) - validation_rows
        raise ValueError(
            f"replay: {said}; allowed: "
            + (f"{most:,} at most" if most > 0 else "more old instructions, or fewer validation_rows")
        )
    if sampling == "released":
        rows = list(islice(buffered(range(len(pool)), seed), count + validation_rows))
        rows, held = rows[:count], rows[count:]
    else:
        order = shuffled(generator(seed, "replay"), len(pool))
        rows = _in_turn(order, pool[stratify][:], seed) if stratify else order
        rows, held = _held_out(pool, rows, count, validation_rows)
    splits, rows = ["train"] * len(rows) + ["validation"] * len(held), rows + held
    # not `select`, whose result would have to be copied, with a progress bar, when a column is added
    columns = pool[rows]
    if sampling == "released":
        columns["prompt"] = [prompt.rstrip(" ") + " " for prompt in columns["prompt"]]
    drawn = Dataset.from_dict(columns, features=pool.features)
    return drawn.add_column("pool_row", rows).add_column("split", splits)


def _held_out(pool: Dataset, order: list[int], count: int, validation_rows: int) -> tuple[list[int], list[int]]:
    """`count` rows to train on (all that are left, if that is all but the others) and `validation_rows` held out, in
    the `order` that was drawn."""
    if not validation_rows:
        return order[:count], []
    group = corpora.groups(corpora.fingerprints(pool.select_columns(["prompt"])))
    # without equal prompts those behind the ones that are trained on
    held = corpora.hold_out(group, order[count:] + order[:count][::-1], validation_rows)
    if not held.any():
        said = f"found {validation_rows:,}, but every old instruction shares its prompt with more others"
        raise ValueError(f"validation_rows: {said}; allowed: old instructions with prompts of their own")
    rest = len(pool) - validation_rows == count
    trained = [row for row in order if not held[row]]
    return trained if rest else trained[:count], [row for row in order if held[row]]


def examples(drawn: Dataset, stream: str = "replay", role: str = "old") -> pd.DataFrame:
    """What `draw` gives as the examples of a stream: columns `COLUMNS` and `pool_row`. `kind` is the pool's `objective`
    or `kind`, `language` its own, empty where it has none."""
    frame = drawn.to_pandas()
    frame["kind"] = frame.get("objective", frame.get("kind", ""))
    frame = frame.assign(stream=stream, role=role, source_id="", epoch=0, position=range(len(frame)))
    # whole numbers also beside examples of other streams, which have none
    return frame.reindex(columns=[*COLUMNS, "pool_row"], fill_value="").astype({"pool_row": "Int64"})


def spaced(pool: Dataset) -> Dataset:
    """`pool` with a blank at the end of every prompt that has no white space between it and its answer. Files of
    instruction data (xP3, Alpaca) leave that blank out, and the kit joins prompt and answer as they are."""
    from datasets import Dataset

    columns = pool.to_dict()
    pairs = zip(columns["prompt"], columns["answer"], strict=True)
    columns["prompt"] = [p if p[-1:].isspace() or a[:1].isspace() else p + " " for p, a in pairs]
    return Dataset.from_dict(columns, features=pool.features)


def _in_turn(order: list[int], strata: list, seed: int) -> list[int]:
    """`order` (of the pool's numbers) rearranged so that the strata take turns for as long as they last; who comes
    first in each round is drawn."""
    rng, turns, keyed = generator(seed, "strata"), Counter(), []
    for row in order:
        turns[str(strata[row])] += 1
        keyed.append((turns[str(strata[row])], rng.random(), row))
    return [row for _, _, row in sorted(keyed)]
