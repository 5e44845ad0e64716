"""Tracking URIs: which one is meant, made absolute, and made fit to print. No MLflow here."""

from __future__ import annotations

import os
import re
from pathlib import Path

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_USERINFO = re.compile(r"(?<=://)([^:/@\s]*)(:\S*)?@")
_SECRET_OPTION = re.compile(r"([?&](?:\w*password|passwd|pwd|\w*token|\w*secret|\w*key)=)[^&\s]*", re.IGNORECASE)


def redact(text: str) -> str:
    """Return the text with the credentials of every URI in it replaced by ``***``."""
    hidden = _USERINFO.sub(lambda found: f"{found[1]}:***@" if found[2] else "***@", text)
    return _SECRET_OPTION.sub(r"\1***", hidden)


def resolve(uri: str | None) -> str:
    """Return the URI meant: the one given, else ``MLFLOW_TRACKING_URI``, else MLflow's default; SQLite files and folders made absolute."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    path = sqlite_path(chosen)
    if path is not None:
        options = chosen.partition("?")[1] + chosen.partition("?")[2]
        return f"{_SQLITE}{path}{options}"
    if "://" not in chosen and not chosen.startswith(("databricks", "file:")):
        return Path(chosen).expanduser().resolve().as_uri()
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
