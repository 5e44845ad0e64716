"""Commands that are run by a process forked for them: whoever asks sees no difference."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator import liveness
from orchestrator.cli import client, server
from orchestrator.cluster import kept
from orchestrator.cluster.build import build
from orchestrator.cluster.kept import Kept
from tests.forked import ForkServer
from tests.processes import eventually, popen, run

ROOT = Path(__file__).parents[2]
STANDS_IN = """
import os, signal, sys, time
sys.argv[0] = "x"
import orchestrator.cli.main as main

def command(_):
    exec(open(os.environ["SCRIPT"]).read(), {})
    return int(os.environ.get("CODE", 0))

main.run_command = command
main.forked()
"""
"""The command line, with a script of the test in the place of a command."""


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    kept.record().parent.mkdir(parents=True)
    return kept.record()


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """A server as `up` starts it, of this process's environment, which nothing has been imported into."""
    folder = tmp_path_factory.mktemp("forks")
    (folder / "stand_in.py").write_text(f"def orchestrate():\n    exec({STANDS_IN!r}, {{}})\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}:{os.environ['PYTHONPATH']}")
        started = ForkServer(folder / "s", modules=["orchestrator.cli.main"], env=dict(os.environ))
        yield started, dict(os.environ)
        started.end()


def told(path, **changed):
    cluster = Kept("127.0.0.1:1", liveness.process(), liveness.machine(), build(), 2, 0, 2, 0, time.time() + 60, commands=str(path))
    kept.save(Kept(**{**vars(cluster), **changed}))


