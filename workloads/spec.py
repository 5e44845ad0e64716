"""What a trial is: the frozen, validated description that determines its numbers.

Each section of a grid file (``problem``, ``factorization``, ``init``, ``optimizer``, ``stop``) is a model; a section with
several kinds is a table from ``kind`` to model (`SECTIONS`), so adding a kind is one class and one row. Models are strict: no
string becomes a number, no unknown key is dropped. What concerns two sections at once is checked by `conflicts`.

This module imports neither torch nor numpy: planning a grid has to start in a fraction of a second.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    model_serializer,
    model_validator,
)

SPEC_VERSION = 1
"""Part of every trial id. Raise it whenever the same spec would give other numbers."""


def _whole(value: object) -> object:
    """Accept ``1e6`` where an integer is meant: YAML has no exponent for integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def as_tuple(value: object) -> object:
    """YAML has lists only; strict tuples would refuse them."""
    return tuple(as_tuple(item) for item in value) if isinstance(value, list) else value


LARGEST_COUNT = 2**53
"""Up to here floating point, which YAML's ``1e6`` and all estimates are, holds every whole number."""
LARGEST_SIZE = 1 << 32
"""Entries of a matrix or tensor, of all parameters, or of all measurements: 32 GiB in float64, several times of which a trial needs."""
LARGEST_DEPTH = 1000

Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1, le=LARGEST_COUNT)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]
MAX_ORDER = 8


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > LARGEST_SIZE:
        raise ValueError(f"has {math.prod(shape):,} entries, more than the {LARGEST_SIZE:,} that can be trained")
    return shape


Shape = Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=2, max_length=MAX_ORDER), AfterValidator(_dense)]


