"""Replay of old instruction data: r rows, strictly alternated with new ones (InstructAlign, section 3.2)."""

from collections.abc import Iterator

from datasets import Dataset

from ia_lib.noise import generator, shuffled


def sample(pool_size: int, r: int, seed: int) -> list[int]:
    """The indices of r rows drawn uniformly without replacement from a pool, in the order they were drawn."""
    return shuffled(generator(seed, "replay"), pool_size)[:r]


def draw(pool: Dataset, r: int | str, seed: int, validation_rows: int = 0) -> Dataset:
    """The rows to replay: r rows ("all" for every one) drawn uniformly from `pool`, in the order they were drawn.

    Adds the columns `pool_row` (its index in the pool) and `split`. `validation_rows` further rows get the split
    "validation"; they are for runs that train on old data alone, and r = "all" then means all others.

    Raises ValueError if the pool has too few rows.
    """
    count = len(pool) - validation_rows if r == "all" else r
    if count + validation_rows > len(pool) or (r == "all" and count < 1):
        beside = f" beside {validation_rows:,} for validation" if validation_rows else ""
        raise ValueError(
            f"replay: found {r}{beside}, but the pool of past data has {len(pool):,} rows; allowed: what it has"
        )
    rows = sample(len(pool), count + validation_rows, seed)
    splits = ["train"] * count + ["validation"] * validation_rows
    return pool.select(rows).add_column("pool_row", rows).add_column("split", splits)


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
) -> list[tuple[str, int]]:
    """The rows of all training batches in order, as ("old" | "new", index).

    `new` rows are read once in their order (they carry their own epochs and shuffling); `old` rows are read in
    passes, each in a fresh order. With both kinds every batch strictly alternates old, new, old, new, so a batch of
    2n rows has n of each; with one kind the batch is of that kind alone.

    With `window` above 1, the rows of that many consecutive batches are sorted by length (`lengths`, in tokens, by
    kind) before they are cut into batches, and the batches are shuffled: less padding, the same rows.

    Raises ValueError if `new` is not exactly steps x new_per_step, or if both kinds are asked for in unequal numbers.
    """
    if new != steps * new_per_step:
        raise ValueError(f"{new:,} new rows do not make {steps:,} batches of {new_per_step}")
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
    return rows
