"""What judges' marks are worth: scores as in the Alpaca study (section 2.3), a mark of 1 to 3 that is 0 where the
answer is not in the request's language, beside answers that need no model."""

from collections.abc import Mapping

import pandas as pd

from ia_lib.data.identification import same
from ia_lib.evaluation.answering import COUNTS
from ia_lib.evaluation.blind import KEYS, PROMPT

# A sentence that is an answer to any request, by language; where there is none in a language it is in English.
_POLITE = {
    "eng": "Thank you for your question. I am glad to help you with that.",
    "spa": "Gracias por tu pregunta. Con mucho gusto te ayudo con eso.",
    "fra": "Merci pour ta question. Je t'aide volontiers.",
    "bul": "Благодаря за въпроса. С удоволствие ще помогна.",
    "rus": "Спасибо за вопрос. Я с удовольствием помогу.",
    "zho": "谢谢你的问题。我很乐意帮助你。",
    "ben": "আপনার প্রশ্নের জন্য ধন্যবাদ। আমি সাহায্য করতে পেরে খুশি।",
    "nor": "Takk for spørsmålet. Jeg hjelper deg gjerne med det.",
    "ces": "Děkuji za otázku. Rád ti s tím pomohu.",
    "fin": "Kiitos kysymyksestäsi. Autan sinua mielelläni.",
    "hin": "आपके प्रश्न के लिए धन्यवाद। मुझे मदद करने में खुशी होगी।",
    "deu": "Danke für deine Frage. Ich helfe dir gern dabei.",
    "ind": "Terima kasih atas pertanyaannya. Saya senang membantu.",
}
# Answers that need no model, of which the best is the baseline: they are marked, too, as if runs were called so.
FREE = ("the request repeated", "a polite sentence", "the answer in English")
# What judges get to see of an answer, and what belongs to it; `inside`: whether it is in the request's language.
ITEMS = [*KEYS, "language_name", "question", "answer", "reference", "inside"]


def free(items: pd.DataFrame, english: Mapping[tuple[str, str, str], str]) -> pd.DataFrame:
    """The items of `FREE` to the same requests, `inside` still to be told; `english` has the references in English of
    (data set, task, example), where there are some."""
    known = [english.get(key, "") for key in zip(items["dataset"], items["task"], items["example"], strict=True)]
    answers = list(items["question"]), list(map(_polite, items["language"])), known
    found = [items.assign(run=name, answer=said) for name, said in zip(FREE, answers, strict=True)]
    # without references there is nothing to say in English, and to a request in English it is no shortcut
    found[-1] = found[-1][(found[-1]["answer"] != "") & (found[-1]["answer"] != found[-1]["reference"])]
    return pd.concat(found, ignore_index=True)


def _polite(code: str) -> str:
    return next((text for known, text in _POLITE.items() if code in same(known)), _POLITE["eng"])


def counted(marks: pd.DataFrame, run: str) -> pd.DataFrame:
    """The counts (`COUNTS`) of a run's marks (columns `judge, mark, inside` and `KEYS`), with the judge as `source`: of
    every answer that has a mark, [what it adds up to, 1]. Beside each metric stands the best of `FREE`, where the same
    judge has marked that."""
    marks = marks[marks["mark"].notna()]
    inside = marks["inside"].astype(bool)
    parts = {
        "score": marks["mark"] * inside,
        "score, any language": marks["mark"],
        "lost at the gate": marks["mark"] * ~inside,
    }
    lines = []
    for metric, values in parts.items():
        by = marks.assign(value=values.astype(float)).groupby(["judge", *PROMPT[:-1]], sort=False)
        for (judge, dataset, task, language), part in by:
            nothing = part[part["run"].isin(FREE)].groupby("run", sort=False)["value"].mean()
            best = (nothing.idxmin() if metric == "lost at the gate" else nothing.idxmax()) if len(nothing) else ""
            place = {"dataset": dataset, "task": task, "kind": "open", "source": judge, "language": language}
            place |= {"metric": metric, "baseline": nothing.get(best, float("nan")), "baseline_is": best}
            mine = part[part["run"] == run]
            pairs = zip(mine["example"], mine["value"], strict=True)
            lines += [{**place, "example": example, "counts": [value, 1.0]} for example, value in pairs]
    return pd.DataFrame(lines, columns=COUNTS)
