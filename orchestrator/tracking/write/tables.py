"""Rows into a table of a database, as fast as the database takes them."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

Columns = tuple[str, ...]
_NULL = r"\N"
_ROWS = 5000
"""Rows of one statement. The driver gives Python's lock away at each statement, and then waits for it as long as another thread computes:
row by row it would stand still beside any that does.
"""


def insert(connection: Connection, table: Table, columns: Columns, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert ``rows`` into some ``columns`` of a table: on PostgreSQL by COPY, elsewhere by the thousand.

    Raises `sqlalchemy.exc.SQLAlchemyError`.
    """
    content = rows if isinstance(rows, list) else list(rows)
    if not content:
        return
    if connection.dialect.name == "postgresql" and connection.dialect.driver == "psycopg2":
        _copy(connection, table, columns, content)
        return
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    row, at_once = f"({', '.join([mark] * len(columns))})", min(_ROWS, _most_values(connection) // len(columns))
    for start in range(0, len(content), at_once):
        some = content[start : start + at_once]
        statement = f"INSERT INTO {_named(connection, table, columns)} VALUES {', '.join([row] * len(some))}"  # noqa: S608, MLflow's names
        connection.exec_driver_sql(statement, tuple(chain.from_iterable(some)))


def _most_values(connection: Connection) -> int:
    """Return how many values one statement may have: SQLite says so; PostgreSQL's protocol counts them in 16 bits."""
    raw: Any = connection.connection.driver_connection
    return int(raw.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)) if isinstance(raw, sqlite3.Connection) else (1 << 16) - 1


def _named(connection: Connection, table: Table, columns: Columns) -> str:
    quote = connection.dialect.identifier_preparer.quote
    return f"{table.name} ({', '.join(quote(name) for name in columns)})"


def _copy(connection: Connection, table: Table, columns: Columns, rows: Iterable[tuple[Any, ...]]) -> None:
    from sqlalchemy.exc import DBAPIError

    raw: Any = connection.connection.driver_connection
    statement = f"COPY {_named(connection, table, columns)} FROM STDIN WITH (FORMAT csv, NULL '{_NULL}')"
    content = io.StringIO()
    csv.writer(content).writerows(_written(rows))
    content.seek(0)
    try:
        with raw.cursor() as cursor:
            cursor.copy_expert(statement, content)
    except raw.Error as error:
        raise DBAPIError(statement, None, error) from error


def _written(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[Any]]:
    """Yield rows as CSV has them: Python writes an empty text and nothing alike, but not floats in fewer digits than they have."""
    for row in rows:
        yield [_NULL if value is None else value for value in row]
