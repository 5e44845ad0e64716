"""Sweeps in allocations of Slurm, without one: the script that is handed in, and what runs of it on the nodes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster.slurm.batch import Nodes
from orchestrator.cluster.slurm.node import Word, environment_of, free_port, see_that_it_goes_on, start_command, write_token
from orchestrator.cluster.slurm.script import Request, script_of, seconds_of
from orchestrator.errors import RayUnavailable, UsageError
from tests import processes
from tests.cli.commands import call
from tests.held import LONG
from tests.processes import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "grid.yaml").write_text(LONG)
    return work


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("5", 300), ("5:30", 330), ("1:00:00", 3600), ("2-0", 172_800), ("1-12:30", 131_400), ("1-1:1:1", 90_061)],
)
def test_time_limits_are_read_as_slurm_reads_them(time, seconds):
    assert seconds_of(time) == seconds


@pytest.mark.parametrize("time", ["", "1h", "-5", "1:2:3:4", "1-", "UNLIMITED", "5 "])
def test_other_times_are_refused(time):
    with pytest.raises(UsageError, match="--time is MINUTES"):
        seconds_of(time)


def test_the_script_says_all_that_is_asked_for_and_is_one_command():
    command = ["python", "-m", "program", "a grid's.yaml"]
    request = Request("a/b c", "2-4", "1-0", gpus_per_node=4, margin=300, further=("--qos=high", "-p", "gpu long", "--exclusive"))
    first, *lines, last = script_of(request, command, requeues=7).splitlines()
    assert first == "#!/bin/bash"
    options = [shlex.split(line.removeprefix("#SBATCH ")) for line in lines]
    assert [" ".join(option) for option in options] == [
        *("--job-name=orchestrate-a-b-c", "--nodes=2-4", "--ntasks-per-node=1", "--gpus-per-node=4", "--time=1-0"),
        *("--signal=B:USR1@300", "--requeue", "--no-kill", "--open-mode=append", "--qos=high", "-p gpu long", "--exclusive"),
    ]
    assert options[-2] == ["-p", "gpu long"]
    assert shlex.split(last) == ["exec", sys.executable, "-m", "orchestrator.cluster.slurm.batch", "7", *command]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_the_script_is_as_shellcheck_wants_it():
    text = script_of(Request("x", "2", "1:00:00", further=("--comment=it's $HOME",)), ["python", "a b.yaml"])
    done = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--time", "1h"], 2, "error: --time is MINUTES, MINUTES:SECONDS, "),
        (["--time", "3"], 2, "error: --time 3 leaves nothing to train in: a sweep is saved 180 s before its limit"),
        (["--time", "60", "--margin", "3500"], 2, "give more time, or a smaller --margin"),
        (["--time", "60", "--nodes", "two"], 2, "error: --nodes is a number, or the least and the most as in 2-4, not 'two'"),
        (["--time", "60", "--nodes", "0"], 2, "error: --nodes is a number"),
        (["--time", "60", "--set", "optimizer.lr=-1"], 2, "error: --set optimizer.lr: optimizer.lr: must be above 0.0, not -1"),
        (
            ["--time", "60", "--tracking-uri", "http://me:secret@host"],
            2,
            "error: Slurm keeps what is in a batch script: set MLFLOW_TRACKING_URI",
        ),
        (["--time", "60", "more"], 2, "error: what follows -- are options of sbatch, such as --qos=high, not 'more'"),
        (["--time", "60", "--", "-N4"], 2, "error: -N cannot be given after --: `orchestrate slurm` sets it itself"),
        (["--time", "60", "--", "--signal=TERM@5"], 2, "error: --signal cannot be given after --"),
        (["--time", "60", "--", "--comment=a\nrm"], 2, "error: an option of sbatch is one line of printable characters"),
        (["--time", "60", "--nodse", "2"], 2, "No such option '--nodse'"),
        ([], 2, "Missing option '--time'"),
        (
            ["--time", "60"],
            3,
            "error: there is no sbatch here: run this on a login node of a Slurm cluster, or look at the script with --dry-run",
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_submitted(folder, monkeypatch, arguments, code, message):
    monkeypatch.setenv("PATH", "/nowhere")
    done = call(folder, "slurm", "grid.yaml", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "secret" not in done.stderr.replace("password in --tracking-uri", "")
    assert sorted(folder.iterdir()) == [folder / "grid.yaml"]


def test_a_dry_run_prints_the_script_and_needs_no_slurm(folder, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    options = ["--nodes", "2", "--time", "60", "--cpus-per-task", "8", "--partition", "big", "--set", "seeds=2", "--storage", "s3://a/b"]
    done = call(folder, "slurm", "grid.yaml", *options, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --cpus-per-task=8\n#SBATCH --partition=big\n" in done.stdout
    words = shlex.split(done.stdout.splitlines()[-1])
    assert words[words.index("submit") :] == [
        *("submit", str(folder / "grid.yaml"), "--set", "seeds=2", "--storage=s3://a/b", "--patience=120.0", "--checkpoint-every=30.0")
    ]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A way to put programs on the path, each written as Python."""
    place = tmp_path / "programs"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")

    def put(name, text):
        (place / name).write_text(f"#!{sys.executable}\n{text}")
        (place / name).chmod(0o755)

    return put


