"""The arrays of data files that a grid's measures are against: read once, and held to the shapes of its trials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import UsageError
from orchestrator.grid.data_files import Files
from orchestrator.grid.model import Record
from orchestrator.grid.quoting import nearest
from orchestrator.grid.source import Mistake
from workloads import measures
from workloads.training.references import Reference, References
from workloads.trial import TrialSpec

KEY = "record.references"
_REFERENCES = TypeAdapter(References)


def with_arrays(record: Record, specs: Collection[TrialSpec], files: Files, mistakes: list[Mistake]) -> Record:
    """Return what a grid records of trials like ``specs``, with the digests and shapes of the arrays that it names; mistakes go to
    ``mistakes``."""
    used = {measures.reference_of(name) for name in record.measures or ()}
    found: dict[str, Reference] = {}
    for name, reference in record.references.items():
        path, key = ("record", "references", name), f"{KEY}.{name}"
        if name not in used:
            mistakes.append(Mistake(path, key, _unused(_measure(name))))
            continue
        try:
            found[name] = read(reference, files)
        except (OSError, ValueError) as error:
            reason = f"cannot read {reference.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            mistakes.append(Mistake(path, key, reason))
            continue
        mistakes += [Mistake(path, key, reason) for reason in unlike(found[name], specs)]
    return record.model_copy(update={"references": found}) if found else record


def read(reference: Reference, files: Files) -> Reference:
    """Return a reference to an array that has been looked at. Raises `OSError` and `ValueError`."""
    digest = files.read(reference.path)
    return reference.read(files.contents[digest], digest)


def unlike(reference: Reference, specs: Iterable[TrialSpec]) -> Iterator[str]:
    """Yield what is wrong with an array that has the shape of no trial."""
    shapes = list(dict.fromkeys(spec.shape for spec in specs if not spec.factorization.maps))
    if shapes and reference.shape not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes[:5])
        yield f"{reference.path}: {reference.array} has shape {list(reference.shape)}, and what trials come to {wanted}"


def given(texts: Mapping[str, str], specs: Iterable[TrialSpec], folder: Path) -> tuple[dict[str, Reference], Mapping[str, bytes]]:
    """Return references that did not come with a grid, by their names, and the content of their files, which are looked for in ``folder``,
    by digest. Raises `UsageError`."""
    files, found, specs = Files(folder), {}, list(specs)
    try:
        for name, reference in _REFERENCES.validate_python(texts).items():
            found[name] = read(reference, files)
            if wrong := next(unlike(found[name], specs), None):
                raise UsageError(f"reference {name}: {wrong}")
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else "must be a name: letters, digits and _, a letter first"
        raise UsageError(f"reference {first['loc'][0]}: {reason}") from error
    except (OSError, ValueError) as error:
        reason = f"cannot read {error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise UsageError(f"reference {name}: {reason}") from error
    return found, files.contents


def undeclared(name: str, references: Mapping[str, Reference]) -> str | None:
    """Return what is wrong with a measure that is against an array which nothing gives."""
    array = measures.reference_of(name)
    if array is None or array in references:
        return None
    taken = [row.shown for row in measures.MEASURES if row.shown.startswith(_measure(""))] + [_measure(one) for one in references]
    return f"{name} is against an array that {KEY}.{array} has to name, as FILE.npz:ARRAY{nearest(name, taken)}"


def _unused(measure: str) -> str:
    if measures.find(measure) is not None and measures.reference_of(measure) is None:
        return f"is a name that is taken: {measure} is another measure"
    return f"has no effect: record.measures has no {measure}"


def _measure(name: str) -> str:
    row = next(row for row in measures.MEASURES if measures.reference_of(row.shown))
    return f"{row.shown.rpartition('_')[0]}_{name}"
