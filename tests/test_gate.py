"""The language gate: three identifiers, labels and codes, texts in no language, refusals; real texts where they are."""

import json
import os
import random
import struct
import sys
from collections import Counter
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from ia_lib.data import dirt, identification, languages, minilab
from ia_lib.data.yaml_files import Refusal
from ia_lib.evaluation.gate import gate
from ia_lib.recipes.fields import Gate

pytestmark = pytest.mark.quick
STUDY = ["bg", "cs", "zh", "en", "fi", "fr", "de", "ru", "es", "bn", "no"]
TEXTS = {
    "bg": "Ако спите лошо, опитайте да лягате всяка вечер по едно и също време и не пийте кафе следобед.",
    "cs": "Když nemůžete usnout, zkuste chodit spát každý večer ve stejnou dobu a odpoledne nepijte kávu.",
    "zh": "如果你睡不好，请试着每天晚上在同一时间上床，下午不要喝咖啡。",
    "en": "If you sleep badly, try to go to bed at the same time every evening and drink no coffee in the afternoon.",
    "fi": "Jos nukut huonosti, yritä mennä nukkumaan joka ilta samaan aikaan äläkä juo kahvia iltapäivällä.",
    "fr": "Si vous dormez mal, essayez de vous coucher chaque soir à la même heure et ne buvez pas de café le soir.",
    "de": "Wenn Sie schlecht schlafen, gehen Sie jeden Abend zur gleichen Zeit ins Bett und trinken keinen Tee.",
    "ru": "Если вы плохо спите, старайтесь ложиться каждый вечер в одно и то же время и не пейте кофе после обеда.",
    "es": "Si duerme mal, intente acostarse todas las noches a la misma hora y no tome café por la tarde.",
    "bn": "আপনার ঘুম ভালো না হলে প্রতিদিন রাতে একই সময়ে ঘুমাতে যাওয়ার চেষ্টা করুন এবং বিকেলে কফি পান করবেন না।",
    "no": "Hvis du sover dårlig, prøv å legge deg til samme tid hver kveld, og ikke drikk kaffe om ettermiddagen.",
}
NYNORSK = "Dersom du søv dårleg, kan du prøve å leggje deg til same tid kvar kveld, og ikkje drikke kaffi."
TRADITIONAL = "如果你睡不好，請試著每天晚上在同一時間上床，下午不要喝咖啡。"
NOTHING = [
    "",
    "  \n ",
    "42",
    "3.14 - 15 = ?",
    "...!?",
    "🙂👍🏽",
    "\u200b\ufeff",
    "</s>",
    "<|im_end|>\n</s>",
    "২০২৪",
    "\ud800",
]
MODEL = """
__label__nob_Latn: jeg ikke hva natt
__label__nno_Latn: eg ikkje kva natt
__label__dan_Latn: jeg ikke hvad nat
__label__eng_Latn: i not what night
__label__zho_Hans: 我不睡
__label__zho_Hant: 為甚麼 睡
__label__zxx_Zyyy: qwrtz
"""


def model(path: Path, labels: str = MODEL) -> Path:
    """A model of fastText as its version 12 writes them: each word of a label's speaks for it, and one of several
    labels' for each."""
    lists = {name: said.split() for name, said in (line.split(": ") for line in labels.strip().splitlines())}
    # the end of a line, which stands behind each and speaks for none
    words = ["</s>", *dict.fromkeys(word for said in lists.values() for word in said)]
    speaks = np.array([[float(word in said) for said in lists.values()] for word in words], np.float32)
    size = len(lists)
    with open(path, "wb") as file:
        file.write(struct.pack("<2i", 793712314, 12))
        # dim, ws, epoch, minCount, neg, wordNgrams, loss (softmax), model (supervised), bucket, minn, maxn, rate; t
        file.write(struct.pack("<12id", size, 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100, 1e-4))
        file.write(struct.pack("<3i2q", len(words) + size, len(words), size, len(words), -1))
        for kind, names in enumerate((words, lists)):
            for name in names:
                file.write(name.encode() + b"\0" + struct.pack("<qb", 1, kind))
        for matrix in (speaks, 8 * np.eye(size, dtype=np.float32)):
            file.write(struct.pack("<?2q", False, *matrix.shape) + matrix.tobytes())
    return path


