"""The panels of notebook 0, driven by what a page sends when somebody types and presses."""

import re
from itertools import product
from types import SimpleNamespace

import pandas as pd
import pytest
from ipywidgets import Dropdown

from ia_lib import explore
from ia_lib.data.addresses import Told
from ia_lib.evaluation import choice
from ia_lib.evaluation.resampling import mcnemar
from ia_lib.explore import compare
from ia_lib.explore import panel as frame
from ia_lib.instructions import templates
from ia_lib.models.encoding import encode
from ia_lib.workflow import show
from ia_lib.workflow.settings import SettingsError

pytestmark = pytest.mark.quick

NASTY = {
    "nothing": "",
    "blanks": " \t\u00a0\u200b",
    "lines": "\n\n\r\n",
    "emoji": "👩‍👩‍👧 😀 👍🏽",
    "right to left": "\u202eالطعام لذيذ جدا",
    "long": "makanan " * 12_500,
    "longer than the model reads": "zq " * 3_000,
    "commas": ",,, , ,",
    "twice": "good, good",
    "many": ", ".join(map(str, range(60))),
    "control": "makan\x00\x07\x1b[31man",
    "half a character": "makanan \ud800 enak",
    "page": "<script>alert(1)</script><img src=x onerror=alert(1)>'\"&amp;",
    "marks": "</s><pad> <|im_end|> [INST] ### Response:",
    "slots": "{0} {name} %s %(x)d [INPUT] [OPTIONS] $HOME \\1 (unclosed [",
    "one letter": "a",
    "combining": "\u0301\u0302\u0303",
    "private": "\ue000\ue001\uffff",
}
NUMBERS = [-(10**18), -1, 0, 1, 3, 10**18]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    from conftest import TABLE

    from ia_lib.workflow.graph import Table

    path = tmp_path_factory.mktemp("explore") / "tiny.yaml"
    path.write_text(TABLE)
    return Table(path, path.parent / "outputs")


@pytest.fixture(scope="module")
def run(table):
    return table.run("tlm")


def panels(table, *names: str, run=None, **parts) -> explore.Explorer:
    """An explorer of what is given, of which no stage is made."""
    explorer = object.__new__(explore.Explorer)
    run = run or table.run("tlm")
    names = names or tuple(parts.get("models", {"tlm": 0}))
    given = {"made": table, "run": run, "runs": dict.fromkeys(names, run), "chats": dict.fromkeys(names, False)}
    vars(explorer).update(given | parts)
    return explorer


def controls(panel) -> dict:
    return {control.description: control for control in panel.children[0].children if hasattr(control, "description")}


def shown(panel) -> str:
    """What a panel shows once its button was pressed, if it has one."""
    if panel.button:
        panel.button.click()
    value = panel.children[1].value
    assert "Traceback" not in value
    assert "This cannot be shown" not in value
    value.encode()
    return value


def type_in(panel, name: str, **state) -> str:
    """What the page sends when somebody has changed a control, and what is shown then."""
    controls(panel)[name].set_state(state)
    return shown(panel)


# ------------------------------------------------------------------ nothing typed wrong raises


@pytest.fixture(scope="module")
def every(table, model, tokenizer, parallel):
    """All panels over tiny parts: two causal runs."""
    from test_choice import TASKS, some_texts

    from ia_lib.workflow.graph import Table

    run, texts = table.run("tlm"), some_texts()
    scores = choice.score(model, tokenizer, texts, TASKS)
    asked = {"id": ["1", "2"], "context": ["Budi di Bandung.", "Ada <b>tiga</b> tamu."]}
    asked = pd.DataFrame(asked | {"question": ["Siapa?", "Berapa?"], "answers": [["Budi"], ["tiga", "3"]]})
    said = pd.DataFrame({"dataset": "", "task": "passages", "language": "jav", "example": ["1", "2"]})
    free = {"run": "tlm", "dataset": "", "task": "open", "language": "jav", "example": ["1", "2"], "prompt": 1}
    free |= {"question": ["Apa?", "<i>Siapa?</i>"], "answer": ["Hotel", ""], "reference": ["", "Budi"]}
    free = pd.DataFrame(free | {"inside": [True, False]})
    free["marks"] = [(("small", 2.0),), (("small", float("nan")),)]
    encoded, _ = encode(tokenizer, ["a b", "c d"] * 4, ["x", "y"] * 4, max_length=20)
    task = SimpleNamespace(name="passages", max_new_tokens=4, prompt=lambda code, *parts: "\n".join(parts))
    evaluated = SimpleNamespace(inputs=SimpleNamespace(extracted=[task]))
    explorer = panels(
        table,
        models={"tlm": (model, tokenizer), "base": (model, tokenizer)},
        run=run,
        parallel=parallel,
        tokenizer=tokenizer,
        rows=[{**row, "role": "old" if i % 2 else "new"} for i, row in enumerate(encoded)],
        labels={"nusax/sentiment": ["negative", "positive"]},
        texts=texts.to_pandas(),
        scores={"tlm": scores, "base": scores.assign(label_logprob=-scores["label_logprob"])},
        passages={("passages", "jav"): asked},
        said={"tlm": said.assign(predicted=["Budi", "dua"]), "base": said.assign(predicted=["", "tiga"])},
        answers={"tlm": free, "base": free.assign(run="base")},
        evaluated=lambda name: evaluated,
    )
    commit = Table("params/commit_mini.yaml").run("commit-jav-s1")
    words = {"jav": SimpleNamespace(translations={"makanan": ["panganan"]})}
    mixes = panels(table, run=commit, dictionaries=words, before="Makanan ini enak")
    return {name: getattr(mixes if name == "mixing" else explorer, name)() for name in PANELS}


