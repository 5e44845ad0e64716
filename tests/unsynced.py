"""SQLite that does not wait for the disk, in whatever process imports this: nobody needs what tests write after a power cut.

MLflow writes to the disk, and waits for it, at each parameter, tag and state of a run.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine


@event.listens_for(Engine, "connect")
def _let_go(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")
