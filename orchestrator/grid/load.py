"""Loading a grid file: the door to the grid language."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import GridError
from orchestrator.files import read_file
from orchestrator.grid.axes import Assignment, Axis, Override, assignments
from orchestrator.grid.axis_reader import AxisReader
from orchestrator.grid.claims import CLAIMS, Claim
from orchestrator.grid.data_files import DataFiles, Files
from orchestrator.grid.expand import Expander, Extent
from orchestrator.grid.figures import FIGURES, Figure
from orchestrator.grid.model import TOP, Record, Resources, Tracking
from orchestrator.grid.own_code import check_needs, used
from orchestrator.grid.questions import check_names, columns_of, read_questions
from orchestrator.grid.quoting import nearest, shown
from orchestrator.grid.recorded import check_measures, check_steps
from orchestrator.grid.references import with_arrays
from orchestrator.grid.sections import PARTS, Model, nested, validate
from orchestrator.grid.sizes import too_many
from orchestrator.grid.source import MAX_BYTES, MAX_KEY, Mistake, Mistakes, Source, parse, parse_value
from orchestrator.grid.spreads import is_spread, many, nesting
from orchestrator.grid.traced import Traced, traced
from orchestrator.grid.written import spec_keys
from workloads.extensions import Extension
from workloads.training.recording import DEFAULT_MEASURES
from workloads.trial import Trial

AXES = ("cases", "grid", "zip", "random")


@dataclass(frozen=True)
class Grid:
    """A loaded grid: its trials in order, and what is to be done with them.

    ``extent`` says what varies; ``files`` are the data files it names; ``text`` is the file as it was written and ``overrides`` what
    changed it.
    """

    name: str
    path: str
    text: str
    trials: tuple[Trial, ...]
    record: Record
    resources: Resources
    tracking: Tracking = field(default_factory=Tracking)
    extent: Extent = field(default_factory=Extent)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    files: DataFiles = field(default_factory=DataFiles, repr=False)
    overrides: tuple[str, ...] = ()

    @property
    def traced(self) -> Traced:
        """What its figures and claims need at all recorded steps of what is recorded by name."""
        names = DEFAULT_MEASURES if self.record.measures is None else self.record.measures
        return traced({"figures": self.figures, "claims": self.claims}, self.trials, names)

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """The code of users' own that its kinds and measures are from."""
        return self.files.code


def load_grid(path: str | Path, overrides: Sequence[str] = (), advanced: Callable[[int, int], None] = lambda *_: None) -> Grid:
    """Load a grid file; ``overrides`` are ``key=value`` texts. Raises `GridError` with everything that is wrong.

    ``advanced`` is told again and again how many trials there are so far, and of how many.
    """
    path = Path(path)
    return parse_grid(_read(path), str(path), path.parent, overrides, advanced=advanced)


