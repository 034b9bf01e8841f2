"""The fields of a row that all recipes share, in blocks: what all stages read (`Shared`), and what the data, train and
evaluate stages read beside it. A block dumped is its part of a stage's key. What stands in `Machine` changes how the
work is carried out and not what it makes, so it is in no key. A recipe's own blocks are subclasses with more fields.
"""

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator, model_serializer, model_validator

from ia_lib.data.addresses import shown
from ia_lib.data.yaml_files import Refusal, Text

# No machine has room for more of anything that is counted here.
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, le=1)]


_WEB = re.compile(r"https?://[^\s/?#]+\S*")
# Keys are often written in small letters, names of variables in capitals.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")


class Part(BaseModel):
    """A part of a row, checked and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_serializer(mode="wrap")
    def _without_credentials(self, dump):
        return shown(dump(self))

    def __repr_args__(self):
        return shown(dict(super().__repr_args__())).items()

    def exactly_one(self, *fields: str) -> None:
        """Refuse a part that has none or several of `fields`."""
        given = [field for field in fields if getattr(self, field) is not None]
        if len(given) != 1:
            raise Refusal("", given or None, f"exactly one of {', '.join(fields)}")


# What the mini lab's grammar can say without saying anything twice.
_Sentences = Annotated[Count, Field(le=1_000_000)]
# A size of a model that a machine could hold.
_Size = Annotated[Count, Field(le=100_000)]


class Lab(Part):
    """Sizes of the mini lab, in sentences."""

    base: _Sentences = 6000
    train: _Sentences = 2000
    valid: _Sentences = 100
    test: _Sentences = 400


_Percent = Annotated[Number, Field(ge=0, le=10**6)]


class Mixture(Part):
    """Old instructions of a model trained from scratch: shares in percent (see `instructions.mixture`)."""

    sentiment: _Percent = 0
    mt: _Percent = 0
    xss: _Percent = 0
    mlm: _Percent = 0
    passages: _Percent = 0
    rows: Count = 60000
    split: str = "base"
    xss_negatives: Literal["random", "hard", "mixed"] = "random"

    @property
    def shares(self) -> dict[str, float]:
        """Kind of instruction -> its share, of those that have one."""
        parts = ("sentiment", "mt", "xss", "mlm", "passages")
        return {name: share for name in parts if (share := getattr(self, name))}

    @model_validator(mode="after")
    def _has_shares(self):
        if not self.shares:
            raise Refusal("", "no shares", "a share above 0 for at least one of sentiment, mt, xss, mlm, passages")
        return self


class Past(Part):
    """Where the model's old instructions come from: exactly one of run, file, url, xp3 and mixture."""

    run: str | None = None  # what that run of the table was trained on
    file: str | None = None  # a JSONL or parquet file with the two fields below
    url: str | None = None  # a JSONL file too large to download: lines are drawn from random parts of it
    xp3: list[str] | None = Field(None, min_length=1)  # languages of xP3, by its two-letter codes; drawn from as a url
    prompt: str | None = None
    answer: str | None = None
    input: str | None = (
        None  # of a file: a further field; where it is not empty it follows the prompt, behind a blank line
    )
    held_out: Count | None = None  # of a file: so many instructions are never drawn, and how well each model knows
    # their answers is measured
    stream: StrictBool = False  # read a large local file line by line, holding only those that are drawn
    blocks: Count = 2000
    mixture: Mixture | None = None

    @property
    def fields(self) -> dict[str, str]:
        """Column of the pool -> the file's field."""
        names = {"prompt": "inputs", "answer": "targets"} if self.xp3 else {"prompt": "prompt", "answer": "answer"}
        return {**names, **{name: getattr(self, name) for name in names if getattr(self, name)}}

    @model_validator(mode="after")
    def _one_source(self):
        self.exactly_one("run", "file", "url", "xp3", "mixture")
        if self.url and not _WEB.fullmatch(self.url):
            raise Refusal("url", self.url, "an address that begins with http:// or https://")
        if self.prompt and self.prompt == self.answer:
            raise Refusal("answer", self.answer, "another field than the prompt's")
        if self.stream and not self.file:
            raise Refusal("stream", True, "nothing, unless there is a local file")
        for field in ("input", "held_out"):
            if getattr(self, field) and (not self.file or self.stream):
                raise Refusal(field, getattr(self, field), "nothing, unless there is a local file that is read whole")
        return self


