"""What a judge is asked about an answer: a wording, the kit's own or a user's, whose slots are filled.

The kit's wording is its own; the Alpaca study's (figure 6) is not at hand."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ia_lib.data import yaml_files
from ia_lib.data.yaml_files import Refusal
from ia_lib.instructions.templates import PromptError
from ia_lib.paths import params

# What stands for a request, the answer to it, and the name of the language that both should be in.
SLOTS = ("QUESTION", "ANSWER", "LANGUAGE")
# What somebody may have meant for a slot.
_LIKE_A_SLOT = re.compile(r"\[([\w\s-]*\w[\w\s-]*)\]")
_CUT = re.compile(rf"\[({'|'.join(SLOTS)})\]")


class Wording(BaseModel):
    """How a judge is asked for a mark of 1 to 3, and what is added where the first reply was no mark."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1)  # with each of the slots once
    again: str = Field("One number and nothing else, 1, 2 or 3:", min_length=1)

    @field_validator("prompt")
    @classmethod
    def _has_slots(cls, prompt: str) -> str:
        found = _LIKE_A_SLOT.findall(prompt)
        allowed = f"{', '.join(f'[{slot}]' for slot in SLOTS)}, each once"
        for slot in [*found, *SLOTS]:
            if slot not in SLOTS or (count := found.count(slot)) > 1:
                raise Refusal("", f"[{slot}]", allowed, said="" if slot not in SLOTS else f"{count} times")
            if not count:
                raise Refusal("", prompt, allowed, said=f"without [{slot}]")
        return prompt

    @field_validator("again")
    @classmethod
    def _has_none(cls, again: str) -> str:
        if slot := _LIKE_A_SLOT.search(again):
            raise Refusal("", slot[0], "text without slots, since the prompt has been filled before")
        return again

    def ask(self, question: str, answer: str, language: str, again: bool = False) -> str:
        """The prompt with its slots filled, and `again` behind it for the second time. Texts are put in as they are,
        even if they look like a slot; `language` is a name."""
        parts = _CUT.split(self.prompt)
        parts[1::2] = map({"QUESTION": question, "ANSWER": answer, "LANGUAGE": language}.__getitem__, parts[1::2])
        return "".join(parts) + (f"\n{self.again}" if again else "")


def read(path: Path | None = None) -> Wording:
    """The wording of a YAML file, by default the kit's own (`params/judges/wording.yaml`). Raises PromptError for what
    cannot be read, and for a prompt that lacks a slot, has one too often, or has one that there is not."""
    path = params() / "judges" / "wording.yaml" if path is None else Path(path)
    return yaml_files.validated(Wording, path, yaml_files.read(path, "wording", PromptError), PromptError)
