"""From a user's code to kinds and measures beside the built-in ones.

What runs are the bytes that were read, under names of their own, in the driver as on workers: what a file has become since makes no
difference, and the classes of several versions of it can be told apart, by whoever unpickles their instances too.
"""

from __future__ import annotations

import importlib
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from workloads.extensions.locating import PLACES, ExtensionError, explained, within
from workloads.extensions.source import Extension
from workloads.factorizations import Factorization
from workloads.kinds import Kind, Registry
from workloads.losses import LOSSES
from workloads.measures.base import MEASURES, Measure, enter, withdraw
from workloads.trial import KINDS

IMPORT_SECONDS = 60.0
"""How long importing a user's code may take: what it imports itself may take a while."""
NAMED = "what is in another module travels only if that is named as code, too"
REGISTRIES: Mapping[str, Registry[Any]] = {**KINDS, "loss": LOSSES}


@dataclass(frozen=True)
class _Loaded:
    """What is in a user's code."""

    extension: Extension
    kinds: Sequence[type[Kind]]
    measures: Sequence[Measure]
    modules: dict[str, ModuleType]
    finder: _Finder


_loaded: dict[tuple[str, str], _Loaded] = {}
_active: tuple[Extension, ...] = ()


def active() -> tuple[Extension, ...]:
    """Return the code whose kinds and measures are there now."""
    return _active


def activate(extensions: Sequence[Extension], seconds: float = IMPORT_SECONDS) -> None:
    """Have the kinds and measures of just this code beside the built-in ones. It is run, unless it has been in this process.

    Raises `ExtensionError` for code that cannot be imported in so many ``seconds``, lacks something, or has a name that is taken; there are
    built-in ones alone then.
    """
    global _active
    wanted = _unique(extensions)
    if wanted == _active:
        return
    before, _active = _active, ()
    for extension in before:
        _withdraw(_loaded[_key(extension)])
    try:
        for extension in wanted:
            _enter(extension, seconds)
            _active = (*_active, extension)
    except ExtensionError:
        activate(())
        raise


def _unique(extensions: Sequence[Extension]) -> tuple[Extension, ...]:
    return tuple({_key(extension): extension for extension in extensions}.values())


def _key(extension: Extension) -> tuple[str, str]:
    return extension.module, extension.digest


def _enter(extension: Extension, seconds: float) -> None:
    known = _loaded.get(_key(extension))
    if known is None:
        _loaded[_key(extension)] = _load(extension, seconds)
        return
    _forget_modules(extension)
    sys.modules.update(known.modules)
    sys.meta_path.insert(0, known.finder)
    known.finder.show()
    try:
        for kind in known.kinds:
            kind.registry.add(kind)
        for row in known.measures:
            enter(row)
    except ValueError as error:
        _withdraw(known)
        raise ExtensionError(f"{extension.name}: {error}") from error


def _withdraw(loaded: _Loaded) -> None:
    for kind in loaded.kinds:
        if kind.registry.get(kind.kind) is kind:
            kind.registry.remove(kind.kind)
    for row in loaded.measures:
        if row in MEASURES:
            withdraw(row)
    # What has been imported since is of this version, too.
    loaded.modules.update(_modules(loaded.extension))
    if loaded.finder in sys.meta_path:
        sys.meta_path.remove(loaded.finder)


def _load(extension: Extension, seconds: float) -> _Loaded:
    """Import code for the first time. Whatever it has registered by then goes again if something is wrong with it."""
    _forget_modules(extension)
    finder = _Finder(extension)
    sys.meta_path.insert(0, finder)
    kinds, rows = _registered(), list(MEASURES)
    try:
        within(seconds, lambda: importlib.import_module(extension.module), "the import")
        found, new = _since(kinds, rows)
        _check(extension, found, new)
    except BaseException as error:
        _withdraw(_Loaded(extension, *_since(kinds, rows), {}, finder))
        _forget_modules(extension)
        if isinstance(error, ExtensionError):
            raise
        if not isinstance(error, Exception | SystemExit):
            raise
        raise ExtensionError(explained(error) or f"{extension.shown(extension.name)}: {type(error).__name__}: {error}") from error
    for kind in found:
        kind.code = extension.digest
    marked = [replace(row, code=extension.digest) for row in new]
    for row, own in zip(new, marked, strict=True):
        withdraw(row)
        enter(own)
    # Its functions may import more of it when they are called.
    return _Loaded(extension, found, marked, _modules(extension), finder)


def _since(kinds: Sequence[type[Kind]], rows: Sequence[Measure]) -> tuple[list[type[Kind]], list[Measure]]:
    """Return what has been registered since there were these."""
    return [kind for kind in _registered() if kind not in kinds], [row for row in MEASURES if row not in rows]


