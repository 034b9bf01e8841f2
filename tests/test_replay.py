import collections
import itertools

import pytest
from datasets import Dataset
from scipy import stats

from ia_lib.instructions import COLUMNS, replay
from ia_lib.randomness import generator, shuffled

pytestmark = pytest.mark.quick


def test_the_sample_is_uniform_over_the_whole_pool():
    pool = Dataset.from_dict({"prompt": ["p"] * 1000, "answer": ["a"] * 1000})
    sample = lambda r, seed: replay.draw(pool, r, seed)["pool_row"][:]  # noqa: E731
    deciles = collections.Counter(i // 100 for seed in range(200) for i in sample(50, seed))
    assert stats.chisquare([deciles[d] for d in range(10)]).pvalue > 0.001
    assert len(set(sample(1000, 1))) == 1000
    assert sample(10, 1) == sample(20, 1)[:10]


def test_more_than_there_is_is_refused():
    pool = Dataset.from_dict({"prompt": ["p"] * 5, "answer": ["a"] * 5})
    for r, validation in ((6, 0), (4, 2), ("all", 5), ("all", 6)):
        with pytest.raises(ValueError, match="there are 5 old instructions"):
            replay.draw(pool, r, 1, validation)


def test_drawn_rows_carry_where_they_come_from():
    pool = Dataset.from_dict({"prompt": [f"p{i}" for i in range(20)], "answer": ["a"] * 20})
    drawn = replay.draw(pool, 5, 1)
    assert [f"p{i}" for i in drawn["pool_row"]] == list(drawn["prompt"])
    everything = replay.draw(pool, "all", 1, validation_rows=4)
    assert collections.Counter(everything["split"]) == {"train": 16, "validation": 4}
    assert len(set(everything["pool_row"])) == 20


@pytest.mark.parametrize("r", ["all", 15])
def test_no_prompt_that_is_validated_on_is_trained_on(r):
    prompts = [f"Apa kata nomor {i % 20}?" if i < 20 else f"apa  KATA nomor {i % 20} ?" for i in range(40)]
    pool = Dataset.from_dict({"prompt": prompts, "answer": [str(i) for i in range(40)]})
    for seed in range(5):
        drawn = replay.draw(pool, r, seed, validation_rows=6)
        parts = {part: [] for part in ("train", "validation")}
        for row in drawn:
            parts[row["split"]].append(row["pool_row"] % 20)
        assert [len(part) for part in parts.values()] == [34 if r == "all" else 15, 6]
        assert not set(parts["train"]) & set(parts["validation"])
    same = Dataset.from_dict({"prompt": ["p"] * 40, "answer": ["a"] * 40})
    with pytest.raises(ValueError, match="validation_rows: found 6, but every old instruction shares its prompt"):
        replay.draw(same, r, 1, validation_rows=6)


def test_without_equal_prompts_validation_is_what_was_drawn_behind_training():
    pool = Dataset.from_dict({"prompt": [f"p{i}" for i in range(40)], "answer": ["a"] * 40})
    order = shuffled(generator(3, "replay"), 40)
    for r, count in (("all", 34), (15, 15)):
        drawn = replay.draw(pool, r, 3, validation_rows=6)
        assert drawn["pool_row"][:] == order[: count + 6]
        assert drawn["split"][:] == ["train"] * count + ["validation"] * 6


def test_drawn_rows_become_a_stream_of_old_rows():
    pool = Dataset.from_dict({"prompt": [f"p{i}" for i in range(20)], "answer": ["a"] * 20})
    drawn = replay.draw(pool, "all", 1, validation_rows=4)
    found = replay.examples(drawn)
    assert list(found) == [*COLUMNS, "pool_row"]
    for name in ("prompt", "answer", "split", "pool_row"):
        assert found[name].tolist() == drawn[name][:]
    assert found["position"].tolist() == list(range(20))
    assert found[["stream", "role", "kind", "language", "source_id", "epoch"]].drop_duplicates().values.tolist() == [
        ["replay", "old", "", "", "", 0]
    ]
    kinds = ["mt", "xss"] * 10
    for name in ("objective", "kind"):
        named = pool.add_column(name, kinds).add_column("language", ["eng", "ind"] * 10)
        found = replay.examples(replay.draw(named, 5, 1), "mixture", "new")
        assert found["kind"].tolist() == [kinds[i] for i in found["pool_row"]]
        assert found[["stream", "role"]].drop_duplicates().values.tolist() == [["mixture", "new"]]
        assert set(zip(found["kind"], found["language"], strict=True)) <= {("mt", "eng"), ("xss", "ind")}
    assert list(replay.examples(replay.draw(pool, 0, 1))) == [*COLUMNS, "pool_row"]


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
