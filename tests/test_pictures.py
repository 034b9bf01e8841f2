"""What notebooks 1 and 2 draw: pictures that can be read, with the run's own numbers, and without texts that are nobody
else's business."""

import re
from base64 import b64decode
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch

from ia_lib.models.encoding import encode
from ia_lib.report import drawings
from ia_lib.workflow import learning, pictures, show, work

HARD = ["<script>alert(1)</script>", 'a & b "quoted"', "x\x00\x08\u202ey", "การทดสอบภาษา", "汉字" * 60, "new\nline", ""]


def inside(shown) -> str:
    """All that a notebook keeps of what a cell shows, pictures as their SVG."""
    bundle = shown._repr_mimebundle_()
    html = bundle["text/html"]
    found = re.findall(r"base64,([^\"]+)", html)
    return "\n".join([bundle["text/plain"], html, *(b64decode(part).decode() for part in found)])


def words(shown) -> str:
    """The texts in a picture."""
    (data,) = re.findall(r"base64,([^\"]+)", shown._repr_mimebundle_()["text/html"])
    return " ".join(ElementTree.fromstring(b64decode(data)).itertext())


def box(*lines: str, there: bool = True) -> drawings.Box:
    return drawings.Box(lines[0], list(lines), "new", there)


@pytest.mark.quick
@pytest.mark.parametrize("text", HARD)
def test_no_text_spoils_a_picture(text):
    boxes = [box(text) for _ in range(5)]
    drawn = [
        drawings.method(*boxes[:4], ["old", "new"], boxes[4], boxes, [(text, text, "ink")]),
        drawings.parts(text, [(text, look) for look in drawings.LOOKS], text, {text: "answer"}),
        drawings.parts(text, [(text, "plain")] * 500, text, apart=True),
        drawings.bars(text, [(text, 3, "new"), (text, 0, "old")], text, "%", [1, 2]),
        drawings.lengths(text, {text: ([1, 2, 500], "old"), "none": ([], "new")}, text),
        drawings.batch(text, [("old", 3, 4), ("new", 0, 4)], text, 1),
        drawings.losses(text, [text, "b"], [0.0, 9.5], text, [1.0, 2.0], 7.6),
        drawings.curves(text, {text: ([1, 2], [3.0, 0.0], "new"), "none": ([], [], "old")}, text, text),
    ]
    for one in drawn:
        tree = ElementTree.fromstring(one.svg)
        assert not [node for node in tree.iter() if node.tag.endswith(("script", "foreignObject", "image"))]
        assert 0 < float(tree.get("height")) < 1500
        assert "<script" not in one._repr_mimebundle_()["text/html"]


@pytest.mark.quick
def test_nothing_is_drawn_outside_of_a_picture():
    long = [("word " * 30, "plain"), ("x" * 300, "answer")] * 40
    rows = [("old", 400, 3), ("new", 9, 900)] * 64
    for drawn in (
        drawings.parts("", long, ""),
        drawings.parts("", long, "", apart=True),
        drawings.batch("", rows, "", 90),
    ):
        tree = ElementTree.fromstring(drawn.svg)
        height = float(tree.get("height"))
        for node in tree.iter("{http://www.w3.org/2000/svg}rect"):
            assert float(node.get("x", 0)) + float(node.get("width")) <= drawings.WIDTH
            assert float(node.get("y", 0)) + float(node.get("height")) <= height
    assert "91 new" not in words(drawn)  # counted from 1, the row at 90 is an old one
    assert "91 old" in words(drawn)


@pytest.fixture(scope="module")
def opened(finished):
    """The tiny table's tuned row: its data and tune stages and what they made."""
    data, tune = (finished.stage("tlm", name).open() for name in ("data", "tune"))
    begun = work.begin_tuning(tune)
    return data, work.make_data(data), tune, begun, work.tune(tune, work.begin_tuning(tune))