class Parallel(Part):
    """A user's own parallel text: one file with a column per language, or one text file per language."""

    file: str | None = None  # CSV, TSV, JSONL, parquet, XLSX, TMX or XLIFF
    columns: dict[str, str] = {}  # language code -> the file's column (in XML: language); default: the code
    id: str | None = None  # the file's column with the sentences' ids
    sheet: Text | None = None  # of a workbook: the sheet that is read, by default the first
    lines: dict[str, str] | None = None  # language code -> a text file; line n of one translates line n of the others

    @model_validator(mode="after")
    def _one_source(self):
        self.exactly_one("file", "lines")
        for field in ("columns", "lines"):
            given = list((getattr(self, field) or {}).values())
            if double := next((one for i, one in enumerate(given) if one in given[:i]), None):
                raise Refusal(field, double, "one of its own for each language")
        return self


class Test(Part):
    """A user's own labelled texts in one language."""

    file: Text  # CSV, TSV, JSONL, parquet or XLSX
    language: Text
    labels: list[Text] = Field(min_length=2)
    task: Text = "sentiment"
    text: str = "text"
    label: str = "label"
    id: str | None = None
    sheet: Text | None = None


class New(Part):
    """An untrained BLOOM and its tokenizer, trained on the old instructions."""

    hidden: _Size = 64
    layers: _Size = 2
    heads: _Size = 4
    vocabulary: int = Field(2500, ge=300, le=10**7, strict=True)

    @model_validator(mode="after")
    def _divisible(self):
        if self.hidden % self.heads:
            raise Refusal("heads", self.heads, f"a divisor of hidden ({self.hidden})")
        return self


class Model(Part):
    """The row's base, the model that it begins with: exactly one of new, run and name."""

    new: New | None = None
    run: str | None = None  # the model that this run of the table ended with
    name: Text | None = None  # a Hub name or a local folder
    revision: str | None = None
    gguf: Text | None = None  # the file in that folder, or of that name on the Hub, which holds the whole model
    interpolate: Share | None = None  # of a run: between the weights that it began with (0) and ended with (1)

    @model_validator(mode="after")
    def _one_source(self):
        self.exactly_one("new", "run", "name")
        for field in ("revision", "gguf"):
            if getattr(self, field) and not self.name:
                raise Refusal(field, getattr(self, field), "nothing, unless the model has a name")
        if self.interpolate is not None and not self.run:
            raise Refusal("interpolate", self.interpolate, "nothing, unless the model is a run's")
        return self


class Shared(Part):
    """What more than one stage reads."""

    recipe: str = "instructalign"
    seed: int = Field(1, ge=0, lt=2**32, strict=True)
    threads: Annotated[Count, Field(le=1024)] = 1
    corpus: Literal["minilab", "nusax", "nusatranslation", "flores", "own"] = "minilab"
    lab: Lab = Lab()
    languages: dict[str, Text] = {}
    known: list[str] = ["eng", "ind"]
    taught: list[str] = ["sun", "jav", "ban", "min", "bug", "ace", "bjn"]
    unseen: list[str] = ["bbc", "mad", "nij"]
    pivots: list[str] = ["eng", "ind"]
    chat: StrictBool = False

    @property
    def groups(self) -> dict[str, list[str]]:
        """L1, L2, L3 -> language codes."""
        return {"L1": self.known, "L2": self.taught, "L3": self.unseen}

    @property
    def codes(self) -> list[str]:
        """All languages of the row."""
        return [*self.known, *self.taught, *self.unseen]


class Data(Part):
    """What the data stage reads, whatever the recipe."""

    parallel: Parallel | None = None
    sentences: Count | None = None
    templates: str = "instructalign"
    drop_test_overlap: StrictBool = True
    validation_sentences: Count = 50
    validation_rows: Annotated[Count, Field(le=10**6)] = 256
    past: Past | None = None
    steps: Annotated[int, Field(ge=0, le=10**9, strict=True)] | None = None
    max_length: Annotated[int, Field(ge=16, le=10**7, strict=True)] = 256
    end_of_sequence: StrictBool = True
    cut: Literal["prompt", "end"] = "prompt"


