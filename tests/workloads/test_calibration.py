"""The probe of this machine, and what is kept of it."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from tests.specs import spec
from workloads.engines import calibration
from workloads.engines.batched import BatchedEngine
from workloads.engines.calibration import cache_file, known_rates, measured_rates, probe_spec, processor, step_timed
from workloads.engines.costs import step_seconds
from workloads.engines.rates import CORE, Rates

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def as_assumed(engine, one, lanes, _):
    """A machine that is as fast as one is taken to be."""
    return step_seconds(engine, [one] * lanes, CORE)


def test_what_was_measured_is_kept_and_not_measured_again(monkeypatch):
    assert known_rates() is None
    rates = measured_rates(CPU, processor())
    assert rates.source == f"measured on {processor()}"
    assert known_rates() == rates
    assert measured_rates(CPU, processor(), lambda *_: pytest.fail("it was measured again")) == rates
    assert known_rates(name="another processor") is None


@pytest.mark.parametrize("factors", [(1.0, 1.0, 1.0, 1.0, 1.0), (3.0, 0.4, 2.0, 7.0, 0.2), (0.1, 9.0, 3.0, 0.5, 12.0)])
def test_the_model_then_tells_how_long_the_probed_steps_take(factors):
    """On a machine that takes other times than are assumed, each constant by a factor of its own. Which is faster is nobody's guess."""
    names = ("call", "product", "touched", "batched", "fused")
    true = replace(CORE, **{name: factor * getattr(CORE, name) for name, factor in zip(names, factors, strict=True)})
    rates = measured_rates(CPU, "made up", lambda engine, spec, lanes, _: step_seconds(engine, [spec] * lanes, true))
    for field in fields(Rates):
        if field.name != "source":
            assert getattr(rates, field.name) == pytest.approx(getattr(true, field.name), rel=1e-9), field.name
    for engine, size, lanes in (("batched", 2, 1), ("batched", 8, 64), ("batched", 128, 4), ("fused", 8, 64)):
        specs = [probe_spec(size)] * lanes
        assert step_seconds(engine, specs, rates) == pytest.approx(step_seconds(engine, specs, true), rel=1e-9)


@pytest.mark.parametrize("disturbed", range(calibration.ATTEMPTS))
def test_a_machine_that_does_something_else_for_a_while_is_not_taken_for_a_slow_one(disturbed):
    """Kept for good, one disturbed measurement would have the slower engine train all that comes."""
    attempts = 0

    def timer(engine, one, lanes, _):
        nonlocal attempts
        seconds = step_seconds(engine, [one] * lanes, CORE)
        if engine == "fused":
            attempts += 1
            return seconds * (10 if attempts == disturbed + 1 else 1)
        return seconds

    assert calibration.probe(CPU, "made up", timer).fused == pytest.approx(CORE.fused)
    assert attempts == calibration.ATTEMPTS


@pytest.mark.parametrize(("size", "lanes", "seconds"), [(2, 1, 3e-5), (4, 7, 2e-3), (2, 3, 0.5)])
def test_a_step_is_timed_by_the_clock(size, lanes, seconds):
    class Clocked(BatchedEngine):
        """Takes so many seconds for a step, by a clock of its own, and every third time twice as many: something else was running."""

        now, calls = 100.0, 0

        def advance(self, lanes, until_step, until_loss, limit):
            before = lanes.step.copy()
            reached = super().advance(lanes, until_step, until_loss, limit)
            self.calls += 1
            self.now += int((lanes.step - before).max()) * seconds * (2 if self.calls % 3 == 0 else 1)
            return reached

    engine = Clocked()
    assert step_timed(engine, probe_spec(size), lanes, CPU, lambda: engine.now) == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"no": 1}', "null"])
def test_a_spoilt_file_is_no_more_than_a_missing_one(text):
    cache_file().parent.mkdir()
    cache_file().write_text(text)
    assert known_rates() is None
    assert measured_rates(CPU, processor(), as_assumed) == known_rates()


def test_an_entry_of_another_version_is_measured_again(monkeypatch):
    measured_rates(CPU, processor(), as_assumed)
    kept = json.loads(cache_file().read_text())
    cache_file().write_text(json.dumps({key: {"call": "fast"} for key in kept}))
    assert known_rates() is None


def test_a_folder_that_cannot_be_written_to_costs_a_probe(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measured_rates(CPU, processor(), as_assumed).fused > 0
    assert known_rates() is None


def test_a_measured_constant_is_the_one_for_which_the_model_says_so():
    one = spec(problem__shape=[8, 8], factorization__depth=3)
    for constant, engine, count in (("call", "batched", 1), ("product", "batched", 64), ("fused", "fused", 64)):
        seconds = 1.5 * step_seconds(engine, [one] * count, CORE)
        fitted = calibration._fit(CORE, getattr(CORE, constant), constant, engine, seconds, one, count)
        assert step_seconds(engine, [one] * count, fitted) == pytest.approx(seconds)