class Section(BaseModel):
    """A part of a spec: frozen, strict, and closed to keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    @cached_property
    def canonical(self) -> str:
        """JSON that is equal exactly when the numbers are: sorted keys, resolved defaults, data files by digest."""
        fields = self.model_dump(mode="json", exclude_none=True, context={"canonical": True})
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)


class FileRef(Section):
    """A data file: the path as the user wrote it and, once somebody has read it, the SHA-256 of its content and its observations."""

    path: str
    digest: str = ""
    count: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @model_serializer
    def _as_text(self, info: SerializationInfo) -> str:
        canonical = bool(info.context and info.context.get("canonical"))
        return f"sha256:{self.digest}" if canonical and self.digest else self.path


# ---------------------------------------------------------------------------------------------------------------- problem


class Target(Section):
    """A drawn ground truth of given rank (CP rank for tensors) and Frobenius norm."""

    rank: Count
    frobenius: Positive = 1.0


def _observed(value: int | float) -> int | float:
    if isinstance(value, float) and not 0 < value <= 1:
        raise ValueError("a fraction of the entries lies in (0, 1]; a count is a whole number of at least 1")
    if isinstance(value, int) and value < 1:
        raise ValueError("at least 1 observation is needed")
    if value > LARGEST_SIZE:
        raise ValueError(f"must be at most {LARGEST_SIZE:,}, not {value}")
    return value


Observed = Annotated[int | float, AfterValidator(_observed)]


class Problem(Section):
    """What is to be recovered and what is seen of it.

    The ground truth is drawn (``target``), or read from ``file``; `MatrixCompletion` also takes ``entries``. ``observed`` is a count
    (integer) or a fraction (float) of the entries, or the number of measurements of a sensing problem.
    """

    order: ClassVar[int | None] = 2
    sensing: ClassVar[bool] = False

    shape: Shape | None = None
    target: Target | None = None
    file: FileRef | None = None
    observed: Observed | None = None
    seed: Seed = 0

    @property
    def size(self) -> int:
        """Number of entries of the matrix or tensor."""
        return math.prod(self.shape or ())

    def observations(self) -> int | None:
        """Number of observations, where the spec alone tells it; ``None`` where the data file does."""
        if self.file is not None and self.file.count is not None:
            return self.file.count
        if isinstance(self.observed, float):
            return max(1, round(self.observed * self.size))
        return self.observed

    def sources(self) -> list[str]:
        """Which of the ways to give a ground truth are used."""
        return [name for name in ("entries", "target", "file") if getattr(self, name, None) is not None]

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield ``(key, message)`` for what the fields' types alone cannot refuse."""
        given = self.model_fields_set
        sources = self.sources()
        options = [name for name in ("entries", "target", "file") if name in type(self).model_fields]
        if not sources:
            yield "problem", f"needs a ground truth: one of {', '.join(options)}"
        elif len(sources) > 1:
            yield f"problem.{sources[1]}", f"has no effect beside problem.{sources[0]}: give one of {', '.join(options)}"
        if self.shape is None:
            if self.file is None:
                yield "problem", "needs shape, the dimensions of the matrix or tensor"
            return
        yield from self._size_conflicts(self.shape)
        if "entries" in sources:
            for key in ("observed", "seed"):
                if key in given:
                    yield f"problem.{key}", "has no effect with problem.entries: nothing is drawn"

    def _size_conflicts(self, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        if self.order is not None and len(shape) != self.order:
            yield "problem.shape", f"{self.kind} is about matrices: two dimensions, not {len(shape)}"
        if self.order is None and len(shape) < 3:
            yield "problem.shape", f"{self.kind} needs three dimensions or more, not {len(shape)}"
        if self.target is not None:
            if self.observed is None:
                yield "problem", "needs observed: how many entries (or measurements) of the drawn target are seen"
            most, what = math.prod(shape) // max(shape), "matrix" if len(shape) == 2 else "tensor"
            if self.target.rank > most:
                yield "problem.target.rank", f"is {self.target.rank}, but a {what} of shape {list(shape)} has rank {most} at most"
        if self.sensing and isinstance(self.observed, float):
            yield "problem.observed", "counts measurements here: a whole number, not a fraction of the entries"
        elif not self.sensing and (self.observations() or 0) > self.size:
            yield "problem.observed", f"is {self.observed}, but shape {list(shape)} has only {self.size} entries"
        elif self.sensing and (count := (self.observations() or 0) * self.size) > LARGEST_SIZE:
            yield "problem.observed", f"makes measurements of {count:,} entries, more than the {LARGEST_SIZE:,} that can be trained on"

    kind: str


def _entry(entry: tuple[float, ...]) -> tuple[int | float, ...]:
    *index, value = entry
    return (*(int(i) if float(i).is_integer() else i for i in index), float(value))


Entry = Annotated[tuple[Finite, ...], BeforeValidator(as_tuple), Field(min_length=3), AfterValidator(_entry)]


class MatrixCompletion(Problem):
    """Some entries of a matrix are observed."""

    kind: Literal["matrix_completion"] = "matrix_completion"
    entries: Annotated[tuple[Entry, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        yield from super().own_conflicts()
        if self.entries is None or self.shape is None:
            return
        seen: dict[tuple[float, ...], int] = {}
        for position, entry in enumerate(self.entries):
            *index, _ = entry
            key = f"problem.entries[{position}]"
            if len(index) != len(self.shape):
                yield key, f"needs {len(self.shape)} indices and a value, not {len(entry)} numbers"
            elif any(not isinstance(i, int) or not 0 <= i < n for i, n in zip(index, self.shape, strict=True)):
                yield key, f"index {index} lies outside shape {list(self.shape)} (counting from 0)"
            elif tuple(index) in seen:
                yield key, f"observes {index} again; it is entry {seen[tuple(index)]} already"
            seen.setdefault(tuple(index), position)

    def observations(self) -> int | None:
        return len(self.entries) if self.entries is not None else super().observations()


class MatrixSensing(Problem):
    """Inner products of a matrix with Gaussian (or given) measurement matrices are observed."""

    sensing: ClassVar[bool] = True
    kind: Literal["matrix_sensing"] = "matrix_sensing"


class TensorCompletion(MatrixCompletion):
    """Some entries of a tensor of order three or more are observed."""

    order: ClassVar[int | None] = None
    kind: Literal["tensor_completion"] = "tensor_completion"  # type: ignore[assignment]


class TensorSensing(Problem):
    """Inner products of a tensor with Gaussian (or given) measurement tensors are observed."""

    order: ClassVar[int | None] = None
    sensing: ClassVar[bool] = True
    kind: Literal["tensor_sensing"] = "tensor_sensing"


# ---------------------------------------------------------------------------------------------------------- factorization


class Factorization(Section):
    """A way to write the matrix or tensor by parameters that are trained."""

    kind: str


class DeepMatrix(Factorization):
    """W = W_L ... W_1 with L = ``depth`` factors; ``widths`` are the L - 1 hidden ones, from W_1's output to W_L's input."""

    kind: Literal["deep_matrix"] = "deep_matrix"
    depth: Annotated[Count, Field(le=LARGEST_DEPTH)]
    widths: Annotated[tuple[Count, ...], BeforeValidator(as_tuple)] | Count | None = None

    def hidden(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The hidden widths, ``min(shape)`` unless given."""
        if isinstance(self.widths, tuple):
            return self.widths
        return (min(shape) if self.widths is None else self.widths,) * (self.depth - 1)

    def own_conflicts(self, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        """Yield ``(key, message)`` for what the fields' types alone cannot refuse."""
        hidden = self.depth - 1
        if isinstance(self.widths, tuple):
            if len(self.widths) != hidden:
                yield "factorization.widths", f"depth {self.depth} has {hidden} hidden widths, not {len(self.widths)}"
        elif self.widths is not None and hidden == 0:
            yield "factorization.widths", "has no effect at depth 1: there is no hidden width"
        if len(shape) != 2:
            yield "factorization.kind", f"deep_matrix is for matrices, but shape is {list(shape)}: use cp or linear"
            return
        yield from _too_many(sum(out * into for out, into in pairwise((shape[1], *self.hidden(shape), shape[0]))))


class Cp(Factorization):
    """W = sum over r of a_r^1 x ... x a_r^N, ``components`` terms: by default the largest possible rank."""

    kind: Literal["cp"] = "cp"
    components: Count | None = None

    def terms(self, shape: tuple[int, ...]) -> int:
        """The number of components: the product of all dimensions but the largest, unless given."""
        return self.components or math.prod(shape) // max(shape)

    def own_conflicts(self, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        """Yield ``(key, message)`` for what the fields' types alone cannot refuse."""
        yield from _too_many(self.terms(shape) * sum(shape))


def _too_many(parameters: int) -> Iterator[tuple[str, str]]:
    if parameters > LARGEST_SIZE:
        yield "factorization", f"has {parameters:,} parameters, more than the {LARGEST_SIZE:,} that can be trained"


class Linear(Factorization):
    """The matrix or tensor itself, from zero: fits the observations and leaves zeros elsewhere."""

    kind: Literal["linear"] = "linear"


class Solved(Factorization):
    """The matrix or tensor itself, found by solving a convex problem rather than by descent: no start, no optimizer, no loss to stop at."""


class MinFrobenius(Solved):
    """The matrix or tensor of least Frobenius norm that fits the observations, in one step: where ``linear`` converges to."""

    kind: Literal["min_frobenius"] = "min_frobenius"


class NuclearNorm(Solved):
    """The matrix of least nuclear norm that fits the observations; ``tolerance`` is the relative duality gap at which it is solved."""

    kind: Literal["nuclear_norm"] = "nuclear_norm"
    tolerance: Annotated[Finite, Field(ge=1e-12, lt=1)] = 1e-6


# ------------------------------------------------------------------------------------------------------------------- init

Sign = Literal["positive", "negative"]


class Init(Section):
    """Where the factors start. ``balanced`` and ``det_sign`` hold for every kind."""

    kind: str
    balanced: bool = False
    det_sign: Sign | None = None


class _Scaled(Init):
    """``scale`` is that of one factor, ``product_scale`` that of the whole product; exactly one is given."""

    scale: Positive | None = None
    product_scale: Positive | None = None


class Gaussian(_Scaled):
    """Independent normal entries: ``scale`` is a factor entry's standard deviation, ``product_scale`` a product entry's."""

    kind: Literal["gaussian"] = "gaussian"


class Identity(_Scaled):
    """Each factor is ``scale`` times a (rectangular) identity."""

    kind: Literal["identity"] = "identity"


class Orthogonal(_Scaled):
    """Each factor is ``scale`` times a random matrix with orthonormal rows or columns, whichever are fewer."""

    kind: Literal["orthogonal"] = "orthogonal"


class FromFile(Init):
    """Factors from an ``.npz``: ``W1`` ... ``WL`` (the product is WL ... W1), or ``A1`` ... ``AN``, each [d_n, R]."""

    kind: Literal["file"] = "file"
    file: FileRef


# -------------------------------------------------------------------------------------------------------------- optimizer

Decay = Annotated[Finite, Field(ge=0, lt=1)]


class Optimizer(Section):
    """A way to take a step; ``lr`` is the step size."""

    kind: str
    lr: Positive


class Gd(Optimizer):
    """Plain gradient descent."""

    kind: Literal["gd"] = "gd"


class GroupRmsprop(Optimizer):
    """One step size for all parameters: lr / (sqrt(bias-corrected moving average of the squared gradient norm) + eps)."""

    kind: Literal["group_rmsprop"] = "group_rmsprop"
    beta: Decay = 0.99
    eps: Positive = 1e-6


class Momentum(Optimizer):
    """Heavy ball: v <- momentum * v + gradient, w <- w - lr * v (Polyak 1964, in PyTorch's form)."""

    kind: Literal["momentum"] = "momentum"
    momentum: Decay = 0.9


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1)."""

    kind: Literal["adam"] = "adam"
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8


# ------------------------------------------------------------------------------------------------------------------- stop


class Stop(Section):
    """When a trial ends: at a ``loss``, after ``steps`` or after ``seconds``, whichever comes first.

    The loss is checked at every step, or, with ``check_every``, only at multiples of it, and it must then be low enough at
    ``consecutive`` checks in a row.
    """

    loss: Annotated[Finite, Field(ge=0)] | None = None
    steps: Count | None = None
    seconds: Positive | None = None
    check_every: Count = 1
    consecutive: Count = 1

    def own_conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield ``(key, message)`` for what the fields' types alone cannot refuse."""
        if self.steps is None and self.seconds is None:
            yield "stop", "needs steps or seconds: without them a trial might never end"
        if self.loss is None:
            for key in ("check_every", "consecutive"):
                if key in self.model_fields_set:
                    yield f"stop.{key}", "has no effect without stop.loss"


# ------------------------------------------------------------------------------------------------------------------ trial

SECTIONS: dict[str, dict[str, type[Section]]] = {
    "problem": {
        "matrix_completion": MatrixCompletion,
        "matrix_sensing": MatrixSensing,
        "tensor_completion": TensorCompletion,
        "tensor_sensing": TensorSensing,
    },
    "factorization": {"deep_matrix": DeepMatrix, "cp": Cp, "linear": Linear, "min_frobenius": MinFrobenius, "nuclear_norm": NuclearNorm},
    "init": {"gaussian": Gaussian, "identity": Identity, "orthogonal": Orthogonal, "file": FromFile},
    "optimizer": {"gd": Gd, "group_rmsprop": GroupRmsprop, "momentum": Momentum, "adam": Adam},
}
"""Sections that come in kinds. ``init`` is absent where the factorization starts from zero, ``optimizer`` where it is solved."""

Loss = Literal["half_sse", "mse"]
Dtype = Literal["float64", "float32"]


def conflicts(
    problem: Problem, factorization: Factorization, init: Init | None, optimizer: Optimizer | None, stop: Stop, *, dtype: str
) -> Iterator[tuple[str, str]]:
    """Yield ``(dotted key, message)`` for all that single fields cannot tell: keys without effect, sizes that do not fit."""
    yield from problem.own_conflicts()
    yield from stop.own_conflicts()
    if problem.shape is not None and isinstance(factorization, DeepMatrix | Cp):
        yield from factorization.own_conflicts(problem.shape)
        if isinstance(factorization, DeepMatrix) and len(problem.shape) != 2:
            return
    if isinstance(factorization, Solved):
        yield from _solved_conflicts(problem, factorization, optimizer, stop, dtype)
    elif optimizer is None:
        yield "optimizer", "is missing: put it under fixed, cases or an axis"
    if isinstance(factorization, Linear | Solved):
        if init is not None:
            yield "init", f"has no effect with factorization.kind {factorization.kind}, which starts from zero{_UNSET}"
    elif init is None:
        yield "init", f"is missing: factorization {factorization.kind} needs a start"
    else:
        yield from _init_conflicts(init, factorization, problem.shape)


_UNSET = ": where it is set for other trials, null takes it away"


def _solved_conflicts(
    problem: Problem, factorization: Solved, optimizer: Optimizer | None, stop: Stop, dtype: str
) -> Iterator[tuple[str, str]]:
    if isinstance(factorization, NuclearNorm) and problem.shape is not None and len(problem.shape) != 2:
        yield "factorization.kind", f"nuclear_norm is for matrices, but shape is {list(problem.shape)}: use min_frobenius or linear"
    if dtype != "float64":
        yield "dtype", f"must be float64 with factorization.kind {factorization.kind}, which is solved to more digits than {dtype} has"
    if optimizer is not None:
        yield "optimizer", f"has no effect with factorization.kind {factorization.kind}, which is solved{_UNSET}"
    for key in ("loss", "check_every", "consecutive"):
        if key in stop.model_fields_set and getattr(stop, key) is not None:
            yield f"stop.{key}", f"has no effect with factorization.kind {factorization.kind}, which ends when it is solved{_UNSET}"


def _init_conflicts(init: Init, factorization: Factorization, shape: tuple[int, ...] | None) -> Iterator[tuple[str, str]]:
    if isinstance(init, _Scaled):
        if init.scale is not None and init.product_scale is not None:
            yield "init.product_scale", "has no effect beside init.scale: give one of them"
        if init.scale is None and init.product_scale is None:
            yield "init", "needs scale (one factor's) or product_scale (the product's)"
        if init.product_scale is not None and not isinstance(factorization, DeepMatrix):
            yield "init.product_scale", "is for deep_matrix; use init.scale, the scale of one factor"
    if init.det_sign is None or shape is None:
        return
    if len(set(shape)) != 1 or len(shape) != 2:
        yield "init.det_sign", f"needs a square matrix, but shape is {list(shape)}"
    elif isinstance(factorization, DeepMatrix) and any(w < min(shape) for w in factorization.hidden(shape)):
        yield "init.det_sign", f"cannot hold: a hidden width below {min(shape)} makes the determinant zero"
    elif isinstance(factorization, Cp) and factorization.terms(shape) < min(shape):
        yield "init.det_sign", f"cannot hold: fewer than {min(shape)} components make the determinant zero"


class TrialSpec(BaseModel):
    """One point of a grid. Everything here, and nothing else, determines the trial's numbers.

    Raises `pydantic.ValidationError` when a field has the wrong type or value, or when `conflicts` finds something.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    problem: MatrixCompletion | MatrixSensing | TensorCompletion | TensorSensing = Field(discriminator="kind")
    factorization: DeepMatrix | Cp | Linear | MinFrobenius | NuclearNorm = Field(discriminator="kind")
    init: Annotated[Gaussian | Identity | Orthogonal | FromFile, Field(discriminator="kind")] | None = None
    optimizer: Annotated[Gd | GroupRmsprop | Momentum | Adam, Field(discriminator="kind")] | None = None
    loss: Loss = "half_sse"
    stop: Stop
    dtype: Dtype = "float64"
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = (self.problem, self.factorization, self.init, self.optimizer, self.stop)
        found = [f"{key}: {message}" for key, message in conflicts(*parts, dtype=self.dtype)]
        if found:
            raise ValueError("; ".join(found))
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the end-to-end matrix or tensor. Raises `ValueError` while a data file has not been read for it."""
        if self.problem.shape is None:
            raise ValueError(f"the shape of {self.problem.file} is not known before the file is read")
        return self.problem.shape

    @property
    def method(self) -> str:
        """What takes a step: the optimizer's kind, or the factorization's where that is solved."""
        return self.optimizer.kind if self.optimizer is not None else self.factorization.kind

    def canonical(self) -> str:
        """JSON that is equal for two specs exactly when their numbers are."""
        init = self.init.canonical if self.init is not None else "null"
        optimizer = self.optimizer.canonical if self.optimizer is not None else "null"
        return (
            f'{{"dtype":"{self.dtype}","factorization":{self._factorization()},"init":{init},"loss":"{self.loss}",'
            f'"optimizer":{optimizer},"problem":{self.problem.canonical},"seed":{self.seed},"stop":{self.stop.canonical}}}'
        )

    def _factorization(self) -> str:
        match self.factorization:
            case DeepMatrix() as f:
                return json.dumps({"kind": f.kind, "widths": f.hidden(self.shape)}, sort_keys=True, separators=(",", ":"))
            case Cp() as f:
                return json.dumps({"components": f.terms(self.shape), "kind": f.kind}, sort_keys=True, separators=(",", ":"))
        return self.factorization.canonical

    def flat(self) -> dict[str, Any]:
        """The spec as dotted keys with resolved defaults, for tables and MLflow params."""
        nested = self.model_dump(mode="json", exclude_none=True)
        match self.factorization:
            case DeepMatrix() as f:
                nested["factorization"]["widths"] = list(f.hidden(self.shape))
            case Cp() as f:
                nested["factorization"]["components"] = f.terms(self.shape)
        return dict(flatten(nested))


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run: its spec, and the id that follows from it."""

    trial_id: str
    spec: TrialSpec


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted key, value)`` for every leaf of nested mappings, in order."""
    for key, value in nested.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value
