"""What code of a user's is: its files as bytes, which travel and are what runs, and the digest that belongs to trials' ids."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

from workloads.extensions.locating import ExtensionError

GROUP = "orchestrate"
"""Entry points of installed packages in this group are names by which they can be given."""
LARGEST = 8 << 20
"""Bytes of code: it travels with every pack."""
NAMES = "names.json"
"""The file that says what the files beside it are."""
_PATH = re.compile(r"(?:[A-Za-z_]\w*/)*[\w.-]+\.py", re.ASCII)


@dataclass(frozen=True)
class Extension:
    """Code of a user's: its ``name`` in messages, the ``module`` to import, and its ``files`` by their paths.

    A file is imported by a name that follows from its content, so that several versions of it can be in one process; a package by its
    own name. ``place`` is where it was read, for messages.
    """

    name: str
    module: str
    files: Mapping[str, bytes]
    place: str = field(default="", compare=False)

    @classmethod
    def of_file(cls, name: str, content: bytes, place: str = "") -> Extension:
        """Return a file's code."""
        return cls(name, f"own_{hashlib.sha256(content).hexdigest()[:16]}", {name: content}, place)

    @property
    def is_package(self) -> bool:
        """True for a package, of which several modules may be imported."""
        return not self.module.startswith("own_")

    @cached_property
    def digest(self) -> str:
        """The SHA-256: of a file, what ``sha256sum`` says; of a package, that of what it says of its files, in order."""
        if not self.is_package:
            return hashlib.sha256(next(iter(self.files.values()))).hexdigest()
        lines = (f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def shown(self, path: str) -> str:
        """Return what messages call a file."""
        return str(Path(self.place) / path) if self.is_package else self.place or self.name


def read_extension(given: str) -> Extension:
    """Return the code that ``given`` names: a file, an entry point of an installed package, or a module that can be imported.

    Nothing of it is run. Raises `ExtensionError` if there is none.
    """
    if given.endswith(".py") or os.sep in given:
        return Extension.of_file(Path(given).name, _content(Path(given)), given)
    point = next(iter(metadata.entry_points(group=GROUP, name=given)), None)
    module = given if point is None else point.module
    top = module.partition(".")[0]
    if not all(part.isidentifier() for part in module.split(".")):
        raise ExtensionError(f"{given}: is no file that ends in .py and no name of a module")
    if top in ("orchestrator", "workloads"):
        raise ExtensionError(f"{given}: is part of this program")
    found = _spec_of(top)
    if found is None or not (found.origin or found.submodule_search_locations):
        raise ExtensionError(f"{given}: there is no such module, and no such entry point of an installed package")
    if found.submodule_search_locations is None:
        path = Path(found.origin or "")
        return Extension.of_file(path.name, _content(path), str(path))
    return _package(given, module, Path(next(iter(found.submodule_search_locations))))


def _spec_of(top: str) -> ModuleSpec | None:
    """Return where a module is installed, whatever has been imported of that name."""
    for finder in sys.meta_path:
        if not getattr(finder, "own", False) and (spec := finder.find_spec(top, None)) is not None:
            return spec
    return None


def _package(name: str, module: str, root: Path) -> Extension:
    files, size = {}, 0
    for path in sorted(root.rglob("*.py")):
        shown = f"{root.name}/{path.relative_to(root).as_posix()}"
        if not _PATH.fullmatch(shown):
            continue  # nobody could import it
        files[shown] = _content(path)
        size += len(files[shown])
        if size > LARGEST:
            raise ExtensionError(f"{name}: has more than the {LARGEST >> 20} MiB of code that may travel with trials")
    return Extension(name, module, files, str(root.parent))


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST:
            raise ExtensionError(f"{path}: has more than the {LARGEST >> 20} MiB of code that may travel with trials")
        return path.read_bytes()
    except OSError as error:
        raise ExtensionError(f"{path}: cannot be read: {error.strerror}") from error


def packed(extensions: Iterable[Extension]) -> dict[str, bytes]:
    """Return files of one folder that hold some code, by their names: what `unpacked` reads."""
    files: dict[str, bytes] = {}
    about = []
    for extension in extensions:
        names = {path: path.replace("/", ".") for path in extension.files}
        if taken := files.keys() & set(names.values()):
            raise ExtensionError(f"{extension.name}: there is code in another file called {min(taken)}: rename one of them")
        files |= {name: extension.files[path] for path, name in names.items()}
        about.append({"name": extension.name, "module": extension.module, "files": names})
    return files | {NAMES: json.dumps(about, indent=2).encode()} if about else {}


def unpacked(read: Callable[[str], bytes | None]) -> Sequence[Extension]:
    """Return the code in a folder of which ``read`` returns a file, or ``None``. Nothing of it is run.

    Raises `ExtensionError` where it is not as `packed` has it.
    """
    names = read(NAMES)
    if names is None:
        return ()
    found = []
    try:
        for about in json.loads(names):
            files = {}
            for path, name in about["files"].items():
                content = read(name) if _PATH.fullmatch(path) and name == path.replace("/", ".") else None
                if content is None:
                    raise ExtensionError(f"{about['name']}: {path} is not among the files of its code any more")
                files[path] = content
            extension = Extension(about["name"], about["module"], files)
            if not extension.is_package:
                (content,) = files.values()
                extension = Extension.of_file(about["name"], content)
            found.append(extension)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExtensionError(f"what is kept of the sweep's code is damaged: {error}") from error
    return tuple(found)
