import collections
import itertools

import pytest
from datasets import Dataset
from scipy import stats

from ia_lib.instructions import replay
from ia_lib.training.streams import exposure, interleave, steps_for

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


def test_a_reservoir_is_uniform_over_the_whole_stream():
    deciles = collections.Counter(
        i // 100 for seed in range(200) for i in replay.reservoir(iter(range(1000)), 50, seed)
    )
    assert stats.chisquare([deciles[d] for d in range(10)]).pvalue > 0.001
    # and so is what stands first in it
    first = collections.Counter(replay.reservoir(iter(range(20)), 10, seed)[0] for seed in range(2000))
    assert stats.chisquare([first[i] for i in range(20)]).pvalue > 0.001
    assert replay.reservoir(iter(range(1000)), 50, 3) == replay.reservoir(iter(range(1000)), 50, 3)
    assert sorted(replay.reservoir(iter(range(7)), 50, 1)) == list(range(7))


def strata(**sizes: int) -> Dataset:
    languages = [name for name, size in sizes.items() for _ in range(size)]
    texts = [f"t{i}" for i in range(len(languages))]
    return Dataset.from_dict({"prompt": texts, "answer": texts, "language": languages})


def test_strata_get_equal_shares_as_far_as_they_go():
    pool = strata(eng=1000, ind=300, sun=10)
    counts = collections.Counter(replay.draw(pool, 90, 1, stratify="language")["language"])
    assert counts == {"sun": 10, "eng": 40, "ind": 40}
    assert collections.Counter(replay.draw(pool, 800, 1, stratify="language")["language"])["eng"] == 490
    assert len(set(replay.draw(pool, "all", 1, stratify="language")["pool_row"])) == 1310
    both = replay.draw(pool, 6, 1, validation_rows=6, stratify="language")
    assert set(collections.Counter(zip(both["split"], both["language"], strict=True)).values()) == {2}