class Adapter(Part):
    """Small layers to train beside the model's own, which stay as they are (LoRA and its kin, by peft)."""

    rank: Annotated[Count, Field(le=4096)] = 16
    alpha: Annotated[Number, Field(gt=0, le=10**4)] = 32
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[Text], Field(min_length=1)] | None = None  # ends of layers' names; default: all linear ones
    dora: StrictBool = False
    rslora: StrictBool = False
    embeddings: StrictBool = False  # train the embedding and output layer, too
    quantisation: Literal["none", "int8", "nf4"] = "none"  # of the frozen layers (QLoRA)

    @model_validator(mode="after")
    def _goes_together(self):
        if self.dora and self.quantisation == "int8":
            # bitsandbytes' layers lose their scale in the second pass, once peft has read it for the weights' sizes
            raise Refusal("dora", True, "false, where quantisation is int8 (nf4 takes it)")
        return self


class Retention(Part):
    """A method against forgetting that uses old instructions other than by training on them."""

    method: Literal["ewc", "agem", "ssu"]
    strength: Annotated[Number, Field(gt=0, le=10**9)] = 1.0  # ewc: how strongly weights are drawn back
    share: Annotated[Number, Field(gt=0, lt=1)] = 0.5  # ssu: of each layer's columns that stay as they are

    @model_validator(mode="after")
    def _honoured(self):
        for field, of in (("strength", "ewc"), ("share", "ssu")):
            if field in self.model_fields_set and self.method != of:
                raise Refusal(field, getattr(self, field), f"nothing, where the method is {self.method}")
        return self


class Train(Part):
    """What tuning reads beside its data."""

    alternation: Literal["strict", "shuffled"] = "strict"
    learning_rate: Number = Field(1e-5, gt=0, le=1)
    warmup: Share = 0.0
    weight_decay: Number = Field(0.0, ge=0, le=10)
    accumulation: Count = 1
    processes: Annotated[Count, Field(le=1024)] = 1  # that train together, each on its share of every batch
    loss: Literal["answer", "all"] = "answer"
    loss_average: Literal["example", "token"] = "token"
    length_window: Count = 1
    packing: StrictBool = False  # several examples in one sequence, each seeing only itself
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    validate_steps: Count = 500
    optimiser: Literal["adamw", "paged_adamw_8bit", "adafactor"] = "adamw"
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    floor: Share = 0.0  # what a cosine schedule ends with, as a share of the learning rate
    gradient_checkpointing: StrictBool = False
    keep: Literal["last", "best"] = "last"  # the weights that the run ends with: of its last step, or validated best
    patience: Count | None = None  # validations without a better one, after which training ends
    adapter: Adapter | None = None

    @model_validator(mode="after")
    def _goes_together(self):
        if self.floor and self.schedule != "cosine":
            raise Refusal("floor", self.floor, f"0, where the schedule is {self.schedule}")
        if self.patience and self.keep != "best":
            raise Refusal("patience", self.patience, "nothing, where keep is last")
        return self


class Gate(Part):
    """What tells whether an answer is in its question's language."""

    by: Literal["langid", "fasttext", "lexicon"] = "langid"  # py3langid, a fastText model, the mini lab's words
    file: Text | None = None  # of fasttext: its model
    among: list[Text] | None = Field(None, min_length=2)  # languages that compete; default: the task's, with neighbours

    @model_validator(mode="after")
    def _has_model(self):
        if (self.by == "fasttext") != (self.file is not None):
            allowed = "the path of a fastText model" if self.file is None else f"nothing, where by is {self.by}"
            raise Refusal("file", self.file, allowed)
        return self


class Evaluate(Part):
    """What evaluation reads beside the model."""

    tasks: list[str] | None = None  # none at all for a row that others only begin with
    tests: list[Test] = []
    held_out: StrictBool | None = None
    test_split: Literal["valid", "test"] = "test"
    test_languages: Annotated[list[str], Field(min_length=1)] | None = None  # default: all that the row has
    examples: Count | None = None
    max_new_tokens: Annotated[Count, Field(le=4096)] | None = None  # of an answer in words; default: the task's
    asked: Literal["newline", "plain", "indented", "bare"] = "newline"  # Alpaca's prompt of a request, or none
    beams: Annotated[Count, Field(le=64)] = 1
    no_repeat_ngram: Annotated[int, Field(ge=0, le=100, strict=True)] = 0
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] = 1.0
    cut_answer: Literal["sections", "headings", "response"] = "sections"
    gate: Gate | None = None  # default: the mini lab's words for its languages, py3langid for others
    wordings: list[str] = Field(["english"], min_length=1)
    label_order: Literal["documented", "shuffled"] = "documented"
    scoring_rule: Literal["label_sum", "joint", "mean", "label_mean", "label_per_char", "calibrated"] = "label_sum"
    prompt_logprob: StrictBool = False
    majority_of: Literal["train", "test"] = "train"
    quantisation: Literal["none", "int8", "nf4"] = "none"
    score_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    score_max_length: Annotated[Count, Field(ge=32)] = 1024

    @property
    def scores_prompts(self) -> bool:
        """Whether the prompts' own log-probabilities are needed, which costs the vocabulary at every position."""
        return self.prompt_logprob or self.scoring_rule in ("joint", "mean")


