"""Sources: what a stage reads from outside, each with what a key, a check, a download and a manifest need."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ia_lib.data import downloads
from ia_lib.data.addresses import shown
from ia_lib.data.downloads import SourceError
from ia_lib.data.patience import SECONDS, Patience


@dataclass(frozen=True)
class Source:
    """A thing to read, by its name."""

    name: str

    def identity(self) -> Any:
        """What stands for its content in a key."""
        return self.name

    def check(self) -> None:
        """Raise SourceError, in one sentence, if it cannot be read."""

    def missing(self) -> str | None:
        """What would have to be downloaded first, in words; None if it is here."""

    def absent(self) -> str | None:
        """What only the user can bring here and has not, in words; None if it is here or can be fetched."""

    def settle(self) -> None:
        """Ask a server before work what only it can tell. Raises SourceError or CorpusError if it does not."""

    def provenance(self) -> dict[str, Any] | None:
        """What a manifest says of it; None of the kit's own files, which belong to its version."""

    def path(self) -> Path | str:
        """Where it is read, brought there if need be."""
        return self.name


@dataclass(frozen=True)
class File(Source):
    """A file of the user's, or of the kit's own (`ours`)."""

    file: Path
    ours: bool = False

    def identity(self) -> str | None:
        # a plan is made without it, too; before any work it is refused
        if self.absent():
            return None
        self.check()
        return content(self.file)

    def absent(self) -> str | None:
        return None if self.ours or self.file.exists() else self.name.removeprefix("file/")

    def check(self) -> None:
        if not self.file.is_file():
            asked = self.name.removeprefix("file/")
            if self.file.exists():
                raise SourceError(f"{asked}: found no file, but a folder or the like ({self.file})")
            where = "beside the table, in the data folder, from here and in the kit's folder"
            places = "" if Path(asked).is_absolute() else f" (looked for {where})"
            raise SourceError(f"{asked}: there is no such file{places}")

    def provenance(self) -> dict[str, Any] | None:
        known = {"bytes": self.file.stat().st_size, "sha256": downloads.checksum(self.file)}
        return None if self.ours else {"file": self.name, **known}

    def path(self) -> Path:
        return self.file


@dataclass(frozen=True)
class Asked(Source):
    """What a stage takes from a task, whether or not that stands in a file: another stage may take other parts."""

    content: Any
    file: Path | None = None

    def __hash__(self) -> int:  # the content is no key of a dictionary
        return hash(self.name)

    def identity(self) -> Any:
        return self.content


@dataclass(frozen=True)
class Published(Source):
    """A file of a published source (`data/downloads.yaml`), in the data folder or to be fetched: `source/file`."""

    data: Path
    mirror: str | None = None
    offline: bool = False

    @property
    def parts(self) -> tuple[str, str]:
        source, _, file = self.name.partition("/")
        return source, file

    @property
    def here(self) -> bool:
        return (self.data / self.name).is_file()

    def identity(self) -> Any:
        if self.here:
            return content(self.data / self.name)
        # it is pinned, or recorded at its first download
        (source, file), known = self.parts, downloads.known()
        return ["fetched", known[source].revision, known[source].checksums.get(file)]

    def check(self) -> None:
        downloads.location(*self.parts, self.mirror)

    def missing(self) -> str | None:
        place = downloads.location(*self.parts, self.mirror)
        cached = (downloads.cache_folder() / self.name).is_file()
        return None if self.here or cached or isinstance(place, Path) else f"{self.name} from {shown(place)}"

    def provenance(self) -> dict[str, Any]:
        return downloads.provenance(self.parts[0], [self.path()])

    def path(self) -> Path:
        return downloads.finder(self.data, mirror=self.mirror, offline=self.offline)(*self.parts)


@dataclass(frozen=True)
class Folder(Source):
    """A folder with a model and its tokenizer, every file of it."""

    folder: Path

    def identity(self) -> dict[str, str]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): content(path) for path in files}

    def provenance(self) -> dict[str, Any]:
        return {"model": self.name, "files": self.identity()}

    def path(self) -> Path:
        return self.folder

    def described(self) -> Path:
        """The folder, or one with configuration and tokenizer alone."""
        return self.folder