def test_within_a_stratum_and_for_what_does_not_divide_the_draw_is_uniform():
    pool, rows, odd = strata(eng=200, ind=100), collections.Counter(), collections.Counter()
    for seed in range(150):
        drawn = replay.draw(pool, 21, seed, stratify="language")
        rows.update(i // 20 for i in drawn["pool_row"])
        odd[collections.Counter(drawn["language"])["eng"]] += 1
    assert stats.chisquare([rows[d] for d in range(10)]).pvalue > 0.001
    assert stats.chisquare([rows[d] for d in range(10, 15)]).pvalue > 0.001
    assert set(odd) == {10, 11}
    assert stats.binomtest(odd[10], 150).pvalue > 0.001


def test_the_released_mixture_is_nearly_the_beginning_of_the_pool():
    pool = strata(eng=5000)
    drawn = replay.draw(pool, 500, 1, sampling="released")
    rows = drawn["pool_row"][:]
    assert len(set(rows)) == 500
    assert 1000 < max(rows) < 1500
    # row 0 is among the first r as likely as a buffer of 1,000 gives up a row in r tries
    found = sum(0 in itertools.islice(replay.buffered(range(2000), seed), 500) for seed in range(400))
    assert stats.binomtest(found, 400, 1 - 0.999**500).pvalue > 0.001
    # what stands behind the first r + 1,000 rows is not looked at
    head = replay.draw(pool.select(range(1500)), 500, 1, sampling="released")
    assert head.to_dict() == drawn.to_dict()
    assert drawn[0]["prompt"] == f"t{rows[0]} "
    assert len(set(replay.draw(pool, "all", 1, sampling="released")["pool_row"])) == 5000


def test_wrong_strata_and_samplings_are_refused():
    with pytest.raises(ValueError, match=r"found stratify 'task'; allowed: .*\(language\)"):
        replay.draw(strata(eng=5), 2, 1, stratify="task")
    with pytest.raises(ValueError, match="it has none"):
        replay.draw(strata(eng=5).remove_columns("language"), 2, 1, stratify="prompt")
    with pytest.raises(ValueError, match="found sampling 'first'"):
        replay.draw(strata(eng=5), 2, 1, sampling="first")
    with pytest.raises(ValueError, match="unstratified"):
        replay.draw(strata(eng=5), 2, 1, stratify="language", sampling="released")


def test_a_blank_between_prompt_and_answer_only_where_there_is_none():
    pool = Dataset.from_dict({"prompt": ["a?", "b: ", "c\n", "d"], "answer": ["x", "y", "z", " w"]})
    assert list(replay.spaced(pool)["prompt"]) == ["a? ", "b: ", "c\n", "d"]


def test_steps_hold_the_exposure_to_new_data_for_every_amount_of_replay():
    for old in (0, 100, 100_000):
        steps = steps_for(2.5, new_rows=1000, new_per_step=16)
        facts = exposure(steps, 1000, old, 16, 16 if old else 0)
        assert facts == {"epochs_of_new_data": 2.51, "repetitions_per_old_row": round(157 * 16 / old, 2) if old else 0}
    # without replay and with the whole batch for new rows
    steps = steps_for(2.5, 1000, 32)
    assert exposure(steps, 1000, 0, 32, 0)["epochs_of_new_data"] == pytest.approx(2.5, abs=32 / 1000)
    assert steps_for(0.1, 30, 1) == 3
    with pytest.raises(ValueError, match="new_epochs: found 0 of 10 new rows"):
        steps_for(0, 10, 4)


@pytest.mark.parametrize("r", [0, 100, 1000, 10_000, "all"])
def test_batches_alternate_for_every_amount_of_replay(r):
    pool = strata(eng=12_345)
    old = len(replay.draw(pool, r, 1))
    rows = interleave(new=4800, old=old, steps=300, new_per_step=16, old_per_step=16 if r else 0, seed=1)
    kinds = ["old", "new"] if r else ["new"]
    assert [kind for kind, _ in rows] == kinds * 4800
    assert [i for kind, i in rows if kind == "new"] == list(range(4800))
    read = collections.Counter(i for kind, i in rows if kind == "old")
    assert len(read) == min(old, 4800)
    assert max(read.values(), default=0) - min(read.values(), default=0) <= (4800 % old > 0 if 0 < old < 4800 else 0)


def test_every_batch_strictly_alternates_old_and_new():
    rows = interleave(new=40, old=7, steps=10, new_per_step=4, old_per_step=4, seed=1)
    for step in range(10):
        batch = rows[step * 8 : step * 8 + 8]
        assert [kind for kind, _ in batch] == ["old", "new"] * 4
        assert [i for kind, i in batch if kind == "new"] == list(range(step * 4, step * 4 + 4))
    # every old row is read as often as any other, up to one
    counts = collections.Counter(i for kind, i in rows if kind == "old")
    assert set(counts.values()) == {5, 6}


def test_one_kind_alone():
    assert {kind for kind, _ in interleave(20, 0, 5, 4, 0, 1)} == {"new"}
    assert {kind for kind, _ in interleave(0, 9, 5, 0, 4, 1)} == {"old"}


def test_sorting_by_length_keeps_the_rows_and_the_alternation():
    lengths = {"new": [i * 7 % 30 for i in range(40)], "old": [i * 5 % 13 for i in range(12)]}
    plain = interleave(40, 12, 10, 4, 4, 1)
    rows = interleave(40, 12, 10, 4, 4, 1, lengths, window=5)
    assert collections.Counter(rows) == collections.Counter(plain)
    assert [kind for kind, _ in rows] == ["old", "new"] * 40
    # within a window the batches do not overlap in length
    first = [rows[s * 8 : s * 8 + 8] for s in range(5)]
    spans = sorted([sorted(lengths["new"][i] for kind, i in batch if kind == "new") for batch in first])
    assert all(a[-1] <= b[0] for a, b in itertools.pairwise(spans))


def test_unequal_kinds_and_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="alternates"):
        interleave(8, 5, 2, 4, 3, 1)
    with pytest.raises(ValueError, match="none to replay"):
        interleave(8, 0, 2, 4, 4, 1)
    with pytest.raises(ValueError, match="do not make"):
        interleave(9, 5, 2, 4, 4, 1)
