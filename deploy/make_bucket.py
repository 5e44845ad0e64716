#!/opt/orchestrate/bin/python
"""Make the bucket of an S3 URL, if it is not there, as soon as the object store answers: ``make-bucket s3://bucket/folder``."""

from __future__ import annotations

import sys
import time
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError

PATIENCE = 120.0
"""Seconds to wait for an object store that comes up."""


def make_bucket(url: str, patience: float = PATIENCE) -> None:
    """Make the bucket in ``url``. Raises `SystemExit` with one line if the store does not answer in time, or refuses."""
    bucket = urlsplit(url).netloc
    client, until = boto3.Session().client("s3"), time.monotonic() + patience
    while True:
        try:
            if not _exists(client, bucket):
                client.create_bucket(Bucket=bucket)
        except (EndpointConnectionError, HTTPClientError) as error:
            if time.monotonic() > until:
                raise SystemExit(f"the object store does not answer: {error}") from error
            time.sleep(1.0)
        except ClientError as error:
            raise SystemExit(f"cannot make the bucket {bucket}: {error}") from error
        else:
            return


def _exists(client: object, bucket: str) -> bool:
    try:
        client.head_bucket(Bucket=bucket)  # type: ignore[attr-defined]
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
            return False
        raise
    return True


if __name__ == "__main__":
    make_bucket(sys.argv[1])
