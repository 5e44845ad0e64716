"""Check cluster files for ``ray up`` without asking anybody: ``python deploy/check.py FILE…``; a line for each mistake, and exit code 1.

Ray checks a file when it starts machines for it, and fills what is missing with its defaults, which install a nightly Ray.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

PLACEHOLDERS = re.compile(r"\b(ACCOUNT|BUCKET|PROJECT)\b")
"""What the files that are shipped leave open."""
INSTALLED = ("setup_commands", "head_setup_commands", "worker_setup_commands")
"""What Ray fills with commands that install things. All is in the image."""
STARTED = ("head_start_ray_commands", "worker_start_ray_commands")
PINNED = re.compile(r".+(:v?\d+(\.\d+)+([-.][a-z0-9]+)*|@sha256:[0-9a-f]{64})")
"""An image by its version or its digest."""
TOKEN = re.compile(r"--env RAY_AUTH_TOKEN_PATH=(\S+)")


def mistakes(text: str) -> Iterator[str]:
    """Yield what is wrong with a cluster file, a line each."""
    for name in sorted(set(PLACEHOLDERS.findall(text))):
        yield f"{name} is still to be filled in"
    yield from mistakes_of(yaml.safe_load(text))


def mistakes_of(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a cluster, whatever may be left open in it."""
    try:
        # It changes what it is given.
        prepared = prepare_config(copy.deepcopy(dict(config)))
        validate_config(prepared)
    except jsonschema.ValidationError as error:
        yield f"Ray refuses it: {error.json_path}: {error.message}"
        return
    except Exception as error:  # Ray raises whatever it stumbles over
        yield f"Ray refuses it: {type(error).__name__}: {error}"
        return
    for key in INSTALLED:
        if config.get(key) != []:
            yield f"{key} has to be []: the image has all that is needed, and Ray's default installs a nightly Ray"
    for key in STARTED:
        if not config.get(key):
            yield f"{key} is missing"
    yield from _images(config)
    yield from _token(config)
    for name, kind in prepared["available_node_types"].items():
        yield from _node_type(name, kind, name == prepared["head_node_type"])


def _images(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the images: there has to be one, of a version, for every type of node."""
    docker = config.get("docker") or {}
    found = {f"docker.{key}": docker.get(key) for key in ("image", "head_image", "worker_image") if key in docker}
    for name, kind in config["available_node_types"].items():
        found |= {f"{name}.docker.{key}": value for key, value in (kind.get("docker") or {}).items() if key == "worker_image"}
    if "docker.image" not in found:
        yield "docker.image is missing: it is what all types of nodes run"
    for key, image in found.items():
        if not PINNED.fullmatch(str(image)):
            yield f"{key} is {image}: name a version, or what runs changes by itself"


def _token(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the token of the cluster: Ray has to want one on every node, and to find it there."""
    options = " ".join((config.get("docker") or {}).get("run_options", []))
    if "--env RAY_AUTH_MODE=token" not in options:
        yield "docker.run_options must have --env RAY_AUTH_MODE=token: whoever reaches the head could run what they like"
    path = TOKEN.search(options)
    mounts = config.get("file_mounts") or {}
    if path is None or not any(path[1].startswith(f"{mount.rstrip('/')}/") for mount in mounts):
        yield "docker.run_options must have --env RAY_AUTH_TOKEN_PATH=…, a file in one of file_mounts"


def _node_type(name: str, kind: Mapping[str, Any], head: bool) -> Iterator[str]:
    spot = "spot" in str(kind["node_config"]).lower()
    if head and spot:
        yield f"{name}: the head must not be a spot machine: a sweep ends with it"
    if head and kind["max_workers"]:
        yield f"{name}: max_workers has to be 0: what is made as a head is no worker"
    if not head and not spot:
        yield f"{name}: workers are to be spot machines: a sweep goes on without those that are taken away"
    if not head and kind["min_workers"]:
        yield f"{name}: min_workers has to be 0: what nobody uses is to go"
    if kind.get("worker_setup_commands"):
        yield f"{name}.worker_setup_commands has to be left out: all is in the image"


def main(paths: list[str]) -> int:
    """Check files. Returns the exit code."""
    logging.disable(logging.WARNING)
    found = [f"{path}: {mistake}" for path in paths for mistake in mistakes(Path(path).read_text())]
    print("\n".join(found or [f"{path}: as it should be" for path in paths]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
