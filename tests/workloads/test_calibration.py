"""The probe of this machine, and what is kept of it."""

from __future__ import annotations

import json

import pytest
import torch

from tests.specs import spec
from workloads.engines import calibration
from workloads.engines.calibration import cache_file, kept_rates, measured_rates, processor
from workloads.engines.costs import CORE, step_seconds

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_what_was_measured_is_kept_and_not_measured_again(monkeypatch):
    assert kept_rates() is None
    rates = measured_rates(CPU, processor())
    assert rates.source == f"measured on {processor()}"
    assert kept_rates() == rates
    monkeypatch.setattr(calibration, "_probe", lambda *_: pytest.fail("it was measured again"))
    assert measured_rates(CPU, processor()) == rates
    assert kept_rates(name="another processor") is None


def test_the_model_then_tells_how_long_the_probed_steps_take():
    rates = measured_rates(CPU, processor())
    for engine, size, lanes in (("batched", 2, 1), ("batched", 64, 4), ("fused", 8, 64)):
        one = calibration._problem(size)
        taken = calibration._timed(engine, one, lanes, CPU)
        # Machines are shared: a factor of three is no surprise, a wrong model would be out by more.
        assert taken / 3 < step_seconds(engine, [one] * lanes, rates) < taken * 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"no": 1}', "null"])
def test_a_spoilt_file_is_no_more_than_a_missing_one(text):
    cache_file().parent.mkdir()
    cache_file().write_text(text)
    assert kept_rates() is None
    assert measured_rates(CPU, processor()) == kept_rates()


def test_an_entry_of_another_version_is_measured_again(monkeypatch):
    measured_rates(CPU, processor())
    kept = json.loads(cache_file().read_text())
    cache_file().write_text(json.dumps({key: {"call": "fast"} for key in kept}))
    assert kept_rates() is None


def test_a_folder_that_cannot_be_written_to_costs_a_probe(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measured_rates(CPU, processor()).fused > 0
    assert kept_rates() is None


def test_a_measured_constant_is_the_one_for_which_the_model_says_so():
    one = spec(problem__shape=[8, 8], factorization__depth=3)
    for constant, engine, count in (("call", "batched", 1), ("product", "batched", 64), ("fused", "fused", 64)):
        seconds = 1.5 * step_seconds(engine, [one] * count, CORE)
        fitted = calibration._fit(CORE, constant, engine, seconds, one, count)
        assert step_seconds(engine, [one] * count, fitted) == pytest.approx(seconds)
