"""Return whether a cluster's head lets us in, asked before Ray does, which tries for long and says little of tokens and certificates."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from orchestrator.cluster import private
from orchestrator.errors import RayUnavailable, UsageError

PROBE_SECONDS = 10.0
"""How long a head may take to answer: one that is busy takes some."""
CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""What Ray's own components ask a head first. It answers with its version, and refuses who may not come in."""
TLS_FILES = ("RAY_TLS_CA_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_SERVER_CERT")
"""Ray's settings that name the files of TLS, in the order in which gRPC takes them."""
REJECTED = "it does not accept this token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH must be that of the cluster"
MISSING = "it wants a token and there is none here: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
DISABLED = "it wants a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"


def check_access(address: str) -> None:
    """See that a head answers at ``host:port``, or ``auto`` for this machine's, and that tokens and TLS are set here as they are there.

    Raises `UsageError` for an address of another form or settings that name no files, `RayUnavailable` where nobody answers or we are
    not let in; within seconds.
    """
    if address == "auto":
        address = _running()
        if not address:
            return
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or "/" in host:
        raise UsageError(f"a Ray address is host:port, auto, local or http://head:8265, not {address!r}")
    certificates = _certificates()
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        raise RayUnavailable(
            f"no Ray cluster answers at {address}: {error.strerror or error}; is its head node up, and the port right?"
        ) from error
    advice = _refusal(address, certificates)
    if advice:
        raise RayUnavailable(f"the Ray cluster at {address} does not let us in: {advice}")


def _running() -> str:
    """Return the address of this machine's cluster; empty if Ray does not say."""
    # As `ray.init` will be told: what it finds is its own business.
    logging.getLogger("ray").setLevel(logging.ERROR)
    return private.running_address()


def _certificates() -> list[bytes] | None:
    """Return what Ray is told to encrypt with; ``None`` if it is not to."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):
        return None
    found = []
    for name in TLS_FILES:
        path = os.environ.get(name)
        if not path:
            raise UsageError(f"RAY_USE_TLS is set and {name} is not: Ray wants a file for each of {', '.join(TLS_FILES)}")
        try:
            found.append(Path(path).read_bytes())
        except OSError as error:
            raise UsageError(f"{name}: cannot read {path}: {error.strerror}") from error
    return found


def _refusal(address: str, certificates: list[bytes] | None) -> str:
    """Return what to do about a head that does not let us in; empty if it does."""
    # What it would log is what is said here in a line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    token = private.token_header()
    credentials = grpc.ssl_channel_credentials(*certificates) if certificates else None
    # As Ray does: on many a cluster the web is reached through a proxy, which knows nothing of nodes.
    options = (("grpc.enable_http_proxy", 0),)
    with grpc.secure_channel(address, credentials, options) if credentials else grpc.insecure_channel(address, options) as channel:
        try:
            channel.unary_unary(CHECK_ALIVE)(b"", metadata=token, timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            details = str(error.details())
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                return REJECTED if token else MISSING if os.environ.get("RAY_AUTH_MODE") == "token" else DISABLED
            if certificates and "WRONG_VERSION_NUMBER" in details:
                return "RAY_USE_TLS is set, and it does not speak TLS: unset it"
            if certificates and "CERTIFICATE_VERIFY_FAILED" in details:
                return "RAY_TLS_CA_CERT is not that of its certificate"
            if certificates and "handshake" in details:
                return f"TLS fails: {details.rpartition('error: ')[2]}"
            if "http1.x" in details or "http/1" in details.lower():
                return "that is an HTTP server: give http://… for a head that takes jobs, or the port of the head itself, usually 6379"
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return "it takes connections and says nothing: is it a Ray head?"
            if error.code() == grpc.StatusCode.UNAVAILABLE and not certificates:
                return f"it hangs up: if it wants TLS, set RAY_USE_TLS=1, {', '.join(TLS_FILES)}; if it is no Ray head, mend the port"
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return f"it hangs up: {', '.join(TLS_FILES)} must be such as it accepts"
    return ""
