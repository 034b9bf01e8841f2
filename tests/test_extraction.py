"""Answers from passages: files, prompts, generation, and scores against published implementations."""

import json
import warnings

import pytest
import torch
from datasets import Dataset

from ia_lib.data import questions
from ia_lib.data.files import CorpusError, CorpusWarning
from ia_lib.evaluation import extraction, measures, tasks
from ia_lib.evaluation.generation import continued
from ia_lib.models import encoding

pytestmark = pytest.mark.quick
TASK = """
kind: extract
data: {file: "q.{tag}.json", languages: {eng: en, hin: hi}}
prompts: {all: "Text: [CONTEXT]\\n\\nQuestion:[QUESTION]\\n\\nAnswer:"}
max_new_tokens: 12
"""
ANSWERS = [
    "The Denver Broncos",
    "denver broncos!",
    "308",
    "308 अंक",
    "a cat",
    "cat",
    "the",
    "",
    "X।",
    "«X»",
    "ten-ten",
    "Ünder The A.",
]


def asked(context="Ani has 3 cats. Budi has 12 dogs.", name="1", question="Who has dogs?", answers=("Budi",), **more):
    texts = [{"text": text, "answer_start": 0} for text in answers]
    return {"context": context, "qas": [{"id": name, "question": question, "answers": texts, **more}]}


def written(path, *paragraphs):
    path.write_text(json.dumps({"version": "1", "data": [{"title": "t", "paragraphs": list(paragraphs)}]}))
    return path


def test_files_of_squads_layout(tmp_path):
    two = asked(name="2", answers=("Budi", "Budi", "He"))
    none = asked(name="3", answers=(), is_impossible=True)
    empty = asked(name="4", answers=("",))  # as IndicQA says that there is none
    found = questions.read(written(tmp_path / "q.json", asked(), two, none, empty))
    assert found.column_names == list(questions.COLUMNS)
    assert found["answers"][:] == [["Budi"], ["Budi", "He"], [], []]
    for spoilt, said in (
        ([asked(), asked()], "the id '1' is used twice"),
        ([asked(question=" ")], "question '1': the question is empty"),
        ([asked(context=None)], r"data.0.paragraphs.0.context: .*string"),
        ([{"context": "x"}], r"paragraphs.0.qas: Field required"),
        ([], "there is no question in it"),
    ):
        with pytest.raises(CorpusError, match=said):
            questions.read(written(tmp_path / "q.json", *spoilt))
    (tmp_path / "q.json").write_text("{")
    with pytest.raises(CorpusError, match="no JSON object"):
        questions.read(tmp_path / "q.json")


def test_squads_rule_is_that_of_torchmetrics():
    squad = pytest.importorskip("torchmetrics.functional.text").squad
    for said in ANSWERS:
        for true in ([one] for one in ANSWERS):
            prediction = [{"prediction_text": said, "id": "1"}]
            gold = [{"answers": {"answer_start": [0], "text": true}, "id": "1"}]
            expected = squad(prediction, gold)
            exact, f1 = extraction.agreement(said, true, "squad", "eng")
            # what is empty on one side only has no words in common; of two empty ones torchmetrics says the same
            assert 100 * exact == pytest.approx(float(expected["exact_match"])), (said, true)
            assert 100 * f1 == pytest.approx(float(expected["f1"]), abs=1e-4), (said, true)


@pytest.mark.parametrize(
    ("said", "true", "rule", "language", "exact", "f1"),
    [
        ("X।", "X", "squad", "hin", 0, 0),  # the danda stays
        ("X।", "X", "mlqa", "hin", 1, 1),
        ("«Der Hund»", "Hund", "mlqa", "deu", 1, 1),
        ("the X", "X", "mlqa", "hin", 0, 2 / 3),  # no articles in Hindi
        ("the X", "X", "mlqa", "en", 1, 1),
        ("我喜欢", "我爱", "mlqa", "zho", 0, 2 / 5),  # every character is a word
        ("το X.", "X", "corrected", "ell", 0, 2 / 3),
    ],
)
def test_other_rules(said, true, rule, language, exact, f1):
    found = extraction.agreement(said, [true], rule, language)
    assert found == pytest.approx((exact, f1))


def test_rules_of_languages_that_mlqa_does_not_know():
    assert not extraction.has_rule("mlqa", "tha")
    found = extraction.scored(["x"], [["x"]], "ell")
    assert set(found) == {f"{name}, {rule}" for rule in ("corrected", "squad") for name in ("exact match", "F1")}


def test_thai_words_are_compared_one_by_one():
    pytest.importorskip("icu4py")
    exact, f1 = extraction.agreement("ผมกินข้าว", ["ข้าว"], "corrected", "tha")
    assert (exact, f1) == (0, pytest.approx(0.5))
    assert extraction.agreement("ผมกินข้าว", ["ข้าว"], "squad", "tha") == (0, 0)


