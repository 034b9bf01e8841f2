"""The three readings of the method, field by field (docs/fidelity.md explains each)."""

from typing import Any

# What a reading of the method means, field by field: (paper, released code, corrected). docs/fidelity.md explains them.
READINGS: dict[str, tuple[Any, Any, Any]] = {
    "pivots": (["eng", "ind"], ["eng"], ["eng", "ind"]),
    "teach_known": (False, True, False),
    "noise": ("infilling", "mixture", "mixture"),
    "noise_tokens": ("words", "nltk", "words"),
    "tlm_names": ("own", "swapped", "own"),
    "xss_negatives": ("random", "corrupted", "mixed"),
    "drop_test_overlap": (False, False, True),
    "hold_out": ("sentence", "row", "sentence"),
    "validation_rows": (256, 1000, 256),
    "replay_sampling": ("uniform", "released", "uniform"),
    "alternation": ("strict", "shuffled", "strict"),
    "loss": ("answer", "all", "answer"),
    "end_of_sequence": (True, False, True),
    "cut": ("prompt", "end", "prompt"),
    "max_length": (256, 128, 256),
    "scoring_rule": ("joint", "mean", "label_sum"),
    "label_order": ("documented", "shuffled", "documented"),
    "majority_of": ("train", "test", "train"),
    "quantisation": ("int8", "int8", "none"),
}
FIDELITY = ("paper", "released", "corrected")


def filled(values: dict[str, Any]) -> dict[str, Any]:
    """A row's values, with what it does not say itself as its reading has it, and with defaults that hang on others."""
    if values.get("new_epochs") is None:
        values = {"steps": 2000, **values}
    if values.get("corpus") == "own" and values.get("replay", 0) != 0 and values.get("past") is None:
        values = {**values, "past": {"xp3": ["en"]}}
    if values.get("fidelity", "corrected") not in FIDELITY:
        return values
    number = FIDELITY.index(values.get("fidelity", "corrected"))
    found = {name: reading[number] for name, reading in READINGS.items()}
    known = values.get("known", ["eng", "ind"])
    if isinstance(known, list):
        found["pivots"] = [code for code in found["pivots"] if code in known] or known[:1]
    return {**found, **values}
