"""Sweeps on a cluster that is elsewhere: the driver runs there, as a Ray job, and the terminal from which it was sent may go away.

Everything travels: the grid, its data files, this package. Passwords travel in a file of the job's folder; Ray shows a job's environment
and command line to everybody who may look at the cluster.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.access import DISABLED, MISSING, REJECTED
from orchestrator.cluster.addresses import job_server
from orchestrator.deadline import within
from orchestrator.errors import OrchestratorError, RayUnavailable, UsageError, one_line
from orchestrator.tracking import layout
from orchestrator.tracking.uris import is_http, redact, resolve, sqlite_path
from workloads.extensions import activate, packed, unpacked

if TYPE_CHECKING:
    from orchestrator.grid import Grid
    from orchestrator.options import Options

JOB_FILE = "job.json"
CODE = "code"
"""The folder of users' own code."""
LARGEST = 500 << 20
"""What may travel with a job: Ray's limit is a little higher."""
STOP_SECONDS = 60
"""How long a job that is stopped has to save its trials before it is killed: Ray's own patience is three seconds."""
SECRETS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
ANSWER_SECONDS = 60.0
"""How long a cluster may take to answer."""
SLOWEST = 64 << 10
"""Bytes a second that at least reach it."""
ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})


def job_id(sweep_id: str) -> str:
    """Return the job of a sweep."""
    return f"orchestrate-{sweep_id}"


@dataclass(frozen=True)
class Order:
    """What a job is to do, as it lies in its folder: the grid is beside it, data files in ``files`` by their digests, and users'
    own code in ``code``."""

    sweep_id: str
    address: str
    grid_path: str
    overrides: list[str]
    files: Mapping[str, str]
    options: Mapping[str, Any]
    environment: Mapping[str, str] = field(repr=False)
    as_json: bool = False

    def write(self, folder: Path, grid: Grid) -> None:
        """Put all that the job needs into ``folder``."""
        for name in ("files", CODE):
            (folder / name).mkdir()
        (folder / "grid.yaml").write_bytes(grid.text.encode())
        for digest, content in grid.files.contents.items():
            (folder / "files" / digest).write_bytes(content)
        for name, content in packed(grid.extensions).items():
            (folder / CODE / name).write_bytes(content)
        _write_secretly(folder / JOB_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Order:
        """Return the order of the job in whose folder we are, which then holds no passwords any more."""
        order = cls(**json.loads((folder / JOB_FILE).read_text()))
        (folder / JOB_FILE).unlink()
        return order

    def grid(self, folder: Path) -> Grid:
        """Return the grid that is to be run."""
        from orchestrator.extensions import told
        from orchestrator.grid import parse_grid

        with told():
            activate(unpacked(lambda name: path.read_bytes() if (path := folder / CODE / name).is_file() else None))
        contents = {name: (lambda digest=digest: (folder / "files" / digest).read_bytes()) for name, digest in self.files.items()}
        return parse_grid((folder / "grid.yaml").read_bytes().decode(), self.grid_path, folder, self.overrides, contents)


@dataclass(frozen=True)
class Examination:
    """What a job is to look at that examines the cluster: the storage, the store and its passwords in ``environment``, and the versions of
    the ``client``."""

    storage: str | None
    environment: Mapping[str, str] = field(repr=False)
    client: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Put it into ``folder``."""
        _write_secretly(folder / JOB_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Examination:
        """Return the one of the job in whose folder we are, which then holds no passwords any more."""
        examination = cls(**json.loads((folder / JOB_FILE).read_text()))
        (folder / JOB_FILE).unlink()
        return examination


def _write_secretly(path: Path, content: Mapping[str, Any]) -> None:
    # Ray keeps this mode where it unpacks the folder: on every node, until it clears its packages away.
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))


class _NoSuchJob(RayUnavailable):
    """The cluster knows of no such job."""


class Jobs:
    """The jobs of a cluster. All methods raise `RayUnavailable` if it cannot be reached, or does not let us in, or has not answered after
    ``seconds``."""

    def __init__(self, address: str, seconds: float = ANSWER_SECONDS) -> None:
        self.address, self._seconds = job_server(address), seconds
        # It would take the place of the address that was given.
        before = os.environ.pop("RAY_ADDRESS", None)
        try:
            with _explained(self.address):
                from ray.job_submission import JobSubmissionClient

                self._client = within(seconds, JobSubmissionClient, self.address)
        finally:
            if before is not None:
                os.environ["RAY_ADDRESS"] = before

    def send(self, order: Order, grid: Grid) -> str:
        """Send a sweep on its way, as a job. Returns the job's id."""
        size = sum(map(len, grid.files.contents.values()))
        if size > LARGEST:
            raise UsageError(
                f"the data files have {size >> 20} MiB, and no more than {LARGEST >> 20} MiB may travel with a job: "
                "put them where all nodes see them, and run orchestrate there"
            )
        metadata = {"experiment": grid.name, "sweep": order.sweep_id}
        return self._send(job_id(order.sweep_id), "orchestrator.cli.job", lambda folder: order.write(folder, grid), metadata, size)

    def examine(self, examination: Examination) -> str:
        """Send for a look at the cluster's nodes, as a job that says in a line of JSON what it has found. Returns the job's id."""
        return self._send(f"orchestrate-doctor-{uuid.uuid4().hex[:8]}", "orchestrator.diagnosis.job", examination.write, {})

    def _send(self, job: str, module: str, fill: Callable[[Path], None], metadata: dict[str, str], size: int = 0) -> str:
        """Send a job that runs a ``module`` of this package, in a folder that ``fill`` puts ``size`` bytes into."""
        import orchestrator
        import workloads

        # What a .gitignore names would be left out without a word.
        os.environ["RAY_RUNTIME_ENV_IGNORE_GITIGNORE"] = "1"
        packages = [str(Path(package.__file__ or "").parent) for package in (orchestrator, workloads)]
        with tempfile.TemporaryDirectory(prefix="orchestrate-") as folder, _explained(self.address):
            fill(Path(folder))
            sent: str = within(
                self._seconds + size / SLOWEST,
                self._client.submit_job,
                entrypoint=f"python -m {module}",
                submission_id=job,
                runtime_env={
                    "working_dir": folder,
                    "py_modules": packages,
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), "PYTHONUNBUFFERED": "1"},
                },
                metadata=metadata,
            )
        return sent

    def forget(self, job: str) -> None:
        """Let the cluster forget a job that has ended."""
        with _explained(self.address):
            within(self._seconds, self._client.delete_job, job)

    def status(self, job: str) -> str | None:
        """``PENDING``, ``RUNNING``, ``STOPPED``, ``SUCCEEDED`` or ``FAILED``; ``None`` if the cluster knows of no such job."""
        try:
            with _explained(self.address):
                return str(within(self._seconds, self._client.get_job_status, job).value)
        except _NoSuchJob:
            return None

    def message(self, job: str) -> str:
        """Return what Ray says of a job."""
        with _explained(self.address):
            return str(within(self._seconds, self._client.get_job_info, job).message or "")

    def exit_code(self, job: str) -> int | None:
        """Return the exit code of a job that has ended by itself."""
        with _explained(self.address):
            code: int | None = within(self._seconds, self._client.get_job_info, job).driver_exit_code
            return code

    def logs(self, job: str) -> str:
        """All that a job has said so far."""
        with _explained(self.address):
            return str(within(self._seconds, self._client.get_job_logs, job))

    def follow(self, job: str) -> Iterator[str]:
        """Yield what a job says, line by line, from its beginning until it ends."""
        shown = ""
        while True:
            with _explained(self.address):
                ended = self.status(job) in ENDED
                text = self.logs(job)
            lines = text[len(shown) :]
            whole = lines if ended else lines[: lines.rfind("\n") + 1]
            shown += whole
            yield from whole.splitlines()
            if ended:
                return
            time.sleep(1.0)

    def stop(self, job: str) -> bool:
        """Ask a job to end; whether it was there and had not ended."""
        try:
            with _explained(self.address):
                return bool(within(self._seconds, self._client.stop_job, job))
        except _NoSuchJob:
            return False


