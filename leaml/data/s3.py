"""S3 clients for `files`: reads go through `pyarrow.fs`, writes through boto3, where a write is one conditional PUT.

Both take endpoint, region and credentials from the standard AWS chain (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
profiles, instance roles, ...).
"""

from __future__ import annotations

import functools
import os
from typing import Any

import boto3
import boto3.exceptions
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs

from leaml.errors import DataError

ERRORS = (ClientError, BotoCoreError, boto3.exceptions.Boto3Error)
"""What boto3 raises for anything the server or the network refuses."""

PARALLEL = 16
"""Transfers at a time."""

_ATTEMPTS = 5


def path(uri: str) -> str:
    """`bucket/key` of an s3:// URI. Raises DataError if it names no bucket."""
    found = uri[len("s3://") :].rstrip("/")
    if not found:
        msg = f"{uri} names no bucket; write s3://bucket/key"
        raise DataError(msg)
    return found


def filesystem() -> fs.S3FileSystem:
    """The Arrow file system of the configured endpoint."""
    return _filesystem(*_environment())


def put(uri: str, data: bytes, if_absent: bool) -> bool:
    """Write an object in a single PUT; with `if_absent` only if none is there. Returns whether it was written."""
    bucket, key = _bucket_key(uri)
    condition = {"IfNoneMatch": "*"} if if_absent else {}
    try:
        _client(*_environment()).put_object(Bucket=bucket, Key=key, Body=data, **condition)
    except ClientError as error:
        # 409: another conditional write to the same key is in flight and wins
        if if_absent and error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            return False
        raise
    return True


def upload(local: str, uri: str) -> None:
    """Copy a local file of any size to an object, which appears only when complete."""
    bucket, key = _bucket_key(uri)
    _client(*_environment()).upload_file(local, bucket, key)


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = path(uri).partition("/")
    if not key:
        msg = f"{uri} names no object; write s3://bucket/key"
        raise DataError(msg)
    return bucket, key


def _environment() -> tuple[str | None, str | None, str | None, int]:
    """What keys the caches: everything a job or a test may change; the process, because neither client survives a fork."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint and not region:
        region = "us-east-1"  # a server of one's own has no regions to look up, but requests are signed with one
    return endpoint, region or None, os.environ.get("AWS_ACCESS_KEY_ID"), os.getpid()


@functools.lru_cache(maxsize=8)
def _filesystem(endpoint: str | None, region: str | None, _access_key: str | None, _process: int) -> fs.S3FileSystem:
    options: dict[str, Any] = {"region": region, "connect_timeout": 10, "request_timeout": 60}
    if endpoint:
        scheme, found, address = endpoint.rstrip("/").partition("://")
        options |= {"scheme": scheme, "endpoint_override": address} if found else {"endpoint_override": scheme}
    return fs.S3FileSystem(retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS), **options)


@functools.lru_cache(maxsize=8)
def _client(endpoint: str | None, region: str | None, _access_key: str | None, _process: int) -> Any:
    config = Config(
        retries={"max_attempts": _ATTEMPTS, "mode": "standard"},
        s3={"addressing_style": "path"} if endpoint else {},  # own servers rarely have a DNS name per bucket
        max_pool_connections=PARALLEL,
    )
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
