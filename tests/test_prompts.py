import pytest

from ia_lib import prompts

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


@pytest.mark.parametrize("kind", list(prompts.ANSWER_SLOTS))
def test_every_template_is_filled_verbatim(kind):
    assert len(prompts.templates(kind)) == {"classification": 3, "word": 1, "span": 1}.get(kind, 6)
    for number, template in enumerate(prompts.templates(kind)):
        assert template.endswith(f"[{prompts.ANSWER_SLOTS[kind]}]")
        prompt, answer = prompts.fill(kind, number, **SLOTS)
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
    prompt, _ = prompts.fill("mt", 0, "ia1", **SLOTS)
    assert prompt == 'What is the Javanese translation of the following English sentence: "source", '
    assert prompts.templates("tlm", "ia1") == prompts.templates("tlm")


def test_a_prompt_file_of_ones_own(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text('mt: ["[SOURCE_LANG]: [SOURCE_TEXT]\\n[TARGET_LANG]: [TARGET_TEXT]"]')
    assert prompts.fill("mt", 0, str(path), **SLOTS) == ("English: source\nJavanese: ", "target")
    assert len(prompts.templates("tlm", str(path))) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mt: ["[SOURCE] [TARGET_TEXT]"]', r"mt, template 0: found the slot \[SOURCE\]"),
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
    with pytest.raises(prompts.PromptError, match=message):
        prompts.templates("mt", str(path))


def test_indonesian_prompts_have_a_word_for_every_label():
    every = ["negative", "neutral", "positive", "angry", "disgusted", "fear", "happy", "sad", "shame", "surprise"]
    every += ["business", "culture & heritage", "food & beverages", "leisures", "religion", "slice of life"]
    every += ["sports", "technology"]
    words = prompts.label_words(every, "indonesian")
    assert len(set(words)) == len(every)
    assert not set(words) & set(every)
    asked = prompts.classification_prompts("Enak!", "sentiment", ["negative", "neutral", "positive"], "indonesian")
    assert len(asked) == 3
    assert asked[1] == "Apa sentimen dari teks ini?\nTeks: Enak!\nJawab dengan negatif, netral, atau positif: "
    assert prompts.label_words(every) == every


def test_a_missing_slot_is_an_error():
    with pytest.raises(KeyError, match="SOURCE_LANG"):
        prompts.fill("mt", 0, SOURCE_TEXT="a", TARGET_TEXT="b", TARGET_LANG="c")


def test_options_as_the_papers_write_them():
    assert prompts.options(["negative", "positive"]) == "negative or positive"
    assert prompts.options(["negative", "neutral", "positive"]) == "negative, neutral, or positive"


def test_classification_prompts():
    first, second, third = prompts.classification_prompts("Enak!", "sentiment", ["negative", "neutral", "positive"])
    assert first == ("Enak!\nWhat would be the sentiment of the text above? negative, neutral, or positive? ")
    assert second.startswith("What is the sentiment of this text?\nText: Enak!\n")
    assert third.endswith("Answer with negative, neutral, or positive: ")


def test_the_answer_is_the_tokens_that_hold_its_characters(tokenizer):
    pairs = [("The food is ", "good"), ("Kamar ini\n", "sangat bagus."), ("x: ", "é😀"), ("a ", "b")]
    rows, cut = prompts.encode(tokenizer, [p for p, _ in pairs], [a for _, a in pairs], 100)
    assert cut == 0
    for (prompt, answer), row in zip(pairs, rows, strict=True):
        assert row["input_ids"][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(row["input_ids"][:-1]) == prompt + answer
        before = tokenizer.decode(row["input_ids"][: row["answer_start"]])
        # a token that spans the join is the answer's
        assert prompt.startswith(before)
        assert len(before) >= len(prompt) - 1
        assert row["answer_start"] > 0


def test_a_long_row_loses_its_prompts_beginning_and_never_its_answer(tokenizer):
    long, answer = "kata " * 50, "jawaban ini"
    (whole,), _ = prompts.encode(tokenizer, [long], [answer], 1000)
    tail = whole["input_ids"][whole["answer_start"] :]
    (row,), cut = prompts.encode(tokenizer, [long], [answer], len(tail) + 3)
    assert cut == 0
    assert row["input_ids"] == whole["input_ids"][-len(tail) - 3 :]
    assert row["answer_start"] == 3
    (row,), cut = prompts.encode(tokenizer, [long], [answer], 4)
    assert cut == 1
    assert row == {"input_ids": tail[:4], "answer_start": 0}
