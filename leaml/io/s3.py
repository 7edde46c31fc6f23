"""S3 clients for `files`: reads go through `pyarrow.fs`, writes through boto3, where a write is one conditional PUT.

Both take endpoint, region and credentials from the standard AWS chain (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
profiles, instance roles, ...).
"""

from __future__ import annotations

import functools
import io
import os
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import boto3
import boto3.exceptions
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pyarrow import fs

from leaml.errors import DataError

if TYPE_CHECKING:
    from botocore.client import BaseClient

ERRORS = (ClientError, BotoCoreError, boto3.exceptions.Boto3Error)
"""What boto3 raises for anything the server or the network refuses."""

PARALLEL = 16
"""Transfers at a time."""

PARTS = 4
"""Parts of a large object that are fetched at a time."""
_PART = 32 << 20

_WRITER = "leaml-writer"
"""Metadata key of what was written with `if_absent`: which call wrote it."""

# Reads and writes both ride out about half a minute without a server, such as its restart, and give up within a minute.
_READ_RETRIES = 10  # after 0, 50, 100, ... ms, in all 26 s
_LANCE_SECONDS = 30  # in which a request is tried again, after 0.1, 0.2, ... s
_WRITE_RETRIES = 5  # after up to 1, 2, 4, ... s, in all 16 s on average
_CONNECT_SECONDS = 3.0
_SILENT_SECONDS = 30.0


class S3Object(NamedTuple):
    """An object, its bytes and what the server calls its content."""

    uri: str
    size: int
    etag: str


class _Head(TypedDict):
    """What of a server's answer about an object is read; the length is in bytes."""

    ContentLength: int
    ETag: str
    Metadata: dict[str, str]


_MAKING = threading.Lock()
"""One client is made at a time: boto3 cannot make two at once, and a second Arrow one waits until the first one is idle."""


def path(uri: str) -> str:
    """`bucket/key` of an s3:// URI. Raises DataError if it names no bucket."""
    found = uri[len("s3://") :].rstrip("/")
    if not found or found.startswith("/"):
        msg = f"{uri} names no bucket; write s3://bucket/key"
        raise DataError(msg)
    return found


def is_foreign(uri: str) -> bool:
    """Whether a URI names what Arrow lists and cannot open, since a part of its path is empty (`frames//a.png`)."""
    return uri[:5].lower() == "s3://" and "//" in path(uri)


class Object(io.RawIOBase):
    """An object, whatever its key, read in the parts that are asked for. Raises FileNotFoundError."""

    def __init__(self, uri: str) -> None:
        self._bucket, self._key = _bucket_key(uri)
        self._client, self._at = _current_client(), 0
        head = _head(self._client, self._bucket, self._key)
        if head is None:
            raise FileNotFoundError(uri)
        self._size, self._etag = int(head["ContentLength"]), head["ETag"]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        size = min(len(buffer), self._size - self._at)
        if size <= 0:
            return 0
        part = f"bytes={self._at}-{self._at + size - 1}"
        # The tag: a read in parts must not mix two versions of an object
        found = self._client.get_object(Bucket=self._bucket, Key=self._key, Range=part, IfMatch=self._etag)["Body"].read()
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def etag(uri: str) -> str:
    """What the server calls this content of an object. Raises FileNotFoundError."""
    bucket, key = _bucket_key(uri)
    head = _head(_current_client(), bucket, key)
    if head is None:
        raise FileNotFoundError(uri)
    return str(head["ETag"])


def kind(uri: str) -> fs.FileType:
    """Whether there is an object, a folder or nothing, whatever the key."""
    bucket, key = _bucket_key(uri)
    client = _current_client()
    if _head(client, bucket, key) is not None:
        return fs.FileType.File
    below = client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
    return fs.FileType.Directory if below.get("KeyCount") else fs.FileType.NotFound


def listing(uri: str, recursive: bool = True) -> list[str]:
    """URIs of the objects in a folder, whatever its key; those that stand for folders are left out."""
    return [found.uri for found in objects(uri, recursive)]


def objects(uri: str, recursive: bool = True) -> Iterator[S3Object]:
    """The objects of `listing`, a page at a time, in the order of their keys' UTF-8."""
    bucket, _, key = path(uri).partition("/")
    options = {} if recursive else {"Delimiter": "/"}
    prefix = f"{key}/" if key else ""
    pages = _current_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **options)
    for page in pages:
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):
                yield S3Object(f"s3://{bucket}/{found['Key']}", int(found["Size"]), str(found["ETag"]))


def versions(folder: str) -> dict[str, str]:
    """What the server calls the content of each object that lies in a folder itself, by name."""
    bucket, _, key = folder[len("s3://") :].partition("/")
    prefix = f"{key}/" if key or folder.endswith("/") else ""
    pages = _current_client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return {found["Key"][len(prefix) :]: str(found["ETag"]) for page in pages for found in page.get("Contents", ())}


