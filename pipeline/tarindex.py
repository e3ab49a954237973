"""What lies in a tar, by one pass over its headers: names, offsets and sizes, nothing unpacked.

Nothing is ever extracted, so a member's name is only a name; still, whatever an honest image
archive does not hold is refused by name: links, devices, names that climb, the same name twice, an
end that comes too early. Works on a range of an object, so a tar inside a tar is read in place.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from infra.errors import DataError
from infra.storage import Place
from pipeline.tar import BLOCK

MAX_EXTENSION = 1 << 16  # bytes of a long name or of pax records
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE)


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar; `offset` of its data in the whole object, `size` in bytes."""

    name: str
    offset: int
    size: int


def members(place: Place, file: str, start: int, size: int) -> Iterator[Member]:
    """The regular files of the tar that lies in `file` from `start` on, `size` bytes long.

    Raises `DataError`, naming file and place, for anything that is not an honest archive.
    """
    at, end = start, start + size
    long_name: str | None = None
    seen: dict[str, int] = {}
    while at + BLOCK <= end:
        block = place.read_range(file, at, BLOCK)
        if not block.strip(b"\0"):
            return
        header = _header(block, f"'{file}' at byte {at:,}")
        data, at = at + BLOCK, at + BLOCK + -(-header.size // BLOCK) * BLOCK
        if data + header.size > end:
            break
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
            long_name = _long_name(place, file, data, header)
        elif header.type in REGULAR:
            name = long_name or header.name
            _check(name, data, seen, file)
            yield Member(name, data, header.size)
            long_name = None
        elif header.type not in (tarfile.DIRTYPE, tarfile.XGLTYPE):
            raise DataError(
                f"'{file}' holds a link or device, '{header.name}' at byte {data - BLOCK:,}; "
                f"make the archive anew with regular files alone."
            )
    else:
        return  # without the zero blocks at the end, as some writers leave it
    raise DataError(f"'{file}' is cut off: '{header.name}' ends beyond the archive's end.")


def _header(block: bytes, where: str) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise DataError(f"{where} is not a tar header ({error}); fetch the file again.") from None
    if header.size < 0:
        raise DataError(f"{where} has a negative size; the archive is damaged.")
    return header


def _long_name(place: Place, file: str, data: int, header: tarfile.TarInfo) -> str | None:
    """The name in a GNU long-name member or in pax records; None where pax gives none."""
    if header.size > MAX_EXTENSION:
        raise DataError(f"'{file}' has a header of {header.size:,} bytes at byte {data:,}.")
    raw = place.read_range(file, data, header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return raw.rstrip(b"\0").decode(errors="surrogateescape")
    name = None
    while raw.strip(b"\0"):
        length, _, rest = raw.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(raw):
            raise DataError(f"'{file}' has damaged pax records at byte {data:,}.")
        key, _, value = raw[len(length) + 1 : int(length)].rstrip(b"\n").partition(b"=")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise DataError(f"'{file}' has a sparse or oversized member at byte {data:,}.")
        name = value.decode(errors="surrogateescape") if key == b"path" else name
        raw = raw[int(length) :]
    return name


def _check(name: str, offset: int, seen: dict[str, int], file: str) -> None:
    if name.startswith("/") or ".." in name.split("/") or "\\" in name or not name:
        raise DataError(f"'{file}' holds the unsafe name {name!r}; it is not an image archive.")
    if name in seen:
        raise DataError(
            f"'{file}' holds '{name}' twice, at bytes {seen[name]:,} and {offset:,}; which one is "
            f"meant cannot be known."
        )
    seen[name] = offset
