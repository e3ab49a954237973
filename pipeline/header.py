"""What a picture claims to be, read from its header before any decoder sees it.

A decoder allocates what the header promises (torchvision 0.29: 12 GB for 65000x65000 pixels in a
109 KB file) and dies on a damaged PNG (one flipped bit inside IDAT: SIGSEGV), so limits and PNG
checksums are checked here, in Python, on the bytes alone.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

MAX_FILE = 64 << 20  # bytes of one source file
MAX_PIXELS = 64_000_000  # as stored, and after resizing the shorter side to 256
MAX_SIDE = 20_000
MAX_METADATA = 1 << 20  # bytes of EXIF, ICC, comments: 65 MB of EXIF cost Pillow 18 s
MAX_SEGMENTS = 1_000  # JPEG segments before the first scan, PNG chunks besides IDAT
MAX_CHUNKS = 20_000  # PNG chunks of any kind
MAX_SCAN_PIXELS = 1_000_000_000  # pixels times progressive scans: bounds the time of one decode
MAX_PIXELS_A_BYTE = 1_000  # of a JPEG: a flat 16x16 tile takes 6 bits at least, so 340 is the most
PILLOW_FORMATS = ("PNG", "GIF", "WEBP", "BMP", "PPM", "TIFF")
PILLOW_ERRORS = (  # what Pillow's parsers raise on hostile bytes
    *(OSError, SyntaxError, ValueError, ArithmeticError, LookupError, EOFError, MemoryError),
    *(TypeError, AttributeError, RuntimeError, AssertionError, struct.error, zlib.error),
)
_PNG = b"\x89PNG\r\n\x1a\n"
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without a length
_FRAMES_ONE_PASS = {0xC0, 0xC1}  # baseline and extended sequential
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15: they carry the size


class BadImage(Exception):
    """A picture that is refused; `args[0]` is the reason that index.parquet records."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Format and stored size in pixels, before any rotation or resizing."""

    format: str
    width: int
    height: int


def examine(data: bytes, short_side: int = 256) -> Header:
    """The header of a picture's bytes, within all limits.

    Raises `BadImage`: empty, not_an_image, corrupt, or too_large, too_many_pixels, too_narrow,
    too_much_metadata.
    """
    if not data:
        raise BadImage("empty")
    if len(data) > MAX_FILE:
        raise BadImage("too_large")
    if data.startswith(b"\xff\xd8\xff"):
        header = _jpeg(data)
    else:
        if data.startswith(_PNG):
            _check_png(data)
        header = _by_pillow(data)
    _check_size(header, short_side)
    return header


def _check_size(header: Header, short_side: int) -> None:
    short, long = sorted((header.width, header.height))
    if short < 1:
        raise BadImage("corrupt")
    if long > MAX_SIDE or short * long > MAX_PIXELS:
        raise BadImage("too_many_pixels")
    if long * short_side // short * short_side > MAX_PIXELS:
        raise BadImage("too_narrow")


def _jpeg(data: bytes) -> Header:
    """Walks the segments up to the first scan; the rest is the decoder's matter."""
    frame: tuple[int, int] | None = None
    metadata, progressive = 0, False
    for number, (marker, start, size) in enumerate(_segments(data)):
        if number >= MAX_SEGMENTS:
            raise BadImage("too_much_metadata")
        if marker in _FRAMES:
            if frame or size < 6:
                raise BadImage("corrupt")
            frame = struct.unpack_from(">HH", data, start + 1)
            progressive = marker not in _FRAMES_ONE_PASS
        elif marker >= 0xE0:  # APPn and comments
            metadata += size
            if metadata > MAX_METADATA:
                raise BadImage("too_much_metadata")
    if frame is None:
        raise BadImage("corrupt")
    height, width = frame
    if height * width > MAX_PIXELS_A_BYTE * len(data):
        raise BadImage("corrupt")
    if progressive and height * width * data.count(b"\xff\xda") > MAX_SCAN_PIXELS:
        raise BadImage("too_many_pixels")
    return Header(format="JPEG", width=width, height=height)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start of the payload, its size) of each JPEG segment before the first scan."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) - 1 and data[at + 1] == 0xFF:
            at += 1  # fill bytes
        if at < 0 or at + 4 > len(data):
            raise BadImage("corrupt")
        marker = data[at + 1]
        if marker == 0xDA:
            return
        if marker == 0 or marker in _STANDALONE:
            at += 2
            continue
        size = struct.unpack_from(">H", data, at + 2)[0] - 2
        if size < 0 or at + 4 + size > len(data):
            raise BadImage("corrupt")
        yield marker, at + 4, size
        at += 4 + size


def _check_png(data: bytes) -> None:
    """Lengths and checksums of all chunks up to IEND; what follows IEND is ignored."""
    at, others, metadata = len(_PNG), 0, 0
    for _ in range(MAX_CHUNKS):
        if at + 12 > len(data):
            raise BadImage("corrupt")
        size, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + size
        if end + 4 > len(data) or zlib.crc32(data[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            raise BadImage("corrupt")
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            others, metadata = others + 1, metadata + size
        if others > MAX_SEGMENTS or metadata > MAX_METADATA:
            raise BadImage("too_much_metadata")
        at = end + 4
    raise BadImage("too_much_metadata")


def _by_pillow(data: bytes) -> Header:
    """Pillow's lazy opening: parses the header, decodes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
                return Header(format=str(image.format), width=image.width, height=image.height)
        except Image.DecompressionBombError:
            raise BadImage("too_many_pixels") from None
        except PILLOW_ERRORS:
            reason = "corrupt" if data.startswith(_PNG) else "not_an_image"
            raise BadImage(reason) from None
