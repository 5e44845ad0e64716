"""``orchestrate help``."""

from __future__ import annotations

from tests.cli.commands import call


def test_help_on_the_command_line(tmp_path):
    listed = call(tmp_path, "help")
    assert listed.returncode == 0
    assert {"seeds", "deep_matrix", "nuclear", "contrast"} <= set(listed.stdout.replace("·", " ").split())
    key = call(tmp_path, "help", "stop.check_every").stdout
    assert key.startswith("stop.check_every: whole number ≥ 1, default 1\n\n  Look at the loss only")
    assert "Usage: orchestrate submit [OPTIONS] GRID" in call(tmp_path, "help", "submit").stdout
    both = call(tmp_path, "help", "figures").stdout
    assert "Usage: orchestrate figures" in both
    assert "trajectories" in both
    wrong = call(tmp_path, "help", "nuclaer")
    assert (wrong.returncode, wrong.stderr) == (2, "error: there is no nuclaer in a grid file; did you mean nuclear?\n")