PANELS = [name for name in vars(explore.Explorer) if not name.startswith("_")]


def test_all_panels_are_tried():
    assert len(PANELS) == 10


@pytest.mark.parametrize("name", PANELS)
def test_nothing_typed_wrong_raises(every, name, capsys, caplog):
    panel = every[name]
    tried = 0
    for control in panel.controls.values():
        before = control.value
        if isinstance(control, Dropdown):
            states = [{"index": i} for i in range(len(control.options))]
        elif isinstance(before, str):
            states = [{"value": text} for text in NASTY.values()]
        else:
            states = [{"value": type(before)(number)} for number in NUMBERS]
            states += [{"value": float("nan")}, {"value": float("inf")}] if isinstance(before, float) else []
        for state in states:
            control.set_state(state)
            value = shown(panel)
            tried += 1
            assert value, (control.description, state)
            assert "<script>" not in value
            assert "<img" not in value
            if "class='said'" in value:
                (sentence,) = re.findall(r"<p class='said' role='alert'>(.*)</p>", value)
                assert len(sentence) < 600
                assert sentence.endswith((".", "}"))
        control.set_state({"index": control.index} if isinstance(control, Dropdown) else {"value": before})
        control.value = before
    assert tried > 5
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err + caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "The text is empty"),
        (NASTY["blanks"], "The text is empty"),
        (NASTY["long"], "has 100,000 characters; allowed: 10,000 at most"),
        (NASTY["control"], "has U+0000 as its character 6"),
        (NASTY["half a character"], "has U+D800 as its character 9"),
        (NASTY["longer than the model reads"], "tokens; allowed: 1,024"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_sentence(every, text, said):
    assert said in type_in(every["label_scores"], "text", value=text)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("good", "Found 1 labels; allowed: 2 to 20"),
        (NASTY["commas"], "Found 0 labels"),
        (NASTY["many"], "Found 60 labels"),
        ("good, bad, good", "The label “good” stands there twice"),
        ("good, b\x00d", "U+0000"),
        ("good, " + "b" * 300, "300 characters; allowed: 200"),
    ],
)
def test_labels_that_are_none_are_said(names, said):
    with pytest.raises(frame.Wrong, match=re.escape(said)):
        frame.words(names)


def test_a_language_without_a_dictionary_is_said(every):
    panel = every["mixing"]
    codes = [value for _, value in controls(panel)["language"].options]
    value = type_in(panel, "language", index=codes.index("ind"))
    assert "no dictionary for Indonesian (ind); allowed: jav" in value
    value = type_in(panel, "language", index=codes.index("jav"))
    controls(panel)["alpha"].value = 1.0
    assert "1 of them in the dictionary, 1 changed: Makanan → Panganan" in shown(panel)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"table": "nowhere.yaml"}, "nowhere.yaml: there is no such file; allowed: a table, which is a YAML file"),
        ({"run": "tml"}, "found no run 'tml'; did you mean 'tlm'? allowed: base, tlm"),
        ({"other": "\ud800"}, "found no run"),
        ({"other": "tlm"}, "parameters, other: found 'tlm', which is the run itself; allowed: base"),
        ({"outputs_dir": "{file}"}, "a file; allowed: a folder"),
    ],
)
def test_wrong_parameters_give_one_sentence_without_a_traceback(table, given, said):
    values = {"table": str(table.path), "run": "tlm", "other": "base", "outputs_dir": str(table.outputs)} | given
    values["outputs_dir"] = values["outputs_dir"].format(file=table.path)
    with pytest.raises(SettingsError, match=re.escape(said)) as error:
        explore.Explorer(**values)
    # as a notebook shows it
    (line,) = error.value._render_traceback_()
    assert line == f"SettingsError: {error.value}"
    assert isinstance(error.value, Told)