def test_answers_of_the_studys_languages():
    some = gate("langid", STUDY)
    assert some.identify([*TEXTS.values()]) == [*TEXTS]
    for text in TEXTS.values():
        assert some.accepts([text] * len(STUDY), STUDY) == [TEXTS[code] == text for code in STUDY]
    assert some.identify([NYNORSK, TRADITIONAL, TEXTS["no"].upper()]) == ["no", "zh", "no"]
    # answers as they come: with marks of the end, over several lines
    assert some.identify([f"{TEXTS['fr']}\n\n1. {TEXTS['fr']}</s>"]) == ["fr"]


def test_codes_are_those_asked_for():
    assert gate("langid", ["spa", "nob", "cmn"]).identify([TEXTS[c] for c in ("es", "no", "zh")]) == [
        "spa",
        "nob",
        "cmn",
    ]
    assert gate("langid", ["ru", "bg", "ru"]).codes == ("ru", "bg")
    # only those asked for compete
    danish = "Hvis du sover dårligt, så prøv at gå i seng på samme tid hver aften, og drik ikke kaffe om eftermiddagen."
    assert gate("langid", STUDY).identify([danish]) == ["no"]
    assert gate("langid", [*STUDY, "da"]).identify([danish, TEXTS["no"]]) == ["da", "no"]
    # and what is far from all of them is in none
    assert gate("langid", ["no", "bn", "zh"]).identify([TEXTS["ru"], TEXTS["en"], TEXTS["fi"]]) == [""] * 3


@pytest.mark.parametrize("by", ["langid", "fasttext", "lexicon"])
def test_texts_without_letters_are_in_no_language(tmp_path, by):
    if by == "fasttext":
        pytest.importorskip("fasttext")
    codes = ["eng", "ind"] if by == "lexicon" else ["eng", "no"]
    some = gate(by, codes, model(tmp_path / "m.bin") if by == "fasttext" else None)
    assert some.identify(NOTHING) == [""] * len(NOTHING)
    for code in codes:
        assert some.accepts(NOTHING, [code] * len(NOTHING)) == [False] * len(NOTHING)
    assert some.identify([]) == some.accepts([], []) == []


def test_words_that_say_nothing():
    some = gate("langid", STUDY)
    # names and shortest answers show no trace of a language
    assert some.identify(["Paris", "Ja", "Si", "https://example.com/a?b=1"]) == [""] * 4
    assert not any(some.accepts(["Paris"] * len(STUDY), STUDY))


def test_half_and_half_is_one_of_both():
    some = gate("langid", STUDY)
    for one, other in (("es", "en"), ("ru", "bg"), ("fr", "zh")):
        text = f"{TEXTS[one]} {TEXTS[other]}"
        assert some.accepts([text, text], [one, other]) in ([True, False], [False, True])
        assert some.identify([text])[0] in (one, other)


def test_labels_of_fasttext_and_scripts(tmp_path):
    pytest.importorskip("fasttext")
    path = model(tmp_path / "m.bin")
    said = ["jeg ikke hva", "eg ikkje\nkva", "I not\twhat?", "我不睡 我不睡", "為甚麼 睡 \ud800", "qwrtz", "hvad nat"]
    expected = ["no", "no", "en", "zh", "zh", "", ""]
    for codes in (["no", "en", "zh"], ["nor", "eng", "cmn"], ["nno", "en", "zho"]):
        wanted = [dict(zip(["no", "en", "zh"], codes, strict=True)).get(code, "") for code in expected]
        # the model reads no capitals
        assert gate("fasttext", codes, path).identify([text.lower().rstrip("?") for text in said]) == wanted
    assert gate("fasttext", ["no", "da", "en"], str(path)).identify([said[0], said[6]]) == ["no", "da"]
    # what a model knows nothing of
    assert gate("fasttext", ["no", "en"], path).identify(["ukjent"]) == [""]
    for label, code in (("__label__no", "no"), ("__label__zh", "zho"), ("__label__cmn_Hani", "zh"), ("zh-Hant", "cmn")):
        some = gate("fasttext", [code, "en"], model(tmp_path / "n.bin", f"{label}: a\n__label__en: b"))
        assert some.identify(["a", "b", "b b a"]) == [code, "en", "en"]


