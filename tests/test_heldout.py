import math

import numpy as np
import pytest
from sacrebleu.metrics import CHRF

from ia_lib.evaluation import translation
from ia_lib.evaluation.generation import answers
from ia_lib.instructions import cross_lingual
from ia_lib.models.encoding import encode

pytestmark = pytest.mark.quick


def test_held_out_measures_stand_beside_what_costs_nothing(model, tokenizer, parallel):
    plan = cross_lingual.Plan("tlm", pivots=["ind"], taught=["jav"], seed=1)
    some = parallel.select(range(12))
    found = translation.measure(model, tokenizer, some, plan, {"max_length": 256})
    assert list(found.columns) == translation.COLUMNS
    assert len(found) == 3 * 2
    assert (found["low"] <= found["value"]).all()
    assert (found["value"] <= found["high"]).all()
    to_jav = found[found["target"] == "jav"].set_index("metric")
    # chrF beside the source itself; the loss against every answer by itself
    copied = CHRF().corpus_score(some["ind"][:], [some["jav"][:]]).score
    assert to_jav.loc["chrF", "baseline"] == pytest.approx(copied)
    assert to_jav.loc["answer loss", "baseline"] == pytest.approx(math.log(len(tokenizer)))
    assert to_jav.loc["answer loss", "value"] == pytest.approx(math.log(len(tokenizer)), abs=0.5)
    assert to_jav.loc["similarity", "baseline"] == 50
    again = translation.measure(model, tokenizer, some, plan, {"max_length": 256})
    np.testing.assert_allclose(found["value"], again["value"])


def test_answers_do_not_depend_on_the_batch(any_model, tokenizer, parallel):
    asked = [f"{text} " for text in parallel["ind"][:7]]
    rows, _ = encode(tokenizer, asked, parallel["jav"][:7], 100)
    one = answers(any_model, tokenizer, rows, tokens=5, batch_size=1)
    assert one.equals(answers(any_model, tokenizer, rows, tokens=5, batch_size=4))