def test_one_row_is_followed_from_its_sentence_into_its_batch(opened):
    data, made, tune, begun, _ = opened
    row = pictures.followed(data.run, made.examples)
    assert row["role"] == "new"
    assert row["split"] == "train"
    assert row["language"] in data.run.taught
    assert row["answer"] not in row["prompt"]
    earlier = made.examples[: row.name]
    assert all(
        one.role != "new" or one.language not in data.run.taught or one.answer.strip() in one.prompt
        for one in earlier.itertuples()
    )
    frame = pictures.sentence(data, made).frame
    assert row["answer"] in set(frame["text"])
    assert list(frame["language"]) == [data.run.language(code) for code in data.run.parallel_codes]
    assert re.sub(r"\W", "", row["prompt"] + row["answer"]) in re.sub(
        r"\W", "", words(pictures.instruction(data, made))
    )
    marked = [line for line in learning.texts(tune, begun).splitlines() if line.startswith("→")]
    assert len(marked) == 1
    assert row["answer"].strip() in marked[0]
    place = next(i for i, one in enumerate(begun.rows) if one["example"] == row.name)
    drawn = learning.batch(tune, begun)
    assert f"Batch {place // begun.per_step + 1} of 6" in drawn.said
    assert f"Ours is number {place % begun.per_step + 1}." in drawn.said
    rows = begun.rows[place // begun.per_step * begun.per_step :][: begun.per_step]
    assert f"{sum(len(one['input_ids']) for one in rows)} tokens in all" in drawn.said
    assert f"computed on {sum(len(one['input_ids']) - one['answer_start'] for one in rows)} of them" in drawn.said


def test_rows_without_new_ones_or_without_training_are_followed_too(opened):
    data, made, *_ = opened
    old = made.examples[made.examples["role"] == "old"]
    assert pictures.followed(data.run, old)["role"] == "old"
    assert pictures.followed(data.run, old[:0]) is None
    known = made.examples[~made.examples["language"].isin(data.run.taught)]
    assert pictures.followed(data.run, known)["role"] == "new"


def test_the_picture_of_the_method_has_the_runs_own_numbers(opened):
    data, made, *_ = opened
    drawn = pictures.method(data, made)
    found = words(drawn)
    for text in ("12 of tlm", "40:", "Toba Batak", "Sundanese", "6 steps of 4", "its base: the run"):
        assert text in found
    assert f"{len(data.inputs.usable())} sentences" in found
    row = pictures.followed(data.run, made.examples)
    assert row["answer"].strip() in found


def test_what_an_answer_costs_is_what_the_model_gives_it(opened):
    _, made, tune, begun, tuned = opened
    row = next(one for one in begun.rows if one["example"] == pictures.followed(tune.run, made.examples).name)
    training = begun.model.training
    before = learning.surprise(tune, begun)
    assert begun.model.training == training
    ids, start = torch.tensor([row["input_ids"]]), row["answer_start"]
    begun.model.eval()
    with torch.no_grad():
        logprobs = begun.model(ids).logits.log_softmax(-1)[0]
    begun.model.train(training)
    naive = [-float(logprobs[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])]
    assert np.allclose(before.nats, naive, atol=1e-4)
    assert f"{np.mean(naive):.2f} nats a token" in before.drawing.said
    after = learning.surprise(tune, begun, tuned.model, before)
    assert f"Before training: {np.mean(naive):.2f} nats." in after.drawing.said
    assert not np.allclose(after.nats, before.nats)


@pytest.mark.quick
def test_an_encoder_decoder_model_is_surprised_by_what_its_decoder_says(encoder_decoder, tokenizer):
    model = encoder_decoder.eval()
    (row,), _ = encode(tokenizer, ["Is it good?"], ["yes, very good"], 64, encoder_decoder=True)
    asked, answer = row["input_ids"][: row["answer_start"]], row["input_ids"][row["answer_start"] :]
    begin = [model.config.decoder_start_token_id, *answer[:-1]]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([asked]), decoder_input_ids=torch.tensor([begin])).logits
    naive = -logits.log_softmax(-1)[0].gather(1, torch.tensor(answer)[:, None])[:, 0]
    nats, right, ids = learning._nats(model, tokenizer, row, "answer")
    assert np.allclose(nats, naive, atol=1e-4)
    assert ids == answer
    assert right == int((logits[0].argmax(-1) == torch.tensor(answer)).sum())