class Asked:
    """A command as a user starts it, whose place in the process that is forked for it takes a ``script``."""

    def __init__(self, forks, tmp_path, script, entry="stand_in:orchestrate", **environment):
        self.server, inherited = forks
        told(self.server.path)
        (tmp_path / "script").write_text(script)
        (tmp_path / "in").write_text("what is piped in")
        self.folder = tmp_path
        self.environment = inherited | {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"], "SCRIPT": str(tmp_path / "script")} | environment
        program = f"from orchestrator.cli import client, main\nclient.ENTRY = {entry!r}\nmain.main()"
        self.command = [sys.executable, "-c", program, "list"]

    def run(self, **options):
        with (self.folder / "in").open() as file:
            return run(self.command, cwd=self.folder, env=self.environment, stdin=file, **options)

    def start(self):
        process = popen(self.command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        eventually((self.folder / "pid").exists)
        return process, psutil.Process(int(eventually((self.folder / "pid").read_text)))


SAYS = """
import os, sys
print(os.getcwd(), os.environ["ASKED"], oct(os.umask(0)), sys.argv[1:], sys.stdin.read(), os.getppid())
print("an error", file=sys.stderr)
"""
WAITS = "import os, time\n%s\nopen('pid.part', 'w').write(str(os.getpid())); os.rename('pid.part', 'pid')\ntime.sleep(600)"


def test_it_has_the_folder_environment_input_and_output_of_whoever_asks(forks, state, tmp_path):
    done = Asked(forks, tmp_path, SAYS, ASKED="all of it", CODE="7").run(umask=0o27)
    where, rest = done.stdout.split(maxsplit=1)
    assert Path(where) == tmp_path
    assert rest.startswith("all of it 0o27 ['list'] what is piped in ")
    assert int(rest.split()[-1]) not in (os.getpid(), 1)
    assert done.stderr == "an error\n"
    assert done.returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_hears_what_whoever_asks_hears(forks, state, tmp_path, number):
    hears = f"import signal, sys\nsignal.signal({int(number)}, lambda n, _: (print('heard', n), sys.stdout.flush(), os._exit(9)))"
    process, there = Asked(forks, tmp_path, WAITS % hears).start()
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert out == f"heard {int(number)}\n"
    assert process.returncode == 9
    assert not there.is_running()


def test_what_was_ignored_from_the_start_is_ignored(forks, state, tmp_path):
    asked = Asked(forks, tmp_path, "import signal\nprint(signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGINT))")
    asked.command = ["sh", "-c", "trap '' HUP INT; exec \"$@\"", "sh", *asked.command]
    assert asked.run().stdout == f"{signal.SIG_IGN} {signal.SIG_IGN}\n"


def test_it_is_killed_with_whoever_asked(forks, state, tmp_path):
    process, there = Asked(forks, tmp_path, WAITS % "").start()
    process.kill()
    process.communicate()
    eventually(lambda: not there.is_running() or there.status() == psutil.STATUS_ZOMBIE)


def test_whoever_asks_ends_as_it_ends(forks, state, tmp_path):
    process, there = Asked(forks, tmp_path, WAITS % "").start()
    there.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_command_is_never_run_twice_whatever_dies_between(forks, state, tmp_path):
    counts = "import os\nopen('runs', 'a').write('x')\n"
    process, there = Asked(forks, tmp_path, counts + WAITS % "").start()
    there.parent().kill()
    assert process.wait(60) == 3
    # It has the other ends of what is read from here.
    there.kill()
    _, errors = process.communicate(timeout=60)
    assert f"what waits for process {there.pid}, which runs this command, has ended" in errors
    assert (tmp_path / "runs").read_text() == "x"


def test_it_stops_and_goes_on_with_whoever_asked(forks, state, tmp_path):
    process, there = Asked(forks, tmp_path, WAITS % "").start()
    process.send_signal(signal.SIGTSTP)
    eventually(lambda: there.status() == psutil.STATUS_STOPPED)
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.send_signal(signal.SIGCONT)
    eventually(lambda: there.status() == psutil.STATUS_SLEEPING)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    "changed", [{"build": "another"}, {"process": "1 #1"}, {"machine": "another"}, {"commands": ""}, {"commands": "/nowhere"}]
)
def test_where_the_server_is_another_or_none_a_command_runs_as_ever(forks, state, monkeypatch, changed):
    monkeypatch.setattr(client, "ENTRY", "stand_in:orchestrate")
    told(forks[0].path, **changed)
    assert client.delegated(["list"]) is None


def test_what_is_quick_is_not_delegated(forks, state):
    told(forks[0].path)
    for arguments in ([], ["--help"], ["plan", "grid.yaml"], ["down"], ["doctor"]):
        assert client.delegated(arguments) is None


@pytest.mark.parametrize("how", ["environment", "limit", "nice"])
def test_what_a_process_has_from_the_start_has_to_be_the_same(forks, state, tmp_path, how):
    asked = Asked(forks, tmp_path, "print('forked')", **({"PYTHONWARNINGS": "ignore"} if how == "environment" else {}))
    if how == "limit":
        asked.command = ["sh", "-c", 'ulimit -n 512; exec "$@"', "sh", *asked.command]
    if how == "nice":
        if os.nice(0) == 19:
            pytest.skip("nothing is nicer than these tests are")
        asked.command = ["nice", *asked.command]
    done = asked.run()
    assert "forked" not in done.stdout
    # It has run here, and there is no store.
    assert "no MLflow database" in done.stderr
    assert done.returncode == 2


def test_an_order_that_nobody_waits_for_is_not_carried_out(forks, tmp_path):
    asked = forks[0]
    with socket.socket(socket.AF_UNIX) as connection, Path(os.devnull).open() as nothing:
        connection.connect(str(asked.path))
        order = server.Order("runpy:none", [], str(tmp_path), forks[1])
        order.send(connection, [nothing.fileno()] * 3)
        pid = server.told(connection)
    eventually(lambda: not psutil.pid_exists(pid))


def test_a_socket_that_is_found_can_be_connected_to(tmp_path):
    path = tmp_path / "s"
    with server._Server(str(path), server._Request, bind_and_activate=False) as asked:
        asked.server_bind()
        assert not path.exists()
        asked.server_activate()
        assert [(one.name, stat.S_IMODE(one.stat().st_mode)) for one in tmp_path.iterdir()] == [("s", 0o600)]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
