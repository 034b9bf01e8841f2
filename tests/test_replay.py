import collections
import itertools

import pytest
from datasets import Dataset
from scipy import stats

from ia_lib import replay

pytestmark = pytest.mark.quick


def test_the_sample_is_uniform_over_the_whole_pool():
    deciles = collections.Counter(i // 100 for seed in range(200) for i in replay.sample(1000, 50, seed))
    assert stats.chisquare([deciles[d] for d in range(10)]).pvalue > 0.001
    assert len(set(replay.sample(1000, 1000, 1))) == 1000
    assert replay.sample(1000, 10, 1) == replay.sample(1000, 20, 1)[:10]


def test_more_than_there_is_is_refused():
    pool = Dataset.from_dict({"prompt": ["p"] * 5, "answer": ["a"] * 5})
    for r, validation in ((6, 0), (4, 2), ("all", 5), ("all", 6)):
        with pytest.raises(ValueError, match="pool of past data has 5 rows"):
            replay.draw(pool, r, 1, validation)


def test_drawn_rows_carry_where_they_come_from():
    pool = Dataset.from_dict({"prompt": [f"p{i}" for i in range(20)], "answer": ["a"] * 20})
    drawn = replay.draw(pool, 5, 1)
    assert [f"p{i}" for i in drawn["pool_row"]] == list(drawn["prompt"])
    everything = replay.draw(pool, "all", 1, validation_rows=4)
    assert collections.Counter(everything["split"]) == {"train": 16, "validation": 4}
    assert len(set(everything["pool_row"])) == 20


def test_every_batch_strictly_alternates_old_and_new():
    rows = replay.interleave(new=40, old=7, steps=10, new_per_step=4, old_per_step=4, seed=1)
    for step in range(10):
        batch = rows[step * 8 : step * 8 + 8]
        assert [kind for kind, _ in batch] == ["old", "new"] * 4
        assert [i for kind, i in batch if kind == "new"] == list(range(step * 4, step * 4 + 4))
    # every old row is read as often as any other, up to one
    counts = collections.Counter(i for kind, i in rows if kind == "old")
    assert set(counts.values()) == {5, 6}


def test_one_kind_alone():
    assert {kind for kind, _ in replay.interleave(20, 0, 5, 4, 0, 1)} == {"new"}
    assert {kind for kind, _ in replay.interleave(0, 9, 5, 0, 4, 1)} == {"old"}


def test_sorting_by_length_keeps_the_rows_and_the_alternation():
    lengths = {"new": [i * 7 % 30 for i in range(40)], "old": [i * 5 % 13 for i in range(12)]}
    plain = replay.interleave(40, 12, 10, 4, 4, 1)
    rows = replay.interleave(40, 12, 10, 4, 4, 1, lengths, window=5)
    assert collections.Counter(rows) == collections.Counter(plain)
    assert [kind for kind, _ in rows] == ["old", "new"] * 40
    # within a window the batches do not overlap in length
    first = [rows[s * 8 : s * 8 + 8] for s in range(5)]
    spans = sorted([sorted(lengths["new"][i] for kind, i in batch if kind == "new") for batch in first])
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(spans))


def test_unequal_kinds_and_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="alternates"):
        replay.interleave(8, 5, 2, 4, 3, 1)
    with pytest.raises(ValueError, match="do not make"):
        replay.interleave(9, 5, 2, 4, 4, 1)
