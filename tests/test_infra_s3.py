"""The same promises on a real S3 server (OpenStack Swift)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from conftest import S3Server

from infra.errors import DataError, InputError, StorageError
from infra.storage import open_place

pytestmark = pytest.mark.s3


def test_the_life_of_an_object(bucket: str) -> None:
    """Write, replace, read, part, size, delete; an empty one too."""
    place = open_place(f"{bucket}/some/prefix")
    place.write("a/b.txt", b"hello")
    place.write("a/b.txt", b"hello!")
    place.write("empty", b"")
    assert place.read("a/b.txt") == b"hello!" and place.read("empty") == b""
    assert place.read_range("a/b.txt", 1, 3) == b"ell"
    assert place.size("a/b.txt") == 6 and place.size("a") is None
    place.delete("a/b.txt")
    place.delete("a/b.txt")
    assert list(place.names()) == ["empty"]
    with pytest.raises(DataError, match="no 'a/b.txt'"):
        place.read("a/b.txt")
    with pytest.raises(StorageError):
        place.read_range("empty", 0, 10)


def test_create_does_not_replace(bucket: str) -> None:
    """Later attempts see what is there; of twelve at once all but one are told so, or nearly."""
    place = open_place(bucket)
    assert place.create("plan", b"mine")
    assert not place.create("plan", b"yours")
    assert place.read("plan") == b"mine"
    won: list[bytes] = []

    def compete(data: bytes) -> None:
        if open_place(bucket).create("race", data):
            won.append(data)

    threads = [threading.Thread(target=compete, args=(b"%d" % n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read("race") in won  # Swift's condition is not atomic: the winner is among them


def test_listings_are_those_of_a_disk(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same names in the same order, folders, prefixes; on several pages."""
    monkeypatch.setattr("infra.s3.PAGE", 3)
    remote, local = open_place(f"{bucket}/x"), open_place(tmp_path)
    for name in ["a/z", "a-b", "a0", "a/b/c", "B", "ü", "a/b.c", "z/.hidden"]:
        for place in (remote, local):
            place.write(name, name.encode())
    assert list(remote.entries()) == list(local.entries())
    assert list(remote.entries("a/b")) == list(local.entries("a/b"))
    assert remote.folders() == local.folders() == ["a", "z"]


def test_files_in_parts_come_and_go_whole(bucket: str, tmp_path: Path) -> None:
    """20 MB: a multipart upload, ranged reads back."""
    content = os.urandom(20 << 20)
    (tmp_path / "big").write_bytes(content)
    place = open_place(bucket)
    place.upload("big", tmp_path / "big")
    place.download("big", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content


def test_errors_say_what_to_do(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such bucket, a wrong secret (which is not shown), no bucket in the URI."""
    with pytest.raises(DataError, match="no bucket 'nowhere-at-all'"):
        open_place("s3://nowhere-at-all/x").write("a", b"")
    with pytest.raises(InputError, match="names no bucket"):
        open_place("s3:///x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(StorageError, match="denied.*check the credentials") as caught:
        open_place(bucket).write("a", b"")
    assert "a-wrong-secret" not in str(caught.value)


def test_a_server_that_is_away_is_one_sentence(
    bucket: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port where nobody listens; within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="cannot write 'a'"):
        open_place(bucket).write("a", b"")