def test_a_row_that_cannot_be_fetched_offline_is_said(tmp_path):
    path = tmp_path / "far.yaml"
    defaults = f"{{offline: true, corpus: minilab, steps: 1, objective: tlm, data_dir: {tmp_path}}}"
    rows = "".join(
        f"  - {{name: {n}, model: {{name: nobody/nothing-{n}}}, past: {{mixture: {{mt: 100}}}}}}\n" for n in "ab"
    )
    path.write_text(f"defaults: {defaults}\nruns:\n{rows}")
    with pytest.raises(SettingsError, match="is not on this machine, and offline is set") as error:
        explore.Explorer(str(path), "a", "b", str(tmp_path / "out"))
    assert "Traceback" not in error.value._render_traceback_()[0]


def test_a_row_that_fails_is_said(table, monkeypatch):
    monkeypatch.setattr(explore.scheduler, "make", lambda *_: ["tlm: tune failed: no room (see x.ipynb)"])
    with pytest.raises(SettingsError, match=r"tiny\.yaml: tlm: tune failed: no room"):
        explore.Explorer(str(table.path), "tlm", "base", str(table.outputs))


# ------------------------------------------------------------------ slow panels


def slow(draw) -> frame.Panel:
    return frame.Panel({"text": frame.typed("text", "one")}, draw, "Go")


def test_a_slow_panel_shows_that_it_works_and_ignores_presses_that_change_nothing():
    seen = []

    def draw(tell, text) -> str:
        tell("loading")
        seen.append((text, panel.button.disabled, panel._state.value))
        panel.button.click()  # as one that comes while it works
        tell("answering: token", 5, 20)
        seen.append(panel._state.value)
        return f"<b>{text}</b>"

    panel = slow(draw)
    assert "Press “Go”" in panel._state.value
    assert not seen
    for _ in range(10):
        panel.button.click()
    assert len(seen) == 2
    assert seen[0][:2] == ("one", True)
    assert "working … loading" in seen[0][2]
    assert "<progress" in seen[0][2]
    assert "working … answering: token 5 of at most 20" in seen[1] or "loading" in seen[1]
    assert not panel.button.disabled
    assert "progress" not in panel._state.value
    panel.controls["text"].value = "two"
    assert "This has changed: press “Go”" in panel._state.value
    assert "one" in panel.shown.value, "what came back stays until the button is pressed"
    panel.button.click()
    assert len(seen) == 4
    assert "<b>two</b>" in panel.shown.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt(), "It was stopped; press the button to begin again."),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "There is not enough memory"),
        (KeyError("x"), "This cannot be shown (KeyError: &#x27;x&#x27;)."),
    ],
)
def test_what_failed_is_said_and_tried_again(error, said):
    tries = []

    def draw(tell, text) -> str:
        tries.append(text)
        if len(tries) == 1:
            raise error
        return "done"

    panel = slow(draw)
    panel.button.click()
    assert said in panel.shown.value
    panel.button.click()
    assert "done" in panel.shown.value


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_said_in_one_sentence_and_read_again_when_it_is_mended(
    table, model, tokenizer, tmp_path, text
):
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    whole = file.read_text()
    file.write_text(text)
    inputs = SimpleNamespace(tuned_model=(str(tmp_path), None), tokenizer=(str(tmp_path), None), model=(str(tmp_path),))
    stage = SimpleNamespace(inputs=inputs)
    explorer = panels(table, "tlm", evaluated=lambda name: stage, models={}, device="cpu")
    explorer.made = SimpleNamespace(stage=lambda *_: stage, path=table.path)
    said = r"The tokenizer of tlm cannot be read \(.*\); if this table made it, .*`python -m ia_lib.* makes it again"
    # where a panel is built, and where its button is pressed
    assert re.search(said, explorer.batches().value)
    panel = explorer.questions()
    assert re.search(said, shown(panel))
    file.write_text(whole)
    assert "damaged" not in shown(panel)


