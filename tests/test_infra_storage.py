"""Places on disk: whole objects or none, streamed listings, and what dead writers leave."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from infra.errors import DataError, InputError, StorageError
from infra.storage import open_place


def test_write_read_size_delete(tmp_path: Path) -> None:
    """The plain life of an object; nothing else is left in the folder."""
    place = open_place(tmp_path / "new" / "place")
    place.write("a/b.txt", b"hello")
    place.write("a/b.txt", b"hello!")
    assert place.read("a/b.txt") == b"hello!"
    assert place.read_range("a/b.txt", 1, 3) == b"ell"
    assert place.size("a/b.txt") == 6 and place.size("a") is None and place.size("c") is None
    assert [path.name for path in (tmp_path / "new" / "place" / "a").iterdir()] == ["b.txt"]
    place.delete("a/b.txt")
    place.delete("a/b.txt")
    assert list(place.names()) == []


def test_create_does_not_replace(tmp_path: Path) -> None:
    """Of many at once exactly one wins, and its bytes stay."""
    place = open_place(tmp_path)
    won: list[bytes] = []

    def compete(data: bytes) -> None:
        if place.create("plan", data):
            won.append(data)

    threads = [threading.Thread(target=compete, args=(b"%d" % n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [place.read("plan")]
    assert list(place.names()) == ["plan"]


def test_listings_are_sorted_by_code_point_and_streamed(tmp_path: Path) -> None:
    """As an S3 server lists keys: 'a-' before 'a/' before 'a0'."""
    place = open_place(tmp_path)
    names = ["a/z", "a-b", "a0", "a/b/c", "B", "ü", "a/b.c", "z/.hidden"]
    for name in names:
        place.write(name, name.encode())
    assert list(place.names()) == sorted(names)
    assert list(place.entries("a/b")) == [("a/b.c", 5), ("a/b/c", 5)]
    assert place.folders() == ["a", "z"]
    assert list(place.child("a").names()) == ["b.c", "b/c", "z"]
    assert open_place(tmp_path / "none").folders() == []


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """Files and folders by link; a link to a folder above, and one to nowhere."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"123")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "place" / "file").symlink_to(tmp_path / "real" / "x")
    (tmp_path / "real" / "up").symlink_to(tmp_path / "place")
    (tmp_path / "place" / "broken").symlink_to(tmp_path / "gone")
    place = open_place(tmp_path / "place")
    assert list(place.entries()) == [("broken", 0), ("file", 3), ("folder/x", 3)]
    with pytest.raises(DataError, match="broken"):
        place.read("broken")


def test_upload_and_download(tmp_path: Path) -> None:
    """By way of a local file."""
    place = open_place(tmp_path / "place")
    (tmp_path / "big").write_bytes(b"x" * 3_000_000)
    place.upload("copy", tmp_path / "big")
    place.download("copy", tmp_path / "deep" / "back")
    assert (tmp_path / "deep" / "back").read_bytes() == b"x" * 3_000_000
    with pytest.raises(DataError, match="no 'gone'"):
        place.download("gone", tmp_path / "back")


def test_what_is_deleted_while_it_is_listed_is_left_out(tmp_path: Path) -> None:
    """By another process, between the names of a folder and the sizes; a folder likewise."""
    place = open_place(tmp_path)
    for name in ("a", "b", "c/d", "e"):
        place.write(name, b"123")
    listing = place.entries()
    assert next(listing) == ("a", 3)
    place.delete("b")
    shutil.rmtree(tmp_path / "c")
    assert list(listing) == [("e", 3)]


def test_sizes_of_what_comes_and_goes(tmp_path: Path) -> None:
    """A number or None, whatever others do meanwhile; a folder and what lies below a file: None."""
    place, done = open_place(tmp_path), threading.Event()

    def flicker() -> None:
        while not done.is_set():
            (tmp_path / "x").write_bytes(b"")
            (tmp_path / "x").unlink()

    other = threading.Thread(target=flicker)
    other.start()
    try:
        sizes = {place.size("x") for _ in range(5_000)}
    finally:
        done.set()
        other.join()
    assert sizes <= {0, None}
    place.write("folder/file", b"1")
    assert place.size("folder") is place.size("folder/file/below") is None


def test_sweeping_and_writing_at_once(tmp_path: Path) -> None:
    """A sweep may come between the making of a temporary and its lock: the writer makes another."""
    place, done = open_place(tmp_path), threading.Event()

    def sweep() -> None:
        while not done.is_set():
            place.sweep()

    other = threading.Thread(target=sweep)
    other.start()
    try:
        for number in range(500):
            place.write("object", b"%d" % number)
            assert place.read("object") == b"%d" % number
    finally:
        done.set()
        other.join()
    assert [path.name for path in tmp_path.iterdir()] == ["object"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a\\b", "a\0", "."])
def test_names_never_leave_their_place(tmp_path: Path, name: str) -> None:
    """Refused before anything is touched."""
    with pytest.raises(InputError, match="not a safe name"):
        open_place(tmp_path).write(name, b"")


def test_errors_name_the_thing(tmp_path: Path) -> None:
    """Missing, truncated, unwritable, unknown."""
    place = open_place(tmp_path)
    place.write("short", b"12345")
    with pytest.raises(DataError, match="no 'gone'"):
        place.read("gone")
    with pytest.raises(StorageError, match="truncated"):
        place.read_range("short", 3, 10)
    with pytest.raises(StorageError, match=r"cannot write .*short/below"):
        place.write("short/below", b"")
    with pytest.raises(InputError, match="ftp://host/x"):
        open_place("ftp://host/x")
    assert open_place(f"file://{tmp_path}").read("short") == b"12345"


FULL_DISK = """
import resource, sys
from infra.errors import StorageError
from infra.storage import open_place
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
place = open_place(sys.argv[1])
place.write("kept", b"1" * 1000)
try:
    place.write("kept", b"2" * (1 << 20))
except StorageError as error:
    print(error)
"""


def test_no_room_is_one_sentence_and_changes_nothing(tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk: the old object stays, nothing is left aside."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "File too large" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == b"1" * 1000


DIES = """
import os, signal, sys
from infra.storage import open_place
place = open_place(sys.argv[1])
with place._aside("shard") as (file, aside):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_dead_writer_leaves_is_swept_and_a_living_ones_is_not(tmp_path: Path) -> None:
    """A temporary is removed when nobody holds its lock; it is never listed."""
    place = open_place(tmp_path)
    place.write("kept", b"1")
    command = [sys.executable, "-c", DIES, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        place.sweep()
        assert len(list(tmp_path.iterdir())) == 2
        writer.send_signal(signal.SIGKILL)
    assert len(list(tmp_path.iterdir())) == 2
    assert list(place.names()) == ["kept"]
    place.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