def test_what_slurm_says_of_a_job_is_passed_on(folder, programs):
    programs("sbatch", f"import sys; open({str(folder / 'got')!r}, 'w').write(' '.join(sys.argv[1:]) + sys.stdin.read()); print('17;far')")
    done = call(folder, "slurm", "grid.yaml", "--time", "60")
    assert done.returncode == 0, done.stderr
    assert (folder / "got").read_text().startswith("--parsable#!/bin/bash\n#SBATCH ")
    assert "job 17: long, 8 trials, on 1 node\n" in done.stdout
    assert "tail -F slurm-17.out" in done.stdout
    assert json.loads(call(folder, "slurm", "grid.yaml", "--time", "60", "--json").stdout) == {
        "job": "17",
        "experiment": "long",
        "trials": 8,
    }
    elsewhere = call(folder, "slurm", "grid.yaml", "--time", "60", "--", "-o", "log")
    assert "slurm-17.out" not in elsewhere.stdout
    programs("sbatch", "import sys; sys.exit('sbatch: error: invalid partition specified: x')")
    refused = call(folder, "slurm", "grid.yaml", "--time", "60")
    assert (refused.returncode, refused.stderr) == (
        2,
        "error: Slurm does not take the job: sbatch: error: invalid partition specified: x\n",
    )
    programs("sbatch", "import sys; sys.exit('sbatch: error: Unable to contact slurm controller (connect failure)')")
    away = call(folder, "slurm", "grid.yaml", "--time", "60")
    assert away.returncode == 3
    assert "error: Slurm cannot be reached: sbatch: error: Unable to contact" in away.stderr


def test_ray_on_a_node_takes_free_ports_and_what_slurm_allots(tmp_path):
    head = start_command(tmp_path, "10.0.0.1", None, {"SLURM_CPUS_ON_NODE": "12", "SLURM_GPUS_ON_NODE": "3"})
    assert {"--head", "--port=0", "--num-cpus=12", "--num-gpus=3", "--block", f"--temp-dir={tmp_path}"} <= set(head)
    other = start_command(tmp_path, "10.0.0.2", "10.0.0.1:4711", {"SLURM_CPUS_ON_NODE": "12"})
    assert {"--address=10.0.0.1:4711", "--node-ip-address=10.0.0.2", "--num-gpus=0"} <= set(other)
    assert not {"--head", "--port=0"} & set(other)


