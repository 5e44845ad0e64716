"""Neither SQLite nor we wait for the disk in whatever process imports this: nobody needs what tests write after a power cut.

MLflow writes to the disk, and waits for it, at each parameter, tag and state of a run; we do at each file of results.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

os.fsync = lambda _: None


@event.listens_for(Engine, "connect")
def _let_go(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")
