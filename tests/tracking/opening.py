"""``python -m tests.tracking.opening``: a process that opens the store that it finds, and says which experiment of it is ``same``."""

from __future__ import annotations

import sys

from orchestrator.tracking.store import open_store

if __name__ == "__main__":
    sys.stdout.write(f"{open_store(None).experiment('same')}\n")