def content(path: Path) -> str:
    """A file's hash; of one that has not changed since it is remembered."""
    state = path.stat()
    return _checksum(path, state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: Path, size: int, changed: int) -> str:
    return downloads.checksum(path)


@dataclass(frozen=True)
class HubModel(Source):
    """A model of the Hub. One whose revision is not pinned is taken at the commit that the table met first, which
    `record` keeps, so that rows of one report never stand on different weights."""

    revision: str | None
    record: Path
    instead: str = ""  # how the model can be had without the Hub

    @property
    def version(self) -> str | None:
        return self.commit or self.revision

    @property
    def _asked(self) -> str:
        return f"{self.name}@{self.revision or 'main'}"

    def _known(self) -> dict[str, str]:
        if not self.record.is_file():
            return {}
        try:
            found = json.loads(self.record.read_text(encoding="utf-8"))
            if all(isinstance(commit, str) for commit in found.values()):
                return found
        except (ValueError, AttributeError):
            pass
        raise SourceError(
            f"{self.record}: the record of the models' commits is damaged; delete it to ask for them again"
        )

    @cached_property
    def commit(self) -> str | None:
        """The commit that the name stands for; None while nothing of it is on this machine."""
        from huggingface_hub import try_to_load_from_cache

        if found := self._known().get(self._asked):
            return found
        config = try_to_load_from_cache(self.name, "config.json", revision=self.revision)
        # <cache>/models--owner--name/snapshots/<commit>/config.json
        return Path(config).parent.name if isinstance(config, str) else None

    def settle(self) -> None:
        """Record the commit; one that is known neither here nor in the record is asked of the Hub, and so is one whose
        files are to be fetched.

        Raises SourceError if it cannot be asked.
        """
        from huggingface_hub import constants, get_session

        asks, hooks = get_session(), get_session().event_hooks
        if _bounded not in hooks["request"]:
            more = {"request": _bounded, "response": lambda _: _unanswered.clear()}
            asks.event_hooks = {name: [*hooks[name], hook] for name, hook in more.items()}
        found = self.commit
        if found is None or (self.missing() and not constants.HF_HUB_OFFLINE):
            found = self._ask(constants.ENDPOINT)
        self.__dict__["commit"] = found
        if self._known().get(self._asked) == found:
            return
        self.record.parent.mkdir(parents=True, exist_ok=True)
        part = self.record.with_name(f".{self.record.name}.{os.getpid()}")
        part.write_text(json.dumps({**self._known(), self._asked: found}, indent=1))
        os.replace(part, self.record)

    def _ask(self, hub: str) -> str:
        from huggingface_hub import HfApi

        patience, revision = Patience(hub, 20), self.commit or self.revision
        while True:
            try:
                return HfApi().model_info(self.name, revision=revision, timeout=patience.timeouts[1]).sha
            except Exception as error:  # the Hub's client raises what its libraries raise
                if patience.again(error):
                    continue
                said = f"the Hub does not tell its commit ({patience.problem}){self.instead}"
                raise SourceError(f"the model {self.name}: {said}") from None

    def identity(self) -> list[str | None]:
        return [self.name, self.version]

    def missing(self) -> str | None:
        from huggingface_hub import try_to_load_from_cache

        # whole or in parts; that a config is there says nothing of the weights
        files = (f"{name}{end}" for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json"))
        here = any(isinstance(try_to_load_from_cache(self.name, file, revision=self.version), str) for file in files)
        return None if here else f"the model {self.name}{self.instead}"

    def provenance(self) -> dict[str, Any]:
        return {"model": self.name, "revision": self.revision, "commit": self.commit}


@dataclass(frozen=True)
class Gguf(Source):
    """A model in one GGUF file, local or of the Hub. It is unpacked once, into a plain folder in full precision, which
    all else reads; what its quantisation has rounded stays rounded."""

    file: Path | str
    hub: HubModel | None = None

    @property
    def _local(self) -> Path | None:
        """Where the file lies; None for one that is still on the Hub."""
        from huggingface_hub import try_to_load_from_cache

        if self.hub is None:
            return Path(self.file)
        found = try_to_load_from_cache(self.name, self.file, revision=self.hub.version)
        return Path(found) if isinstance(found, str) else None

    def check(self) -> None:
        if find_spec("gguf") is None:
            raise SourceError(f"the model {self.name}: GGUF files are read by the package gguf: pip install gguf")
        if self.hub is None and not Path(self.file).is_file():
            others = ", ".join(sorted(path.name for path in Path(self.file).parent.glob("*.gguf"))) or "no GGUF file"
            raise SourceError(f"model.gguf: {Path(self.file).name} is not in {self.name}; found there: {others}")

    def settle(self) -> None:
        if self.hub:
            self.hub.settle()

    def missing(self) -> str | None:
        return None if self._local else f"the model {self.name}, {self.file}"

    def identity(self) -> Any:
        if self.hub:
            return [*self.hub.identity(), self.file]
        self.check()
        return {"gguf": content(Path(self.file))}

    def provenance(self) -> dict[str, Any]:
        known = {**self.hub.provenance(), "gguf": self.file} if self.hub else {"model": self.name, **self.identity()}
        return {**known, "quantisation": self.quantisation}

    @property
    def quantisation(self) -> str:
        """What the file's weights were rounded to, as Q4_1."""
        from ia_lib.models import unpacked

        return unpacked.quantisation(self.described())

    def described(self) -> Path:
        """The folder with configuration and tokenizer alone."""
        return self._unpacked(False)

    def path(self) -> Path:
        return self._unpacked(True)

    def _unpacked(self, weights: bool) -> Path:
        from huggingface_hub import hf_hub_download

        from ia_lib.models import unpacked

        self.check()
        file = self._local or Path(hf_hub_download(self.name, self.file, revision=self.hub.version))
        try:
            return unpacked.unpack(file, downloads.cache_folder() / "gguf" / content(file)[:16], weights)
        except ValueError as error:
            raise SourceError(f"the model {self.name}: {error}") from None


_unanswered: list[float] = []  # when the Hub's client asked, since it was answered last


def _bounded(request) -> None:
    """Give a request of the Hub's client a time-out (some have none and would wait for ever), and make none of those
    that it would go on to make once it has waited for `SECONDS`. Raises SourceError instead."""
    now = time.monotonic()
    if _unanswered and now - _unanswered[-1] > SECONDS:
        _unanswered.clear()  # somebody tries again later
    if len(_unanswered) > 1 and now - _unanswered[0] > SECONDS:
        said = f"the Hub does not answer (asked {len(_unanswered)} times in {now - _unanswered[0]:.0f} s)"
        raise SourceError(f"{request.url.scheme}://{request.url.host}: {said}; try again later")
    _unanswered.append(now)
    waits = request.extensions.get("timeout") or {}
    parts = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {part: waits.get(part) or SECONDS / 2 for part in parts}


@dataclass(frozen=True)
class Address(Source):
    """A JSONL file behind HTTP, of which random parts are read; what was read is known when it was."""

    offline: bool = False

    def identity(self) -> str:
        return shown(self.name, query=True)

    def settle(self) -> None:
        from ia_lib.data import pools

        if not self.offline and self.name.startswith(("http://", "https://")):
            pools.ask(self.name)

    def missing(self) -> str | None:
        from ia_lib.data.files import CorpusError
        from ia_lib.data.pools import Jsonl

        try:
            Jsonl(self.name, cache=downloads.cache_folder() / "past", offline=True)
        except CorpusError:
            return f"parts of {shown(self.name)}"
        return None


@dataclass(frozen=True)
class MiniLab(Source):
    """The mini lab: made here from the kit's grammar and lexicon, once for each seed and size."""

    folder: Path
    content: str  # the hash of what it is made from
    write: Callable[[], Path]

    def identity(self) -> str:
        return self.content

    def path(self) -> Path:
        return self.write()
