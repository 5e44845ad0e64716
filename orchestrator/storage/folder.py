"""The folder of a sweep in a storage: what it is, its checkpoints, its spool and its data files. It is gone once all is in MLflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from orchestrator.files import file_name
from orchestrator.options import CHECKPOINT_SECONDS
from orchestrator.storage.base import Storage
from orchestrator.storage.checkpoints import Checkpointing, Checkpoints
from orchestrator.storage.spool import Spool

_DESCRIPTION = "sweep.json"
_PARENT = "parent"
_FILES = "files"
_IDLE = frozenset({_DESCRIPTION, _FILES})
"""What a folder holds of a sweep that has not begun."""


@dataclass(frozen=True)
class Owner:
    """The MLflow store that a sweep is in: its ``address``, without credentials, and what it is under whatever address, as far as known."""

    address: str
    identity: str = ""


@dataclass(frozen=True)
class Description:
    """What a sweep's folder says of it. ``tracking`` and ``identity`` are the address and identity of its MLflow store (`Owner`); ``files``
    maps names to SHA-256 digests."""

    sweep_id: str
    experiment: str
    tracking: str
    record: str
    machine: str
    files: Mapping[str, str]
    identity: str = ""

    def is_of(self, owner: Owner) -> bool:
        """Return whether the sweep is in a store, by whatever address that goes now."""
        return self.tracking == owner.address or (self.identity != "" and self.identity == owner.identity)


class SweepFolder:
    """One sweep's part of a storage. All methods raise `orchestrator.errors.StorageUnavailable`."""

    def __init__(self, storage: Storage, experiment: str, sweep_id: str) -> None:
        self.storage, self.name = storage, f"{file_name(experiment)}/{sweep_id}"

    @property
    def spool(self) -> Spool:
        """Trials that have ended and are not in MLflow yet."""
        return Spool(self.storage, self.name)

    def checkpoints(self, record: str) -> Checkpoints:
        """Where trials stand that have not ended. ``record`` says what their traces hold."""
        return Checkpoints(self.storage, self.name, record)

    def checkpointing(self, record: str, every: float = CHECKPOINT_SECONDS) -> Checkpointing:
        """Return what workers need to make checkpoints here."""
        return Checkpointing(self.storage.url, self.name, record, _DESCRIPTION, every)

    def describe(self, description: Description, contents: Mapping[str, bytes]) -> None:
        """Make the folder: what it is first, so that one that was not finished can be told apart; then data files by their digests."""
        self.storage.write(f"{self.name}/{_DESCRIPTION}", json.dumps(asdict(description), indent=2).encode())
        for digest, content in contents.items():
            self.storage.write(f"{self.name}/{_FILES}/{digest}", content)

    def description(self) -> Description | None:
        """Return what the folder says of its sweep; ``None`` if it is not there, or says nothing that is understood."""
        content = self.storage.read(f"{self.name}/{_DESCRIPTION}")
        try:
            return None if content is None else Description(**json.loads(content))
        except (ValueError, TypeError):
            return None

    def begun(self, parent_run_id: str) -> None:
        """Note that MLflow has the sweep, as the run ``parent_run_id``."""
        self.storage.write(f"{self.name}/{_PARENT}", parent_run_id.encode())

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with the folder: MLflow never had the sweep, and nothing of it has been computed."""
        return not any(name.removeprefix(f"{self.name}/").partition("/")[0] not in _IDLE for name in self.storage.names(self.name))

    @property
    def keeps_data(self) -> bool:
        """Whether data files of the grid are here."""
        return bool(self.storage.names(f"{self.name}/{_FILES}"))

    def data_file(self, digest: str) -> bytes | None:
        """Return a data file of the grid."""
        return self.storage.read(f"{self.name}/{_FILES}/{digest}")

    def remove(self) -> None:
        """Remove the folder with all that is in it; not one of something else, to which whoever writes to MLflow may have led."""
        if self.storage.read(f"{self.name}/{_DESCRIPTION}") is not None or not self.storage.names(self.name):
            self.storage.remove_folder(self.name)


def folder_of(storage: Storage, experiment: str, sweep_id: str, owner: Owner) -> SweepFolder:
    """Return the folder of a sweep in the MLflow store ``owner``.

    Another store may have the same sweep, since it can be exported and imported. Who comes second has a folder of another name.
    """
    first = SweepFolder(storage, experiment, sweep_id)
    there = first.description()
    if there is not None and there.is_of(owner):
        return first
    names = dict.fromkeys(f"{sweep_id}-{hashlib.sha256(key.encode()).hexdigest()[:8]}" for key in (owner.address, owner.identity) if key)
    others = [SweepFolder(storage, experiment, name) for name in names]
    own = next((folder for folder in others if (told := folder.description()) is not None and told.is_of(owner)), None)
    return own or (first if there is None else others[-1])


def folders(storage: Storage, experiment: str | None = None) -> Iterator[tuple[SweepFolder, Description]]:
    """Yield the sweeps that have something in ``storage``: all of them, or those of one experiment."""
    for name in storage.names("" if experiment is None else file_name(experiment)):
        if not name.endswith(f"/{_DESCRIPTION}"):
            continue
        group, _, sweep_id = name.removesuffix(f"/{_DESCRIPTION}").rpartition("/")
        folder = SweepFolder(storage, group, sweep_id)
        description = folder.description()
        if description is not None and (experiment is None or description.experiment == experiment):
            yield folder, description
