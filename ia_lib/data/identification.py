"""Who identifies languages, and what they call them: py3langid, which is always at hand, and models of fastText.

Languages go by ISO 639-1 or 639-3, and by older or narrower codes that mean the same; Norwegian is one language here,
whether it is called no, nb, nn, nob, nno or nor, and Chinese another: zh, zho, cmn or chi, in any script."""

import mmap
import re
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ia_lib.data.yaml_files import Refusal

Ranking = list[tuple[str, float]]  # labels with their likelihoods (0 to 1), the likeliest first
MISSING = "models of fastText are read by the package fasttext-predict: pip install fasttext-predict"
_MAGIC = 793712314  # what such a model begins with

# The codes of each language; those of languages whose texts are easily taken for one another stand between two bars
# (or on a line), with strokes between the languages.
_CODES = """
af afr|am amh|an arg|ar ara arb/arz|as asm|az aze azj|ba bak|be bel|bg bul|bn ben|br bre|ca cat|cs ces cze|cy cym|da dan
de deu ger|dz dzo|el ell gre/grc|en eng|eo epo|es spa/ext|et est ekk|eu eus baq|fa fas pes per|fi fin|fo fao|fr fra fre
fy fry|ga gle|gl glg|gn grn gug|gu guj|ha hau|he heb/hbo|hi hin|hr hrv/bs bos/sr srp|ht hat|hu hun|hy hye arm
id ind/ms msa zsm zlm may|ig ibo|is isl ice|it ita/vec/lij|ja jpn|jv jav|ka kat geo|kk kaz|km khm|kn kan|ko kor
ku kur kmr/sdh|ky kir|la lat|lb ltz|ln lin|lo lao|lt lit|lv lav lvs/ltg|mg mlg plt|mk mkd mac|ml mal|mn mon khk
mr mar/gom|mt mlt|my mya bur|ne nep npi|nl nld dut|no nor nb nob nn nno|nso|oc oci|om orm gaz|or ori ory|pa pan|pl pol
ps pus pbt|pt por|qu que quy|ro ron rum|ru rus|rw kin|se sme|si sin|sk slk slo|sl slv|sn sna|so som|sq sqi als alb
st sot|sv swe|sw swa swh|ta tam|te tel|tg tgk|th tha|tk tuk|tl tgl fil|tr tur|tt tat|ug uig|uk ukr|ur urd|uz uzb uzn
vi vie|vo vol|wa wln|xh xho|yo yor|zh zho cmn chi/wuu/yue|zu zul|ace|bcl|crh
ak aka|ay aym ayr|bm bam|bo bod tib|ee ewe|fj fij|gd gla|kg kon|ki kik|ks kas|lg lug|li lim|mi mri mao|ny nya|rn run
sa san|sc srd|sd snd|sg sag|sm smo|ss ssw|su sun|ti tir|tn tsn|ts tso|tw twi|wo wol|yi yid ydd
"""
_SAME: dict[str, frozenset[str]] = {}
_ALIKE: dict[str, frozenset[str]] = {}
for _group in re.split(r"[|\n]", _CODES.strip()):
    for _language in _group.split("/"):
        _SAME |= dict.fromkeys(_language.split(), frozenset(_language.split()))
    _ALIKE |= dict.fromkeys(re.findall(r"\w+", _group), frozenset(re.findall(r"\w+", _group)))


def same(code: str) -> frozenset[str]:
    """The codes of the language that has this one: `no` is also `nob` and `nno`. Any other code is its own."""
    return _SAME.get(code, frozenset({code}))


def alike(code: str) -> frozenset[str]:
    """These, and the codes of what is easily taken for it, as Malay is for Indonesian."""
    return _ALIKE.get(code, frozenset({code}))


@cache
def langid():
    """py3langid's identifier of some 140 languages (its `labels`; `zxx` is no language), whose scores are likelihoods.
    Nobody is to limit it, since it is shared."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def fasttext(file: Path) -> Callable[[str], Ranking]:
    """A model of fastText (.bin or .ftz), which ranks all its labels for a text in one line.

    Raises Refusal for a file that is no such model or not all of it, and ImportError without fasttext-predict."""
    try:
        from fasttext import load_model
    except ImportError:
        raise ImportError(MISSING) from None
    try:
        _check_length(file)
        model = load_model(str(file))
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        said = f"which cannot be read ({error.strerror if isinstance(error, OSError) else error})"
        raise Refusal("file", str(file), "a model of fastText (.bin or .ftz)", said=said) from None
    # below 0, since labels that are not likely at all would be left out
    return lambda text: list(zip(*model.predict(text, k=-1, threshold=-1), strict=True))


def _check_length(file: Path) -> None:
    """Raise ValueError for a file that begins as no model or ends too soon: fastText itself reads on for ever where
    words end too soon, and takes numbers that are missing for any."""
    with open(file, "rb") as opened:
        if opened.read(4) != struct.pack("<i", _MAGIC):
            raise ValueError("it does not begin as one")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                end = _end(data)
            except struct.error:  # numbers are cut
                end = len(data) + 1
            if end > len(data):
                raise ValueError(f"it ends too soon, after {len(data):,} bytes; get it again")


def _end(data: mmap.mmap) -> int:
    """Where a model ends, by what it says of its parts: settings, words and labels, two matrices."""
    at = 0

    def take(form: str) -> tuple:
        nonlocal at
        begin, at = at, at + struct.calcsize(f"<{form}")
        return struct.unpack(f"<{form}", data[begin:at])

    take("14id")  # the beginning with its version, the settings
    entries, *_, pruned = take("3i2q")
    for _ in range(entries):
        # a word, its count and kind
        if (zero := data.find(b"\0", at)) < 0:
            return len(data) + 1
        at = zero + 1 + 9
    at += 8 * max(pruned, 0)
    for _ in range(2):
        (quantised,) = take("?")
        if quantised:
            norms, rows, _, size = take("?2qi")
            # codes with their centroids, of rows and perhaps of their lengths
            for codes in (size, rows)[: 1 + norms]:
                at += codes
                dimensions, *_ = take("4i")
                at += 4 * 256 * dimensions
        else:
            rows, columns = take("2q")
            at += 4 * rows * columns
    return at