def _read(path: Path) -> str:
    try:
        return read_file(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GridError([f"{path}: is not UTF-8 text"]) from error
    except OSError as error:
        hint = "; put data into files of their own" if error.errno == errno.EFBIG else ""
        raise GridError([f"{path}: cannot be read: {error.strerror}{hint}"]) from error


def parse_grid(
    text: str,
    name: str = "<grid>",
    folder: Path = Path(),
    overrides: Sequence[str] = (),
    contents: Mapping[str, Callable[[], bytes]] | None = None,
    advanced: Callable[[int, int], None] = lambda *_: None,
) -> Grid:
    """Load a grid from its text. Raises `GridError` with everything that is wrong.

    Data files are read by ``contents``, by the names that the grid has for them, and otherwise looked for in ``folder``.
    """
    source = parse(text, name)
    mistakes = Mistakes(source)
    if not check_needs(source.data, folder, mistakes):
        # All else may be about kinds that are not there.
        raise source.error(mistakes)
    settings = _override(source, overrides, mistakes)
    data = source.data
    mistakes += _unknown(data)
    title = _name(data, mistakes)
    record = _top(Record, "record", data, mistakes)
    resources = _top(Resources, "resources", data, mistakes)
    tracking = _top(Tracking, "tracking", data, mistakes)
    mistakes += _pointless(record, tracking)
    files = Files(folder, contents)
    # To try a grid with few steps is no mistake in what is meant for more.
    shortened = any(override.key in ("stop", "stop.steps") for override in settings)
    expander = Expander(data, settings, files, mistakes)
    # A broken axis would be reported over and over by the sections it feeds.
    trials = expander.trials(advanced) if not any(p.path[:1] in {(a,) for a in AXES} for p in mistakes) else ()
    figures = read_questions("figures", FIGURES, data, mistakes)
    claims = read_questions("claims", CLAIMS, data, mistakes)
    if record is not None and trials and not mistakes:
        check_measures(record, trials, mistakes)
        if not shortened:
            check_steps(record, trials, mistakes)
        record = with_arrays(record, [t.spec for t in trials], files, mistakes)
    names = record.measures if record is not None and record.measures is not None else DEFAULT_MEASURES
    if record is not None and trials and not mistakes and (figures or claims):
        check_names({"figures": figures, "claims": claims}, *columns_of((t.spec for t in trials), names), mistakes)
    if mistakes or record is None or resources is None or tracking is None:
        raise source.error(mistakes)
    data_files = DataFiles(files.contents, files.names, used(trials, names, data))
    return Grid(
        *(title, name, text, trials, record, resources, tracking),
        *(expander.extent(), figures, claims, data_files, tuple(overrides)),
    )


def load_questions(path: str | Path) -> tuple[dict[str, Figure], dict[str, Claim]]:
    """Return the figures and claims of a grid file, without its trials. Raises `GridError` with everything that is wrong with them."""
    return parse_questions(_read(Path(path)), str(path))


def parse_questions(text: str, name: str = "<grid>") -> tuple[dict[str, Figure], dict[str, Claim]]:
    """`load_questions` from a grid's text."""
    source = parse(text, name)
    mistakes = Mistakes(source)
    figures = read_questions("figures", FIGURES, source.data, mistakes)
    claims = read_questions("claims", CLAIMS, source.data, mistakes)
    if mistakes:
        raise source.error(mistakes)
    return figures, claims


def parse_tracking(text: str, name: str = "<grid>") -> Tracking:
    """Return what the text of a grid says of MLflow. Raises `GridError`."""
    source = parse(text, name)
    mistakes = Mistakes(source)
    tracking = _top(Tracking, "tracking", source.data, mistakes)
    if mistakes or tracking is None:
        raise source.error(mistakes)
    return tracking


def _override(source: Source, overrides: Sequence[str], mistakes: list[Mistake]) -> list[Override]:
    """Put overrides of top-level keys into the data, and return those of the trials' specs."""
    settings: dict[str, tuple[object, bool]] = {}
    for text in overrides:
        key, separator, written = text.partition("=")
        key = key.strip().removeprefix("fixed.")
        if not separator or not key:
            mistakes.append(Mistake(("--set", text), "", "must be key=value, such as optimizer.lr=1e-3"))
            continue
        if len(key) > MAX_KEY:
            mistakes.append(Mistake(("--set", key), "", f"the key has {len(key):,} characters, more than the {MAX_KEY} that any may have"))
            continue
        value = parse_value(written, f"--set {key}")
        bare = key.removeprefix("grid.")
        top = bare.partition(".")[0]
        if top in PARTS:
            # The last word counts, whatever was said of the same key before.
            settings.pop(bare, None)
            settings[bare] = value, bare != key or is_spread(value) or nesting(value) > spec_keys().get(bare, 0)
        elif top in ("record", "resources", "tracking") and "." in key:
            inner, below = source.data.get(top), key.partition(".")[2]
            source.data[top] = {**(inner if isinstance(inner, dict) else {}), below: value}
            source.replaced[top, below] = key
        elif top in TOP and "." not in key:
            source.data[top] = value
            source.replaced[top,] = key
        elif top in TOP:
            mistakes.append(Mistake(("--set", key), key, f"is part of {top}, which is set as a whole: --set '{top}=...'"))
        else:
            mistakes.append(Mistake(("--set", key), key, f"unknown key{nearest(top, [*PARTS, *TOP])}"))
    if large := list(too_many(source.data, {key: many(value) if axis else 1 for key, (value, axis) in settings.items()})):
        # Nothing of it is built: that would take as much time and memory as the trials of a grid that is not too large.
        raise source.error([*mistakes, *large])
    return list(_settled(settings, mistakes))


def _settled(settings: Mapping[str, tuple[object, bool]], mistakes: list[Mistake]) -> Iterator[Override]:
    """Yield the overrides of keys, each with its value and whether that lists the points of an axis."""
    for key, (value, axis) in settings.items():
        path = ("--set", key)
        points = AxisReader({}, mistakes).points(key, value, path) if axis else [tuple(assignments(value, path, key, mistakes))]
        if points and not all(points):
            mistakes.append(Mistake(path, key, "must be a set of keys, and is empty"))
        elif points:
            yield Override(key, Axis(f"grid.{key}", tuple(points)))


def _unknown(data: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield the top-level keys that there are not."""
    for key in data:
        if key not in TOP:
            under = key.partition(".")[0] in PARTS
            message = f"belongs under fixed: fixed: {{{key}: ...}}" if under else f"unknown key{nearest(key, [*TOP, *PARTS])}"
            yield Mistake((key,), key, message)


def _pointless(record: Record | None, tracking: Tracking | None) -> Iterator[Mistake]:
    """Yield numbers of points where there are none to be spread."""
    if record is not None and "points" in record.model_fields_set and record.steps is not None:
        yield Mistake(("record", "points"), "record.points", "has no effect beside record.steps: give one of them")
    if tracking is not None and "points" in tracking.model_fields_set and tracking.runs == "none":
        yield Mistake(("tracking", "points"), "tracking.points", "has no effect with tracking.runs: none: no trial has a run")


def _name(data: Mapping[str, Any], mistakes: list[Mistake]) -> str:
    name = data.get("name")
    if "name" not in data:
        mistakes.append(Mistake((), "name", "is missing: it names the MLflow experiment"))
    elif not isinstance(name, str) or not name.strip():
        mistakes.append(Mistake(("name",), "name", f"must be text, not {shown(name)}"))
    elif len(name) > 100 or any(not c.isprintable() or c in "/\\:" for c in name) or name.startswith("."):
        mistakes.append(
            Mistake(("name",), "name", "must have at most 100 characters, no slash, colon or control character, and no dot in front")
        )
    return name if isinstance(name, str) else ""


def _top(model: type[Model], part: str, data: Mapping[str, Any], mistakes: list[Mistake]) -> Model | None:
    value = data.get(part)
    if value is None:
        return model()
    if not isinstance(value, Mapping):
        mistakes.append(Mistake((part,), part, f"must be a mapping of keys, not {shown(value)}"))
        return None
    placed = {f"{part}.{key}": Assignment(f"{part}.{key}", inner, (part, key)) for key, inner in value.items()}
    for key, inner in value.items():
        for name, one in inner.items() if isinstance(inner, Mapping) else ():
            placed[f"{part}.{key}.{name}"] = Assignment(f"{part}.{key}.{name}", one, (part, key, name))
    return validate(model, part, nested(dict(value)), placed, mistakes)
