"""A deterministic tar in the oldest common form (ustar): equal members in equal order, equal bytes.

No clock, no user, no umask goes in: time 0, mode 0644, owner 0. Read by any tar, by webdataset,
timm and DALI.
"""

from __future__ import annotations

BLOCK = 512  # bytes; everything in a tar is padded to it


class Tar:
    """A tar that grows in memory, member by member."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, name: str, data: bytes) -> int:
        """Appends a regular file; returns the offset of its first byte in the tar."""
        start = self._size + BLOCK
        self._parts += (_header(name, len(data)), data, bytes(-len(data) % BLOCK))
        self._size = start + len(data) + -len(data) % BLOCK
        return start

    def finish(self) -> bytes:
        """The whole tar, with the two zero blocks that end it."""
        return b"".join((*self._parts, bytes(2 * BLOCK)))


def _header(name: str, size: int) -> bytes:
    """The 512 bytes before a member (POSIX.1-1988): octal text fields, then their byte sum."""
    raw = name.encode("ascii")
    assert len(raw) <= 100, name  # our keys are short; longer names need another field
    head = raw.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size
    head += b"00000000000\0"  # modification time
    tail = b"0" + bytes(100) + b"ustar\00000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
    checksum = sum(head) + 8 * ord(" ") + sum(tail)
    return head + b"%06o\0 " % checksum + tail