_Price = Annotated[Number, Field(ge=0, le=10**6)]


class Endpoint(Part):
    """A judge that is asked by OpenAI's chat completions, wherever it runs."""

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Text  # to which /chat/completions is added
    model: Text
    key: Text | None = "OPENAI_API_KEY"  # the NAME of the environment variable that holds the key
    per_minute: Count | None = None  # requests, those that failed among them
    timeout: Annotated[Number, Field(gt=0, le=3600)] = 60  # seconds for the whole of an answer
    retries: Annotated[int, Field(ge=0, le=100, strict=True)] = 5  # of a request that failed
    max_tokens: Annotated[Count, Field(le=10**5)] = 16
    price_in: _Price | None = None  # per million tokens, in whatever currency
    price_out: _Price | None = None

    @field_validator("base_url")
    @classmethod
    def _address(cls, url: str) -> str:
        allowed = "an address that begins with http:// or https://, without user, password, ? and #"
        try:
            plain = _WEB.fullmatch(url) and not set("@?#\\") & set(url) and urlsplit(url).port != 0
        except ValueError:  # no port, or half of an address in brackets
            plain = False
        if not plain:
            # not even a part of it is shown, since a password may stand in any
            raise Refusal("", "something else", allowed)
        return url.rstrip("/")

    @field_validator("key")
    @classmethod
    def _name(cls, key: str | None) -> str | None:
        if key is not None and not _VARIABLE.fullmatch(key):
            # it may be the key
            allowed = (
                "the name of an environment variable, in capitals (as OPENAI_API_KEY); the key itself stands there"
            )
            raise Refusal("", f"text of {len(key)} characters", allowed)
        return key

    @property
    def local(self) -> bool:
        """Whether it runs on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")

    @model_validator(mode="after")
    def _prices(self):
        if (self.price_in is None) != (self.price_out is None):
            missing = "price_in" if self.price_in is None else "price_out"
            raise Refusal(missing, None, "a number, where the other price is one")
        return self


class JudgeModel(Part):
    """A judge that runs here."""

    name: Text  # a Hub name or a local folder
    revision: str | None = None
    gguf: Text | None = None  # the file in that folder, or of that name on the Hub, which holds the whole model
    by: Literal["labels", "generation"] = "labels"  # the likeliest of 1, 2 and 3, or what it says
    chat: StrictBool = False


class Judge(Part):
    """Who marks free answers from 1 to 3: exactly one of the four."""

    model_config = ConfigDict(hide_input_in_errors=True)

    rule: Literal["overlap"] | None = None  # 3 for the reference, 2 for an F1 over words of one half, else 1
    endpoint: Endpoint | None = None
    model: JudgeModel | None = None
    people: Text | None = None  # the CSV file of a blind sheet that was filled in
    key: Text | None = None  # of people: the sheet's key
    wording: Text | None = None  # a YAML file; default: params/judges/wording.yaml

    @model_validator(mode="after")
    def _one_judge(self):
        self.exactly_one("rule", "endpoint", "model", "people")
        if self.wording and self.rule:
            raise Refusal("wording", self.wording, "nothing, since a rule is not asked")
        if bool(self.people) != bool(self.key):
            raise Refusal(
                "key", self.key, "the key of the sheet" if self.people else "nothing, unless there is a sheet"
            )
        return self


class Judging(Part):
    """What judging reads beside the answers."""

    judges: dict[Text, Judge] = {}  # called as results are to call them
    judge_checks: Annotated[int, Field(ge=0, le=10**4, strict=True)] = 0  # requests of a language, to check judges with


class Machine(Part):
    """How the work is carried out."""

    data_dir: str | None = None
    mirror: str | None = None
    offline: StrictBool = False
    batch_tokens: Count | None = None
    share_text: StrictBool = True
    log_steps: Count = 50
    save_steps: Count = 500

    @model_validator(mode="after")
    def _mirrors(self):
        if self.mirror and "://" in self.mirror and not _WEB.fullmatch(self.mirror):
            raise Refusal("mirror", self.mirror, "a folder, or an address that begins with http:// or https://")
        return self
