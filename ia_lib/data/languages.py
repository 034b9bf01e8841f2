"""Language codes and the names that prompts use for them (InstructAlign, section 4 and appendix A).

Codes are ISO 639-3, and the two-letter codes of the multilingual Alpaca study; `no` is Norwegian."""

NAMES = {
    **{"eng": "English", "ind": "Indonesian", "sun": "Sundanese", "jav": "Javanese", "ban": "Balinese"},
    **{"min": "Minangkabau", "bug": "Buginese", "ace": "Acehnese", "bjn": "Banjarese", "bbc": "Toba Batak"},
    **{"mad": "Madurese", "nij": "Ngaju", "abs": "Ambonese Malay", "bew": "Betawi", "bhp": "Bima", "btk": "Batak"},
    **{"mak": "Makassarese", "mui": "Musi", "rej": "Rejang"},
    **{"bg": "Bulgarian", "bn": "Bengali", "en": "English", "es": "Spanish", "fr": "French", "no": "Norwegian"},
    **{"ru": "Russian", "zh": "Chinese"},
    **{"hin": "Hindi", "tha": "Thai", "ell": "Greek", "tam": "Tamil", "ben": "Bengali"},
    **{"zho": "Chinese", "deu": "German", "bul": "Bulgarian", "ces": "Czech", "fin": "Finnish", "fra": "French"},
    **{"nor": "Norwegian", "por": "Portuguese", "rus": "Russian", "spa": "Spanish"},
}

# What the NusaX release and the mini lab have; the mini lab's grammar itself speaks the first two.
NUSAX = ("eng", "ind", "sun", "jav", "ban", "min", "bug", "ace", "bjn", "bbc", "mad", "nij")

# Corpus of parallel text -> its languages; FLORES-200 is not here, since it has 200 of them.
CORPORA = {
    "minilab": NUSAX,
    "nusax": NUSAX,
    "nusatranslation": ("ind", "jav", "sun", "min", "abs", "btk", "bew", "bhp", "mad", "mak", "mui", "rej"),
}

# What FLORES-200 calls those of them that it has. A language beyond these is looked for by its code, in Latin script
# before others.
FLORES = {
    **{code: f"{code}_Latn" for code in ("eng", "ind", "sun", "jav", "ban", "min", "bug", "ace", "bjn")},
    **{"bg": "bul_Cyrl", "bn": "ben_Beng", "en": "eng_Latn", "es": "spa_Latn", "fr": "fra_Latn", "no": "nob_Latn"},
    **{"ru": "rus_Cyrl", "zh": "zho_Hans"},
}

# The three groups of the papers and what readers who are no specialists are told.
GROUPS = {"L1": "known before", "L2": "taught", "L3": "never seen"}


def name(code: str) -> str:
    """The language's name in prompts. Raises ValueError for a code the kit does not know."""
    if code not in NAMES:
        raise ValueError(f"unknown language code {code!r}; known: {', '.join(NAMES)}")
    return NAMES[code]


def column(code: str) -> str:
    """What NusaX calls a language in its files: `toba_batak`."""
    return name(code).lower().replace(" ", "_")
