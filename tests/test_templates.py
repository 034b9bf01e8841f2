from pathlib import Path

import pytest

from ia_lib.instructions import templates
from ia_lib.paths import params

pytestmark = pytest.mark.quick
SLOTS = {
    "INPUT_TEXT": "noisy [LABEL] text",
    "INPUT_LANG": "Javanese",
    "CONTEXT": "the context",
    "CONTEXT_LANG": "English",
    "LABEL_TEXT": "clean text",
    "SOURCE_LANG": "English",
    "SOURCE_TEXT": "source",
    "TARGET_LANG": "Javanese",
    "TARGET_TEXT": "target",
    "LABEL": "yes",
    "INPUT": "a text",
    "TASK": "sentiment",
    "OPTIONS": "a or b",
    "LABELS_CHOICE": "a",
}


@pytest.mark.parametrize("kind", list(templates.ANSWER_SLOTS))
def test_every_template_is_filled_verbatim(kind):
    assert len(templates.templates(kind)) == {"classification": 3, "word": 1, "span": 1}.get(kind, 6)
    for number, template in enumerate(templates.templates(kind)):
        assert template.endswith(f"[{templates.ANSWER_SLOTS[kind]}]")
        prompt, answer = templates.fill(kind, number, **SLOTS)
        expected = template
        # the value that looks like a slot is put in last, so that this plain replacement leaves it alone
        for slot in sorted(SLOTS, key=lambda slot: slot == "INPUT_TEXT"):
            expected = expected.replace(f"[{slot}]", SLOTS[slot])
        assert prompt + answer == expected
        assert prompt[-1] in " \n"
        left = prompt.replace(SLOTS["INPUT_TEXT"], "")
        assert "[" not in left
        assert "]" not in left


def test_the_first_version_has_its_own_translation_prompt():
    prompt, _ = templates.fill("mt", 0, "ia1", **SLOTS)
    assert prompt == 'What is the Javanese translation of the following English sentence: "source", '
    assert templates.templates("tlm", "ia1") == templates.templates("tlm")


