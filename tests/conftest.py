"""What holds for all tests."""

from __future__ import annotations

import os

# Ray's workers give way to every other process of the machine. Beside a second process of tests they would get next to nothing.
os.environ.setdefault("RAY_worker_niceness", "0")