def test_the_token_is_in_a_file_that_its_user_alone_reads_and_settings_for_other_clusters_are_gone(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another")
    path = write_token(tmp_path, "hush")
    assert path.stat().st_mode & 0o777 == 0o600
    environment = environment_of(path)
    assert (environment["RAY_AUTH_MODE"], environment["RAY_AUTH_TOKEN_PATH"]) == ("token", str(path))
    assert not {"RAY_ADDRESS", "RAY_AUTH_TOKEN"} & set(environment)
    assert "hush" not in str(environment)


def test_a_port_is_free_and_given_to_nobody_by_chance():
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("", port))
        assert all(free_port() != port for _ in range(100))
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert not int(low) <= port <= int(high)


@pytest.mark.parametrize(("state", "head", "put_back"), [("RUNNING", False, True), ("COMPLETING", False, False), ("RUNNING", True, False)])
def test_a_job_whose_first_node_is_gone_is_put_back_unless_it_has_ended(tmp_path, programs, state, head, put_back):
    programs("squeue", f"print({state!r})")
    programs("scontrol", f"import sys; open({str(tmp_path / 'asked')!r}, 'w').write(' '.join(sys.argv[1:]))")
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        if not head:
            there.close()
        see_that_it_goes_on(address, "17", seconds=0.0)
    assert (tmp_path / "asked").exists() == put_back
    if put_back:
        assert (tmp_path / "asked").read_text() == "requeue 17"


def test_what_nodes_say_is_told_from_what_others_write():
    word = Word(3, error='no "room"')
    assert Word.parse(word.line) == word
    assert [Word.parse(line) for line in ("", "5", "[1]", "Loading module cuda", '{"other": 1}')] == [None] * 5


NODE = """
import sys
# What sites write there is in whatever encoding.
sys.stdout.buffer.write(b"Gr\\xfc\\xdfe\\n")
for line in {said!r}:
    print(line, flush=True)
told = sys.stdin.readline()
for line in {then!r}:
    print(line, flush=True)
sys.stderr.write("told " + told)
sys.stdin.read()
"""


def stand_in(*said, then=()):
    """A process that says the words of all nodes, tells what it is told, and ``then`` says more."""
    said, then = ([word.line.strip() if isinstance(word, Word) else word for word in words] for words in (said, then))
    return [sys.executable, "-c", NODE.format(said=said, then=then)]


def test_the_head_is_where_the_others_see_it(capfd):
    words = (Word(0, launcher="127.0.0.1"), "Welcome to the cluster", Word(1, launcher="10.0.0.1"))
    with Nodes(2, stand_in(*words, then=[Word(0, address="10.0.0.1:4711")])) as nodes:
        assert nodes.start_ray("hush") == "10.0.0.1:4711"
    said = capfd.readouterr().err
    assert "told hush 10.0.0.1" in said
    assert "Welcome to the cluster" in said


def test_a_first_node_that_does_not_start_ray_is_an_error_and_another_one_is_not(capfd):
    words = (Word(0, launcher="a"), Word(1, launcher="a"), Word(1, error="no room"))
    command = stand_in(*words, then=[Word(0, error="no room either")])
    with Nodes(2, command) as nodes, pytest.raises(RayUnavailable, match="Ray does not start on the first node: no room either"):
        nodes.start_ray("hush")
    assert "node 1: no room\n" in capfd.readouterr().err
    with Nodes(1, [sys.executable, "-c", "raise SystemExit(5)"]) as nodes, pytest.raises(RayUnavailable, match="ended with exit code 5"):
        nodes.start_ray("hush")


def test_nodes_that_do_not_come_up_are_done_without():
    command = stand_in(Word(0, launcher="10.0.0.1"), then=[Word(0, address="10.0.0.1:1")])
    with Nodes(2, command, seconds=5.0) as nodes:
        assert nodes.start_ray("hush") == "10.0.0.1:1"


