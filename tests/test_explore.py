import pandas as pd
import pytest

from ia_lib import explore
from ia_lib.evaluation import choice
from ia_lib.instructions import templates
from ia_lib.models.encoding import encode
from ia_lib.workflow import show

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from conftest import TABLE

    from ia_lib.workflow.graph import Table

    path = tmp_path_factory.mktemp("explore") / "tiny.yaml"
    path.write_text(TABLE)
    return Table(path, path.parent / "outputs").run("tlm")


def panels(run, **parts) -> explore.Explorer:
    """An explorer of what is given, of which no stage is made."""
    explorer = object.__new__(explore.Explorer)
    parts.setdefault("chats", dict.fromkeys(parts.get("models", ()), False))
    vars(explorer).update(parts, run=run)
    return explorer


def controls(panel) -> dict:
    return {control.description: control for control in panel.children[0].children}


def shown(panel) -> str:
    assert "Traceback" not in panel.children[1].value
    return panel.children[1].value


def test_an_instruction_follows_its_controls(run, parallel, tokenizer):
    panel = panels(run, parallel=parallel, tokenizer=tokenizer).instructions()
    by = controls(panel)
    first = shown(panel)
    assert parallel["sun"][0] in first.replace("&#x27;", "'").replace("&quot;", '"')
    assert "class='tok answer'" in first
    for name, value in (("template", 2), ("epoch", 1), ("noise", "deletion"), ("sentence", 3), ("to", "jav")):
        before = shown(panel)
        by[name].value = value
        assert shown(panel) != before, name
    assert "noise: deletion" in shown(panel)
    for objective in ("mt", "xss", "mlm", "word", "span"):
        by["objective"].value = objective
        assert "tokens</p>" in shown(panel)
    by["objective"].value, by["from"].value, by["to"].value = "mt", "eng", "eng"
    assert "two languages" in shown(panel)
    hidden = panels(run.changed(share_text=False), parallel=parallel, tokenizer=tokenizer).instructions()
    assert parallel["sun"][0] not in shown(hidden)
    assert "words)" in shown(hidden)


def test_a_text_of_ones_own_is_scored_and_translated(
    run, parallel, model, tokenizer, encoder_decoder, closing_tokenizer
):
    models = {"tlm": (model, tokenizer), "t5": (encoder_decoder, closing_tokenizer)}
    texts = pd.DataFrame({"language": ["sun"], "text": ["makanan <b>enak</b>"]})
    explorer = panels(
        run, models=models, labels={"nusax/sentiment": ["negative", "positive"]}, texts=texts, parallel=parallel
    )
    panel = explorer.label_scores()
    assert "&lt;b&gt;enak" in shown(panel)
    assert shown(panel).count("class='best'") == 6
    controls(panel)["run"].value = "t5"
    assert shown(panel).count("class='best'") == 4
    controls(panel)["labels"].value = "good"
    assert "two labels" in shown(panel)
    panel = explorer.translations()
    assert "<th>tlm</th><th>t5</th>" in shown(panel)
    assert parallel[run.pivots[-1]][0] in controls(panel)["text"].value
    panel = explorer.questions()
    assert "<th>tlm</th><th>t5</th>" in shown(panel)
    controls(panel)["you"].value = " "
    assert "Write something" in shown(panel)


def test_batches_and_predictions_of_two_runs(run, tokenizer, model):
    from test_choice import TASKS, some_texts

    from ia_lib.evaluation import choice

    encoded, _ = encode(tokenizer, ["a b", "c d"] * 4, ["x", "y"] * 4, max_length=20)
    rows = [{**row, "role": "old" if i % 2 else "new"} for i, row in enumerate(encoded)]
    panel = panels(run, rows=rows, tokenizer=tokenizer).batches()
    assert shown(panel).count("<tr class='new'>") == shown(panel).count("<tr class='old'>") == 2
    texts = some_texts()
    table = choice.score(model, tokenizer, texts, TASKS)
    other = table.assign(label_logprob=-table["label_logprob"])
    panel = panels(run, scores={"tlm": table, "base": other}, texts=texts.to_pandas()).predictions()
    assert "they differ in 6 of 6 texts" in shown(panel)
    assert shown(panel).count("class='differs'") == 6
    controls(panel)["second run"].value = "tlm"
    assert "they differ in 0 of 6 texts" in shown(panel)
    controls(panel)["only where they differ"].value = False
    assert texts[0]["text"] in shown(panel)


def test_labels_are_scored_as_the_row_asks_them(run, chat, chat_model, turns_tokenizer, parallel):
    texts = pd.DataFrame({"language": ["sun"], "text": ["makanan"]})
    more = {"labels": {"nusax/sentiment": ["negative", "positive"]}, "texts": texts, "parallel": parallel}
    models = {"tlm": (chat_model, turns_tokenizer)}
    said = {chatting: shown(panels(run, models=models, chats={"tlm": chatting}, **more).label_scores())
            for chatting in (True, False)}  # fmt: skip
    prompt = templates.classification_prompts("makanan", "sentiment", ["negative", "positive"])[0]
    empty = templates.classification_prompts(choice.CONTENT_FREE, "sentiment", ["negative", "positive"])[0]
    how = [prompt], ["negative", "positive"], empty
    for chatting, other in ((True, False), (False, True)):
        scores = show.under_rules(chat_model, turns_tokenizer, *how, chat=chatting)
        assert f"{scores.loc['joint'].iloc[0, 0]:.3f}" in said[chatting]
        assert f"{scores.loc['joint'].iloc[0, 0]:.3f}" not in said[other]


def test_a_row_without_labels_says_so(run):
    explorer = panels(run, models={"tlm": None, "base": None}, labels={}, scores={}, dictionaries={}, passages={})
    assert "mixes no words" in explorer.mixing().value
    assert "no questions on passages" in explorer.passages_answered().value
    assert "no labels" in explorer.label_scores().value
    assert "Neither row" in explorer.predictions().value
