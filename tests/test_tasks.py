"""Tasks from their files: what they read, the published ones' labels and sizes, and what is refused in one's own."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from ia_lib.data import downloads, languages
from ia_lib.data.downloads import finder
from ia_lib.data.files import CorpusError
from ia_lib.evaluation import tasks
from ia_lib.evaluation.tasks import TaskError
from ia_lib.instructions import templates
from ia_lib.paths import params

pytestmark = pytest.mark.quick
STATISTICS = params() / "published/instructalign_dataset_statistics.csv"
OWN = """kind: choose
question: rasa
labels: [buruk, baik]
data:
  file: rasa-{code}-{split}.csv
  columns: {id: nr, text: kalimat, label: nilai}
  labels: {"0": buruk, "1": baik}
  languages: [mad, xyz]
"""
DOCS = (Path(__file__).parents[1] / "docs/tasks.md").read_text(encoding="utf-8")


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def below(folder):
    """The mini lab's files, or a user's, as `find` has them."""
    return lambda _, file: folder / file


@pytest.mark.parametrize(
    "module", ["ia_lib.data.corpora", "ia_lib.data.pools", "ia_lib.evaluation.tasks", "ia_lib.instructions.templates"]
)
def test_what_settings_need_is_imported_without_what_computes(module):
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "pandas",
        "pyarrow",
        "requests",
        "huggingface_hub",
        "sklearn",
        "scipy",
    ]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_labelled_text(tmp_path):
    write(tmp_path, "sentiment/english/test.csv", "id,text,label\n7,null,neutral\n8,NaN,positive\n")
    found = tasks.load("minilab/sentiment").read(below(tmp_path), ["eng"], "test")
    # texts that pandas would take for missing values are texts
    assert found["text"][:] == ["null", "NaN"]
    assert found["example"][:] == ["7", "8"]
    assert found["task"][:] == ["minilab/sentiment"] * 2
    assert tuple(found.column_names) == tasks.COLUMNS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,text\n1,a\n", "no column 'label'; found: id, text"),
        ("id,text,label\n1,a,neutral\n1,b,neutral\n", r"line 3: the id '1' was used before, in line 2"),
        ("id,text,label\n1,a,good\n", r"line 2: found the label 'good'; allowed: negative, neutral, positive"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, message):
    write(tmp_path, "sentiment/english/test.csv", text)
    with pytest.raises(CorpusError, match=message):
        tasks.load("minilab/sentiment").read(below(tmp_path), ["eng"], "test")


def test_labels_in_the_documented_order():
    assert tasks.load("nusax/sentiment").labels == ["negative", "neutral", "positive"]
    for name in ("nusatranslation/sentiment", "indolem/sentiment"):
        assert tasks.load(name).labels == ["negative", "positive"]
    emotion, topic = (tasks.load(f"nusaparagraph/{name}") for name in ("emotion", "topic"))
    assert emotion.labels == ["angry", "disgusted", "fear", "happy", "sad", "shame", "surprise"]
    assert len(topic.labels) == 8
    assert topic.labels == sorted(topic.labels)


def test_the_kits_tasks():
    assert tasks.known() == [
        "alpaca/open",
        "held_out",
        "held_out_past",
        "indicqa/english",
        "indicqa/target",
        "indolem/sentiment",
        "minilab/open",
        "minilab/passages",
        "minilab/sentiment",
        "mlqa/english",
        "mlqa/target",
        "nusaparagraph/emotion",
        "nusaparagraph/topic",
        "nusatranslation/sentiment",
        "nusax/sentiment",
        "xquad/english",
        "xquad/target",
    ]
    for name in tasks.known():
        task = tasks.load(name)
        assert f"{task.dataset}/{task.task}".removeprefix("/") == task.name == name
        assert task.files()[0] == (params() / f"tasks/{name}.yaml").resolve()
        if task.kind == "choose":
            assert set(task.data.languages) <= set(languages.NAMES)
            assert task.asked(["english"]) == ["english"]
            codes = [code for code in task.data.languages if code not in task.data.elsewhere]
            for source, file in task.places(codes, "train"):
                assert source == "minilab" or downloads.location(source, file)
    assert tasks.load("held_out").places(["ind", "sun"], "test") == []
    with pytest.raises(
        TaskError,
        match=r"found the task 'nusax/topic'; did you mean 'nusaparagraph/topic'. allowed: .* and 14 others, or",
    ):
        tasks.load("nusax/topic")


def test_what_a_task_does_not_have_is_refused():
    task = tasks.load("nusatranslation/sentiment")
    assert task.has(["ace", "mad", "ind"]) == ["mad", "ind"]
    with pytest.raises(CorpusError, match=r"nusatranslation/sentiment has no language 'ace'; it has: ind, jav"):
        task.places(["ace"], "test")
    with pytest.raises(CorpusError, match=r"has no split 'dev'; it has: train, valid, test"):
        task.places(["mad"], "dev")


def test_indonesian_of_nusatranslation_is_indolem(tmp_path):
    write(tmp_path, "indolem/dev0.csv", 'sentence,sentiment\n"Bagus, ya",1\nKotor,0\n')
    write(tmp_path, "nusawrites/nusa_kalimat-senti-mad-valid.csv", "id,text,label\nindolem-train-9,Begus,positive\n")
    task, asked = tasks.load("nusatranslation/sentiment"), []
    found = task.read(lambda *place: asked.append(place) or tmp_path / "/".join(place), ["ind", "mad"], "valid")
    assert found.to_dict() == {
        "task": ["nusatranslation/sentiment"] * 3,
        "language": ["ind", "ind", "mad"],
        "example": ["indolem-validation-1", "indolem-validation-2", "indolem-train-9"],
        "text": ["Bagus, ya", "Kotor", "Begus"],
        "label": ["positive", "negative", "positive"],
    }
    places = [("indolem", "dev0.csv"), ("nusawrites", "nusa_kalimat-senti-mad-valid.csv")]
    assert asked == task.places(["ind", "mad"], "valid") == places
    assert [path.name for path in task.files()] == ["sentiment.yaml", "sentiment.yaml", "instructalign.yaml"]
    write(tmp_path, "indolem/dev0.csv", "sentence,sentiment\nBagus,2\n")
    with pytest.raises(CorpusError, match=r"dev0.csv, line 2: found the label '2'; allowed: 0, 1"):
        tasks.load("indolem/sentiment").read(finder(tmp_path), ["ind"], "valid")


def test_what_is_not_in_the_data_folder_is_fetched(tmp_path):
    write(tmp_path, "mirror/nusax/sentiment/english/test.csv", "id,text,label\n7,theirs,neutral\n")
    write(tmp_path, "data/nusax/sentiment/indonesian/test.csv", "id,text,label\n7,mine,neutral\n")
    where, task = {"cache": tmp_path / "cache"}, tasks.load("nusax/sentiment")
    for folder in (tmp_path / "data", str(tmp_path / "data")):
        found = task.read(finder(folder, mirror=tmp_path / "mirror", **where), ["eng", "ind"], "test")
        assert found["text"][:] == ["theirs", "mine"]
    assert task.read(finder(offline=True, **where), ["eng"], "test")
    with pytest.raises(downloads.SourceError, match="offline"):
        task.read(finder(offline=True, **where), ["ind"], "test")


def test_the_tests_of_a_row(tmp_path):
    path = write(tmp_path, "own.csv", "nr,kalimat,nilai\n5,Begus,baik\n6,nan,no\n")
    columns = {"task": "nilai", "text": "kalimat", "label": "nilai"}
    task = tasks.own(str(path), "mad", ["no", "baik"], **columns, id="nr")
    assert task.places(["mad"], "test") == [("file", str(path))]
    assert (task.splits, task.question, task.dataset, task.has(["ind", "mad"])) == (["test"], "nilai", "", ["mad"])
    assert task.read(below(tmp_path), ["mad"], "test").to_dict() == {
        "task": ["nilai", "nilai"],
        "language": ["mad", "mad"],
        "example": ["5", "6"],
        "text": ["Begus", "nan"],
        "label": ["baik", "no"],
    }
    with pytest.raises(CorpusError, match=r"own.csv, line 2: found the label 'baik'; allowed: no, yes"):
        tasks.own(str(path), "mad", ["no", "yes"], **columns).read(below(tmp_path), ["mad"], "test")


def test_a_task_of_ones_own(tmp_path):
    path = write(tmp_path, "tests/rasa.yaml", OWN)
    beside = write(tmp_path, "tests/rasa-mad-test.csv", "nr,kalimat,nilai\n5,Begus,1\n6,Juba',0\n")
    task = tasks.load("tests/rasa.yaml", tmp_path)
    assert task == tasks.load(str(path))
    assert (task.name, task.question, task.splits) == ("rasa", "rasa", ["train", "valid", "test"])
    # its files are beside it, or `find` knows where
    assert task.places(["mad", "xyz"], "test") == [("file", str(beside)), ("file", "rasa-xyz-test.csv")]
    assert task.read(below(tmp_path), ["mad"], "test").to_dict() == {
        "task": ["rasa"] * 2,
        "language": ["mad"] * 2,
        "example": ["5", "6"],
        "text": ["Begus", "Juba'"],
        "label": ["baik", "buruk"],
    }
    # a file that has changed is read again
    path.write_text("name: Madura/rasa\n" + OWN.replace("baik]", "baik, biasa]"))
    task = tasks.load(str(path))
    assert (task.dataset, task.task, task.labels) == ("Madura", "rasa", ["buruk", "baik", "biasa"])


def test_prompts_of_a_tasks_own(tmp_path):
    wording = write(tmp_path, "madura.yaml", 'classification: ["[INPUT] [OPTIONS]? [LABELS_CHOICE]"]\nor: otaba')
    task = tasks.load(str(write(tmp_path, "named.yaml", f"{OWN}prompts: [madura.yaml, indonesian]\n")))
    assert task.asked(["english"]) == [str(wording), "indonesian"]
    assert [path.name for path in task.files()] == [
        "named.yaml",
        "instructalign.yaml",
        "madura.yaml",
        "indonesian.yaml",
    ]
    inline = 'prompts: {classification: ["[INPUT] [OPTIONS]? [LABELS_CHOICE]"], labels: {baik: bagus}, or: atau}\n'
    task = tasks.load(str(write(tmp_path, "inline.yaml", OWN + inline)))
    (own,) = task.asked(["english"])
    assert templates.classification_prompts("Ya", task.question, task.labels, own) == ["Ya buruk atau bagus? "]
    assert templates.label_words(task.labels, own) == ["buruk", "bagus"]


def test_parallel_text_to_translate(tmp_path):
    write(tmp_path, "dev.tsv", "nr\tIndonesia\tMadura\na1\tsatu\tsettong\n")
    fields = "kind: translate\ndata: {file: dev.tsv, columns: {ind: Indonesia, mad: Madura}, id: nr}\n"
    task = tasks.load(str(write(tmp_path, "own.yaml", fields)))
    assert task.has(["mad", "sun", "ind"]) == ["mad", "ind"]
    assert task.places(["ind", "mad"], "test") == [("file", str(tmp_path / "dev.tsv"))]
    assert task.read(below(tmp_path), ["mad", "ind"], "test").to_dict() == {
        "sentence_id": ["a1"],
        "mad": ["settong"],
        "ind": ["satu"],
    }
    with pytest.raises(CorpusError, match="own has no language 'sun'; it has: ind, mad"):
        task.read(below(tmp_path), ["sun"], "test")
    task = tasks.load(str(write(tmp_path, "nusax.yaml", "kind: translate\ndata: {corpus: nusax}\n")))
    write(tmp_path, "nusax/mt/valid.csv", "indonesian,sundanese\nsatu,hiji\n")
    assert task.places(["ind", "sun"], "valid") == [("nusax", "mt/valid.csv")]
    assert task.read(finder(tmp_path), ["ind", "sun"], "valid")["sun"][:] == ["hiji"]
    task = tasks.load(str(write(tmp_path, "flores.yaml", "kind: translate\ndata: {corpus: flores, split: devtest}\n")))
    assert task.has(["no", "qqq"]) == ["no", "qqq"]
    with pytest.raises(TaskError, match="held-out sentences"):
        tasks.load("held_out").read(finder(tmp_path), ["ind"], "test")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: choose", "kind: pick", "line 1, field 'kind': found 'pick'; allowed: choose, translate"),
        ("kind: choose", "kind: [choose]", "line 1, field 'kind': found ['choose']; allowed: choose, translate"),
        ("kind: choose\n", "", "line 1, field 'kind': found nothing; allowed: choose, translate"),
        ("question: rasa", "question: 5", "line 2, field 'question': found 5; allowed: text"),
        ("question: rasa", "question: true", "line 2, field 'question': found true; allowed: text"),
        ("question: rasa", "question: ''", "line 2, field 'question': found ''; allowed: at least 1 character"),
        ("question: rasa\n", "", "line 1, field 'question': found nothing; allowed: a value for it"),
        ("question: rasa", "questoin: rasa", "field 'question': found nothing"),
        ("labels: [buruk, baik]", "labels: [0, 1]", "line 3, field 'labels.0': found 0; allowed: text"),
        ("labels: [buruk, baik]", "labels: [a, false]", "line 3, field 'labels.1': found false; allowed: text"),
        ("labels: [buruk, baik]", "labels: [a, [b]]", "line 3, field 'labels.1': found ['b']; allowed: text"),
        ("labels: [buruk, baik]", "labels: [a, ' ']", "line 3, field 'labels.1': found ' '; allowed: at least 1"),
        ("labels: [buruk, baik]", "labels: [a, b, a]", "line 3, field 'labels.2': found 'a'; allowed: each once"),
        ("labels: [buruk, baik]", "labels: [a]", "line 3, field 'labels': found ['a']; allowed: at least 2 entries"),
        ("labels: [buruk, baik]", "labels: a or b", "line 3, field 'labels': found 'a or b'; allowed: a list"),
        ("labels: [buruk, baik]", "labels: {a: b}", "line 3, field 'labels': found {a: 'b'}; allowed: a list"),
        ("{code}", "{lang}", "field 'data.file': found '{lang}'; allowed: {name}, {code}, {split}"),
        ("{code}", "{name}", "line 8, field 'data.languages.1': found 'xyz'; allowed: one with a name for {name} (en"),
        (
            "rasa-{code}-{split}.csv",
            "{trial: a.csv}",
            "'data.file.trial': found 'trial'; did you mean 'train'? allowed: train, valid",
        ),
        ("rasa-{code}-{split}.csv", "7", "line 5, field 'data.file': found 7; allowed: text"),
        ("nilai}", "nilai, lbel: x}", "'data.columns.lbel': found an unknown field; did you mean 'label'? allowed: te"),
        ("kalimat", "3", "line 6, field 'data.columns.text': found 3; allowed: text"),
        ("{id: nr, text: kalimat, label: nilai}", "nr", "'data.columns': found 'nr'; allowed: some of text, label, id"),
        ('"1": baik', '"1": bagus', "line 7, field 'data.labels.1': found 'bagus'; allowed: one of labels (buruk, ba"),
        ("mad, xyz", "mad, mad", "line 8, field 'data.languages.1': found 'mad'; allowed: each once"),
        ("mad, xyz", "no, 5", "line 8, field 'data.languages.1': found 5; allowed: text"),
        ("data:\n", "data:\n  source: nusa\n", "line 5, field 'data.source': found 'nusa'; allowed: nusax, nusawrites"),
        ("data:\n", "data:\n  ids: '{split}-{row}'\n", "line 5, field 'data.ids': found '{split}-{row}'; allowed: not"),
        ("data:\n", "data:\n  elsewhere: {ind: x}\n", "line 5, field 'data.elsewhere.ind': found 'ind'; allowed: one"),
        ("kind", "metric: f1\nkind", "line 1, field 'metric': found 'f1'; allowed: weighted_f1"),
        ("kind", "baselines: [luck]\nkind", "line 1, field 'baselines.0': found 'luck'; allowed: chance"),
        ("kind", "prompts: 5\nkind", "line 1, field 'prompts': found 5; allowed: a list"),
        ("kind", "prompts: [5]\nkind", "line 1, field 'prompts.0': found 5; allowed: text"),
        ("kind", "prompts: {or: atau}\nkind", "line 1, field 'prompts': found ['or']; allowed: a list of te"),
        (
            "kind",
            "prompts: {classifcation: []}\nkind",
            "'prompts.classifcation': found an unknown field; did you mean 'clas",
        ),
        (
            "kind",
            "prompts: {classification: ['[INPUT] [LABELS_CHOICE]'], labels: {biak: x}}\nkind",
            "'prompts.labels.biak': found 'biak'; did you mean 'baik'? allowed: one of buruk, baik",
        ),
        ("kind", "prompts: {classification: ['[X]']}\nkind", "field 'prompts.classification.0': found '[X]'; allowed"),
        (
            "kind",
            "prompts: [none.yaml]\nkind",
            "none.yaml: there is no such prompt file; allowed: english, indonesian, inst",
        ),
        (
            "kind",
            "prompts: {classification: ['[INPUT] [LABELS_CHOICE]'], labels: {baik: x, buruk: x}}\nkind",
            "line 1, field 'prompts': labels: found 'x' for 'buruk' and for 'baik'; allowed: a word for each",
        ),
        (OWN, "- kind", "line 1: found ['kind']; allowed: a task, which has fields with values"),
        (OWN, "kind: [", "line 1: this is not valid YAML"),
        (
            OWN,
            "kind: translate\ndata: {}",
            "line 2, field 'data': found nothing; allowed: exactly one of held_out, c",
        ),
        (
            OWN,
            "kind: translate\ndata: {corpus: nusa}",
            "line 2, field 'data.corpus': found 'nusa'; did you mean 'nusax'? allowed: minilab",
        ),
        (OWN, "kind: translate\ndata: {file: a.csv}", "line 2, field 'data.columns': found {}; allowed: two languages"),
        (OWN, "kind: translate\ndata: {held_out: yes}", "field 'data.held_out': found 'yes'; allowed: true or false"),
        (OWN, "kind: translate\ndata: {held_out: true, id: x}", "field 'data.id': found 'x'; allowed: nothing, unless"),
        (OWN, "kind: translate\nlabels: [a, b]\ndata: {held_out: true}", "line 2, field 'labels': found an unknown fi"),
    ],
)
def test_a_wrong_task_file_is_refused_by_line_and_field(tmp_path, old, new, message):
    assert old in OWN
    path = write(tmp_path, "own.yaml", OWN.replace(old, new, 1))
    with pytest.raises(TaskError) as refusal:
        tasks.load(str(path))
    said = str(refusal.value)
    assert message in said
    assert said.startswith(str(path))
    assert "\n" not in said


def test_a_language_that_another_task_should_have(tmp_path):
    write(tmp_path, "other.yaml", OWN.replace("baik", "bagus"))
    task = tasks.load(str(write(tmp_path, "own.yaml", f"{OWN}  elsewhere: {{xyz: other.yaml}}\n")))
    with pytest.raises(
        TaskError, match=r"own.yaml, field 'data.elsewhere.xyz': found 'other.yaml'; allowed: a task of"
    ):
        task.places(["xyz"], "test")


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(# .*?\.yaml\n.*?)```", DOCS, re.DOTALL))
def test_the_examples_of_the_documentation_are_tasks(tmp_path, text):
    name = re.match(r"# (\S+)", text)[1]
    assert tasks.load(str(write(tmp_path, name, text))).kind in text


# The release, where it is: the folder of IA_DATA, else ../shared/data.


def test_sizes_and_labels_are_those_of_the_paper(real_data, tmp_path):
    published = pd.read_csv(STATISTICS, dtype=str, keep_default_na=False)
    find = finder(real_data, offline=True, cache=tmp_path)
    checked, absent = dict.fromkeys(published["dataset"], 0), []
    for row in published.to_dict("records"):
        task, code = tasks.load(f"{row['dataset']}/{row['task']}"), row["language"]
        for split in ("train", "valid", "test"):
            try:
                found = task.read(find, [code], split)
            except downloads.SourceError:
                absent.append(f"{task.name} {code} {split}")
                continue
            labels = set(task.labels)
            if (task.task, code) == ("topic", "mui"):
                labels -= {"slice of life"}
            assert set(found["label"]) == labels, f"{task.name} {code} {split}"
            if row[split]:
                assert len(found) == int(row[split]), f"{task.name} {code} {split}"
                checked[row["dataset"]] += 1
    print(f"not in {real_data}: {', '.join(absent)}")
    assert checked["nusax"] == 36
    if not (real_data / "nusawrites").is_dir():
        pytest.skip(f"there is no NusaWrites text in {real_data} (set IA_DATA); NusaX was checked")
    assert checked["nusatranslation"] >= 30
    assert checked["nusaparagraph"] >= 37
