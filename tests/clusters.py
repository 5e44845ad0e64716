"""Real Ray clusters of several nodes on one machine, for tests.

`network_cluster`: nodes that share nothing but a network, as machines do, each in a network namespace of its own (needs root). One more
namespace, ``client``, is a machine that is on the network and not in the cluster. `local_cluster`: nodes that share the machine's
address, quicker to start, which this process can join as a driver.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.private import bare
from orchestrator.cluster.scratch import scratch_folder
from tests import processes
from tests.certificates import certificate, tls
from tests.forked import ForkServer

ROOT = Path(__file__).parents[1]
PREFIX = "raytest"
OBJECT_STORE_BYTES = 200 * 1024 * 1024
SOON: Mapping[str, Any] = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""Ray's settings with which the head gives up a silent node after seconds rather than half a minute."""
WAIT_FOR_NODES = """
import sys, time
from ray._raylet import GcsClient

client = GcsClient(sys.argv[1])
while sum(node.state == 0 for node in client.get_all_node_info().values()) < int(sys.argv[2]):
    time.sleep(0.1)
"""

CONFIG_LISTS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands"),
    *("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"),
)
"""What a cluster's configuration must have, as a list, however empty."""

_serial = itertools.count()


def no_network_cluster() -> str:
    """Why `network_cluster` cannot work here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (package iproute2)"
    missing = [name for name in ("aiohttp_cors", "grpc", "opencensus", "prometheus_client") if find_spec(name) is None]
    if missing:
        return f"a job server needs ray[default]: no module {', '.join(missing)}"
    try:
        with Network("probe") as network:
            network.add("host")
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.strip()}"
    return ""


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in _ip("netns", "pids", namespace).split()]


def _kill(namespace: str) -> None:
    """SIGKILL to every process of a namespace, until none is left."""

    def gone() -> bool:
        for pid in (pids := _pids(namespace)):
            # Another's death may have ended it.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    processes.eventually(gone, lambda: f"processes of {namespace} survive: {_pids(namespace)}")


def _remove(namespace: str) -> None:
    _kill(namespace)
    _ip("netns", "del", namespace)


def _remove_orphans() -> None:
    """Remove what test processes left behind that were killed themselves."""
    for name in re.findall(rf"^{PREFIX}-\d+-\S+", _ip("netns", "list"), re.MULTILINE):
        if not Path("/proc", name.split("-")[1]).exists():
            _remove(name)


class Network:
    """Namespaces joined by a bridge. The bridge has a namespace too, so that neither addresses nor firewalls of the machine matter."""

    def __init__(self, name: str) -> None:
        # By its mark a run of the tests knows which are its own.
        self._prefix = f"{PREFIX}-{os.getpid()}-{processes.own_mark() or 'alone'}-{name}"
        self._hosts: dict[str, str] = {}
        self._switch = f"{self._prefix}-switch"

    def __enter__(self) -> Network:
        _remove_orphans()
        with ExitStack() as stack:
            _ip("netns", "add", self._switch)
            stack.callback(_remove, self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __contains__(self, host: str) -> bool:
        return host in self._hosts

    @property
    def hosts(self) -> list[str]:
        """Those that are plugged in."""
        return list(self._hosts)

    def namespace(self, host: str) -> str:
        """What ``ip netns`` calls a host."""
        return f"{self._prefix}-{host}"

    def address(self, host: str) -> str:
        return self._hosts[host]

    def add(self, host: str) -> None:
        """Plug in another host."""
        namespace, cable, address = self.namespace(host), f"to-{host}", f"10.77.0.{len(self._hosts) + 1}"
        _ip("netns", "add", namespace)
        self._stack.callback(_remove, namespace)
        _ip("-n", self._switch, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("-n", self._switch, "link", "set", cable, "master", "bridge", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
        # It leads nowhere, but Ray finds a host's own address by asking for the route to the Internet.
        _ip("-n", namespace, "route", "add", "default", "dev", "eth0")
        self._hosts[host] = address

    def close(self, host: str, but: Iterable[int]) -> None:
        """Let a host reach no port of the others ``but`` some, as if a firewall stood before them."""
        everywhere = ("to", "10.77.0.0/24")
        for port in but:
            _ip("-n", self.namespace(host), "rule", "add", "pref", "1", *everywhere, "ipproto", "tcp", "dport", str(port), "lookup", "main")
        # Before the rules that are there.
        _ip("-n", self.namespace(host), "rule", "add", "pref", "2", *everywhere, "unreachable")

    def unplug(self, host: str) -> None:
        """Cut the cable: what others send is lost without an answer, as when a machine loses power."""
        _ip("-n", self._switch, "link", "set", f"to-{host}", "down")

    def pids(self, host: str) -> list[int]:
        return _pids(self.namespace(host))

    def kill(self, host: str) -> None:
        """SIGKILL to every process of a host."""
        _kill(self.namespace(host))


@dataclass
class NetworkCluster:
    """A running cluster: hosts ``head``, ``node1``, ``node2``, …, and ``client`` outside of it."""

    network: Network
    token: str
    folder: Path
    tls: Mapping[str, str] = field(default_factory=dict)
    """Settings of Ray's processes, if they speak TLS with each other."""

    @property
    def head(self) -> str:
        """The head's IP address."""
        return self.network.address("head")

    @property
    def job_address(self) -> str:
        return f"http://{self.head}:8265"

    @property
    def gcs_address(self) -> str:
        return f"{self.head}:6379"

    @property
    def client_address(self) -> str:
        return f"ray://{self.head}:10001"

    @property
    def state(self) -> Path:
        """Where the processes of its hosts keep locks and checkpoints, unless they are told otherwise."""
        return self.folder / "home" / "state"

    @property
    def ray(self) -> Path:
        """Ray's temporary folder, of the same name on each host."""
        return self.folder / "ray"

    def environment(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """What processes of a host see: this process's environment without its Ray settings, with the cluster's token. ``None`` unsets."""
        found: dict[str, str | None] = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        found |= {
            "HOME": str(self.folder / "home"),
            "XDG_STATE_HOME": str(self.state),
            # What is killed leaves its temporary files.
            "TMPDIR": str(self.folder / "tmp"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        found |= env or {}
        return {name: value for name, value in found.items() if value is not None}

    def command(self, command: Sequence[str], namespace: str = "client") -> list[str]:
        """``command`` as run on a host. The folder ``ray`` is each host's own: drivers would reach other nodes' sockets through files."""
        own = self.folder / "hosts" / namespace
        own.mkdir(parents=True, exist_ok=True)
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        return ["ip", "netns", "exec", self.network.namespace(namespace), "sh", "-c", mount, str(own), str(self.ray), *command]

    def run(
        self,
        command: Sequence[str],
        namespace: str = "client",
        env: Mapping[str, str | None] | None = None,
        timeout: float = processes.PATIENCE,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, by default outside of the cluster, and return what it said, whatever its exit status.

        ``env`` is put over `environment`; other options are `tests.processes.run`'s.
        """
        return processes.run(self.command(command, namespace), env=self.environment(env), timeout=timeout, **options)

    def popen(
        self, command: Sequence[str], namespace: str = "client", env: Mapping[str, str | None] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command on a host. It is killed with the cluster at the latest."""
        return processes.popen(self.command(command, namespace), env=self.environment(env), **options)

    def fork_server(self, namespace: str = "client") -> ForkServer:
        """A process on a host from which programs are forked. It is killed with the cluster at the latest."""
        environment = self.environment({"PYTHONPATH": str(ROOT)})
        return ForkServer(self.folder / f"{namespace}.sock", self.command([], namespace), env=environment)

    def renice(self, title: str, niceness: int) -> None:
        """Set the niceness of the processes whose titles have ``title`` in them: with 19 they run where nobody else wants to."""
        for host in self.network.hosts:
            for pid in self.network.pids(host):
                with suppress(psutil.Error):
                    process = psutil.Process(pid)
                    if title in " ".join(process.cmdline()):
                        process.nice(niceness)

    def host(self, node: int) -> str:
        """A node's host: 0 is the head."""
        return f"node{node}" if node else "head"

    def kill_node(self, node: int) -> None:
        """SIGKILL to all of a node at once. The kernel closes its connections: others notice soon."""
        self.network.kill(self.host(node))

    def unplug_node(self, node: int) -> None:
        """Take a node from the network. It computes on; others notice by its silence."""
        self.network.unplug(self.host(node))

    def start_node(self, node: int, cpus: float = 1, env: Mapping[str, str | None] | None = None, options: Sequence[str] = ()) -> None:
        """Start Ray on a node, with further ``options`` of ``ray start``: again after `kill_node`, or on a further one."""
        host = self.host(node)
        if host not in self.network:
            self.network.add(host)
        if node == 0:
            # The second makes it listen to other hosts.
            role = ["--head", "--dashboard-host=0.0.0.0", "--include-dashboard=true", "--port=6379", "--ray-client-server-port=10001"]
        else:
            role = [f"--address={self.gcs_address}"]
        started = self.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--disable-usage-stats"),
                *(f"--node-ip-address={self.network.address(host)}", f"--num-cpus={cpus:g}", "--num-gpus=0"),
                *(f"--temp-dir={self.ray}", f"--object-store-memory={OBJECT_STORE_BYTES}"),
                *options,
            ],
            namespace=host,
            env={**self.tls, **(env or {})},
        )
        if started.returncode:
            raise RuntimeError(f"Ray does not start on {host}:\n{started.stdout}{started.stderr}")

    def wait_for_nodes(self, count: int) -> None:
        """Wait until as many nodes have joined: ``ray start`` returns before."""
        self.run([sys.executable, "-c", WAIT_FOR_NODES, self.gcs_address, str(count)], "head", self.tls).check_returncode()

    def logs(self, node: int) -> list[Path]:
        """The log files of a node."""
        return [path for path in (self.folder / "hosts" / self.host(node)).glob("session_2*/logs/**/*") if path.is_file()]


@contextmanager
def _hosts(names: Sequence[str]) -> Iterator[NetworkCluster]:
    """Hosts of these names, on which nothing runs yet."""
    with ExitStack() as stack:
        # Short: the path of a socket, which Ray makes deep in here, has 107 characters at most.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rc", ignore_cleanup_errors=True)))
        (folder / "home").mkdir()
        (folder / "ray").mkdir()
        (folder / "tmp").mkdir()
        token = secrets.token_hex(32)
        (folder / "token").write_text(token)
        (folder / "token").chmod(0o600)
        network = stack.enter_context(Network(f"cluster{next(_serial)}"))
        cluster = NetworkCluster(network, token, folder)
        for name in names:
            network.add(name)
        yield cluster


@contextmanager
def scaling_cluster(most: int = 2) -> Iterator[NetworkCluster]:
    """A head of one core, which starts up to ``most`` further nodes of one core on its own host when work waits for them."""
    kind = {"resources": {"CPU": 1}, "node_config": {}}
    config: dict[str, Any] = {
        "cluster_name": "scaling",
        "max_workers": most,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        # The provider knows its head by this name.
        "head_node_type": "ray.head.default",
        "available_node_types": {"ray.head.default": {**kind, "max_workers": 0}, "worker": {**kind, "min_workers": 0, "max_workers": most}},
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{key: [] for key in CONFIG_LISTS},
    }
    with _hosts(["head"]) as cluster:
        (cluster.folder / "scaling.json").write_text(json.dumps(config))
        env = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        cluster.start_node(0, 1, env, [f"--autoscaling-config={cluster.folder}/scaling.json"])
        yield cluster


@contextmanager
def network_cluster(
    nodes: int = 3,
    cpus: float = 1,
    env: Mapping[str, str | None] | None = None,
    settings: Mapping[str, Any] = SOON,
    *,
    encrypted: bool = False,
) -> Iterator[NetworkCluster]:
    """A cluster of ``nodes`` network namespaces, with a job server and a Ray client server on the head.

    ``env`` is for Ray's processes, and what they start, on all nodes; ``settings`` are Ray's internal ones. If ``encrypted``, they speak
    TLS with each other.
    """
    with _hosts((*(f"node{node}" if node else "head" for node in range(nodes)), "client")) as cluster:
        if encrypted:
            authority = certificate(cluster.folder, "authority")
            certificate(cluster.folder, "machine", authority, map(cluster.network.address, cluster.network.hosts))
            cluster.tls = tls(cluster.folder)
        cluster.start_node(0, cpus, {**{f"RAY_{name}": str(value) for name, value in settings.items()}, **(env or {})})
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda node: cluster.start_node(node, cpus, env), range(1, nodes)))
        cluster.wait_for_nodes(nodes)
        yield cluster


