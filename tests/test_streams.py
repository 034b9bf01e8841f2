import collections
import itertools

import pytest

from ia_lib.training.streams import Stream, exposure, interleave, steps_for

pytestmark = pytest.mark.quick


def test_steps_hold_the_exposure_to_new_data_for_every_amount_of_replay():
    for old in (0, 100, 100_000):
        steps = steps_for(2.5, new_rows=1000, new_per_step=16)
        facts = exposure(steps, 1000, old, 16, 16 if old else 0)
        assert facts == {"epochs_of_new_data": 2.51, "repetitions_per_old_row": round(157 * 16 / old, 2) if old else 0}
    # without replay and with the whole batch for new rows
    steps = steps_for(2.5, 1000, 32)
    assert exposure(steps, 1000, 0, 32, 0)["epochs_of_new_data"] == pytest.approx(2.5, abs=32 / 1000)
    assert steps_for(0.1, 30, 1) == 3
    with pytest.raises(ValueError, match="new_epochs: found 0 of 10 new examples"):
        steps_for(0, 10, 4)


def pair(new, old):
    """InstructAlign's two streams with so many rows a step; without rows there is no stream."""
    both = [Stream("instructions", "new", new), Stream("replay", "old", old, passes=True)]
    return [stream for stream in both if stream.per_step]


def laid_out(new_rows, old_rows, steps, new, old, *given, **named):
    """As "new" or "old" with the row's number."""
    rows = interleave(pair(new, old), {"instructions": new_rows, "replay": old_rows}, steps, 1, *given, **named)
    return [({"instructions": "new", "replay": "old"}[name], index) for name, index in rows]


@pytest.mark.parametrize("r", [0, 100, 1000, 10_000, 12_345])
def test_batches_alternate_for_every_amount_of_replay(r):
    rows = laid_out(4800, r, 300, 16, 16 if r else 0)
    kinds = ["old", "new"] if r else ["new"]
    assert [kind for kind, _ in rows] == kinds * 4800
    assert [i for kind, i in rows if kind == "new"] == list(range(4800))
    read = collections.Counter(i for kind, i in rows if kind == "old")
    assert len(read) == min(r, 4800)
    assert max(read.values(), default=0) - min(read.values(), default=0) <= (4800 % r > 0 if 0 < r < 4800 else 0)


def test_every_batch_strictly_alternates_old_and_new():
    rows = laid_out(40, 7, 10, 4, 4)
    for step in range(10):
        batch = rows[step * 8 : step * 8 + 8]
        assert [kind for kind, _ in batch] == ["old", "new"] * 4
        assert [i for kind, i in batch if kind == "new"] == list(range(step * 4, step * 4 + 4))
    # every old row is read as often as any other, up to one
    counts = collections.Counter(i for kind, i in rows if kind == "old")
    assert set(counts.values()) == {5, 6}


def test_one_stream_alone():
    assert {kind for kind, _ in laid_out(20, 0, 5, 4, 0)} == {"new"}
    assert {kind for kind, _ in laid_out(0, 9, 5, 0, 4)} == {"old"}
    # plain instruction tuning reads new rows in passes
    rows = interleave([Stream("mixture", "new", 4, passes=True)], {"mixture": 6}, 3, 1)
    assert collections.Counter(rows) == {("mixture", i): 2 for i in range(6)}
    assert rows[:6] != rows[6:]


def test_sorting_by_length_keeps_the_rows_and_the_alternation():
    lengths = {"instructions": [i * 7 % 30 for i in range(40)], "replay": [i * 5 % 13 for i in range(12)]}
    plain = laid_out(40, 12, 10, 4, 4)
    rows = laid_out(40, 12, 10, 4, 4, lengths, window=5)
    assert collections.Counter(rows) == collections.Counter(plain)
    assert [kind for kind, _ in rows] == ["old", "new"] * 40
    # within a window the batches do not overlap in length
    first = [rows[s * 8 : s * 8 + 8] for s in range(5)]
    spans = sorted([sorted(lengths["instructions"][i] for kind, i in batch if kind == "new") for batch in first])
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(spans))


def test_the_order_of_the_released_readings_is_pinned():
    # must never change, or a run could not be made again: two windows of three steps, a pass of five rows
    lengths = {"instructions": list(range(12, 0, -1)), "replay": [3, 1, 4, 1, 5]}
    rows = laid_out(12, 5, 6, 2, 2, lengths, window=3)
    assert " ".join(f"{kind[0]}{i}" for kind, i in rows) == PINNED[0]
    rows = laid_out(12, 5, 6, 2, 2, alternation="shuffled")
    assert " ".join(f"{kind[0]}{i}" for kind, i in rows) == PINNED[1]


@pytest.mark.parametrize(
    ("old", "new", "turn"),
    [
        (1, 1, "on"),
        (2, 2, "onon"),
        (1, 3, "nonn"),
        (1, 4, "nnonn"),
        (3, 1, "oono"),
        (2, 3, "nonon"),
        (4, 12, "nonn" * 4),
    ],
)
def test_unequal_numbers_are_spread_evenly_and_alike_in_every_batch(old, new, turn):
    rows = laid_out(6 * new, 5, 6, new, old)
    assert "".join(kind[0] for kind, _ in rows) == turn * 6
    assert [i for kind, i in rows if kind == "new"] == list(range(6 * new))
    read = collections.Counter(i for kind, i in rows if kind == "old")
    assert max(read.values()) - min(read[i] for i in range(5)) <= 1
    # between two rows of a kind there are never more of the other than its share and one
    places = [i for i, (kind, _) in enumerate(rows) if kind == "old"]
    assert all(b - a - 1 <= -(-new // old) for a, b in itertools.pairwise(places))


def test_any_number_of_streams_take_turns():
    streams = [
        Stream("mixed words", "new", 2),
        Stream("replay", "old", 2, passes=True),
        Stream("instructions", "new", 2),
        Stream("alpaca", "old", 1, passes=True),
    ]
    rows_of = {"mixed words": 8, "replay": 5, "instructions": 8, "alpaca": 5}
    rows = interleave(streams, rows_of, 4, 1)
    turn = ["replay", "mixed words", "instructions", "alpaca", "replay", "mixed words", "instructions"]
    assert [name for name, _ in rows] == turn * 4
    for name in ("mixed words", "instructions"):
        assert [i for stream, i in rows if stream == name] == list(range(8))
    # of the streams that are read in passes each has an order of its own, and the first the one that it has alone
    orders = {name: [i for stream, i in rows if stream == name] for name in ("replay", "alpaca")}
    assert sorted(orders["replay"][:5]) == list(range(5))
    assert orders["replay"][:4] != orders["alpaca"]
    assert orders["replay"] == [i for kind, i in laid_out(8, 5, 4, 2, 2) if kind == "old"]


def test_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="replay: 4 examples a step are asked for, but there are none to read"):
        laid_out(8, 0, 2, 4, 4)
    with pytest.raises(ValueError, match="instructions: 9 examples do not make 2 batches of 4"):
        laid_out(9, 5, 2, 4, 4)
    assert interleave([], {}, 0, 1) == []


PINNED = [
    "o0 n3 o2 n2 o2 n1 o4 n0 o1 n5 o3 n4 o4 n7 o4 n6 o1 n11 o3 n10 o0 n9 o2 n8",
    "o3 o0 o1 n1 o4 n9 n5 o1 o3 o2 n11 n8 n7 n0 o4 n6 o4 o2 n3 n10 n4 o2 n2 o0",
]