def test_typing_computes_nothing_before_it_is_done(every):
    for panel in every.values():
        for control in panel.controls.values():
            assert control.description, "each control has a label"
            assert not getattr(control, "continuous_update", False)


def test_tokens_are_counted_while_a_model_answers(every):
    panel = every["questions"]
    seen = []
    panel._state.observe(lambda change: seen.append(change["new"]), names="value")
    frame._PAUSE, kept = 0, frame._PAUSE
    try:
        controls(panel)["tokens"].value = 20
        type_in(panel, "you", value="makanan ini enak")
    finally:
        frame._PAUSE = kept
    assert any("tlm answers: token" in said and "of at most 20" in said and "max='20'" in said for said in seen)
    assert "working" not in seen[-1]


# ------------------------------------------------------------------ what panels show


def test_an_instruction_follows_its_controls(table, parallel, tokenizer, run):
    panel = panels(table, parallel=parallel, tokenizer=tokenizer).instructions()
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
    assert "choose two languages" in shown(panel)
    hidden = panels(table, parallel=parallel, tokenizer=tokenizer, run=run.changed(share_text=False)).instructions()
    assert parallel["sun"][0] not in shown(hidden)
    assert "words)" in shown(hidden)


def test_a_text_of_ones_own_is_scored_and_translated(
    table, run, parallel, model, tokenizer, encoder_decoder, closing_tokenizer
):
    models = {"tlm": (model, tokenizer), "t5": (encoder_decoder, closing_tokenizer)}
    texts = pd.DataFrame({"language": ["sun"], "text": ["makanan <b>enak</b>"]})
    labels = {"nusax/sentiment": ["negative", "positive"]}
    explorer = panels(table, models=models, labels=labels, texts=texts, parallel=parallel)
    panel = explorer.label_scores()
    assert "&lt;b&gt;enak" in shown(panel)
    assert shown(panel).count("class='best'") == 6
    controls(panel)["run"].value = "t5"
    assert shown(panel).count("class='best'") == 4
    assert re.search(r"All rules choose|The rules differ: “", shown(panel))
    panel = explorer.translations()
    assert "<th scope='col'>tlm</th><th scope='col'>t5</th>" in shown(panel)
    assert parallel[run.pivots[-1]][0] in controls(panel)["text"].value
    controls(panel)["to"].value = controls(panel)["from"].value
    assert "choose two languages" in shown(panel)
    panel = explorer.questions()
    assert "<th scope='col'>tlm</th><th scope='col'>t5</th>" in shown(panel)
    controls(panel)["second run"].value = "tlm"
    assert "<th scope='col'>t5</th>" not in shown(panel)


def test_a_question_on_a_passage_goes_to_both_runs(every):
    panel = every["passage_asked"]
    value = type_in(panel, "question", value="Siapa di Bandung?")
    assert "Budi di Bandung.\nSiapa di Bandung?" in value
    assert "<th scope='col'>tlm</th><th scope='col'>base</th>" in value


def test_batches_have_old_and_new_rows(every):
    value = shown(every["batches"])
    assert value.count("<tr class='new'>") == value.count("<tr class='old'>") == 2


def test_labels_are_scored_as_the_row_asks_them(table, chat, chat_model, turns_tokenizer, parallel):
    texts = pd.DataFrame({"language": ["sun"], "text": ["makanan"]})
    more = {"labels": {"nusax/sentiment": ["negative", "positive"]}, "texts": texts, "parallel": parallel}
    models = {"tlm": (chat_model, turns_tokenizer)}
    said = {chatting: shown(panels(table, models=models, chats={"tlm": chatting}, **more).label_scores())
            for chatting in (True, False)}  # fmt: skip
    prompt = templates.classification_prompts("makanan", "sentiment", ["negative", "positive"])[0]
    empty = templates.classification_prompts(choice.CONTENT_FREE, "sentiment", ["negative", "positive"])[0]
    how = [prompt], ["negative", "positive"], empty
    for chatting, other in ((True, False), (False, True)):
        scores = show.under_rules(chat_model, turns_tokenizer, *how, chat=chatting)
        assert f"{scores.loc['joint'].iloc[0, 0]:.3f}" in said[chatting]
        assert f"{scores.loc['joint'].iloc[0, 0]:.3f}" not in said[other]