def test_what_has_no_answer_stands_apart():
    found = extraction.scored(["", "x", "x"], [[], [], ["x"]], "eng")
    assert found["exact match, corrected"] == {0: 1, 1: 0, 2: 1}
    assert found["exact match, answerable"] == {2: 1}
    assert found["exact match, unanswerable"] == {0: 1, 1: 0}


def test_the_best_of_several_true_answers_counts():
    assert extraction.agreement("two dogs", ["dogs", "two dogs here"], "squad", "eng") == (0, pytest.approx(4 / 5))


@pytest.mark.parametrize(
    ("tag", "code", "number", "sentence"),
    [("hi", "hin", 3.45, 13.3), ("th", "tha", 2.94, 9.1), ("el", "ell", 3.03, 14.2)],
)
def test_what_costs_nothing_on_xquad(real_data, tag, code, number, sentence):
    """Reference values were measured independently of the kit."""
    path = real_data / f"commit/xquad/xquad.{tag}.json"
    if not path.is_file():
        pytest.skip(f"there is no XQuAD in {real_data} (set IA_DATA)")
    found = questions.read(path)
    assert len(found) == 1190
    contexts = found["context"][:]
    numbers = list(map(extraction.first_number, contexts))
    nearest = list(map(extraction.nearest_sentence, contexts, found["question"][:]))
    exact, f1 = (
        extraction.scored(some, found["answers"][:], code)[f"{metric}, squad"]
        for metric, some in (("exact match", numbers), ("F1", nearest))
    )
    assert 100 * sum(exact.values()) / 1190 == pytest.approx(number, abs=0.05)
    assert 100 * sum(f1.values()) / 1190 == pytest.approx(sentence, abs=0.05)


def test_answers_are_those_of_one_prompt_at_a_time(any_model, tokenizer):
    texts = [f"Text {i}: " + "kata makanan " * (i % 9) for i in range(20)]
    # some passages with questions, of which there are more than are read together, and one that is asked twice
    passages = ["Hotel ini sangat bagus. " * n for n in (2, 5, 3)]
    texts += [passage + f"Tanya {'kamar ' * (i % 4)}{i}" for passage in passages for i in range(9)]
    texts += [texts[3], texts[3], *(passages[1] + f"Apa {i}" for i in range(20))]
    prompts = encoding.asked(tokenizer, texts)
    ends = [tokenizer.eos_token_id]
    together = continued(any_model, tokenizer, prompts, 12, ends)
    # something that occurs in some answers and not in others
    stop = next((c for c in "".join(together) if 0 < sum(c in said for said in together) < 20), together[0][-1:] or ".")
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        for _ in range(12):
            with torch.no_grad():
                ids = torch.cat([ids, any_model(ids).logits[:, -1:].argmax(-1)], 1)
            if ids[0, -1] in ends or stop in tokenizer.decode(ids[0, len(prompt) :]):
                break
        expected.append(tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True).partition(stop)[0])
    assert continued(any_model, tokenizer, prompts, 12, ends, stop=stop) == expected


@pytest.fixture
def task(tmp_path):
    (tmp_path / "t.yaml").write_text(TASK)
    return tasks.load(str(tmp_path / "t.yaml"))


def test_answers_are_counted_beside_what_costs_nothing(task, model, tokenizer):
    rows = [
        ("1", "Ani has 3 cats. Budi has 12 dogs.", "Who has dogs?", ["Budi"]),
        ("2", "In 1990 it was.", "When?", ["1990"]),
        ("3", "Nothing.", "Who?", []),
    ]
    some = Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(questions.COLUMNS)})
    done = []
    predictions, counts = extraction.extract(model, tokenizer, task, some, "eng", progress=done.append)
    assert sum(done) == 3
    assert predictions["example"].tolist() == ["1", "2", "3"]
    assert predictions["gold"].tolist() == ["Budi", "1990", ""]
    assert not predictions["predicted"].str.contains("\n").any()
    lines = counts.drop_duplicates("metric").set_index("metric")
    assert lines.loc["exact match, squad", "baseline"] == pytest.approx(200 / 3)  # a number, and none
    assert lines.loc["F1, squad", "baseline_is"] == "the first number"
    assert lines.loc["exact match, unanswerable", ["baseline", "baseline_is"]].tolist() == [100, "no answer"]
    found = measures.measures(measures.counted(counts), {"L1": ["eng"]})
    line = found[(found["metric"] == "exact match, corrected") & (found["prompt"] == "all")].iloc[0]
    assert line["examples"] == 3
    assert line["low"] <= line["value"] <= line["high"]