def order_for(grid: Grid, options: Options, sweep_id: str, as_json: bool) -> Order:
    """Return what to send for a sweep. Raises `UsageError` for a store or storage that a cluster cannot reach."""
    environment = sent_environment(options.tracking_uri)
    sent = replace(options, address="auto", tracking_uri=None, commit=layout.commit_tags(Path(grid.path)))
    return Order(
        sweep_id, job_server(options.address or ""), grid.path, list(grid.overrides), grid.files.names, asdict(sent), environment, as_json
    )


def sent_environment(tracking_uri: str | None) -> dict[str, str]:
    """Return what a job has to know of the MLflow store. Raises `UsageError` for one that a cluster cannot reach."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is not None and not is_http(uri) and ("://" not in uri or sqlite_path(resolve(uri)) is not None or uri.startswith("file:")):
        raise UsageError(
            f"a sweep on a cluster cannot write to {redact(uri)} of this machine: give the address of an MLflow server or of a database "
            "that the cluster reaches as --tracking-uri, or set MLFLOW_TRACKING_URI on its nodes"
        )
    environment = {name: os.environ[name] for name in SECRETS if name in os.environ}
    return environment | ({"MLFLOW_TRACKING_URI": uri} if uri is not None else {})


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into one line that says what to do."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        text = str(error).lower()
        if "invalid authentication token" in text:
            advice = REJECTED
        elif "find an authentication token" in text:
            advice = MISSING
        else:
            advice = DISABLED
        raise RayUnavailable(f"the Ray cluster at {address} does not let us in: {advice}") from error
    except OrchestratorError:
        raise
    except ValueError as error:
        raise _no_ray(address, error) from error
    except TimeoutError as error:
        raise RayUnavailable(f"{address} takes connections and does not answer: {error}; is it a Ray cluster's?") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise RayUnavailable(
            f"nobody takes Ray jobs at {address}: is the cluster up, its dashboard on (`ray start --head --dashboard-host=0.0.0.0`, with "
            f"ray[default] installed), and the port right?{_tls(error)}"
        ) from error
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        kind = _NoSuchJob if "does not exist" in str(error) else RayUnavailable
        raise kind(f"Ray at {address}: {one_line(redact(lines[0]))}") from error
    except Exception as error:  # whatever its client stumbles over in what may be anybody's answer
        raise _no_ray(address, error) from error


def _no_ray(address: str, error: Exception) -> RayUnavailable:
    return RayUnavailable(f"{address} answers, but not as Ray does ({type(error).__name__}); is the address right?")


def _tls(error: Exception) -> str:
    return " Its certificate is not accepted: REQUESTS_CA_BUNDLE names the one that is" if "certificate" in str(error).lower() else ""