def test_free_answers_can_be_searched(every):
    panel = every["free_answers"]
    assert "small 2" in shown(panel)
    assert "in them or an answer: 2." in type_in(panel, "containing", value="SIAPA")
    value = type_in(panel, "request", value=2)
    assert "&lt;i&gt;Siapa?&lt;/i&gt;" in value
    assert "(nothing)" in value
    assert "small none" in value
    type_in(panel, "containing", value="")


# ------------------------------------------------------------------ two runs side by side


def test_predictions_of_two_runs_are_filtered_sorted_and_paged(every):
    panel = every["predictions"]
    by = controls(panel)
    by["language"].value, by["prompt"].value = "sun", 1
    total = int(re.search(r"(\d+) of (\d+) match", shown(panel))[2])
    assert total > 2
    counts = {}
    for kind in compare.KINDS:
        by["show"].value = kind
        found = re.search(r"(\d+) of \d+ match", shown(panel))
        counts[kind] = int(found[1]) if found else 0
        assert shown(panel).count("<td") >= counts[kind] * 4 * (counts[kind] <= 10)
    assert counts["every answer"] == total
    assert counts["changed answers"] > 0
    assert sum(counts[kind] for kind in list(compare.KINDS)[2:]) == total
    by["language"].value = compare.ALL
    by["show"].value = "every answer"
    assert int(re.search(r"(\d+) of (\d+) match", shown(panel))[2]) > total
    assert "<th scope='col'>language</th>" in shown(panel)
    by["show"].value = "every answer"
    assert "choose two" in type_in(panel, "second run", index=0)
    by["second run"].value = "base"
    assert "None of the " in type_in(panel, "containing", value="no such word")
    type_in(panel, "containing", value="")


@pytest.fixture
def pairs():
    """80 pairs: 30 both right, 20 only the first, 4 only the second, 26 both wrong, by 0 to 79 nats."""
    right = [(True, True)] * 30 + [(True, False)] * 20 + [(False, True)] * 4 + [(False, False)] * 26
    one, other = zip(*right, strict=True)
    found = {"task": "sentiment", "language": "sun", "prompt": 1, "example": [f"t{i}" for i in range(80)]}
    found |= {"text": [f"text {i}" for i in range(80)], "more": "", "gold": "yes"}
    for side, flags in (("first", one), ("second", other)):
        found |= {side: ["yes" if flag else "no" for flag in flags], f"{side}_right": flags}
        found |= {f"{side}_off": [0.0 if flag else float(i) for i, flag in enumerate(flags)]}
    return pd.DataFrame(found)[compare.PAIRS]


def test_kinds_orders_and_words_choose_lines(pairs):
    counts = {kind: len(compare.chosen(pairs, kind, "as in the test")) for kind in compare.KINDS}
    assert list(counts.values()) == [80, 24, 20, 4, 26, 30]
    worst = compare.chosen(pairs, "every answer", "the first run's worst mistakes")
    assert worst["first_off"].tolist() == sorted(range(50, 80), reverse=True)
    worst = compare.chosen(pairs, "only the first run is right", "the second run's worst mistakes", " TEXT 4 ")
    assert worst["example"].tolist() == [f"t{i}" for i in range(49, 39, -1)]
    assert compare.chosen(pairs, "every answer", "as in the test", "Text 7")["example"].tolist() == [
        "t7", *(f"t{i}" for i in range(70, 80))
    ]  # fmt: skip
    for wild in (".*", "[", "%s", "\ud800"):
        assert compare.chosen(pairs, "every answer", "as in the test", wild).empty
    # where there is none of a kind, nothing is looked for and nothing sorted
    assert compare.chosen(pairs[:0], "both are right", "the first run's worst mistakes", "x").empty


def test_the_summary_tests_only_texts_that_stand_there_once(pairs):
    said = compare.summary(pairs, "tlm", "base")
    assert said.startswith(
        "Of 80 answers both are right in 30, only tlm in 20, only base in 4, and both are wrong in 26."
    )
    assert f"p = {mcnemar(20, 4):.3f}" in said
    assert "luck alone would hardly divide" in said
    assert "no difference" in compare.summary(pairs[30:54:8], "tlm", "base")
    twice = pd.concat([pairs, pairs.assign(prompt=2)])
    assert "p = " not in compare.summary(twice, "tlm", "base")
    assert "choose one task, language and prompt" in compare.summary(twice, "tlm", "base")