def test_a_context_that_is_too_long_loses_its_end_and_the_question_stays(task, any_model, tokenizer):
    positions = getattr(any_model.config.get_text_config(), "max_position_embeddings", None)
    if not positions:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            extraction._fitting(any_model, tokenizer, task, "eng", ["kata " * 999], ["apa?"], False)
        return
    contexts = ["kata " * positions, "kata makan"]
    with pytest.warns(CorpusWarning, match="1 of 2 prompts are longer than"):
        long, short = extraction._fitting(any_model, tokenizer, task, "eng", contexts, ["apa?", "apa?"], False)
    room = positions - task.max_new_tokens
    assert room - 20 <= len(long) <= room
    assert tokenizer.decode(long).endswith("Question:apa?\n\nAnswer:")
    assert short == encoding.asked(tokenizer, [task.prompt("eng", contexts[1], "apa?")])[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[CONTEXT]", "", r"prompts.all': .*each once"),
        ("{all:", "{jav:", "one of eng, hin"),
        ("{all:", "{eng:", "a template for hin, or one for all"),
        ("q.{tag}.json", "q.json", "a name with"),
        ("max_new_tokens: 12", "max_new_tokens: 0", "max_new_tokens"),
        ("kind: extract", "kind: extracts", "did you mean 'extract'"),
    ],
)
def test_what_is_wrong_in_a_task_is_said(tmp_path, old, new, said):
    assert old in TASK
    (tmp_path / "t.yaml").write_text(TASK.replace(old, new))
    with pytest.raises(tasks.TaskError, match=said):
        tasks.load(str(tmp_path / "t.yaml"))


@pytest.mark.parametrize(
    "name", ["xquad/target", "xquad/english", "mlqa/target", "mlqa/english", "indicqa/target", "indicqa/english"]
)
def test_the_kits_own_tasks(name):
    task = tasks.load(name)
    code = next(iter(task.data.languages))
    between = "" if name.startswith("xquad") else " "
    said = task.prompt(code, "C [QUESTION]", "Q [CONTEXT]")
    assert "\n\nC [QUESTION]\n\n" in said
    assert f":{between}Q [CONTEXT]\n\n" in said


def test_an_answer_ends_with_the_turn(task, chat, chat_model, turns_tokenizer, monkeypatch):
    some = Dataset.from_dict({"id": ["1"], "context": ["x"], "question": ["Who?"], "answers": [["x"]]})
    ends = []
    monkeypatch.setattr(extraction, "continued", lambda *given, **more: ends.extend(given[4]) or ["x"])
    extraction.extract(chat_model, turns_tokenizer, task, some, "eng", chat=True)
    (row,), _ = encoding.encode(turns_tokenizer, ["Who?"], ["x"], 1000, chat=True)
    assert {row["input_ids"][-1], turns_tokenizer.eos_token_id} == set(ends)


@pytest.fixture
def few_positions():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300, "bos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, eos_token_id=1, initializer_range=0.4)).eval()


def one_by_one(model, prompts, count):
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        for _ in range(count):
            with torch.no_grad():
                ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
        found.append(ids[0, len(prompt) :].tolist())
    return found


class Numbers:
    """A tokenizer whose texts are the tokens' numbers."""

    eos_token_id, pad_token_id = 1, 2

    def batch_decode(self, rows, **_):
        return [" ".join(map(str, row)) for row in rows]


def test_prompts_that_nearly_fill_the_model_are_answered_in_full(few_positions):
    shared = list(range(10, 36))
    prompts = [list(range(100, 150)), [*shared, *range(200, 220)], [*shared, *range(220, 242)]]
    said = continued(few_positions, Numbers(), prompts, 12, [299])
    assert [list(map(int, text.split())) for text in said] == one_by_one(few_positions, prompts, 12)


def test_prompts_of_one_token_are_answered_beside_longer_ones(few_positions):
    prompts = [[7], list(range(10, 40)), [9], [8, 7]]
    said = continued(few_positions, Numbers(), prompts, 5, [299])
    assert [list(map(int, text.split())) for text in said] == one_by_one(few_positions, prompts, 5)


def test_what_a_model_brings_along_does_not_change_its_answers(few_positions):
    prompts = [list(range(10, 40)), list(range(50, 90))]
    expected = continued(few_positions, Numbers(), prompts, 8, [299])
    for name, value in (("repetition_penalty", 1.5), ("num_beams", 3), ("do_sample", True)):
        setattr(few_positions.generation_config, name, value)
        own = few_positions.generation_config
        assert continued(few_positions, Numbers(), prompts, 8, [299]) == expected
        assert few_positions.generation_config is own


def test_a_question_longer_than_the_model_reads_loses_its_beginning(task, few_positions, tokenizer, recwarn):
    few_positions.resize_token_embeddings(len(tokenizer))
    some = {"id": ["1"], "context": ["x"], "question": ["why " * 200 + "now?"], "answers": [["x"]]}
    extraction.extract(few_positions, tokenizer, task, Dataset.from_dict(some), "eng")
    assert any("1 of 1 prompts are longer" in str(one.message) for one in recwarn)


def test_half_a_character_in_a_question_is_refused(tmp_path):
    (tmp_path / "q.json").write_text(json.dumps({"data": [{"paragraphs": [asked(question="Q\ud800?")]}]}))
    with pytest.raises(CorpusError, match="half a character"):
        questions.read(tmp_path / "q.json")
