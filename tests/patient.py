"""Git may take its time, in whatever process imports this: users wait no second for a commit's name, tests for whatever is to be there."""

from __future__ import annotations

from orchestrator import git
from tests.processes import PATIENCE

git.SECONDS = PATIENCE
