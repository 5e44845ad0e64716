"""Opening a store: which one is meant, what is refused, and that a refusal leaves nothing behind."""

from __future__ import annotations

import http.server
import os
import secrets
import shutil
import socket
import socketserver
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy import NullPool, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError

from orchestrator.cluster.slurm.node import free_port
from orchestrator.errors import TrackingUnavailable, UsageError
from orchestrator.tracking import preflight
from orchestrator.tracking.bounded import RETRIES, TIMEOUT, BoundedClient, call_seconds
from orchestrator.tracking.store import PROXIED, Store, _joined, open_existing, open_store, translated
from orchestrator.tracking.uris import redact, resolve
from tests.forked import Forked
from tests.processes import communicate, popen
from tests.sharing import shared
from tests.stores import NEEDS_POSTGRESQL

ROOT = Path(__file__).parents[2]


def python(code: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    pipe = subprocess.PIPE
    return popen([sys.executable, "-c", code], cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:5000", "http://me:***@host:5000"),
        ("postgresql+psycopg2://u:p@ss/w:rd@db/x", "postgresql+psycopg2://u:***@db/x"),
        ("https://token@host", "https://***@host"),
        ("mysql://h/db?user=u&password=secret&ssl=1", "mysql://h/db?user=u&password=***&ssl=1"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("cannot reach http://a:b@c/d: refused", "cannot reach http://a:***@c/d: refused"),
        ("http://a:b@c and http://d:e@f", "http://a:***@c and http://d:***@f"),
        ("http://host: refused; see http://d:e@f", "http://host: refused; see http://d:***@f"),
        ("postgresql://my user:my pass@db/x", "postgresql://my user:***@db/x"),
        ("postgresql://u:a:b c@d e@db/x", "postgresql://u:***@db/x"),
        ("http://to ken@host", "http://***@host"),
        ("http:/u:secret@h", "http:/u:***@h"),
        ("u:secret@h:1", "u:***@h:1"),
        ("file:///home/me/u%3Ase%20cret%40h%3A1", "file:///home/me/u:***@h%3A1"),
        ("https://a.blob/x?sv=1&sig=a%2Fb&se=2", "https://a.blob/x?sv=1&sig=***&se=2"),
        ("https://a/x?X-Amz-Signature=abc&x=1", "https://a/x?X-Amz-Signature=***&x=1"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret%3BServer%3Dh", "mssql+pyodbc:///?odbc_connect=***"),
        ("cannot open UID%3Dme%3BPWD%3Dsecret%3BServer%3Dh", "cannot open UID%3Dme%3BPWD%3D***%3BServer%3Dh"),
        ("Driver={X};UID=me;PWD={se;cret};Server=h", "Driver={X};UID=me;PWD=***;Server=h"),
        ('File "a.py", line 3: x[i:j@k], password: 3', 'File "a.py", line 3: x[i:j@k], password: 3'),
    ],
)
def test_redact(uri: str, shown: str) -> None:
    assert redact(uri) == shown


def test_which_store_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve(None) == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve("sqlite:///sub/x.db") == f"sqlite:///{tmp_path}/sub/x.db"
    assert resolve("http://host/") == "http://host"
    assert resolve("./runs") == (tmp_path / "runs").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert resolve(None) == "http://other"
    assert resolve("sqlite:////x.db") == "sqlite:////x.db"


def test_importing_the_package_does_not_import_mlflow(tmp_path: Path) -> None:
    code = "import pkgutil, sys, orchestrator.tracking as package\nfor found in pkgutil.walk_packages(package.__path__, 'orchestrator.tracking.'):"
    process = python(f"{code}\n    __import__(found.name)\nassert 'mlflow' not in sys.modules", tmp_path)
    _, errors = communicate(process)
    assert process.returncode == 0, errors


def test_artifacts_lie_beside_the_database(local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    experiment = local.experiment("my grid/1")
    assert local.experiment("my grid/1") == experiment
    run = local.client.create_run(experiment).info.run_id
    local.attach(run, {"figures/a.html": "<p>", "b.bin": b"\0"})
    (written,) = tmp_path.glob("mlruns/my-grid-1/*/artifacts")
    assert sorted(str(path.relative_to(written)) for path in written.rglob("*.*")) == ["b.bin", "figures/a.html"]
    assert list(elsewhere.iterdir()) == []


def test_a_text_that_is_being_written_is_not_there(local: Store, experiment: str) -> None:
    run = local.client.create_run(local.experiment(experiment)).info.run_id
    local.attach(run, {"logs/0001.txt": "one\n", "logs/.0002.txt.part": "tw"})
    assert local.texts(run, "logs") == ["one\n"]


def test_a_deleted_experiment(store: Store, experiment: str) -> None:
    store.client.delete_experiment(store.experiment(experiment))
    with pytest.raises(UsageError, match="mlflow experiments restore --experiment-id"):
        store.experiment(experiment)


def test_an_experiment_that_belongs_to_a_server(local: Store) -> None:
    local.client.create_experiment("theirs", artifact_location="mlflow-artifacts:/7")
    with pytest.raises(TrackingUnavailable, match="created by an MLflow server"):
        local.experiment("theirs")


# ---------------------------------------------------------------------------------------------------------------- refusals


def refused(uri: str, message: str) -> None:
    with pytest.raises(TrackingUnavailable, match=message) as caught:
        open_store(uri)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_unusable_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"not a database, but long enough to have a header\n" * 99)
    folder = tmp_path / "folder"
    folder.mkdir()
    other = tmp_path / "other.db"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE cats (name TEXT)")
    database.close()
    before = sorted(tmp_path.rglob("*"))
    refused(f"sqlite:///{other}", "something else than MLflow")
    refused(f"sqlite:///{file}", "not a usable MLflow database")
    refused(f"sqlite:///{file}/mlflow.db", "is not a folder")
    refused(f"sqlite:///{folder}", "is not a file")
    refused("sqlite:///:memory:", "keeps nothing")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_database_that_is_locked_is_not_to_be_moved_away(local: Store) -> None:
    with closing(sqlite3.connect(local.uri.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingUnavailable, match="is locked by another process: try again"):
            preflight.check_place(local.uri, seconds=0.1)


def test_a_store_that_fails_is_told_in_a_line(local: Store, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(local.uri.removeprefix("sqlite:///"))) as database:
        database.execute("DROP TABLE latest_metrics")
        database.execute("DROP TABLE runs")
    with pytest.raises(TrackingUnavailable, match="no such table"):
        local.status("x")
    assert not caplog.records


def test_reading_creates_no_database(local: Store, tmp_path: Path) -> None:
    missing = tmp_path / "sub" / "mlflow.db"
    with pytest.raises(UsageError, match=r"no MLflow database .*orchestrate submit"):
        open_existing(f"sqlite:///{missing}")
    assert not missing.parent.exists()
    assert open_existing(local.uri).uri == local.uri
    # Whether it is there cannot be said, as of a file in a folder that is closed to us.
    with pytest.raises(TrackingUnavailable, match=r"cannot look for .*: File name too long"):
        open_existing(f"sqlite:///{'x' * 300}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    refused(f"sqlite:///{tmp_path}/mlflow.db", "not writable")
    refused(f"sqlite:///{tmp_path}/sub/mlflow.db", "not writable")


def test_unwritable_folder_as_seen_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(f"sqlite:///{tmp_path}/sub/mlflow.db", "not writable")
    assert list(tmp_path.iterdir()) == []


def test_a_schema_of_another_version(template: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(template, path)
    database = sqlite3.connect(path)
    database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    database.commit()
    database.close()
    before = path.read_bytes()
    refused(f"sqlite:///{path}", "newer MLflow")
    assert path.read_bytes() == before


def test_a_failure_while_the_schema_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.store.db.utils as mlflow_db

    def broken(engine: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(mlflow_db, "_upgrade_db", broken)
    refused(f"sqlite:///{tmp_path}/a/b/mlflow.db", "no space left")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_while_the_schema_is_made_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    code = """
import os, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine
from orchestrator.tracking.store import open_store

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *rest):
    if "_alembic_tmp_tags" in statement:
        os.kill(os.getpid(), signal.SIGKILL)

open_store(None)
"""
    killed = python(code, tmp_path)
    communicate(killed)
    assert killed.returncode == -9
    assert not (tmp_path / "mlflow.db").exists()
    assert open_store(f"sqlite:///{tmp_path}/mlflow.db").experiment("x") == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_database_that_a_killed_process_had_half_changed_is_usable(tmp_path: Path, template: Path) -> None:
    shutil.copy(template, tmp_path / "mlflow.db")
    code = """
import os, signal, sqlite3
database = sqlite3.connect("mlflow.db")
database.execute("PRAGMA cache_size = 1")
for number in range(2000):
    database.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES (?, 'active')", (f"{number}" * 50,))
os.kill(os.getpid(), signal.SIGKILL)
"""
    communicate(python(code, tmp_path))
    assert (tmp_path / "mlflow.db-journal").stat().st_size
    assert open_store(f"sqlite:///{tmp_path}/mlflow.db").experiment("x")
    assert len(open_store(f"sqlite:///{tmp_path}/mlflow.db").client.search_experiments()) == 2


@pytest.fixture
def answer() -> Iterator[tuple[str, dict[str, object]]]:
    """A server that gives whatever answer it is told to."""
    told: dict[str, object] = {"status": 200, "body": b"{}", "type": "application/json"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told["authorization"] = self.headers.get("Authorization")
            told["asked"] = int(str(told.get("asked", 0))) + 1
            self.send_response(429 if told["asked"] <= int(str(told.get("busy", 0))) else int(str(told["status"])))
            if "after" in told:
                self.send_header("Retry-After", str(told["after"]))
            self.send_header("Content-Type", str(told["type"]))
            self.end_headers()
            self.wfile.write(bytes(told["body"]))  # type: ignore[call-overload]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://me:secret@127.0.0.1:{server.server_port}", told
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, "text/plain", "refuses access .*MLFLOW_TRACKING_USERNAME"),
        (403, "text/plain", "refuses access"),
        (404, "text/plain", "not as an MLflow server"),
        (200, "text/html", "not as an MLflow server"),
        (503, "text/plain", "error 503"),
    ],
)
def test_servers_that_are_no_use(answer: tuple[str, dict[str, object]], status: int, kind: str, message: str) -> None:
    uri, told = answer
    told.update(status=status, type=kind)
    refused(uri, message)


def test_a_server_that_is_busy_is_asked_again(answer: tuple[str, dict[str, object]]) -> None:
    uri, told = answer
    told.update(busy=2, after=0)
    preflight.check(uri)
    assert told["asked"] == 3
    told.update(busy=1000, after=3600)
    with pytest.raises(TrackingUnavailable, match=r"is busy \(429, too many requests\): try again in a while"):
        preflight.check(uri)
    assert told["asked"] == 4, "it said when, which is too late"


def test_credentials_are_sent(answer: tuple[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    uri, told = answer
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    open_store(uri.replace("me:secret@", ""))
    assert told["authorization"] == "Bearer abc"


def test_files_come_from_the_server_and_not_from_its_bucket(answer: tuple[str, dict[str, object]], monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    for name in PROXIED:
        monkeypatch.delenv(name, raising=False)
    uri, told = answer
    told["body"] = b'{"multipart_uploads_enabled": true, "multipart_downloads_enabled": true}'
    open_store(uri)
    files = MlflowArtifactsRepository("mlflow-artifacts:/1", tracking_uri=uri)
    assert not files._is_multipart_download_enabled()
    assert not files._is_multipart_upload_enabled()


def test_servers_that_are_not_there() -> None:
    port = free_port()
    refused(f"http://me:secret@127.0.0.1:{port}", "nothing answers")
    refused(f"postgresql://me:secret@127.0.0.1:{port}/db", "cannot reach the database")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        with pytest.raises(TrackingUnavailable, match="does not answer in time"):
            preflight.check(f"http://127.0.0.1:{deaf.getsockname()[1]}", answer_seconds=0.5)


@pytest.fixture
def dripping() -> Iterator[int]:
    """The port of a server that answers with one byte after another and never comes to an end."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            with suppress(OSError):
                while not over.wait(0.02):
                    self.request.sendall(b" ")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        over.set()
        server.shutdown()


def test_a_server_that_never_comes_to_an_end_is_given_up(dripping: int) -> None:
    uri = f"http://127.0.0.1:{dripping}"
    with pytest.raises(TrackingUnavailable, match="does not answer in time"):
        preflight.check(uri, answer_seconds=0.3)
    client = BoundedClient(MlflowClient(uri), seconds=0.3)
    with pytest.raises(TrackingUnavailable, match=r"cannot be used: timed out after 0\.3 s"), translated(uri):
        client.get_run("r")


@pytest.mark.skipif(find_spec("psycopg2") is None, reason="psycopg2 is not installed")
def test_a_database_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"postgresql+psycopg2://me:secret@127.0.0.1:{deaf.getsockname()[1]}/db"
        with pytest.raises(TrackingUnavailable, match=r"cannot reach the database .*timed out after 0\.3 s"):
            preflight.check(uri, answer_seconds=0.3)


def test_how_long_a_call_may_take_follows_from_mlflows_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT, "100")
    monkeypatch.setenv(RETRIES, "3")
    assert call_seconds() > 400
    assert call_seconds(640 << 20) > call_seconds() + 10_000


@pytest.mark.parametrize("uri", ["postgresql://me:secret@host:notaport/db", "mysql://host:1:2/db", "mysql+pymysql://[::1/db"])
def test_addresses_of_databases_that_are_none(uri: str) -> None:
    refused(uri, "cannot use the database|is not the address of a database")


# ------------------------------------------------------------------------------------------------------------ two processes


@pytest.mark.parametrize("users", ["one user", "two users"])
def test_two_processes_open_a_fresh_database_at_once(tmp_path: Path, users: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    states = [tmp_path / f"state{n if users == 'two users' else ''}" for n in range(2)]
    # Users have their locks in folders of their own.
    environments = [os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(state)} for state in states]
    processes = [Forked([], cwd=work, env=environment, module="tests.tracking.opening") for environment in environments]
    answers = [communicate(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0] == answers[1] == ("1\n", "")
    assert [path.name for path in work.iterdir()] == ["mlflow.db"]


@NEEDS_POSTGRESQL[0]
@NEEDS_POSTGRESQL[1]
def test_a_database_that_another_makes_at_the_same_time(tmp_path: Path) -> None:
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    uri, name = make_url(shared("database")), f"contended_{secrets.token_hex(4)}"
    with create_engine(uri, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    contended = uri.set(database=name).render_as_string(hide_password=False)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": contended}
    said: list[tuple[str, str]] = []

    def be_faster(*_: object, **__: object) -> None:
        # Whoever comes here has seen that there is no such table.
        said.append(communicate(Forked([], cwd=tmp_path, env=environment, module="tests.tracking.opening")))

    first = InitialBase.metadata.sorted_tables[0]
    event.listen(first, "before_create", be_faster, once=True)
    opened = open_store(contended)
    assert said == [(f"{opened.experiment('same')}\n", "")]
    with create_engine(contended, poolclass=NullPool).connect() as connection:
        assert set(Base.metadata.tables) <= set(inspect(connection).get_table_names())


def said_by(driver: str, code: str, kind: type[DBAPIError] = IntegrityError) -> DBAPIError:
    """An error as SQLAlchemy has it from a driver."""
    original = Exception("was gleichzeitig geschah")
    setattr(original, {"psycopg2": "pgcode", "psycopg": "sqlstate"}[driver], code)
    return kind("CREATE TABLE x", {}, original)


@pytest.mark.parametrize(
    ("raised", "attempts"),
    [
        ((said_by("psycopg2", "23505"),), 2),
        ((said_by("psycopg", "42P07", ProgrammingError), said_by("psycopg2", "40P01", OperationalError)), 3),
        # MLflow wraps what goes wrong in a session.
        ((MlflowException("default experiment"),), 2),
        ((said_by("psycopg2", "42501", ProgrammingError),), 1),
        ((MlflowException("Detected out-of-date database schema"),), 1),
        ((said_by("psycopg2", "42701", ProgrammingError),) * 99, 5),
    ],
)
def test_what_another_did_is_waited_for_and_nothing_else(monkeypatch, raised, attempts):
    waiting, opened, made = list(raised), object(), []

    def connected(uri):
        made.append(uri)
        if not waiting:
            return opened
        error = waiting.pop(0)
        if str(error) == "default experiment":
            error.__cause__ = said_by("psycopg2", "23505")
        raise TrackingUnavailable("no") from error

    monkeypatch.setattr("orchestrator.tracking.store._connected", connected)
    monkeypatch.setattr("orchestrator.tracking.store.time.sleep", lambda _: None)
    if attempts == len(raised) + 1:
        assert _joined("postgresql://x") is opened
    else:
        with pytest.raises(TrackingUnavailable):
            _joined("postgresql://x")
    assert len(made) == attempts


def test_rows_beyond_those_of_one_statement_are_all_there(tmp_path):
    import sqlalchemy

    from orchestrator.tracking.write.tables import insert

    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/rows.db")
    table = sqlalchemy.Table(
        "numbers", sqlalchemy.MetaData(), sqlalchemy.Column("key", sqlalchemy.String), sqlalchemy.Column("value", sqlalchemy.Float)
    )
    table.create(engine)
    rows = [(str(n), n / 7) for n in range(12_001)]
    with engine.begin() as connection:
        insert(connection, table, ("key", "value"), iter(rows))
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(sqlalchemy.select(table))] == rows