def _registered() -> list[type[Kind]]:
    return [kind for registry in REGISTRIES.values() for kind in registry.values()]


def _is_of(module: str, extension: Extension) -> bool:
    top = extension.module.partition(".")[0]
    return module == top or module.startswith(f"{top}.")


def _modules(extension: Extension) -> dict[str, ModuleType]:
    return {name: module for name, module in sys.modules.items() if _is_of(name, extension)}


def _forget_modules(extension: Extension) -> None:
    """Let a package be imported anew: another version of it may have been."""
    for name in _modules(extension):
        del sys.modules[name]


def _check(extension: Extension, kinds: Sequence[type[Kind]], rows: Sequence[Measure]) -> None:
    """Raise `ExtensionError` for what is missing of kinds, or is not of this code."""
    for model in kinds:
        if not _is_of(model.__module__, extension):
            raise ExtensionError(f"{extension.name}: {model.__qualname__} is from {model.__module__}: {NAMED}")
        if lacking := sorted(_lacking(model)):
            raise ExtensionError(f"{place_of(model)}: {model.__qualname__} has no method {' and no '.join(lacking)}")
    for model in _nameless(extension):
        said = "give it a line such as kind = 'mine', or, if others build on it, a name that begins with _"
        raise ExtensionError(f"{place_of(model)}: {model.__qualname__} has no kind: {said}")
    for row in rows:
        if not _is_of(row.compute.__module__, extension):
            raise ExtensionError(f"{extension.name}: measure {row.shown} is from {row.compute.__module__}: {NAMED}")
    if not kinds and not rows:
        raise ExtensionError(
            f"{extension.shown(extension.name)}: has neither kinds nor measures: a class needs a line such as kind = 'mine'"
        )


def _nameless(extension: Extension) -> Iterator[type[Kind]]:
    """Yield the classes of this code that could be kinds but for their name: no other is made of them, and they have all methods."""
    bases = tuple(registry.base for registry in REGISTRIES.values())
    modules = _modules(extension)
    own = [(name, model) for name, module in modules.items() for model in vars(module).values() if isinstance(model, type)]
    classes = dict.fromkeys(model for name, model in own if model.__module__ == name and issubclass(model, bases))
    for model in classes:
        built_on = any(model in other.__mro__[1:] for other in classes)
        if "kind" not in vars(model) and not model.__name__.startswith("_") and not built_on and not any(_lacking(model)):
            yield model


def _lacking(model: type[Kind]) -> Iterator[str]:
    """Yield the methods that a kind has to have and does not."""
    yield from getattr(model, "__abstractmethods__", ())
    if issubclass(model, Factorization):
        if model.shapes is Factorization.shapes:
            yield "shapes"
        if model.product is Factorization.product and model.products is Factorization.products:
            yield "product"


def place_of_measure(row: Measure) -> str:
    """Return the file and line at which a measure's function begins, as a user wrote it."""
    return place_of(getattr(row.compute, "__wrapped__", row.compute))


def place_of(thing: Any) -> str:
    """Return the file and line at which a class or function begins."""
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return str(getattr(thing, "__module__", thing))


class _Finder(MetaPathFinder, ExecutionLoader):
    """Imports the modules of a user's code from the bytes that were read."""

    own = True

    def __init__(self, extension: Extension) -> None:
        self._files: dict[str, tuple[str, bytes, bool]] = {}
        for path, content in extension.files.items():
            name = path.removesuffix(".py").replace("/", ".") if extension.is_package else extension.module
            package = name.endswith(".__init__")
            self._files[name.removesuffix(".__init__")] = (extension.shown(path), content, package)

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        if fullname not in self._files:
            return None
        place, _, package = self._files[fullname]
        PLACES.add(place)
        self._show(fullname)
        spec = spec_from_loader(fullname, self, origin=place, is_package=package)
        assert spec is not None
        spec.has_location = True  # what looks for source by it finds what is kept
        return spec

    def show(self) -> None:
        """Let tracebacks and documents show what runs, not what has become of the files."""
        for name in self._files.keys() & sys.modules.keys():
            self._show(name)

    def _show(self, fullname: str) -> None:
        place, text = self._files[fullname][0], self.get_source(fullname)
        linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)

    def get_filename(self, fullname: str) -> str:
        return self._files[fullname][0]

    def get_source(self, fullname: str) -> str:
        place, content, _ = self._files[fullname]
        try:
            return importlib.util.decode_source(content)
        except (SyntaxError, UnicodeDecodeError) as error:
            raise ExtensionError(f"{place}:1: is not text of Python: {error}") from error

    def is_package(self, fullname: str) -> bool:
        return self._files[fullname][2]
