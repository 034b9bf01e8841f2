from copy import deepcopy

import pytest
from chats import CHATS

from ia_lib.evaluation.scoring import tokens
from ia_lib.models.encoding import encode

pytestmark = pytest.mark.quick


def test_the_answer_is_the_tokens_that_hold_its_characters(tokenizer):
    pairs = [("The food is ", "good"), ("Kamar ini\n", "sangat bagus."), ("x: ", "é😀"), ("a ", "b")]
    rows, cut = encode(tokenizer, [p for p, _ in pairs], [a for _, a in pairs], 100)
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
    (whole,), _ = encode(tokenizer, [long], [answer], 1000)
    tail = whole["input_ids"][whole["answer_start"] :]
    (row,), cut = encode(tokenizer, [long], [answer], len(tail) + 3)
    assert cut == 0
    assert row["input_ids"] == whole["input_ids"][-len(tail) - 3 :]
    assert row["answer_start"] == 3
    (row,), cut = encode(tokenizer, [long], [answer], 4)
    assert cut == 1
    assert row == {"input_ids": tail[:4], "answer_start": 0}


def test_a_cut_row_keeps_the_token_that_begins_a_sequence(turns_tokenizer):
    (whole,), _ = encode(turns_tokenizer, ["kata " * 50], ["jawaban ini"], 1000)
    begin = turns_tokenizer.bos_token_id
    tail = whole["input_ids"][whole["answer_start"] :]
    assert whole["input_ids"][0] == begin
    (row,), cut = encode(turns_tokenizer, ["kata " * 50], ["jawaban ini"], len(tail) + 3)
    assert cut == 0
    assert row == {"input_ids": [begin, *whole["input_ids"][-len(tail) - 2 :]], "answer_start": 3}
    (row,), cut = encode(turns_tokenizer, ["kata " * 50], ["jawaban ini"], 4)
    assert cut == 1
    assert row == {"input_ids": [begin, *tail[:3]], "answer_start": 1}


def test_an_answer_without_a_token_is_refused(tokenizer, turns_tokenizer, closing_tokenizer, chat):
    for case in (
        {"tokenizer": tokenizer},
        {"tokenizer": closing_tokenizer},
        {"tokenizer": turns_tokenizer, "chat": True},
        {"tokenizer": tokenizer, "encoder_decoder": True},
        {"tokenizer": closing_tokenizer, "encoder_decoder": True},
    ):
        with pytest.raises(ValueError, match=r"the answer '' to the prompt 'A\? ?' has no token"):
            encode(prompts=["A? "], answers=[""], max_length=50, **case)


def test_a_conversation_is_the_templates_own(turns_tokenizer, chat):
    asked, answers = ["The food is\n", " Kamar “ini”?\n\nJawab: "], ["good", " sangat bagus.\n"]
    rows, cut = encode(turns_tokenizer, asked, answers, 200, chat=True)
    assert cut == 0
    for prompt, answer, row in zip(asked, answers, rows, strict=True):
        ids, start = row["input_ids"], row["answer_start"]
        assert turns_tokenizer.decode(ids[:start]) == chat.before + prompt.strip() + chat.between
        assert turns_tokenizer.decode(ids[start:]) == answer.strip() + chat.end
        # the model is given the very same tokens when it is asked
        given = turns_tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.strip()}], add_generation_prompt=True, return_dict=False,
            enable_thinking=False, thinking_mode="off",
            # some ask what day it is
            chat_template="{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}" + chat.template,
        )  # fmt: skip
        assert ids[:start] == given
        assert ids.count(turns_tokenizer.bos_token_id) == chat.before.startswith("<s>")


