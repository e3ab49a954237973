"""Object storage over boto3: any S3 endpoint, correct with plain PUT and GET alone.

boto3 retries a request that fails before its body arrives, but not a body cut in the middle
(measured: FIN, RST and stalls in mid-body raise at once), so every read here goes on from where it
was cut. Readers compare the digests of the manifest; here only whole objects are compared with the
server's own MD5, where it tells one, because a source has no digests.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from infra.actions import action
from infra.errors import DataError, InputError, MissingError, StorageError
from infra.storage import check_name

ATTEMPTS = 5  # of one read, on top of botocore's own 5 of one request
PAUSE_S = 0.2  # doubled after every failed attempt
CONNECT_S = 10.0
SILENCE_S = 60.0  # without a byte from the server: then the request is sent again
PAGE = 1000  # keys of one listing request
BLOCK = 8 << 20  # bytes of one ranged read when downloading
T = TypeVar("T")
_MD5 = re.compile(r'^"?[0-9a-f]{32}"?$')


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
        """The whole object, resumed by range when its body is cut.

        Read again when its MD5 is not its ETag: a bit may have turned on the way. An ETag that is
        no MD5 (objects made of parts, or encrypted by KMS) is outvoted by two equal reads.
        """
        seen: set[str] = set()
        for _ in range(ATTEMPTS):
            data, tag = self._fetch(name, 0, None)
            digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if digest == tag.strip('"') or not _MD5.match(tag) or digest in seen:
                return data
            seen.add(digest)
        raise StorageError(
            f"'{name}' in '{self.uri}' came out different {ATTEMPTS} times; "
            "check the network and the disks on the way."
        )

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Ranged GETs until `size` bytes have come."""
        return self._fetch(name, offset, size)[0] if size else b""

    def _fetch(self, name: str, offset: int, size: int | None) -> tuple[bytes, str]:
        """`size` bytes from `offset`, or all, and the ETag; never parts of two versions."""
        got, tag, wanted = bytearray(), "", size

        def more() -> bytes:
            nonlocal tag, wanted
            while wanted is None or len(got) < wanted:
                reply = self._get(name, offset + len(got), wanted and offset + wanted, tag)
                if reply is None:
                    got.clear()
                    tag, wanted = "", size
                    raise EOFError("the object was replaced while it was read")
                tag = reply.get("ETag", "")
                wanted = reply["ContentLength"] if wanted is None else wanted
                before = len(got)
                for block in reply["Body"].iter_chunks(1 << 20):
                    got.extend(block)
                if len(got) == before < wanted:
                    raise EOFError("the object ended early")
            if len(got) != wanted:
                raise EOFError("the server sent more than was asked for")
            return bytes(got)

        return self._call(f"read '{name}' from", more), tag

    def _get(self, name: str, start: int, end: int | None, tag: str) -> Any | None:
        """One GET, of a range when the `end` is known; None: it is no longer the one of this ETag.

        Raises `MissingError` when there is no such object.
        """
        from botocore.exceptions import ClientError

        ask = {"Range": f"bytes={start}-{end - 1}"} if end is not None else {}
        ask |= {"IfMatch": tag} if tag else {}
        try:
            return self.client.get_object(Bucket=self.bucket, Key=self.key(name), **ask)
        except ClientError as error:
            status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            if status == 412 and tag:
                return None
            if status == 404 and error.response.get("Error", {}).get("Code") != "NoSuchBucket":
                raise MissingError(f"there is no '{name}' in '{self.uri}'.") from None
            raise

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
            raise MissingError(f"there is no '{name}' in '{self.uri}'.")
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

        if self.size(name) is not None:  # asked once: a retry may find our own object
            return False

        def put() -> bool:
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
        answer = getattr(error, "response", None) or {}  # botocore: None on a lost connection
        status = answer.get("Error", {}).get("Code", "")
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
        said = " ".join(str(error).split()).rstrip(".")
        return StorageError(f"cannot {verb} '{self.uri}': {said}.")


def _client() -> Any:
    """One for this process and these AWS_* settings: it is thread-safe, and costs 0.2 s to make."""
    settings = sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return _new_client(os.getpid(), tuple(settings), CONNECT_S, SILENCE_S)


@functools.lru_cache(maxsize=8)
def _new_client(_pid: int, _settings: Any, connect_s: float, silence_s: float) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        # a session of its own: the default one keeps the first credentials it has seen
        return boto3.Session().client(
            "s3",
            config=Config(
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=connect_s,
                read_timeout=silence_s,
                # CRC32 headers break older MinIO and Ceph; readers check our own sha256
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except BotoCoreError as error:
        raise StorageError(
            f"cannot open S3: {error}; check AWS_DEFAULT_REGION and AWS_ENDPOINT_URL."
        ) from error
