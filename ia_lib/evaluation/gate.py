"""The language gate of the Alpaca study (its section 2.3): an answer counts only if it is in its question's language.

Three identifiers are known. `langid` is py3langid, which is always at hand. `fasttext` is a model file of fastText,
such as OpenLID (the study's), GlotLID or lid.176. `lexicon` is for the mini lab, whose languages no identifier knows:
the language whose words most of a text's words are. docs/gate.md has how often each of them is right.
"""

import re
import string
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import regex

from ia_lib.data import languages, minilab
from ia_lib.data.dirt import CONTROL
from ia_lib.data.files import HALF
from ia_lib.data.identification import Ranking, fasttext, langid, same
from ia_lib.data.yaml_files import Refusal, listed

By = Literal["langid", "fasttext", "lexicon"]
_LETTER = regex.compile(r"\p{L}")
# What identifiers call a text that is in no language.
_NONE = {"zxx", "und"}
# How likely a language must be among all that an identifier knows. Neighbours such as Norwegian and Danish share the
# likelihood between them; that of a language in other letters is far below (see benchmarks/language_id.py).
_CHANCE = 0.01
_SLOT = re.compile(r"\{\w+\}")


@dataclass(frozen=True)
class Gate:
    """Says of texts whether they are in a language, one of `codes`.

    A text is taken as a whole, without control tokens such as `</s>`: of one that is half in one language and half in
    another one of them is found, and nothing says that there are two. A text without letters (empty, digits, emoji,
    punctuation) is in no language, nor is one that shows no trace of any. Single words are guesses ("Paris" and "Ja"
    show nothing to langid, "Oui" is Finnish to it): of three words, it is right on 94% at least, of one on half.
    """

    codes: tuple[str, ...]
    _found: Callable[[str], Collection[str]]  # the languages that a text with letters can be in

    def identify(self, texts: Sequence[str]) -> list[str]:
        """The code of each text's language; "" where it is in none of them, or in several alike."""
        found = map(self._languages, texts)
        return [next(iter(codes)) if len(codes) == 1 and codes <= {*self.codes} else "" for codes in found]

    def accepts(self, texts: Sequence[str], codes: Sequence[str]) -> list[bool]:
        """Whether each text is in its language of `codes`; a text that is as much in another one is. Raises ValueError
        for a code that is none of the gate's, and for unequal numbers of both."""
        if other := next((code for code in codes if code not in self.codes), None):
            raise Refusal("languages", other, listed(self.codes, other), self.codes)
        return [code in self._languages(text) for text, code in zip(texts, codes, strict=True)]

    def _languages(self, text: str) -> set[str]:
        text = " ".join(HALF.sub(" ", CONTROL.sub(" ", text)).split())
        return set(self._found(text)) if _LETTER.search(text) else set()


# Languages that are taken for one another so often that where one is asked for the other competes.
_NEIGHBOURS = {"bul": "rus", "rus": "bul", "nor": "dan", "dan": "nor", "ind": "jav", "jav": "ind"}


def beside(codes: Sequence[str]) -> list[str]:
    """The near neighbours of languages that are not among them."""
    found = [other for code in codes for known, other in _NEIGHBOURS.items() if code in same(known)]
    return [other for other in dict.fromkeys(found) if not any(code in same(other) for code in codes)]


def gate(by: By, among: Sequence[str], file: Path | str | None = None) -> Gate:
    """The gate for answers in the languages `among`, by any of their codes (`identification`); it answers by these
    codes. Only these compete, so that what is in a near neighbour is taken for one of them, as Danish for Norwegian if
    Danish is not `among` them (see `beside`); a text for which all of them are less than 1% likely, beside all
    languages that the identifier knows, is in none. With `lexicon` all the mini lab's languages compete, since there a
    text in its own language never loses.

    `file`: the model of `fasttext`. Of its labels, as `__label__nob_Latn`, the script does not count, and a language's
    several labels (nob and nno, zho_Hans and zho_Hant) all stand for it.

    Raises Refusal for a language that the identifier does not know or cannot tell from another one of them, and for a
    file that is no model; ImportError where fasttext-predict is missing.
    """
    codes = tuple(dict.fromkeys(among))
    if by == "lexicon":
        return Gate(codes, _by_words(codes))
    if len(codes) < 2:
        raise Refusal("languages", list(codes), "two or more: one alone is told from nothing")
    if by == "langid":
        identifier = langid()
        elsewhere = "or those of a fastText model (by: fasttext, with its file); the mini lab's by: lexicon"
        return Gate(codes, _by_rank(identifier.rank, identifier.labels, codes, elsewhere))
    if by != "fasttext":
        raise Refusal("by", by, "langid, fasttext, lexicon", ("langid", "fasttext", "lexicon"))
    if file is None:
        raise Refusal("file", None, "the path of a fastText model, which `by: fasttext` needs")
    rank = fasttext(Path(file))
    labels = [label for label, _ in rank("")]
    return Gate(codes, _by_rank(rank, labels, codes, "or those of another model (OpenLID has 200, GlotLID 2,000)"))


