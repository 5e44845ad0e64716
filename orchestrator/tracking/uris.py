"""Tracking URIs: which one is meant, made absolute, and made fit to print. No MLflow here."""

from __future__ import annotations

import os
import re
from pathlib import Path

from orchestrator.files import of_home

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_USERINFO = re.compile(r"(:/{1,2})(?=[^/\n])([^:/@\n]*)(:(?:\S*|(?:(?!://)[^\n])*))?@")
"""What a URI has before its host. Passwords may hold all that is not allowed in them: slashes, at signs, spaces."""
_BARE_USERINFO = re.compile(r"(?<![\w/])([^\s:/@'\"()\[\]{}<>,;]+):(?!/)\S+@(?=[\w.-]+(?::\d|/|\.\w))")
"""The same of an address without a scheme, if a host follows."""
_QUOTED_USERINFO = re.compile(r"(?<=/)([^/\s]*?)%3A\S+%40", re.IGNORECASE)
"""The same where such an address has been taken for the name of a file."""
_SECRET_OPTION = re.compile(
    r"([?&](?:[\w-]*(?:password|token|secret|key|signature|credential)|passwd|pwd|sig|odbc_connect)=)[^&\s]*", re.IGNORECASE
)
_ODBC_PASSWORD = re.compile(r"((?:\b|(?<=%3B))(?:pwd|password)\s*(?:=|%3D))(?:\{[^}]*\}|%7B.*?%7D|(?:(?!%3B)[^;&\s])+)", re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text with the credentials of every URI in it replaced by ``***``."""
    hidden = _USERINFO.sub(lambda found: f"{found[1]}{found[2]}:***@" if found[3] else f"{found[1]}***@", text)
    hidden = _QUOTED_USERINFO.sub(r"\1:***@", _BARE_USERINFO.sub(r"\1:***@", hidden))
    return _ODBC_PASSWORD.sub(r"\1***", _SECRET_OPTION.sub(r"\1***", hidden))


def resolve(uri: str | None) -> str:
    """Return the URI meant: the one given, else ``MLFLOW_TRACKING_URI``, else MLflow's default; SQLite files and folders made absolute."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = sqlite_path(chosen)
    if path is not None:
        options = chosen.partition("?")[1] + chosen.partition("?")[2]
        return f"{_SQLITE}{path}{options}"
    if "://" not in chosen and not chosen.startswith(("databricks", "file:")):
        return of_home(chosen).resolve().as_uri()
    return chosen.rstrip("/") if is_http(chosen) else chosen


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of a SQLite URI's file; ``None`` for every other URI, and for a database that lives in memory."""
    if not uri.startswith(_SQLITE):
        return None
    name = uri.removeprefix(_SQLITE).partition("?")[0]
    return Path(name).resolve() if name and name != ":memory:" else None


def is_http(uri: str) -> bool:
    """Return whether an MLflow server is meant."""
    return uri.startswith(("http://", "https://"))
