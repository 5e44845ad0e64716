"""Kinds: parts of a spec that can be one of several things, each a class in a file of its own.

A class with a ``kind`` of its own is in its part's `Registry` as soon as it is defined. All else follows from the registry: what a grid may
say, its schema and the tables of the guide, file formats, the memory that lanes take. Nobody outside asks which kind something is.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from workloads.section import Conflict, FileRef, Section

K = TypeVar("K", bound="Kind")


class Registry(Mapping[str, type[K]], Generic[K]):
    """The kinds of one ``part`` of a spec, by name."""

    base: type[K]
    """What all of them have in common."""

    def __init__(self, part: str) -> None:
        self.part = part
        self._kinds: dict[str, type[K]] = {}

    def __getitem__(self, kind: str) -> type[K]:
        return self._kinds[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kinds)

    def __len__(self) -> int:
        return len(self._kinds)

    def add(self, model: type[K]) -> None:
        """Register a class. Raises `ValueError` if its kind has another class already."""
        known = self._kinds.get(model.kind)
        if known is not None and (known.__module__, known.__qualname__) != (model.__module__, model.__qualname__):
            raise ValueError(f"{self.part}.kind {model.kind} is {known.__module__}.{known.__qualname__} already")
        self._kinds[model.kind] = model

    def remove(self, kind: str) -> None:
        """Forget a kind. Raises `KeyError` if there is none of this name."""
        del self._kinds[kind]

    def read(self, value: object) -> object:
        """Return ``value``, a mapping of keys or a kind's name alone, as one of the kinds. Raises `ValueError` if it is none."""
        if isinstance(value, str):
            value = {"kind": value}
        if not isinstance(value, Mapping):
            return value
        kind = value.get("kind")
        if kind not in self._kinds:
            raise ValueError(f"{self.part}.kind must be {' or '.join(self)}, not {kind!r}")
        return self._kinds[kind].model_validate(value)


class Kind(Section):
    """A part of a spec whose ``kind`` names its class."""

    kind: ClassVar[str]
    example: ClassVar[str] = ""
    """How it may stand in a grid file."""
    seeded: ClassVar[bool] = False
    """True where the trial's seed changes what it does."""
    registry: ClassVar[Registry[Any]]
    refuses: ClassVar[tuple[str, ...]] = ()
    """Keys that it has from what all kinds have in common, and that are none of its own: they would have no effect."""
    data_key: ClassVar[str] = "file"
    """The key that may name a `data_file`."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        if "registry" in vars(cls):
            cls.registry.base = cls
        if "kind" in vars(cls):
            if "example" not in vars(cls):
                required = "".join(f", {name}: …" for name, field in cls.model_fields.items() if field.is_required())
                cls.example = f"{{kind: {cls.kind}{required}}}"
            cls.registry.add(cls)

    @model_validator(mode="before")
    @classmethod
    def _without_kind(cls, value: object) -> object:
        if isinstance(value, Mapping) and value.get("kind") == getattr(cls, "kind", None):
            return {key: inner for key, inner in value.items() if key != "kind"}
        return value

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> Any:
        return {"kind": self.kind, **handler(self)}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core_schema))
        if hasattr(cls, "kind"):
            schema["properties"] = {"kind": {"const": cls.kind, "default": cls.kind, "type": "string"}, **schema.get("properties", {})}
        return schema

    @property
    def data_file(self) -> FileRef | None:
        """The data file that is named, if there is one."""
        return None

    def with_data(self, content: bytes, digest: str) -> Self:
        """Return this part with what the ``content`` of its data file, of a SHA-256 ``digest``, says.

        Raises `workloads.arrays.DataError` if that is not what is expected.
        """
        raise NotImplementedError(f"{type(self).__name__} names no data file")

    def file_conflicts(self) -> Iterator[Conflict]:
        """Yield what is wrong between the keys that were given and what the data file says, which has been read."""
        return iter(())


def discover(package: str, path: Iterable[str]) -> None:
    """Import every module of a ``package`` that lies in ``path``, so that the kinds in them are registered."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