def _by_rank(
    rank: Callable[[str], Ranking], labels: Collection[str], codes: Sequence[str], elsewhere: str
) -> Callable[[str], Collection[str]]:
    """Of those labels in a ranking (the likeliest first) that stand for a language of `codes`, the first one's, if it
    has a chance at all."""
    stands: dict[str, str] = {}
    for code in codes:
        own = [label for label in labels if _language(label) in same(code)]
        if not own:
            known = sorted({_language(label) for label in labels} - _NONE)
            raise Refusal("languages", code, f"what the identifier knows ({listed(known, code)}), {elsewhere}")
        if other := next((stands[label] for label in own if label in stands), None):
            raise Refusal("languages", code, f"only one of {other} and {code}, which are one language to the gate")
        stands |= dict.fromkeys(own, code)
    nothing = rank("")

    def found(text: str) -> Collection[str]:
        ranking = rank(text)
        # nothing in the text says anything: all are as likely as they are of no text
        if ranking == nothing or _language(ranking[0][0]) in _NONE:
            return []
        best, chance = next((stands[label], chance) for label, chance in ranking if label in stands)
        return [best] if chance >= _CHANCE else []

    return found


def _language(label: str) -> str:
    """`nob` of `__label__nob_Latn`."""
    return re.split("[_-]", label.removeprefix("__label__"))[0].lower()


def _by_words(codes: Sequence[str]) -> Callable[[str], Collection[str]]:
    """The languages of the mini lab that have the most of a text's words, if that is half of them at least. Many words
    are the same in several languages, and count for each: a text all of such words is in all of them."""
    vocabularies = {code: _vocabulary(code) for code in languages.NUSAX}
    if other := next((code for code in codes if code not in vocabularies), None):
        raise Refusal("languages", other, f"the mini lab's ({listed(vocabularies, other)})", list(vocabularies))

    def found(text: str) -> list[str]:
        said = _words(text)
        counts = {code: sum(word in known for word in said) for code, known in vocabularies.items()}
        most = max(counts.values())
        return [code for code, count in counts.items() if count == most and 2 * count >= len(said) > 0]

    return found


@cache
def _vocabulary(code: str) -> frozenset[str]:
    """Every word that the mini lab's sentences, passages, questions and requests have in a language."""
    grammar, passages = minilab.grammar(), minilab.grammar()["passages"]
    requests = [one[part] for one in grammar["open"] for part in ("ask", "answer")]
    templates = [*grammar["sentiment"], *grammar["other"]]
    entries = [entry for slot in grammar["slots"].values() for entry in slot]
    if code == "eng":
        said = [entry[1] for entry in entries] + [template["eng"] for template in templates]
        said += [english for _, english in requests]
    else:
        said = [entry[0] for entry in entries] + [template["ind"] for template in templates]
        said += [indonesian for indonesian, _ in requests]
        said += [word for slot in passages["slots"].values() for word in slot]
        said += [*passages["facts"], *passages["remarks"], *(question["ask"] for question in passages["questions"])]
    parts = [part.strip() for one in said for part in _SLOT.split(one)]
    if code in minilab.lexicon():
        parts = [minilab.translate(part, code) for part in parts]
    return frozenset(word for part in parts for word in _words(part))


def _words(text: str) -> list[str]:
    """The words of a text in small letters, without punctuation at their ends."""
    words = (word.strip(string.punctuation + "“”‘’…–—") for word in text.lower().split())
    return [word for word in words if _LETTER.search(word)]
