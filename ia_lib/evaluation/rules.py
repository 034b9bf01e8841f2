"""Scoring rules: what makes a label's score of log-probabilities. The label with the highest score is the prediction.

- `label_sum`: the label's log-probability given the prompt; `label_mean` divides it by the label's tokens and
  `label_per_char` by its characters
- `calibrated`: `label_sum` minus the log-probability behind a prompt without content
- `joint`: log-probability of prompt and label (InstructAlign, section 4: the same choice as `label_sum` where all
  labels cut the prompt into the same tokens), and `mean`: its mean over all predicted tokens, which are all but the
  first (the released code)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

RULES = ("label_sum", "label_mean", "label_per_char", "calibrated", "joint", "mean")
# What some rules need beside the labels' own log-probabilities, and how it comes to be there.
_NEEDS = {"calibrated": "content_free_logprob", "joint": "prompt_logprob", "mean": "prompt_logprob"}
_COLUMNS = ("label_logprob", "label_tokens", "label_chars", "prompt_tokens", "prompt_logprob", "content_free_logprob")


def apply_rule(
    rule: str,
    label_logprob,
    label_tokens,
    label_chars,
    prompt_tokens=None,
    prompt_logprob=None,
    content_free_logprob=None,
):
    """The scores of labels under a rule, from arrays or columns of one shape; log-probabilities in nats.

    Raises ValueError for another rule, and for one that lacks what it needs.
    """
    if rule not in RULES:
        raise ValueError(f"rule: found {rule!r}; allowed: {', '.join(RULES)}")
    if rule == "calibrated" and content_free_logprob is None:
        raise ValueError("rule: found 'calibrated', but no content-free prompt was scored; give content_free")
    if rule in ("joint", "mean") and prompt_logprob is None:
        raise ValueError(f"rule: found {rule!r}, but prompts were not scored; allowed: score with prompt_logprob=True")
    if rule == "label_mean":
        return label_logprob / label_tokens
    if rule == "label_per_char":
        return label_logprob / label_chars
    if rule == "calibrated":
        return label_logprob - content_free_logprob
    if rule == "joint":
        return prompt_logprob + label_logprob
    if rule == "mean":
        return (prompt_logprob + label_logprob) / (prompt_tokens + label_tokens - 1)
    return label_logprob


def rules(*scores: pd.DataFrame) -> list[str]:
    """The rules that all these scores (lines of scores.parquet) can be read by: those whose columns are there; without
    any scores none."""
    found = [rule for rule in RULES if rule not in _NEEDS or all(_NEEDS[rule] in one for one in scores)]
    return found if scores else []


def rule_scores(scores: pd.DataFrame, rule: str) -> pd.Series:
    """The score of every line's label. Raises ValueError for another rule, and for one whose column is missing."""
    if rule in _NEEDS and rule not in rules(scores):
        raise ValueError(f"rule: found {rule!r}, but these scores have no {_NEEDS[rule]}; allowed: {rules(scores)}")
    return apply_rule(rule, *(scores.get(name) for name in _COLUMNS))