def test_a_page_goes_back_to_the_first_when_a_filter_changes(run, pairs):
    panel = compare.panel(run, ["tlm", "base"], {}, lambda first, second: pairs, "nats")
    by = controls(panel)
    by["show"].value = "every answer"
    by["page"].value = 3
    assert "80 of 80 match; 21 to 30 are shown (page 3 of 8)" in shown(panel)
    assert "✗\u00a0no</span> (50.00\u00a0nats)" not in shown(panel)
    by["page"].value = 10**6
    assert "71 to 80 are shown (page 8 of 8)" in shown(panel)
    by["show"].value = "both are wrong"
    assert by["page"].value == 1
    assert "26 of 80 match; 1 to 10" in shown(panel)
    hidden = compare.panel(run.changed(share_text=False), ["tlm", "base"], {}, lambda first, second: pairs, "")
    assert "text 3" not in shown(hidden)
    assert "cannot be searched" in type_in(hidden, "containing", value="text 3")


def test_margins_are_those_of_the_errors_file(every):
    """By how much a wrong label is above the true one is told alike in the panel and in errors.csv."""
    from test_choice import TASKS, some_texts

    from ia_lib.evaluation import measures

    texts = some_texts().to_pandas()
    labels = {task.name: task.labels for task in TASKS}
    lines = []
    for i, text in enumerate(texts.itertuples()):
        for j, label in enumerate(labels[text.task]):
            task = measures.dataset_and_task(text.task)[1]
            line = {"task": task, "language": text.language, "example": text.example, "prompt": 1, "label": label}
            lines.append(line | {"gold": text.label, "label_logprob": -float((i * 7 + j * 3) % 5)})
    scores = pd.DataFrame(lines).assign(label_tokens=1, label_chars=4, prompt_tokens=9)
    texts = texts.assign(task=[measures.dataset_and_task(name)[1] for name in texts["task"]])
    found = compare.labels(scores, scores, "label_sum", texts)
    wrong = found[~found["first_right"]].set_index(["task", "language", "example"])["first_off"]
    errors = measures.errors(scores, texts, "label_sum", count=100).set_index(["task", "language", "example"])["margin"]
    assert len(errors)
    assert wrong.sort_index().to_dict() == errors.sort_index().to_dict()


def test_answers_in_words_are_compared_by_what_they_share(every):
    panel = every["passages_answered"]
    by = controls(panel)
    by["show"].value = "every answer"
    value = shown(panel)
    assert "Of 2 answers both are right in 0, only tlm in 1, only base in 1" in value
    assert "<details><summary>Berapa?</summary>Ada &lt;b&gt;tiga&lt;/b&gt; tamu.</details>" in value
    assert "(nothing)" in value


# ------------------------------------------------------------------ what does not apply


def test_a_row_that_a_panel_is_not_for_says_what_to_set(table):
    nothing = {"labels": {}, "scores": {}, "dictionaries": {}, "passages": {}, "answers": {}, "parallel": None}
    explorer = panels(table, "tlm", "base", **nothing, rows=[])
    for name, why, to_set in (
        ("mixing", "mixes no words", 'table = "params/commit_mini.yaml", run = "commit-jav-s1"'),
        ("passages_answered", "no questions on passages", 'table = "params/commit_mini.yaml"'),
        ("passage_asked", "no questions on passages", 'other = "base-s1"'),
        ("free_answers", "no requests", 'table = "params/taste_alpaca.yaml"'),
        ("label_scores", "tested on no labels", "run = one of base"),
        ("predictions", "together with the other row", "run = one of base"),
        ("instructions", "no instructions of parallel text", 'table = "params/taste.yaml"'),
        ("translations", "no parallel text", 'run = "tlm"'),
        ("batches", "trains on nothing", "run = one of base"),
    ):
        said = getattr(explorer, name)().value.replace("&quot;", '"')
        assert why in said, name
        assert to_set in said, name
        assert said.count("</p>") == 1


def test_the_rows_that_a_panel_names_are_there():
    """What is told to be set is a table of the kit's with these rows."""
    from ia_lib.explore import opened
    from ia_lib.workflow.graph import Table

    for name, *runs in (opened.TASTE, opened.COMMIT, opened.ALPACA):
        assert {*runs} <= {*Table(f"params/{name}.yaml").by_name}


def test_shades_let_the_theme_through():
    assert not re.search(r"(?:background|color): #", frame._STYLE)
    for kind, alpha in product(("answer", "differs"), (r"rgba\([\d, ]+, \.\d+\)",)):
        assert re.search(rf"\.{kind} {{background: {alpha}}}", frame._STYLE)