def test_a_prompt_file_of_ones_own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('mt: ["[SOURCE_LANG]: [SOURCE_TEXT]\\n[TARGET_LANG]: [TARGET_TEXT]"]')
    assert templates.fill("mt", 0, str(path), **SLOTS) == ("English: source\nJavanese: ", "target")
    assert len(templates.templates("tlm", str(path))) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'mt: ["[SOURCE] [TARGET_TEXT]"]',
            r"line 1, field 'mt.0': found '\[SOURCE\]'; allowed: the slots \[SOURCE_LANG",
        ),
        *(
            (
                f'mt: ["[SOURCE_TEXT] {found} [TARGET_TEXT]"]',
                rf"own.yaml, line 1, field 'mt.0': found '\{found[:-1]}\]'; al",
            )
            for found in (
                "[Foo]",
                "[Target_Text]",
                "[SOURCE TEXT]",
                "[SOURCE-LANG]",
                "[SOURCE_LANG ]",
                "[LANG2]",
                "[é]",
            )
        ),
        (
            'mt: ["[SOURCE_LANG] [TARGET_TEXT]"]',
            r"'mt.0': found '\[SOURCE_LANG\] .*'; allowed: a template with \[SOURCE_TEXT\]",
        ),
        ('xss: ["[SOURCE_TEXT] [LABEL]"]', r"'xss.0': found .*; allowed: a template with \[TARGET_TEXT\]"),
        ('tlm: ["[CONTEXT] [LABEL_TEXT]"]', r"'tlm.0': found .*; allowed: a template with \[INPUT_TEXT\]"),
        ('classification: ["[OPTIONS] [LABELS_CHOICE]"]', r"'classification.0': found .* a template with \[INPUT\]"),
        ('mt: ["[SOURCE_TEXT]: [TARGET_TEXT] now"]', "'mt.0': found '.*now'; allowed: at its end"),
        ('qa: ["[SOURCE_TEXT] [TARGET_TEXT]"]', "field 'qa': found an unknown field; .*tlm, mt, xss"),
        ("mt: none", "field 'mt': found 'none'; allowed: a list"),
        ("mt: []", r"field 'mt': found \[\]; allowed: at least one entry"),
        ("mt: [5]", "field 'mt.0': found 5; allowed: text"),
        ("- mt", r"line 1: found \['mt'\]; allowed: a prompt file, which has fields"),
        ("mt: [", "line 1: this is not valid YAML"),
    ],
)
def test_a_wrong_prompt_file_is_refused(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(templates.PromptError, match=message):
        templates.templates("mt", str(path))


def test_brackets_that_look_like_no_slot_stay(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('mt: ["[ ] [...] [a, b] [SOURCE_TEXT] [TARGET_TEXT]"]')
    assert templates.fill("mt", 0, str(path), **SLOTS)[0] == "[ ] [...] [a, b] source "


def test_indonesian_prompts_have_a_word_for_every_label():
    every = ["negative", "neutral", "positive", "angry", "disgusted", "fear", "happy", "sad", "shame", "surprise"]
    every += ["business", "culture & heritage", "food & beverages", "leisures", "religion", "slice of life"]
    every += ["sports", "technology"]
    words = templates.label_words(every, "indonesian")
    assert len(set(words)) == len(every)
    assert not set(words) & set(every)
    asked = templates.classification_prompts("Enak!", "sentiment", ["negative", "neutral", "positive"], "indonesian")
    assert len(asked) == 3
    assert asked[1] == "Apa sentimen dari teks ini?\nTeks: Enak!\nJawab dengan negatif, netral, atau positif: "
    assert templates.label_words(every) == every


CHOICE = 'classification: ["[INPUT] [TASK] [OPTIONS] => [LABELS_CHOICE]"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: {negative: 0, positive: 1}", "line 2, field 'labels.negative': found 0; allowed: text"),
        ("labels: {negative: false, positive: x}", "line 2, field 'labels.negative': found false; allowed: text"),
        ("labels: [buruk, bagus]", r"line 2, field 'labels': found \['buruk', 'bagus'\]; allowed: fields with their"),
        (
            "labels:\n  negative: buruk\n  positive: ''",
            "line 4, field 'labels.positive': found ''; allowed: at least 1",
        ),
        ("labels: {negative: ' '}", "line 2, field 'labels.negative': found ' '; allowed: at least 1 character"),
        ("or: [atau]", r"line 2, field 'or': found \['atau'\]; allowed: text"),
        ("or: 1", "line 2, field 'or': found 1; allowed: text"),
        ("tasks: {sentiment: 5}", "line 2, field 'tasks.sentiment': found 5; allowed: text"),
        ("tasks: sentimen", "line 2, field 'tasks': found 'sentimen'; allowed: fields with their values"),
        ("ors: atau", "line 2, field 'ors': found an unknown field; did you mean 'or'. allowed: tlm, mt"),
    ],
)
def test_a_wrong_wording_is_refused_when_it_is_read(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(CHOICE + text)
    with pytest.raises(templates.PromptError, match=f"own.yaml, {message}"):
        templates.label_words([], str(path))


def test_a_wording_of_ones_own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"{CHOICE}or: otaba\ntasks: {{sentiment: rasa}}\nlabels: {{positive: begus, good: begus}}")
    labels = ["negative", "positive"]
    assert templates.label_words(labels, str(path)) == ["negative", "begus"]
    expected = ["Ya rasa negative otaba begus => "]
    assert templates.classification_prompts("Ya", "sentiment", labels, str(path)) == expected
    with pytest.raises(
        templates.PromptError, match=r"own.yaml, field 'labels': found 'begus' for 'positive' and for 'g"
    ):
        templates.label_words([*labels, "good"], str(path))
    with pytest.raises(templates.PromptError, match="nothing: there is no such prompt file; allowed: english, indones"):
        templates.label_words([], "nothing")


def test_the_files_of_templates_and_wordings_are_known():
    own = params() / "prompts"
    published = own / "instructalign.yaml"
    assert templates.files(["english", "ia1"]) == templates.files([]) == [published]
    assert templates.files(["indonesian", "x.yaml"]) == [published, own / "indonesian.yaml", Path("x.yaml")]


def test_a_missing_slot_is_an_error():
    with pytest.raises(KeyError, match="SOURCE_LANG"):
        templates.fill("mt", 0, SOURCE_TEXT="a", TARGET_TEXT="b", TARGET_LANG="c")


def test_options_as_the_papers_write_them():
    assert templates.options(["negative", "positive"]) == "negative or positive"
    assert templates.options(["negative", "neutral", "positive"]) == "negative, neutral, or positive"


def test_classification_prompts():
    first, second, third = templates.classification_prompts("Enak!", "sentiment", ["negative", "neutral", "positive"])
    assert first == ("Enak!\nWhat would be the sentiment of the text above? negative, neutral, or positive? ")
    assert second.startswith("What is the sentiment of this text?\nText: Enak!\n")
    assert third.endswith("Answer with negative, neutral, or positive: ")
