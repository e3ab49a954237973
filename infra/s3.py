"""Object storage over boto3: any S3 endpoint, correct with plain PUT and GET alone.

boto3 retries a request that fails before its body arrives, but not a body cut in the middle
(measured: FIN, RST and stalls in mid-body raise at once), so every read here goes on from where it
was cut. Nothing here checks content: readers compare the digests of the manifest.
"""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from infra.actions import action
from infra.errors import DataError, InputError, StorageError
from infra.storage import check_name

ATTEMPTS = 5  # of one read, on top of botocore's own 5 of one request
PAUSE_S = 0.2  # doubled after every failed attempt
PAGE = 1000  # keys of one listing request
BLOCK = 8 << 20  # bytes of one ranged read when downloading
T = TypeVar("T")


class S3Place:
    """A prefix in a bucket. Credentials, region and endpoint come from the usual AWS_* settings."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.client, self.bucket, self.prefix = client, bucket, prefix

    @classmethod
    def from_uri(cls, uri: str) -> S3Place:
        """Opens `s3://bucket/prefix`; raises `InputError` when there is no bucket in it."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise InputError(f"'{uri}' names no bucket; write s3://bucket/prefix.")
        return cls(_client(), bucket, prefix.strip("/"))

    @property
    def uri(self) -> str:
        """The place as an `s3://` URI."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """The full key of the object `name`; the name is checked."""
        return f"{self.prefix}/{check_name(name)}".lstrip("/")

    def read(self, name: str) -> bytes:
        """The whole object, resumed by range when its body is cut."""
        size = self.size(name)
        if size is None:
            raise DataError(f"there is no '{name}' in '{self.uri}'.")
        return self.read_range(name, 0, size)

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Ranged GETs until `size` bytes have come."""
        got = bytearray()

        def more() -> bytes:
            while len(got) < size:
                span = f"bytes={offset + len(got)}-{offset + size - 1}"
                reply = self.client.get_object(Bucket=self.bucket, Key=self.key(name), Range=span)
                before = len(got)
                for block in reply["Body"].iter_chunks(1 << 20):
                    got.extend(block)
                if len(got) == before:
                    raise EOFError("the object ended early")
            if len(got) != size:
                raise EOFError("the server sent more than was asked for")
            return bytes(got)

        return self._call(f"read '{name}' from", more)

    def write(self, name: str, data: bytes) -> None:
        """One PUT."""

        def put() -> None:
            with action("put", name):
                self.client.put_object(Bucket=self.bucket, Key=self.key(name), Body=data)

        self._call(f"write '{name}' to", put)

    def upload(self, name: str, source: Path) -> None:
        """One PUT, or a multipart upload for a large file; the local file stays."""

        def put() -> None:
            with action("parts", name):
                self.client.upload_file(str(source), self.bucket, self.key(name))

        self._call(f"write '{name}' to", put)

    def download(self, name: str, target: Path) -> None:
        """Streams the object to disk in ranged reads of 8 MiB."""
        size = self.size(name)
        if size is None:
            raise DataError(f"there is no '{name}' in '{self.uri}'.")
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with aside.open("wb") as file:
                for offset in range(0, size, BLOCK):
                    file.write(self.read_range(name, offset, min(BLOCK, size - offset)))
            aside.replace(target)
        except OSError as error:
            raise StorageError(f"cannot write '{target}': {error.strerror or error}.") from error
        finally:
            aside.unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        """Content length, None on 404."""

        def head() -> int | None:
            try:
                reply = self.client.head_object(Bucket=self.bucket, Key=self.key(name))
            except self.client.exceptions.ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise
            return int(reply["ContentLength"])

        return self._call(f"look up '{name}' in", head)

    def create(self, name: str, data: bytes) -> bool:
        """A conditional PUT (If-None-Match); after a refusal what is there is read and compared.

        A reply that was lost makes a retry see our own object: equal bytes count as written.
        """
        from botocore.exceptions import ClientError

        def put() -> bool:
            if self.size(name) is not None:
                return False
            try:
                with action("put", name):
                    self.client.put_object(
                        Bucket=self.bucket, Key=self.key(name), Body=data, IfNoneMatch="*"
                    )
            except ClientError as error:
                status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
                if status == 501:  # a server without conditional writes
                    self.write(name, data)
                    return True
                if status not in (409, 412):
                    raise
                return self.read(name) == data
            return True

        return self._call(f"write '{name}' to", put)

    def entries(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """All objects below the prefix, page by page, in the server's (code point) order."""
        root = f"{self.prefix}/" if self.prefix else ""
        for page in self._pages(Prefix=root + prefix):
            for entry in page.get("Contents", []):
                yield entry["Key"].removeprefix(root), int(entry["Size"])

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names alone."""
        return (name for name, _ in self.entries(prefix))

    def folders(self) -> list[str]:
        """Common prefixes up to the next '/'."""
        root = f"{self.prefix}/" if self.prefix else ""
        return sorted(
            entry["Prefix"].removeprefix(root).rstrip("/")
            for page in self._pages(Prefix=root, Delimiter="/")
            for entry in page.get("CommonPrefixes", [])
        )

    def files(self) -> list[str]:
        """Keys up to the next '/'."""
        root = f"{self.prefix}/" if self.prefix else ""
        return sorted(
            entry["Key"].removeprefix(root)
            for page in self._pages(Prefix=root, Delimiter="/")
            for entry in page.get("Contents", [])
        )

    def sweep(self) -> None:
        """Nothing: a PUT leaves nothing behind, and an upload in parts may belong to the living."""

    def _pages(self, **query: Any) -> Iterator[Any]:
        """The pages of a listing, each asked for again when it fails."""
        more: dict[str, Any] = {"MaxKeys": PAGE}
        while more:
            ask = functools.partial(
                self.client.list_objects_v2, Bucket=self.bucket, **query, **more
            )
            page = self._call("list", ask)
            yield page
            token = page.get("NextContinuationToken")
            more = {"MaxKeys": PAGE, "ContinuationToken": token} if token else {}

    def delete(self, name: str) -> None:
        """One DELETE."""

        def delete() -> None:
            with action("delete", name):
                self.client.delete_object(Bucket=self.bucket, Key=self.key(name))

        self._call(f"delete '{name}' in", delete)

    def child(self, name: str) -> S3Place:
        """The prefix `name/` below this one."""
        return S3Place(self.client, self.bucket, self.key(name))

    def _call(self, verb: str, act: Callable[[], T]) -> T:
        """Runs an idempotent action, again after a failure that another attempt may cure."""
        from botocore.exceptions import BotoCoreError, ClientError

        pause = PAUSE_S
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return act()
            except ClientError as error:
                status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
                if status < 500 or attempt == ATTEMPTS:
                    raise self._failed(verb, error) from error
            except (BotoCoreError, EOFError, OSError, AttributeError) as error:
                # AttributeError: botocore 1.44.5 raises one on a 5xx with a checksum header
                if attempt == ATTEMPTS:
                    raise self._failed(verb, error) from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError("unreachable")

    def _failed(self, verb: str, error: Exception) -> StorageError | DataError:
        status = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        if status == "NoSuchBucket":
            return DataError(
                f"there is no bucket '{self.bucket}'; "
                "make it first, or check the name and AWS_ENDPOINT_URL."
            )
        if status in ("AccessDenied", "403", "SignatureDoesNotMatch", "InvalidAccessKeyId"):
            return StorageError(
                f"cannot {verb} '{self.uri}': access denied ({status}); "
                "check the credentials and the bucket's policy."
            )
        return StorageError(f"cannot {verb} '{self.uri}': {error}.")


def _client() -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        # a session of its own: the default one keeps the first credentials it has seen
        return boto3.Session().client(
            "s3",
            config=Config(
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=10,
                read_timeout=60,
                # CRC32 headers break older MinIO and Ceph; readers check our own sha256
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except BotoCoreError as error:
        raise StorageError(
            f"cannot open S3: {error}; check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL."
        ) from error