SRUN = """
import os, subprocess, sys
command = sys.argv[sys.argv.index("--wait=0") + 1 :]
count = int(next(word for word in sys.argv if word.startswith("--ntasks=")).partition("=")[2])
slurm = [os.environ | {"SLURM_NODEID": str(node), "SLURM_CPUS_ON_NODE": "3"} for node in range(count)]
nodes = [subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True) for environment in slurm]
for line in sys.stdin:
    for node in nodes:
        node.stdin.write(line)
        node.stdin.flush()
for node in nodes:
    node.stdin.close()
sys.exit(max(node.wait() for node in nodes))
"""
"""What srun does here of all that it does."""
DRIVER = """
import signal, sys, time
import ray
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
ray.init(log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
print("there are", len(ray.nodes()), "nodes and", ray.cluster_resources()["CPU"], "cores", flush=True)
time.sleep(600)
"""


def token_of(started):
    """The token of a job's Ray, read where its processes find it."""
    (path,) = {process.environ()["RAY_AUTH_TOKEN_PATH"] for process in started if DRIVER in process.cmdline()}
    assert Path(path).stat().st_mode & 0o777 == 0o600
    return Path(path).read_text()


def seen(started, token):
    """The processes in whose command line or environment a token is."""
    assert len(token) == 64
    return [process for process in started if any(token in text for text in (*process.cmdline(), *process.environ().values()))]


@pytest.mark.parametrize("requeues", [1, 2])
def test_a_job_at_its_time_limit_is_put_back_as_often_as_it_may_be(tmp_path, programs, requeues):
    programs("srun", f"import sys; open({str(tmp_path / 'started')!r}, 'w'); sys.stdin.read()")
    programs("scontrol", f"import sys; open({str(tmp_path / 'requeued')!r}, 'a').write(' '.join(sys.argv[1:]))")
    slurm = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}
    command = [sys.executable, "-m", "orchestrator.cluster.slurm.batch", str(requeues), "never"]
    job = processes.popen(command, env=os.environ | slurm, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    eventually((tmp_path / "started").exists)
    job.send_signal(signal.SIGUSR1)
    _, said = processes.communicate(job)
    assert job.returncode == 130, said
    assert (tmp_path / "requeued").exists() == (requeues == 2)
    assert ("as often as it may be" in said) == (requeues == 1)


@pytest.mark.slow
@pytest.mark.ray
def test_a_command_finds_ray_and_is_told_to_save_before_the_time_limit(tmp_path, programs):
    programs("srun", SRUN)
    programs("scontrol", f"import sys; open({str(tmp_path / 'requeued')!r}, 'a').write(' '.join(sys.argv[1:]))")
    slurm = {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "SLURM_RESTART_COUNT": "1"}
    # What its user has set for another cluster is nothing to this one.
    slurm |= {"RAY_ADDRESS": "127.0.0.1:9", "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "-m", "orchestrator.cluster.slurm.batch", "2", sys.executable, "-c", DRIVER]
    with (tmp_path / "log").open("w") as log:
        job = processes.popen(command, env=os.environ | slurm, stdout=log, stderr=log)

    def said():
        return (tmp_path / "log").read_text()

    def up():
        assert job.poll() is None, said()
        return "there are 2 nodes and 6.0 cores" in said()

    eventually(up, said)
    assert "Ray is up on 2 of 2 nodes" in said()
    started = psutil.Process(job.pid).children(recursive=True)
    lines = [" ".join(process.cmdline()) for process in started]
    assert sum("raylet/raylet" in line for line in lines) == 2
    assert not any("6379" in line or "10002" in line for line in lines)
    assert not seen(started, token_of(started)), "nobody who lists processes sees the token"
    job.send_signal(signal.SIGUSR1)
    processes.communicate(job)
    assert job.returncode == 130, said()
    assert (tmp_path / "requeued").read_text() == "requeue 17"
    assert "the job goes back into the queue" in said()
    assert [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []
