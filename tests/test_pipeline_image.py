"""One picture: sizes, crops, colour in every coding, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from photos import encoded, jpeg, pixels
from PIL import Image
from torchvision.transforms.v2 import functional as F

from pipeline import header
from pipeline.header import BadImage, examine
from pipeline.image import encode, square
from pipeline.rule import ImageRule

RGB = Image.fromarray(pixels(1, 300, 280))


def reason(data: bytes) -> str:
    """Why a picture's bytes are refused."""
    with pytest.raises(BadImage) as caught:
        square(data)
    return str(caught.value)


@pytest.mark.parametrize("width,height", [(500, 375), (375, 500), (256, 256), (257, 300), (40, 90)])
def test_shorter_side_to_256_then_the_central_square(width: int, height: int) -> None:
    """Equal to torchvision's own antialiased resize and a central crop."""
    data = encoded(Image.fromarray(pixels(3, width, height)), "PNG")
    short = min(width, height)
    size = [round(side * 256 / short) for side in (height, width)]
    whole = torch.from_numpy(pixels(3, width, height)).permute(2, 0, 1)
    resized = F.resize(whole, size, antialias=True).permute(1, 2, 0)
    top, left = (size[0] - 256) // 2, (size[1] - 256) // 2
    expected = resized[top : top + 256, left : left + 256]
    picture = square(data)
    assert picture.pixels.shape == (256, 256, 3)
    assert (picture.width, picture.height) == (width, height)
    assert np.array_equal(picture.pixels, expected.numpy())


def test_a_jpeg_comes_out_as_pillow_decodes_it() -> None:
    """The two decoders agree on an ordinary JPEG to the last bit (both are libjpeg-turbo)."""
    data = encoded(Image.fromarray(pixels(5, 256, 256)), "JPEG", quality=90)
    by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.abs(square(data).pixels.astype(int) - by_pillow).max() <= 1


@pytest.mark.parametrize(
    "image,kind",
    [
        (RGB.convert("CMYK"), "JPEG"),
        (RGB, "PNG"),
        (RGB, "BMP"),
        (RGB, "PPM"),
        (RGB, "TIFF"),
        (RGB, "WEBP"),
        (RGB.convert("RGBA"), "PNG"),
        (RGB.convert("RGBA"), "WEBP"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.mode,
)
def test_every_coding_of_a_colour_picture_is_the_same_rgb(image: Image.Image, kind: str) -> None:
    """CMYK (inverted, as Adobe writes it), alpha and other formats: within the codec's loss."""
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    got = square(encoded(image, kind, **options)).pixels.astype(int)
    exact = square(encoded(RGB, "PNG")).pixels.astype(int)
    assert np.abs(got - exact).mean() < (4 if kind == "JPEG" else 1e-9)


def test_ycck_is_rgb() -> None:
    """An Adobe JPEG with transform 2 (YCCK) shows the colours of its CMYK twin."""
    cmyk = encoded(RGB.convert("CMYK"), "JPEG", quality=95)
    at = cmyk.index(b"Adobe")
    assert cmyk[at + 11] in (0, 2)
    flat = Image.new("CMYK", (256, 256), (200, 30, 60, 20))
    raw = bytearray(encoded(flat, "JPEG", quality=100))
    raw[raw.index(b"Adobe") + 11] = 2  # the same numbers, now read as YCCK
    by_pillow = np.asarray(Image.open(io.BytesIO(bytes(raw))).convert("RGB")).astype(int)
    assert np.abs(square(bytes(raw)).pixels - by_pillow).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    """8-bit grey."""
    got = square(encoded(RGB.convert("L"), kind)).pixels
    assert np.array_equal(got[..., 0], got[..., 1]) and np.array_equal(got[..., 0], got[..., 2])


def test_sixteen_bits_become_eight_without_clipping() -> None:
    """A 16-bit grey ramp keeps its slope (Pillow's own convert would clip it to white)."""
    ramp = np.linspace(77, 65409, 256).astype(np.uint16)[None].repeat(256, 0)
    got = square(encoded(Image.fromarray(ramp), "PNG")).pixels
    assert np.array_equal(got[0, :, 0], (ramp[0] >> 8).astype(np.uint8))


def test_transparency_lies_over_white() -> None:
    """A fully transparent picture is white, in RGBA and in a palette."""
    clear = Image.new("RGBA", (256, 256), (10, 200, 30, 0))
    assert square(encoded(clear, "PNG")).pixels.min() == 255
    palette = Image.new("P", (256, 256), 0)
    palette.putpalette([10, 200, 30] * 256)
    assert square(encoded(palette, "PNG", transparency=0)).pixels.min() == 255


def test_one_bit_and_palette() -> None:
    """Black stays 0 and white 255; a palette's colours come through."""
    checks = Image.fromarray(np.indices((256, 256)).sum(0) // 128 % 2 == 1)
    assert set(np.unique(square(encoded(checks, "PNG")).pixels)) == {0, 255}
    palette = Image.new("P", (256, 256), 7)
    palette.putpalette([0] * 21 + [10, 200, 30] + [0] * 744)
    assert square(encoded(palette, "GIF")).pixels[0, 0].tolist() == [10, 200, 30]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(kind: str) -> None:
    """Red, then blue: red."""
    frames = [Image.new("RGB", (256, 256), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    assert np.abs(square(data).pixels[9, 9].astype(int) - [255, 0, 0]).max() <= 4


def test_pictures_are_used_as_stored() -> None:
    """No EXIF rotation: with and without the tag the same pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(pixels(2, 300, 256))
    turned = square(encoded(image, "JPEG", exif=exif))
    assert np.array_equal(turned.pixels, square(encoded(image, "JPEG")).pixels)
    assert (turned.width, turned.height) == (300, 256)


def test_a_name_does_not_matter_but_bytes_do() -> None:
    """Trailing garbage after a whole picture is ignored, for JPEG and PNG."""
    for data in (jpeg(1), encoded(RGB, "PNG")):
        assert np.array_equal(square(data).pixels, square(data + b"garbage" * 99).pixels)


def test_encode_is_plain_baseline_jpeg() -> None:
    """4:2:0, and close to the pixels that went in."""
    source = square(encoded(RGB, "PNG")).pixels
    image = Image.open(io.BytesIO(encode(source, ImageRule(jpeg_quality=95))))
    assert image.layer[0][1:3] == (2, 2)
    assert np.abs(np.asarray(image).astype(int) - source).mean() < 4


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that claims a size and holds next to nothing."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body


def jpeg_claiming(width: int, height: int) -> bytes:
    """A small JPEG whose frame header lies."""
    raw = bytearray(jpeg(1))
    at = raw.index(b"\xff\xc0")
    raw[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(raw)


def with_segments(count: int, size: int, marker: int = 0xE1) -> bytes:
    """A JPEG with many metadata segments."""
    raw = jpeg(1)
    return (
        raw[:2]
        + (bytes([0xFF, marker]) + struct.pack(">H", size + 2) + b"x" * size) * count
        + raw[2:]
    )


HOSTILE = {
    "empty": (b"", "empty"),
    "one byte": (b"\xff", "not_an_image"),
    "html": (b"<html><body>404</body></html>", "not_an_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
    "pdf": (b"%PDF-1.7\n" + bytes(500), "not_an_image"),
    "gzip": (b"\x1f\x8b\x08" + bytes(99), "not_an_image"),
    "JPEG header alone": (jpeg(1)[:20], "corrupt"),
    "half a JPEG": (jpeg(1)[: len(jpeg(1)) // 2], "corrupt"),
    "a JPEG without its last two bytes": (jpeg(1)[:-2], "corrupt"),
    "half a PNG": (encoded(RGB, "PNG")[:20000], "corrupt"),
    "a PNG with a flipped bit": (
        (lambda raw: raw[:5000] + bytes([raw[5000] ^ 4]) + raw[5001:])(encoded(RGB, "PNG")),
        "corrupt",
    ),
    "a GIF header alone": (encoded(RGB, "GIF")[:13], "not_an_image"),
    "JPEG of 65000x65000 in 2 KB": (jpeg_claiming(65000, 65000), "corrupt"),
    "JPEG of 65000x65000": (jpeg_claiming(65000, 65000) + bytes(5 << 20), "too_many_pixels"),
    "JPEG of 8000x8000, next to no data": (jpeg_claiming(8000, 8000), "corrupt"),
    "JPEG of 60000x1": (jpeg_claiming(60000, 1), "too_many_pixels"),
    "JPEG of 20000x1": (jpeg_claiming(20000, 1), "too_narrow"),
    "JPEG of 0x0": (jpeg_claiming(0, 0), "corrupt"),
    "PNG of 1 gigapixel": (png(32000, 32000), "too_many_pixels"),
    "PNG of 90 megapixels": (png(9000, 10000), "too_many_pixels"),
    "PNG with too little data": (png(500, 500), "corrupt"),
    "BMP of a gigapixel": (
        (lambda raw: raw[:18] + struct.pack("<ii", 20001, 32000) + raw[26:])(encoded(RGB, "BMP")),
        "too_many_pixels",
    ),
    "65 MB of EXIF": (with_segments(1000, 65000), "too_much_metadata"),
    "20 MB of EXIF": (with_segments(300, 65000), "too_much_metadata"),
    "20000 comments": (with_segments(20000, 4, 0xFE), "too_much_metadata"),
    "two frame headers": (with_segments(2, 15, 0xC0), "corrupt"),
    "10 MB of ICC in a PNG": (png(9, 9, png_chunk(b"iCCP", bytes(10 << 20))), "too_much_metadata"),
    "100000 PNG chunks": (png(9, 9, png_chunk(b"tEXt", b"") * 100_000), "too_much_metadata"),
    "32-bit TIFF": (encoded(Image.new("F", (300, 300)), "TIFF"), "unsupported_pixels"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_are_refused_with_a_reason(name: str) -> None:
    """The fixed corpus; within the file size limit first."""
    data, expected = HOSTILE[name]
    if len(data) > header.MAX_FILE:
        expected = "too_large"
    assert reason(data) == expected


def test_limits_are_those_of_the_header_not_of_the_decoder() -> None:
    """A 1x1 picture is kept, and a large honest one."""
    assert square(encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")).pixels[0, 0].tolist() == [
        9,
        8,
        7,
    ]
    assert examine(jpeg_claiming(1600, 1600)).width == 1600


def test_thousands_of_mutations_kill_nothing() -> None:
    """Flipped bits, cut tails and splices of every format: a picture or a reason, nothing else."""
    draw = np.random.default_rng(0)
    small = Image.fromarray(pixels(4, 64, 48))
    seeds = [encoded(small, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")]
    seeds.append(encoded(small, "JPEG", progressive=True))
    outcomes: set[str] = set()
    for number in range(2000):
        raw = bytearray(seeds[number % len(seeds)])
        for _ in range(draw.integers(1, 4)):
            raw[draw.integers(len(raw))] ^= 1 << draw.integers(8)
        if number % 5 == 0:
            del raw[draw.integers(len(raw)) :]
        if number % 7 == 0:
            raw[10:10] = seeds[draw.integers(len(seeds))][: draw.integers(200)]
        try:
            outcomes.add(str(square(bytes(raw)).pixels.shape))
        except BadImage as bad:
            outcomes.add(str(bad))
    assert "(256, 256, 3)" in outcomes and "corrupt" in outcomes
