"""Bringing what a table reads from outside to this machine before any work, for machines without internet."""

from collections.abc import Iterator
from pathlib import Path

from ia_lib.workflow.graph import Table
from ia_lib.workflow.sources import Address, HubModel

# What a model and its tokenizer are read from.
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")


def fetch(table: Table, runs: list[str] | None = None) -> Iterator[str]:
    """Download into the caches what unfinished stages of the runs (default: all) would, and yield each as it is there.

    Not old instructions behind addresses: data stages read parts of those files. Raises SettingsError where
    something cannot be settled, and CorpusError, OSError or what the Hub's client raises where it cannot be had.
    """
    table.settle(runs)
    seen = set()
    for stage in table.stages(runs):
        for source in () if stage.done else stage.inputs.sources.values():
            if isinstance(source, Address) or not (what := source.missing()) or what in seen:
                continue
            seen.add(what)
            if isinstance(source, HubModel):
                _model(source)
            else:
                source.path()
            yield what


def _model(source: HubModel) -> None:
    from huggingface_hub import snapshot_download

    # what lies in folders is the same in other formats
    asked = {"revision": source.version, "ignore_patterns": ["*/*"]}
    folder = Path(snapshot_download(source.name, allow_patterns=[*_FILES], **asked))
    if not any(folder.glob("*.safetensors")):
        snapshot_download(source.name, allow_patterns=["pytorch_model*.bin"], **asked)
