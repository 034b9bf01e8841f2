"""Tasks of the kind `open`: requests become answers in the model's own words, and counts of those that are in the
request's language."""

from collections.abc import Callable

import pandas as pd
from datasets import Dataset

from ia_lib.evaluation.answering import COUNTS
from ia_lib.evaluation.gate import Gate
from ia_lib.evaluation.generation import continued
from ia_lib.evaluation.measures import PREDICTION_COLUMNS
from ia_lib.evaluation.tasks import Open
from ia_lib.instructions import alpaca
from ia_lib.models import encoding

IN_LANGUAGE = "in the language"


def respond(
    model,
    tokenizer,
    task: Open,
    requests: Dataset,
    language: str,
    gate: Gate,
    *,
    asked: str = "newline",
    cut: str = "sections",
    chat: bool = False,
    progress: Callable[[int], None] | None = None,
    **decoding: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Let the model answer requests (as `requests.read` has them) in one language: in Alpaca's prompt (`asked` is a
    form of `alpaca.prompt`), or as they are where it is "bare" or the model is asked in its chat's form. An answer ends
    where `alpaca.cut` says; with "response" the special tokens at its end are told, too, as in the study's code for
    models that were tuned whole. `decoding` is what `generation.continued` takes. `progress` is
    told of every few requests, how many they are.

    Returns predictions (`PREDICTION_COLUMNS`; `gold` is the reference) and counts (`COUNTS`) of answers that are in the
    request's language, as the gate has it, beside the request repeated.
    """
    bare = chat or asked == "bare"
    questions, decodes = requests["question"][:], model.config.is_encoder_decoder
    texts = questions if bare else [alpaca.prompt(question, form=asked) for question in questions]
    how = {"chat": chat, "encoder_decoder": decodes}
    prompts = encoding.asked(tokenizer, texts, **how)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions and not decodes:  # a request that is too long loses its beginning
        prompts = [prompt[-max(1, positions - task.max_new_tokens) :] for prompt in prompts]
    ends = encoding.ends(tokenizer, texts[0], **how)
    said = continued(
        model, tokenizer, prompts, task.max_new_tokens, ends, special=cut == "response", progress=progress, **decoding
    )
    said = [alpaca.cut(answer, cut) for answer in said]
    place = {"dataset": task.dataset, "task": task.task, "kind": task.kind, "source": "", "language": language}
    ids, references = requests["example"][:], requests["reference"][:]
    predictions = [
        {**place, "example": i, "prompt": 1, "gold": gold, "predicted": answer}
        for i, gold, answer in zip(ids, references, said, strict=True)
    ]
    echoed, inside = (gate.accepts(texts, [language] * len(texts)) for texts in (questions, said))
    echoed = 100 * sum(echoed) / len(questions)
    beside = {"metric": IN_LANGUAGE, "baseline": echoed, "baseline_is": "the request repeated"}
    lines = [{**place, "example": i, "counts": [float(yes), 1.0], **beside} for i, yes in zip(ids, inside, strict=True)]
    return pd.DataFrame(predictions, columns=PREDICTION_COLUMNS), pd.DataFrame(lines, columns=COUNTS)
