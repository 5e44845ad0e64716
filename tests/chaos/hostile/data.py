"""Grids that name a data file, which is damaged, or a path that leads to none."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.chaos.hostile.files import csv, npz
from tests.chaos.hostile.values import PATHS, SPECIAL
from tests.chaos.hostile.written import Malformed, dump, write


def with_data(choice: Random, folder: Path) -> Malformed:
    """Return a grid that names a data file or start, which is not what it should be."""
    sensing, start = choice.random() < 0.25, choice.random() < 0.25
    kind = "matrix_sensing" if sensing else "matrix_completion"
    shape = choice.choice([[3, 3], [3, 3], None, [3, 4], [3, 3, 3], [2**53, 2**53], [10**18, 10**18], [0, 3], [3]])
    if len(shape or []) == 3 or choice.random() < 0.1:
        kind = kind.replace("matrix", "tensor")
    problem: dict[str, Any] = {"kind": kind, "shape": shape, "observed": choice.choice([None, 3, 0.5, 10**18])}
    data: dict[str, Any] = {
        "name": "data",
        "fixed": {
            "problem": {**{k: v for k, v in problem.items() if v is not None}},
            "factorization": choice.choice([{"kind": "deep_matrix", "depth": 2}, {"kind": "cp"}, {"kind": "cp"}]),
            "init": {"kind": "gaussian", "scale": 0.1},
            "optimizer": {"kind": "gd", "lr": 0.1},
            "stop": {"steps": 10},
        },
    }
    indices = np.array([[0, 0], [0, 1], [2, 2]])
    arrays = {"target": np.arange(9.0).reshape(3, 3) + 1}
    if sensing:
        arrays |= choice.choice([{}, {"measurements": np.ones((4, 3, 3)) * np.arange(1, 5)[:, None, None], "values": np.ones(4)}])
    else:
        arrays |= choice.choice([{}, {"indices": indices}, {"indices": indices, "values": np.ones(3)}])
    if start:
        arrays = {f"W{n + 1}": np.eye(3) + n for n in range(2)}
        data["fixed"]["problem"] = {"kind": "matrix_completion", "shape": [3, 3], "target": {"rank": 1}, "observed": 4}
    name = choice.choice(["d.npz", "d.npz", "d.npz", "d.csv", *PATHS])
    if start:
        data["fixed"]["init"] = {"kind": "file", "file": name}
    else:
        data["fixed"]["problem"]["file"] = name
    what = "content"
    if name in ("d.npz", "d.csv"):
        path = folder / name
        if choice.random() < 0.1:
            what = choice.choice(list(SPECIAL))
            SPECIAL[what](path)
        else:
            path.write_bytes(csv(choice) if name == "d.csv" else npz(choice, arrays))
    return Malformed(write(folder, dump(data)), (), f"{what} of {name[:40]!r}")
