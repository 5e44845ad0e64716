"""What the tests themselves rest on: children hear signals, deadlines end what was started, and what is left behind is found."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests import processes
from tests.clusters import Network, no_network_cluster
from tests.conftest import Watch
from tests.leavings import Run, _mounts, of_others

ROOT = Path(__file__).parents[1]
HEARD = "import signal; print(*map(signal.getsignal, (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)))"
NESTED = f"""
import subprocess, sys
from tests import processes

processes.hear_signals()
print(subprocess.run([sys.executable, "-c", {HEARD!r}], capture_output=True, text=True).stdout)
"""


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN])
def test_children_hear_signals_whatever_was_inherited(inherited):
    numbers = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.signal(number, inherited) for number in numbers}
    try:
        # Started with them as inherited, as a job in the background of a script would be, or by nohup.
        done = processes.run([sys.executable, "-c", NESTED], cwd=ROOT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert done.stdout.split("\n")[0] == f"{signal.default_int_handler} {signal.SIG_DFL} {signal.SIG_DFL}", done.stderr


def test_all_that_a_command_has_started_is_ended_with_it(tmp_path):
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    process = processes.popen([sys.executable, "-c", parent], stdout=-1, stderr=-1)
    pid = int(processes.eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    with pytest.raises(AssertionError, match="goes on after"):
        processes.communicate(process, timeout=0.1)
    processes.eventually(lambda: is_gone(pid))


TESTS = """
import os, subprocess, sys, time
import pytest

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

@pytest.fixture(scope="module")
def shared():
    process = subprocess.Popen(SLEEP, start_new_session=True)
    time.sleep(2)
    yield process
    process.kill()
    process.wait()

@pytest.mark.timeout(3, func_only=True)
def test_hangs(shared):
    # Detached from us and from its parent, as daemons are.
    subprocess.run(["sh", "-c", "setsid sleep 600 & echo $! > daemon"])
    subprocess.run(SLEEP)

def test_shared_is_still_there(shared):
    assert shared.poll() is None

def test_leaves_something():
    process = subprocess.Popen(SLEEP, start_new_session=True)
    open("left", "w").write(str(process.pid))
    os.makedirs(os.path.join(os.environ["TMPDIR"], "wp_pch_left"))

def test_adds_a_namespace():
    from tests.processes import own_mark
    # Of a process that outlives this one, so that nobody removes it as an orphan meanwhile.
    name = f"raytest-{os.getppid()}-{os.environ.get('OTHER', own_mark())}-x"
    open("namespace", "w").write(name)
    subprocess.run(["ip", "netns", "add", name], check=True)
"""


def nested(folder, name, **options):
    """What a run of one of `TESTS` under the rules of these tests says."""
    (folder / "test_it.py").write_text(TESTS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    settings = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder), "--leavings-seconds", "1"]
    command = [sys.executable, "-m", "pytest", *settings, "-rA", "-k", name, "test_it.py"]
    return processes.run(command, cwd=folder, env=kept | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}, **options)


def is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_deadline_ends_what_the_test_has_started_and_nothing_else(tmp_path):
    done = nested(tmp_path, "hangs or shared")
    assert "FAILED test_it.py::test_hangs" in done.stdout, done.stdout + done.stderr
    assert "PASSED test_it.py::test_shared_is_still_there" in done.stdout
    assert "LEFT" not in done.stdout
    processes.eventually(lambda: is_gone(int((tmp_path / "daemon").read_text())))


def test_what_is_due_is_done_unless_the_test_has_ended_and_waits_for_nothing_else():
    watch, called, over = Watch(), [], threading.Event()
    watch.expect({lambda: called.append("ended"): 0})
    watch.expect({})
    # Of what is due at the same time the first one does not come back.
    watch.expect({over.wait: 0, lambda: called.append("due"): 0, lambda: called.append("later"): processes.PATIENCE})
    processes.eventually(lambda: "due" in called)
    over.set()
    assert called == ["due"]


def test_what_is_left_behind_fails_the_run_and_is_ended(tmp_path):
    done = nested(tmp_path, "leaves", umask=0o077)
    left = [line for line in done.stdout.splitlines() if line.startswith("LEFT ")]
    assert "PASSED test_it.py::test_leaves_something" in done.stdout, done.stdout + done.stderr
    assert len(left) == 2, done.stdout
    assert f"process {(tmp_path / 'left').read_text()}: " in left[0]
    assert "wp_pch_left" in left[1]
    assert done.returncode == 1
    # What a run that failed keeps, to be looked at, goes with the folder of this test.
    (folder,) = tmp_path.glob("ot-*")
    assert [path.name.startswith("pytest-of-") for path in folder.iterdir()] == [True]
    # Servers of other users are let into it.
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    processes.eventually(lambda: is_gone(int((tmp_path / "left").read_text())))


def test_a_run_that_leaves_nothing_passes(tmp_path):
    assert nested(tmp_path, "shared").returncode == 0


def test_what_others_mount_meanwhile_is_not_left_by_this_run(tmp_path):
    own = processes.own_mark()
    assert own
    assert of_others("mount /tmp/ot-0f0f0f/pytest-of-root/disk", own)
    assert of_others("mount /tmp/chaos-x1/40/disk", own)
    for line in (f"mount {tmp_path}/disk", "mount /mnt/disk", "network namespace somebody"):
        assert not of_others(line, own)


def test_a_folder_that_goes_while_it_is_looked_into_is_looked_for_again(monkeypatch):
    looks = iter([FileNotFoundError(2, "gone", "/tmp/it"), []])

    def left(run):
        if isinstance(found := next(looks), Exception):
            raise found
        return found

    monkeypatch.setattr(Run, "_left", left)
    run = Run.__new__(Run)
    run.mark = "0f0f0f"
    assert run.left(processes.PATIENCE) == []
    assert list(looks) == []


def test_where_network_namespaces_are_mounted_is_left_by_nobody(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda _: "tmpfs /run/netns tmpfs rw 0 0\nnsfs /run/netns/raytest-1-x nsfs rw 0 0\n")
    assert _mounts() == ["mount /run/netns/raytest-1-x"]


NEEDS_NAMESPACES = pytest.mark.skipif(bool(no_network_cluster()), reason=no_network_cluster() or "works")


@NEEDS_NAMESPACES
def test_network_namespaces_are_of_their_run():
    with Network("marked") as network:
        network.add("host")
        line = f"network namespace {network.namespace('host')}"
    assert not of_others(line, processes.own_mark())
    assert of_others(line, "0f0f0f")


@NEEDS_NAMESPACES
@pytest.mark.parametrize("other", [True, False])
def test_a_namespace_is_left_by_the_run_that_added_it_alone(tmp_path, monkeypatch, other):
    if other:
        monkeypatch.setenv("OTHER", "0f0f0f")
    done = nested(tmp_path, "adds")
    name = (tmp_path / "namespace").read_text()
    assert processes.run(["ip", "netns", "del", name]).returncode == 0
    assert "PASSED test_it.py::test_adds_a_namespace" in done.stdout, done.stdout + done.stderr
    assert (f"LEFT network namespace {name}" in done.stdout) != other
    assert done.returncode == (0 if other else 1)
