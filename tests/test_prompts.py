import pytest

from ia_lib.instructions import templates

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
        ('mt: ["[SOURCE] [TARGET_TEXT]"]', r"mt, template 0: found the slot \[SOURCE\]"),
        *(
            (
                f'mt: ["[SOURCE_TEXT] {found} [TARGET_TEXT]"]',
                rf"own.yaml, mt, template 0: found the slot \{found[:-1]}\]; al",
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
            r"mt, template 0: found \[SOURCE_LANG\], .* and no \[SOURCE_TEXT\]; al",
        ),
        ('xss: ["[SOURCE_TEXT] [LABEL]"]', r"xss, template 0: found .* and no \[TARGET_TEXT\]; allowed: .*\[LABEL\]"),
        ('tlm: ["[CONTEXT] [LABEL_TEXT]"]', r"tlm, template 0: found .* and no \[INPUT_TEXT\]"),
        ('classification: ["[OPTIONS] [LABELS_CHOICE]"]', r"classification, template 0: found .* and no \[INPUT\]"),
        ('mt: ["[SOURCE_TEXT]: [TARGET_TEXT] now"]', "mt, template 0: found"),
        ('qa: ["[SOURCE_TEXT] [TARGET_TEXT]"]', "found templates of the kind 'qa'"),
        ("mt: none", "mt: found 'none'; allowed: a list of templates"),
        ("- mt", "found no lists of templates"),
        ("mt: [", "cannot be read"),
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