@dataclass
class LocalCluster:
    """A running cluster whose nodes share this machine's address."""

    cluster: Any
    options: Mapping[str, Any]
    """What each node is started with."""

    @property
    def gcs_address(self) -> str:
        return str(self.cluster.address)

    def start_node(self) -> None:
        """Start a further node. Its temporary files, and those of its workers, which are killed in the end, go with the cluster."""
        with pytest.MonkeyPatch.context() as patch, bare():
            patch.setenv("TMPDIR", self.options["temp_dir"])
            self.cluster.add_node(**self.options)

    def kill_node(self, node: int) -> None:
        """SIGKILL to a node, which is not the head (0): on that one a driver in this process hangs."""
        self.cluster.remove_node(self.cluster.list_all_nodes()[node], allow_graceful=False)


@contextmanager
def local_cluster(nodes: int = 3, cpus: float = 1, settings: Mapping[str, Any] = SOON) -> Iterator[LocalCluster]:
    """A cluster of ``nodes`` that all have this machine's address, each with ``cpus`` cores.

    ``settings`` are Ray's internal ones. The token is this user's, as for an embedded Ray.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
    from ray._raylet import Config
    from ray.cluster_utils import Cluster

    # Whoever imported Ray before had it read the mode.
    Config.initialize("")
    # As `ray.init` does for an embedded cluster.
    ensure_token_if_auth_enabled()
    cluster = Cluster()
    with scratch_folder() as folder:
        # `ray.cluster_utils` takes it to be there.
        (folder / "ray").mkdir()
        options = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_BYTES, "temp_dir": str(folder), "include_log_monitor": False}
        try:
            LocalCluster(
                cluster, {**options, "include_dashboard": False, "no_monitor": True, "_system_config": dict(settings)}
            ).start_node()
            started = LocalCluster(cluster, options)
            for _ in range(nodes - 1):
                started.start_node()
            yield started
        finally:
            ray.shutdown()
            cluster.shutdown()
