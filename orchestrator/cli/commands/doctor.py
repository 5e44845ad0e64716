"""``orchestrate doctor``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from orchestrator.cli.options import address_option, json_option, print_json, storage_option, tracking_option

if TYPE_CHECKING:
    from orchestrator.diagnosis.check import Check


@click.command("doctor")
@address_option
@tracking_option
@storage_option
@json_option
def command(address: str | None, tracking_uri: str | None, storage: str | None, as_json: bool) -> None:
    """Try what a sweep needs: on this machine versions, cores, GPUs, disk, MLflow and Ray; with --address, on every node of that cluster
    versions, GPUs as torch sees them, storage, uploads to MLflow, and clocks. Exits with 3 if something does not work.

    \b
    Example:
      orchestrate doctor
      orchestrate doctor --address 10.0.0.5:6379 --tracking-uri http://10.0.0.5:5000 --storage s3://bucket/sweeps
    """
    checks: list[Check] = []
    for check in _checks(address, tracking_uri, storage):
        if check in checks:
            # A store that cannot be reached is found out twice.
            continue
        checks.append(check)
        if not as_json:
            click.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.found}")
    if as_json:
        print_json([asdict(check) for check in checks])
    raise click.exceptions.Exit(0 if all(check.ok for check in checks) else 3)


def _checks(address: str | None, tracking_uri: str | None, storage: str | None) -> Iterator[Check]:
    from orchestrator.cluster.addresses import is_job_address
    from orchestrator.diagnosis.check import Check
    from orchestrator.diagnosis.cluster import check_cluster
    from orchestrator.diagnosis.machine import check_machine
    from orchestrator.diagnosis.remote import check_remote
    from orchestrator.errors import OrchestratorError

    yield from check_machine(tracking_uri)
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address is not None and is_job_address(address):
            yield from check_remote(address, tracking_uri, storage)
        else:
            yield from check_cluster(address, tracking_uri, storage)
    except OrchestratorError as error:
        yield Check("ray", False, str(error))