def test_a_real_model_of_fasttext(real_data):
    pytest.importorskip("fasttext")
    if not (file := os.environ.get("IA_FASTTEXT")):
        pytest.skip("no model of fastText is named (set IA_FASTTEXT)")
    some = gate("fasttext", STUDY, file)
    assert some.identify([*TEXTS.values()]) == [*TEXTS]
    assert some.identify([TRADITIONAL]) == ["zh"]
    if (path := real_data / "alpaca" / "lid" / "fr.txt").is_file():
        found = Counter(some.identify(path.read_text(encoding="utf-8").splitlines()))
        assert found["fr"] > 0.9 * found.total()


@pytest.mark.parametrize("code", ["bg", "bn", "en", "es", "fr", "no", "ru", "zh"])
def test_real_prompts(real_data, code):
    path = real_data / "alpaca-multilingual" / f"test_{code}.jsonl"
    if not path.is_file():
        pytest.skip(f"there is no {path.name} in {real_data} (set IA_DATA)")
    prompts = [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert sum(gate("langid", STUDY).accepts(prompts, [code] * len(prompts))) >= len(prompts) - 1


@cache
def lab(count: int = 60) -> dict[str, list[str]]:
    """Sentences, passages and questions of the mini lab in all its languages; English has sentences alone."""
    said = list(islice(minilab.sentences(5), count))
    found = {"eng": [one["eng"] for one in said], "ind": [one["ind"] for one in said]}
    for passage in islice(minilab.passages(5), count):
        found["ind"] += [*passage["context"], *(ask for ask, _ in passage["questions"])]
    return found | {c: [minilab.translate(text, c) for text in found["ind"]] for c in languages.NUSAX[2:]}


def test_the_mini_labs_own_texts_always_pass():
    texts, some = lab(), gate("lexicon", languages.NUSAX)
    for code, own in texts.items():
        assert all(some.accepts(own, [code] * len(own))), code
        # another language's pass only where nothing tells them apart, which is seldom
        for other in languages.NUSAX:
            same = sum(some.accepts(own, [other] * len(own)))
            assert other == code or same < (0.05 if "eng" in (code, other) else 0.5) * len(own), (code, other)
    # one language found, or none: never another
    for code, own in texts.items():
        assert set(some.identify(own)) <= {code, ""}


def test_the_mini_labs_rule_counts_words():
    texts, some = lab(), gate("lexicon", ["sun", "jav", "eng"])
    # a text that is the same in two languages is in both, and none is found
    same = next(text for text, other in zip(texts["ind"], texts["bbc"], strict=True) if text == other)
    both = gate("lexicon", ["ind", "bbc"])
    assert both.accepts([same, same], ["ind", "bbc"]) == [True, True]
    assert both.identify([same]) == [""]
    # Indonesian is told from Sundanese though nobody asks for it
    assert some.accepts(texts["ind"], ["sun"] * len(texts["ind"])).count(True) < 0.2 * len(texts["ind"])
    for code in ("sun", "jav", "eng"):
        words = [text.split() for text in texts[code]]
        # some strange words more, as a model makes them, but no more than there are words
        noisy = [" ".join([*said, *["xq"] * len(said)]) for said in words]
        assert some.accepts(noisy, [code] * len(words)) == [True] * len(words)
        assert not any(some.accepts([f"{text} xq" for text in noisy], [code] * len(words)))
        # marks of the end are no words, as often as they stand there
        assert some.accepts([f"{texts[code][0]} {'</s> <|im_end|> ' * 50}"], [code]) == [True]
        # the order says nothing, nor do capitals and signs
        random.Random(1).shuffle(words[0])
        assert some.accepts([" ... ".join(words[0]).upper() + "!"], [code]) == [True]
    assert some.identify(["Der Hund schläft.", TEXTS["ru"]]) == ["", ""]


def test_refusals(tmp_path):
    with pytest.raises(Refusal, match=r"found 'mad'.*py3langid knows|found 'mad'.*identifier knows.*fastText.*lexicon"):
        gate("langid", ["en", "mad"])
    with pytest.raises(Refusal, match="found 'nno'; allowed: only one of nob and nno"):
        gate("langid", ["nob", "en", "nno"])
    with pytest.raises(Refusal, match="two or more"):
        gate("langid", ["en", "en"])
    with pytest.raises(Refusal, match="found 'no'; allowed: the mini lab's"):
        gate("lexicon", ["eng", "no"])
    with pytest.raises(Refusal, match="langid, fasttext, lexicon"):
        gate("cld3", ["en", "no"])
    with pytest.raises(Refusal, match="found 'de'; allowed: en, no"):
        gate("langid", ["en", "no"]).accepts(["a"], ["de"])
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        gate("langid", ["en", "no"]).accepts(["a", "b"], ["en"])
    with pytest.raises(Refusal, match="found nothing; allowed: the path of a fastText model"):
        gate("fasttext", ["en", "no"])


def test_files_that_are_no_model(tmp_path):
    pytest.importorskip("fasttext")
    whole = model(tmp_path / "m.bin").read_bytes()
    path = tmp_path / "n.bin"
    for spoilt in (b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", None):
        path.unlink(missing_ok=True)
        if spoilt is not None:
            path.write_bytes(spoilt)
        with pytest.raises(Refusal, match=r"n\.bin', which cannot be read.*allowed: a model of fastText"):
            gate("fasttext", ["en", "no"], path)
    # one that was cut anywhere, which fastText itself reads for ever, or as if it were whole
    for length in range(4, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(Refusal, match=rf"ends too soon, after {length:,} bytes"):
            gate("fasttext", ["en", "no"], path)
    with pytest.raises(Refusal, match=r"found 'fr'; .*knows \(dan, eng, nno, nob, zho\), or those of another model"):
        gate("fasttext", ["en", "fr"], tmp_path / "m.bin")


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(ImportError, match="pip install fasttext-predict"):
        gate("fasttext", ["en", "no"], tmp_path / "m.bin")


def test_the_field():
    assert Gate().by == "langid"
    assert Gate(by="fasttext", file="lid.bin").file == "lid.bin"
    for wrong in ({"by": "fasttext"}, {"file": "lid.bin"}, {"by": "lexicon", "file": "lid.bin"}, {"by": "cld3"}):
        with pytest.raises(ValueError, match=r"fastText model|nothing, where by is|langid"):
            Gate(**wrong)


def test_codes_of_one_language():
    assert identification.same("no") == identification.same("nob") == {"no", "nor", "nb", "nob", "nn", "nno"}
    assert identification.same("zho") == {"zh", "zho", "cmn", "chi"}
    assert identification.same("id") == {"id", "ind"}
    assert {"ms", "zsm"} < identification.alike("ind")
    assert identification.same("bew") == identification.alike("bew") == {"bew"}
    # Malay under every code of its own is no other language
    malay = ["Jika anda tidak boleh tidur, cuba masuk tidur pada masa yang sama setiap malam."] * 20
    assert {dirt.other_language(code, malay) for code in ("ms", "zsm", "msa", "ind")} == {None}
    # Sundanese, which py3langid does not know, is taken for nothing else
    assert dirt.other_language("sun", ["Kamar téh beresih pisan, palayanna ogé soméah ka sadayana."] * 20) is None