def test_texts_that_are_not_to_be_shared_are_in_no_picture(opened, capsys, monkeypatch):
    data, made, tune, begun, tuned = opened
    for stage in (data, tune):
        monkeypatch.setattr(stage, "run", stage.run.changed(share_text=False))
    row = pictures.followed(data.run, made.examples)
    before = learning.surprise(tune, begun)
    shown = [
        pictures.method(data, made),
        pictures.sentence(data, made),
        pictures.instruction(data, made),
        before,
        learning.surprise(tune, begun, tuned.model, before),
        learning.batch(tune, begun),
        show.answers(tune, tuned),
    ]
    assert pictures.tokens(data, made) is None
    said = [
        *map(inside, shown),
        show.instructions(data, made.examples),
        learning.texts(tune, begun),
        capsys.readouterr().out,
    ]
    whole = "\n".join(said)
    sentence = data.inputs.usable().to_pandas().set_index("sentence_id").loc[row["source_id"]]
    for text in [row["answer"], *(sentence[code] for code in data.run.parallel_codes)]:
        longest = max(re.findall(r"\w+", text), key=len)
        assert text.strip() not in whole
        assert longest not in whole
    assert "words)" in whole


def test_what_a_run_does_not_have_is_a_sentence(opened, capsys):
    data, made, *_ = opened
    plain = work.MadeData(made.folder, made.examples.assign(noise=None), {**made.report, "tokens_per_word": {}})
    assert pictures.noise(data, plain) is None
    assert pictures.tokens_per_word(data, plain) is None
    assert pictures.of_other_methods(data, plain) is None
    assert learning.curve(SimpleNamespace(log=pd.DataFrame())) is None
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_budgets_are_bars_and_dictionaries_are_a_table(opened):
    data, made, *_ = opened
    budget = {"budget": "english", "language": "", "rows": 480, "tokens_trained": 26464}
    run = SimpleNamespace(data=SimpleNamespace(budget="mono"))
    drawn = pictures.of_other_methods(
        SimpleNamespace(run=run), work.MadeData(made.folder, made.examples, {"budgets": [budget]})
    )
    assert "english, 480 instructions" in words(drawn)
    assert "26,464" in words(drawn)
    mixed = work.MadeData(made.folder, made.examples, {"code_mixing": {"jav": {"entries": 9, "words": 55.5}}})
    assert "55.5" in pictures.of_other_methods(data, mixed)._repr_mimebundle_()["text/plain"]


def test_one_kind_of_noise_is_not_held_against_the_mixture(opened):
    data, made, *_ = opened
    alone = work.MadeData(made.folder, made.examples.assign(noise="deletion"), made.report)
    assert "points apart" in pictures.noise(data, made).said
    assert "no mark" in pictures.noise(SimpleNamespace(run=data.run.changed(noise="deletion")), alone).said
    assert "100.0%" in words(pictures.noise(SimpleNamespace(run=data.run.changed(noise="deletion")), alone))


def test_words_that_were_put_in_are_marked(opened):
    run = opened[0].run
    row = pd.Series(
        {"prompt": "Say: the rumah is", "answer": " besar.", "before": "Say: the house is big.", "kind": "x"}
    )
    assert pictures._put_in(row) == (
        [("Say: the ", "plain"), ("rumah", "noise"), (" is", "plain")],
        [(" ", "answer"), ("besar.", "noise")],
    )
    assert pictures._pieces(run, row)[1] == ("rumah", "noise")