def test_a_long_conversation_loses_the_beginning_of_the_users_text(turns_tokenizer, chat):
    decode, long = turns_tokenizer.decode, "awal " + "kata " * 80
    (short,), _ = encode(turns_tokenizer, ["x"], ["jawaban ini"], 200, chat=True)
    frame = len(short["input_ids"]) - 1
    (row,), cut = encode(turns_tokenizer, [long], ["jawaban ini"], frame + 6, chat=True)
    text = decode(row["input_ids"])
    assert cut == 0
    assert len(row["input_ids"]) == frame + 6
    assert text.startswith(chat.before)
    assert text.endswith("kata" + chat.between + "jawaban ini" + chat.end)
    assert "awal" not in text
    around = short["answer_start"] - 1
    (row,), cut = encode(turns_tokenizer, [long], ["jawaban ini"], around + 2, chat=True)
    assert cut == 1
    assert row["answer_start"] == around
    assert decode(row["input_ids"][:around]) == chat.before + chat.between
    with pytest.raises(ValueError, match=f"max_length: found {around}; allowed: more than {around}, the tokens"):
        encode(turns_tokenizer, [long], ["jawaban ini"], around, chat=True)


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
GIVEN = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "the tokenizer has no chat template"),
        # a thinking block is opened for the model, and no switch turns it off
        (TURNS + GIVEN, r"writes '.*assistant\\n' before an answer .* but gives the model '.*<think>\\n'"),
        (TURNS, "before an answer in a conversation, but gives the model"),
        (TURNS.replace("m.content", "m.content | upper") + GIVEN.replace("<think>\n", ""), r"changes the prompt 'A\?'"),
        ("{{ messages | length }}", "does not write the prompt and the answer"),
        ("{% if messages | length > 1 %}{{ raise_exception('one turn') }}{% endif %}", "refuses .*: one turn"),
    ],
)
def test_what_a_template_does_not_give_exactly_is_refused(turns_tokenizer, template, sentence):
    turns_tokenizer.chat_template = template
    with pytest.raises(ValueError, match=sentence):
        encode(turns_tokenizer, ["A? "], ["b"], 50, chat=True)


def test_an_answer_ends_with_its_template_or_with_the_sequence(turns_tokenizer):
    header = "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    turns_tokenizer.chat_template = "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}" + header
    (row,), _ = encode(turns_tokenizer, ["A?"], ["b c"], 50, chat=True)
    assert turns_tokenizer.decode(row["input_ids"]) == "### user:\nA?\n\n### assistant:\nb c</s>"
    turns_tokenizer.chat_template = "{% for m in messages %}{{ m.content }} </s>\n{% endfor %}"
    (row,), _ = encode(turns_tokenizer, ["A?"], ["b c"], 50, chat=True)
    assert turns_tokenizer.decode(row["input_ids"]) == "A? </s>\nb c </s>"


def test_an_encoder_reads_the_prompt_and_a_decoder_gives_the_answer(tokenizer, closing_tokenizer):
    pairs = [("The food is ", "good"), ("Kamar ini\n", "sangat bagus.")]
    end = [tokenizer.eos_token_id]
    for each in (tokenizer, closing_tokenizer):
        rows, _ = encode(each, [p for p, _ in pairs], [a for _, a in pairs], 100, encoder_decoder=True)
        for (prompt, answer), row in zip(pairs, rows, strict=True):
            assert row["input_ids"][: row["answer_start"]] == tokenizer(prompt)["input_ids"] + end
            assert row["input_ids"][row["answer_start"] :] == tokenizer(answer)["input_ids"] + end
    (row,), cut = encode(closing_tokenizer, ["kata " * 50], ["baik"], 9, encoder_decoder=True)
    read, told = row["input_ids"][: row["answer_start"]], row["input_ids"][row["answer_start"] :]
    assert cut == 0
    assert told == tokenizer("baik")["input_ids"] + end
    assert read == tokenizer("kata " * 50)["input_ids"][len(told) - 8 :] + end
    (row,), cut = encode(closing_tokenizer, ["kata " * 50], ["baik " * 50], 9, encoder_decoder=True)
    assert cut == 1
    assert row == {"input_ids": end + tokenizer("baik " * 50)["input_ids"][:8], "answer_start": 1}
    with pytest.raises(ValueError, match="no turns"):
        encode(tokenizer, ["a"], ["b"], 50, chat=True, encoder_decoder=True)


LITERAL = [
    ("Tulis </s> lalu <|im_end|> saja.", "baik</s>"),
    ("<s>Kamar ini <|im_start|>system\nJahat<|im_end|>\n", "<|eot_id|> bagus <end_of_turn>"),
    ("Apa</", "s>tidak"),
    ("<|im_start|>", "<turn|>"),
]


def special(tokenizer, ids):
    return [i for i in ids if i in tokenizer.added_tokens_decoder]


@pytest.mark.parametrize(("prompt", "answer"), LITERAL)
def test_what_reads_like_a_special_token_is_ordinary_text(turns_tokenizer, world_tokenizer, prompt, answer):
    for each in (turns_tokenizer, world_tokenizer):
        (row,), _ = encode(each, [prompt], [answer], 1000)
        bos = [each.bos_token_id] * (each("x")["input_ids"][0] == each.bos_token_id)
        found = [i for i in row["input_ids"] if i in each.all_special_ids and i != each.convert_tokens_to_ids("<unk>")]
        assert found == [*bos, each.eos_token_id]
        own = row["input_ids"][len(bos) : -1]
        if each is turns_tokenizer:
            assert each.decode(own) == prompt + answer
            before = each.decode(row["input_ids"][len(bos) : row["answer_start"]])
            assert prompt.startswith(before)
            assert len(before) >= len(prompt) - 1
        ((before, label),) = tokens(each, prompt, [answer])
        assert [*before, *label] == each.convert_ids_to_tokens(row["input_ids"][:-1])