def delete(uri: str) -> None:
    """Delete an object, or all of a folder, whatever the key; nothing there is fine."""
    bucket, key = _bucket_key(uri)
    client = _current_client()
    client.delete_object(Bucket=bucket, Key=key)
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/"):
        if found := [{"Key": below["Key"]} for below in page.get("Contents", ())]:
            client.delete_objects(Bucket=bucket, Delete={"Objects": found, "Quiet": True})


def filesystem() -> fs.S3FileSystem:
    """The Arrow file system of the configured endpoint."""
    with _MAKING:
        return _filesystem(*_environment())


def lance_options(uri: str) -> dict[str, str] | None:
    """What Lance is told of the configured endpoint; credentials it finds as boto3 does. None for a path on a disk."""
    if not uri.lower().startswith("s3://"):
        return None
    endpoint, region, _, _ = _environment()
    options = {
        "client_max_retries": str(_READ_RETRIES),
        "client_retry_timeout": str(_LANCE_SECONDS),
        "connect_timeout": f"{_CONNECT_SECONDS:g}s",
        "timeout": f"{_SILENT_SECONDS:g}s",
    }
    options |= {"aws_region": region} if region else {}
    if endpoint:
        options |= {"aws_endpoint": endpoint, "aws_virtual_hosted_style_request": "false"}
        options |= {"allow_http": "true"} if endpoint.startswith("http://") else {}
    return options


def put(uri: str, data: bytes, if_absent: bool) -> bool:
    """Write an object in a single PUT.

    Args:
        uri: s3://bucket/key.
        data: The whole content.
        if_absent: Write only if no object is there; of several writers exactly one wins.

    Returns:
        Whether it was written (always, without `if_absent`).
    """
    bucket, key = _bucket_key(uri)
    client = _current_client()
    if if_absent:
        return _put_first(client, bucket, key, data)
    client.put_object(Bucket=bucket, Key=key, Body=data)
    return True


def upload(local: str, uri: str) -> None:
    """Copy a local file of any size to an object, which appears only when complete."""
    bucket, key = _bucket_key(uri)
    client = _current_client()
    try:
        client.upload_file(local, bucket, key)
    except boto3.exceptions.S3UploadFailedError as error:
        # Completed, but the reply was lost, and many servers do not know the upload any more when boto3 asks again
        if "(NoSuchUpload)" not in str(error):
            raise
        client.upload_file(local, bucket, key)


def download(uri: str, local: str) -> None:
    """Copy an object of any size to a local file, in parts of one version. Raises FileNotFoundError."""
    bucket, key = _bucket_key(uri)
    parts = TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=PARTS)
    try:
        _current_client().download_file(bucket, key, local, Config=parts)
    except ClientError as error:
        if _status(error) == 404:
            raise FileNotFoundError(uri) from None
        raise


def _put_first(client: BaseClient, bucket: str, key: str, data: bytes) -> bool:
    mark = uuid.uuid4().hex
    for tries in range(1, 6):
        try:
            client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={_WRITER: mark})
        except ClientError as error:
            # 412: an object is there; 409: another conditional write to the key is in flight
            if _status(error) not in (409, 412):
                raise
            refused = error
        else:
            return True
        # The object may be ours: where a reply is lost, boto3 sends the request again
        writer = _writer(client, bucket, key)
        if writer is not None:
            return writer == mark
        time.sleep(0.1 * tries)
    raise refused


def _writer(client: BaseClient, bucket: str, key: str) -> str | None:
    """Which call wrote an object, "" if it does not say; None if there is no object."""
    head = _head(client, bucket, key)
    return None if head is None else str(head["Metadata"].get(_WRITER, ""))


def _head(client: BaseClient, bucket: str, key: str) -> _Head | None:
    """What is known of an object; None if there is none."""
    try:
        head: _Head = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _status(error) == 404:
            return None
        raise
    return head


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def _current_client() -> BaseClient:
    with _MAKING:
        return _client(*_environment())


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
    options: dict[str, object] = {"region": region, "connect_timeout": _CONNECT_SECONDS, "request_timeout": _SILENT_SECONDS}
    if endpoint:
        scheme, found, address = endpoint.rstrip("/").partition("://")
        options |= {"scheme": scheme, "endpoint_override": address} if found else {"endpoint_override": scheme}
    # Not the "standard" strategy, whose retries draw on one budget for all threads
    return fs.S3FileSystem(retry_strategy=fs.AwsDefaultS3RetryStrategy(max_attempts=_READ_RETRIES), **options)


@functools.lru_cache(maxsize=8)
def _client(endpoint: str | None, region: str | None, _access_key: str | None, _process: int) -> BaseClient:
    config = Config(
        # Not the mode "standard": it gives up within a second, and all threads together have 35 retries
        retries={"total_max_attempts": 1 + _WRITE_RETRIES, "mode": "legacy"},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_SILENT_SECONDS,
        s3={"addressing_style": "path"} if endpoint else {},  # own servers rarely have a DNS name per bucket
        max_pool_connections=PARALLEL,
    )
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)
