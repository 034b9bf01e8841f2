import numpy as np
import pytest
from scipy import stats

from ia_lib.randomness import generator, permuted, shuffled, take, uniforms

pytestmark = pytest.mark.quick


def test_the_same_key_gives_the_same_numbers_on_every_machine():
    # pinned: these must never change, or old data could not be made again
    assert shuffled(generator("x"), 6) == [4, 5, 2, 1, 0, 3]
    assert permuted((1, "order"), np.arange(6), 6).tolist() == [1, 2, 5, 0, 4, 3]
    expected = [[0.3122023473534671, 0.17592198150196503], [0.7402490645598806, 0.2015245354344588]]
    np.testing.assert_array_equal(uniforms((1, 0), np.array([0, 5]), 2), expected)
    assert take(generator(1), 3) == take(generator(1), 3) != take(generator(2), 3)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
def test_a_permutation_meets_every_place_once(n):
    assert sorted(permuted(("key",), np.arange(n), n).tolist()) == list(range(n))
    # a place does not depend on what is asked beside it
    assert permuted(("key",), np.array([n - 1]), n)[0] == permuted(("key",), np.arange(n), n)[-1]


def test_numbers_of_a_sample_are_uniform_and_depend_on_it_alone():
    whole = uniforms(("key",), np.arange(2000), 5)
    np.testing.assert_array_equal(uniforms(("key",), np.array([7, 3]), 5), whole[[7, 3]])
    assert not np.array_equal(uniforms(("other",), np.arange(2000), 5), whole)
    assert stats.kstest(whole.ravel(), "uniform").pvalue > 0.001
