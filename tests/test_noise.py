import collections

import pytest
from scipy import stats

from ia_lib.instructions import noise
from ia_lib.randomness import generator, weighted

pytestmark = pytest.mark.quick
TEXT = 'Nikmati cicilan 0% (hingga 12 bulan), "untuk" tike\' pesawat air asia!'


def test_kinds_are_drawn_with_the_released_shares():
    rng = generator(1)
    counts = collections.Counter(weighted(rng.random(), noise.MIXTURE) for _ in range(20000))
    expected = [20000 * share for _, share in noise.MIXTURE]
    assert sum(share for _, share in noise.MIXTURE) == pytest.approx(1)
    assert stats.chisquare([counts[kinds] for kinds, _ in noise.MIXTURE], expected).pvalue > 0.001


def test_infilling_and_deletion_hit_every_word_with_the_same_probability():
    words = [f"w{i}" for i in range(10)]
    masked, deleted, texts = collections.Counter(), collections.Counter(), collections.Counter()
    for i in range(20000):
        noisy, kinds = noise.add_noise(" ".join(words), generator(2, i), 0.2)
        texts[kinds] += 1
        left = noisy.split()
        if kinds == "infilling":
            masked.update(i for i, word in enumerate(left) if word == "___")
        if kinds == "deletion":
            deleted.update(i for i, word in enumerate(words) if word not in left)
    for counts, kinds in ((masked, "infilling"), (deleted, "deletion")):
        n = texts[kinds] * len(words)
        assert stats.binomtest(sum(counts.values()), n, 0.2).pvalue > 0.001
        assert stats.chisquare([counts[i] for i in range(len(words))]).pvalue > 0.001


def test_permutation_is_uniform():
    orders = collections.Counter()
    for i in range(20000):
        noisy, kinds = noise.add_noise("a b c", generator(3, i))
        if kinds == "permutation":
            orders[noisy] += 1
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 0.001


def test_punctuation_and_spacing_stay():
    for i in range(2000):
        noisy, kinds = noise.add_noise(TEXT, generator(4, i))
        marks = [c for c in noisy.replace("___", "") if c in '%(),"!']
        assert marks == list('%(),""!')
        assert "  " not in noisy
        assert noisy.strip() == noisy
        if "deletion" not in kinds:
            assert noisy.count(" ") == TEXT.count(" ")
        if kinds == "permutation":
            assert sorted(noise._WORD.findall(noisy)) == sorted(noise._WORD.findall(TEXT))


@pytest.mark.parametrize("text", ["ya", "ya.", "ya ya", "สวัสดี", "tike'"])
@pytest.mark.parametrize("probability", [0.2, 1.0])
def test_never_an_empty_text(text, probability):
    for i in range(300):
        noisy, _ = noise.add_noise(text, generator(5, i), probability)
        assert any(c.isalnum() or c == "_" for c in noisy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("น้ำเป็น ๒๕๖๗ x", ["น้ำ", "เ", "ป็", "น", "๒๕๖๗", "x"]),
        ("ພາສາ", ["ພ", "າ", "ສ", "າ"]),
        ("ខ្ញុំខ្មែរ។", ["ខ្ញុំ", "ខ្មែ", "រ"]),
        ("မြန်မာကမ္ဘာ", ["မြ", "န်", "မာ", "က", "မ္ဘာ"]),
        ("我用iPhone买3个，好々", ["我", "用", "iPhone", "买", "3", "个", "好", "々"]),
        ("データがか\u3099", ["デ", "ー", "タ", "が", "か\u3099"]),
        ("ꦧꦱꦗꦮ", ["ꦧ", "ꦱ", "ꦗ", "ꦮ"]),
        ("한국어 Привет tiké’ ʼa e\u0301-e", ["한국어", "Привет", "tiké’", "ʼa", "e\u0301-e"]),
    ],
)
def test_scripts_without_blanks_are_split_into_characters(text, words):
    assert list(noise.split(text)[0]) == words
    assert noise._joined(*noise.split(text)) == text
    assert noise._WORD.findall(text) == words


@pytest.mark.parametrize("kinds", ["infilling", "deletion", "permutation"])
def test_noise_changes_text_without_blanks(kinds):
    text = "ฉันกินข้าวแล้วไปตลาด"
    noisy = [noise.add_noise(text, generator(8, i), kinds=kinds)[0] for i in range(200)]
    assert sum(found == text for found in noisy) < 20
    assert all(found not in (text, "___", "") for found in (noise.mask_words(text, generator(i)) for i in range(9)))
    spans = [noise.mask_span(text, generator(i)) for i in range(9)]
    assert all(found.count("___") == 1 and len(found) > 5 for found in spans)


def test_a_text_without_words_comes_back_unchanged():
    assert noise.add_noise("?!", generator(1))[0] == "?!"


def test_the_same_key_gives_the_same_noise_on_every_machine():
    # pinned: these must never change, or old data could not be made again
    assert noise.add_noise(TEXT, generator(7, 0, 1)) == PINNED[0]
    assert noise.add_noise(TEXT, generator(7, 1, 1)) == PINNED[1]


PINNED = [
    ('___ cicilan 0% (hingga ___ bulan), "untuk" ___ pesawat ___ asia!', "infilling"),
    ('Nikmati cicilan 0% (hingga bulan), "untuk" tike\' pesawat asia!', "deletion"),
]