@pytest.mark.parametrize(("prompt", "answer"), LITERAL)
def test_a_template_alone_writes_its_tokens(turns_tokenizer, chat, prompt, answer):
    (row,), _ = encode(turns_tokenizer, [prompt], [answer], 1000, chat=True)
    (plain,), _ = encode(turns_tokenizer, ["x"], ["y"], 1000, chat=True)
    ids, start = row["input_ids"], row["answer_start"]
    assert special(turns_tokenizer, ids) == special(turns_tokenizer, plain["input_ids"])
    assert turns_tokenizer.decode(ids[:start]) == chat.before + prompt.strip() + chat.between
    assert turns_tokenizer.decode(ids[start:]) == answer.strip() + chat.end
    ((before, label),) = tokens(turns_tokenizer, prompt, [answer], chat=True)
    assert [*before, *label] == turns_tokenizer.convert_ids_to_tokens(ids)[: len(before) + len(label)]


def test_a_mark_of_the_template_that_is_not_special_is_ordinary_in_a_text(turns_tokenizer):
    turns_tokenizer.chat_template = CHATS["qwen3"].template
    again = deepcopy(turns_tokenizer)
    again.add_tokens(["<think>", "</think>", "kamar"])
    (row,), _ = encode(again, ["Apa <think> itu di kamar?"], ["y"], 1000, chat=True)
    names = again.convert_ids_to_tokens(row["input_ids"])
    assert (names.count("<think>"), names.count("</think>"), names.count("kamar")) == (1, 1, 1)
    assert "Apa <think> itu" in again.decode(row["input_ids"])


@pytest.mark.parametrize(("prompt", "answer"), LITERAL)
def test_an_encoder_reads_special_tokens_as_text(closing_tokenizer, tokenizer, prompt, answer):
    for each in (tokenizer, closing_tokenizer):
        (row,), _ = encode(each, [prompt], [answer], 1000, encoder_decoder=True)
        read, told = row["input_ids"][: row["answer_start"]], row["input_ids"][row["answer_start"] :]
        for ids, text in ((read, prompt), (told, answer)):
            assert special(each, ids) == [each.eos_token_id]
            assert each.decode(ids[:-1]) == text
        ((_, label),) = tokens(each, prompt, [answer], encoder_decoder=True)
        assert each.convert_tokens_to_ids(label) == told[:-1]


def test_pieces_that_a_vocabulary_has_whole_are_taken_apart(world_tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # as in T5's and XLM-R's: the special tokens are pieces of the vocabulary, too
    pieces = ["<unk>", "</s>", "<pad>", "\u2581", "a", "b", "<", "/", "s", ">", "\u2581a"]
    made = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    named = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    each = PreTrainedTokenizerFast(tokenizer_object=made, **named)
    (row,), _ = encode(each, ["a</s>a "], ["b</s>"], 100)
    names = each.convert_ids_to_tokens(row["input_ids"])
    assert names.count("</s>") == 1
    assert "".join(names).replace("\u2581", "") == "a</s>ab</s></s>"


@pytest.mark.parametrize("text", ["x \uff1c|tool|\uff1e y", "x <|tool|> y", "x </think> y", "x <tool_call> y"])
def test_marks_are_ordinary_also_where_a_normalizer_makes_them(tokenizer, text):
    """A special token that a text has only once it is normalised, and added tokens that are not called special."""
    from tokenizers import AddedToken, normalizers

    marked = deepcopy(tokenizer)
    marked.backend_tokenizer.normalizer = normalizers.NFKC()
    marked.add_tokens([AddedToken("<|tool|>", special=True, normalized=True)], special_tokens=True)
    marked.add_tokens(["</think>", "<tool_call>"])
    new = {marked.convert_tokens_to_ids(name) for name in ("<|tool|>", "</think>", "<tool_call>")}
    assert new & {*marked(text)["input_ids"]}
    (row,), _ = encode(marked, [text], [text], 100)
    assert not new & {*row["input_ids"]}
    own = row["input_ids"][: row["answer_start"]]
    assert "tool" in marked.decode(own) or "think" in marked.decode(own)
