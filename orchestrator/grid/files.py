"""Data files that a grid names: read once, identified by their content, checked against the spec."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

from orchestrator.files import read_file
from orchestrator.grid.source import Path, Problem
from workloads.shapes import factor_shapes
from workloads.spec import DeepMatrix, Factorization, FileRef, FromFile, Section
from workloads.spec import Problem as ProblemSpec

Model = TypeVar("Model", bound=Section)

MAX_FILE = 4 << 30
DATA_FILES = (".npz", ".csv")


class Files:
    """The data files of one grid, looked for in ``folder`` or read by ``given``.

    ``contents`` maps SHA-256 digests to bytes, ``names`` the names that the grid has for the files to digests.
    """

    def __init__(self, folder: FilePath, given: Mapping[str, Callable[[], bytes]] | None = None) -> None:
        self.folder = folder
        self.contents: dict[str, bytes] = {}
        self.names: dict[str, str] = {}
        self._given = given or {}
        self._factors: dict[str, Any] = {}

    def attach(self, section: ProblemSpec | FromFile, where: Mapping[str, Path], problems: list[Problem]) -> Section | None:
        """``section`` with its file's digest, shape and count filled in; itself if it names none; ``None`` after a mistake."""
        if section.file is None:
            return section
        key = "problem.file" if isinstance(section, ProblemSpec) else "init.file"
        try:
            digest = self._read(section.file.path)
            if isinstance(section, FromFile):
                return self._factors_section(section, digest)
            return self._problem_section(section, digest, where, problems)
        except (OSError, ValueError) as error:
            reason = f"cannot read {section.file.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            problems.append(Problem(where.get(key, ("fixed",)), key, reason))
            return None

    def fits(self, problem: ProblemSpec, factorization: Factorization, init: FromFile) -> Iterator[tuple[str, str]]:
        """Yield what is wrong between initial factors and the factorization they are for."""
        from workloads.data import DataError, check_factors

        assert problem.shape is not None, "conflicts come first, and find a missing shape"
        letter = "W" if isinstance(factorization, DeepMatrix) else "A"
        try:
            check_factors(init.file.path, self._factors[init.file.digest], letter, factor_shapes(factorization, problem.shape))
        except DataError as error:
            yield "init.file", str(error)

    def _read(self, name: str) -> str:
        if not name.lower().endswith(DATA_FILES):
            # Before it is opened: a grid from elsewhere may name anything.
            raise ValueError(f"{name}: data files are {' or '.join(DATA_FILES)}")
        if name not in self.names:
            content = self._given[name]() if name in self._given else read_file(self.folder / name, MAX_FILE)
            digest = hashlib.sha256(content).hexdigest()
            self.names[name], self.contents[digest] = digest, content
        return self.names[name]

    def _factors_section(self, section: FromFile, digest: str) -> FromFile:
        from workloads.data import read_factors

        if digest not in self._factors:
            self._factors[digest] = read_factors(section.file.path, self.contents[digest])
        return section.model_copy(update={"file": FileRef(path=section.file.path, digest=digest)})

    def _problem_section(self, section: ProblemSpec, digest: str, where: Mapping[str, Path], problems: list[Problem]) -> ProblemSpec | None:
        from workloads.data import read_problem

        assert section.file is not None
        file = read_problem(section.file.path, self.contents[digest], section.shape, section.sensing)
        wrong = [
            Problem(where[f"problem.{key}"], f"problem.{key}", "has no effect: the data file says what is observed")
            for key in ("observed", "seed")
            if file.count is not None and f"problem.{key}" in where
        ]
        if file.count is None and section.observed is None:
            missing = "needs observed: how many entries (or measurements) of the file's target are seen"
            wrong.append(Problem(where.get("problem.file", ()), "problem", missing))
        problems += wrong
        if wrong:
            return None
        reference = FileRef(path=section.file.path, digest=digest, count=file.count)
        return section.model_copy(update={"file": reference, "shape": tuple(int(n) for n in file.shape)})
