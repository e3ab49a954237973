"""A miniature ILSVRC, drawn by code: twelve kinds of things in pictures that vary as photos do.

Position, scale, rotation, colour, texture, background and clutter are drawn anew for each picture,
from a generator keyed by (seed, split, class, number), so the same call makes the same bytes. A few
files are as odd as ImageNet's own: greyscale, CMYK, a PNG with a .JPEG name, and three are broken.
It is a stand-in for showing the machinery at work on a laptop, not a benchmark of anything.
"""

from __future__ import annotations

import colorsys
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Points = list[tuple[float, float]]
Part = tuple[
    Points, bool
]  # an outline in [-1, 1]^2, and whether it adds to the shape or cuts a hole
FINE = 2  # outlines are drawn at this multiple and reduced: smooth edges
STRANGE = 0.1  # share of things in a colour that is not usual for their kind
ODD_EVERY = 40  # one picture in so many is greyscale, CMYK or a PNG in disguise


def _disc(x: float, y: float, radius: float, flat: float = 1.0) -> Points:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return [(x + radius * float(np.cos(a)), y + radius * flat * float(np.sin(a))) for a in angles]


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star(tips: int, inner: float) -> Points:
    radii = [1.0, inner] * tips
    angles = np.arange(2 * tips) * np.pi / tips - np.pi / 2
    return [
        (r * float(np.cos(a)), r * float(np.sin(a))) for r, a in zip(radii, angles, strict=True)
    ]


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(float(a) / 17, -float(b) / 17) for a, b in zip(x, y, strict=True)]


SHAPES: dict[str, list[Part]] = {
    "arrow": [
        (
            [
                (-1, -0.22),
                (0.15, -0.22),
                (0.15, -0.7),
                (1, 0),
                (0.15, 0.7),
                (0.15, 0.22),
                (-1, 0.22),
            ],
            True,
        )
    ],
    "bolt": [
        (
            [
                (0.1, -1),
                (-0.6, 0.15),
                (-0.08, 0.15),
                (-0.25, 1),
                (0.6, -0.25),
                (0.08, -0.25),
                (0.5, -1),
            ],
            True,
        )
    ],
    "crescent": [(_disc(0, 0, 0.95), True), (_disc(0.42, -0.1, 0.78), False)],
    "cross": [(_box(-0.3, -1, 0.3, 1), True), (_box(-1, -0.3, 1, 0.3), True)],
    "fish": [
        (_disc(-0.2, 0, 0.75, 0.55), True),
        ([(0.4, 0), (1, -0.5), (1, 0.5)], True),
        (_disc(-0.6, -0.1, 0.09), False),
    ],
    "heart": [(_heart(), True)],
    "house": [
        (_box(-0.7, -0.1, 0.7, 0.9), True),
        ([(-0.95, -0.1), (0, -0.95), (0.95, -0.1)], True),
        (_box(-0.15, 0.35, 0.2, 0.9), False),
    ],
    "key": [
        (_disc(-0.58, 0, 0.42), True),
        (_disc(-0.58, 0, 0.2), False),
        (_box(-0.2, -0.1, 1, 0.1), True),
        (_box(0.55, 0.1, 0.7, 0.42), True),
        (_box(0.85, 0.1, 1, 0.36), True),
    ],
    "mug": [
        (_disc(0.5, 0, 0.48), True),
        (_disc(0.5, 0, 0.26), False),
        (_box(-0.75, -0.75, 0.4, 0.8), True),
    ],
    "ring": [(_disc(0, 0, 0.95), True), (_disc(0, 0, 0.58), False)],
    "star": [(_star(5, 0.42), True)],
    "tree": [
        ([(-0.45, -0.35), (0, -1), (0.45, -0.35)], True),
        ([(-0.62, 0.15), (0, -0.6), (0.62, 0.15)], True),
        ([(-0.8, 0.65), (0, -0.15), (0.8, 0.65)], True),
        (_box(-0.13, 0.65, 0.13, 1), True),
    ],
}


def write_class(folder: Path, name: str, split: str, *, count: int, seed: int = 0) -> int:
    """Draws `count` pictures of one class into `folder/split/name/`; returns how many were new.

    Files that are there already are left alone, and a picture does not depend on the others, so
    classes may be drawn side by side and an interrupted run goes on where it was.
    """
    target = folder / split / name
    target.mkdir(parents=True, exist_ok=True)
    label = list(SHAPES).index(name)
    missing = [n for n in range(count) if not (target / f"{name}_{n:05d}.JPEG").exists()]
    for number in missing:
        rng = np.random.default_rng((seed, split == "val", label, number))
        _put(target / f"{name}_{number:05d}.JPEG", _encoded(draw(name, rng), number + label))
    if missing and split == "train" and label == 0:
        for number, data in enumerate(_broken(target / f"{name}_00000.JPEG")):
            _put(target / f"broken_{number}.JPEG", data)
    return len(missing)


def _put(path: Path, data: bytes) -> None:
    aside = path.with_suffix(".part")
    aside.write_bytes(data)
    aside.replace(path)


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """One RGB picture of a `name` (a key of `SHAPES`), 260 to 420 pixels a side."""
    width, height = (int(side) for side in rng.integers(260, 421, 2))
    size = (width, height)
    picture = _background(size, rng)
    _clutter(picture, rng, int(rng.integers(1, 6)))
    if rng.random() < 0.3:  # a small thing of another kind
        other = str(rng.choice([kind for kind in SHAPES if kind != name]))
        _paste(picture, other, float(rng.uniform(0.08, 0.13)), rng)
    _paste(picture, name, float(rng.uniform(0.3, 0.46)), rng)
    _clutter(picture, rng, int(rng.integers(0, 3)))
    noise = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(2, 14))
    pixels = np.asarray(picture, np.float32) + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colour(rng: np.random.Generator, hue: float | None = None) -> tuple[int, int, int]:
    """Any muted colour, or a strong one near `hue`: things have their usual colours, as in life."""
    if hue is None:
        tint = (rng.uniform(), rng.uniform(0.05, 0.55), rng.uniform(0.25, 0.95))
    else:
        tint = (rng.normal(hue, 0.06) % 1, rng.uniform(0.55, 1), rng.uniform(0.4, 1))
    red, green, blue = colorsys.hsv_to_rgb(*tint)
    return round(255 * red), round(255 * green), round(255 * blue)


def _texture(
    size: tuple[int, int], rng: np.random.Generator, hue: float | None = None
) -> Image.Image:
    """Two colours mixed by a gradient, stripes, checks or blotches."""
    width, height = size
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 50)
    x = np.arange(width, dtype=np.float32) / period
    y = np.arange(height, dtype=np.float32)[:, None] / period
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    kind = rng.integers(4)
    if kind == 0:
        mix = (along - along.min()) / np.ptp(along)
    elif kind == 1:
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * along)
    elif kind == 2:
        across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
        mix = (np.floor(along) + np.floor(across)) % 2
    else:
        small = Image.fromarray(rng.integers(0, 256, (7, 9), dtype=np.uint8))
        mix = np.asarray(small.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    one, two = _colour(rng, hue), _colour(rng, hue)
    levels = Image.fromarray((255 * mix).astype(np.uint8))
    return Image.merge(
        "RGB",
        [
            levels.point([a + (b - a) * level // 255 for level in range(256)])
            for a, b in zip(one, two, strict=True)
        ],
    )


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    picture = _texture(size, rng)
    return picture.filter(ImageFilter.BoxBlur(float(rng.uniform(2, 9))))


def _paste(picture: Image.Image, name: str, scale: float, rng: np.random.Generator) -> None:
    """Draws a shape of `scale` times the short side (its half width) somewhere in the picture."""
    radius = scale * min(picture.size)
    middle = np.array([rng.uniform(0.9 * radius, side - 0.9 * radius) for side in picture.size])
    angle, squeeze = rng.normal(0, 0.2), rng.uniform(0.8, 1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.diag([rng.choice((-1, 1)) * radius, squeeze * radius])
    half = int(1.6 * radius) + 8  # a window that holds the turned shape and its shadow
    mask = Image.new("L", (2 * half * FINE, 2 * half * FINE))
    pen = ImageDraw.Draw(mask)
    for outline, adds in SHAPES[name]:
        points = (np.array(outline) @ turn.T + half) * FINE
        pen.polygon([(float(x), float(y)) for x, y in points], fill=255 if adds else 0)
    mask = mask.reduce(FINE)
    shade = mask.filter(ImageFilter.BoxBlur(5)).point([level // 3 for level in range(256)])
    left, top = (int(value) - half for value in middle)
    picture.paste((0, 0, 0), (left + 4, top + 5), shade)  # so that equal colours still show
    usual = None if rng.random() < STRANGE else list(SHAPES).index(name) / len(SHAPES)
    picture.paste(_texture(mask.size, rng, usual), (left, top), mask)


def _clutter(picture: Image.Image, rng: np.random.Generator, count: int) -> None:
    """Lines, dots and blobs."""
    pen = ImageDraw.Draw(picture)
    width, height = picture.size
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if rng.random() < 0.5:
            ends = [(x, y), (rng.uniform(0, width), rng.uniform(0, height))]
            pen.line(ends, fill=_colour(rng), width=int(rng.integers(2, 9)))
        else:
            r = rng.uniform(5, 26)
            pen.ellipse([x - r, y - r * rng.uniform(0.5, 1), x + r, y + r], fill=_colour(rng))


def _encoded(picture: Image.Image, number: int) -> bytes:
    """JPEG bytes; every `ODD_EVERY`-th picture is greyscale, CMYK or a PNG instead."""
    kind, oddity = "JPEG", number % (3 * ODD_EVERY)
    if oddity == ODD_EVERY - 1:
        picture = picture.convert("L")
    elif oddity == 2 * ODD_EVERY - 1:
        picture = picture.convert("CMYK")
    elif oddity == 3 * ODD_EVERY - 1:
        kind = "PNG"
    out = io.BytesIO()
    picture.save(out, kind, quality=88)
    return out.getvalue()


def _broken(whole: Path) -> tuple[bytes, bytes, bytes]:
    """Files that must come out as counted rejects: empty, cut in the middle, not an image."""
    data = whole.read_bytes()
    return b"", data[: len(data) // 2], b"<html>404 Not Found</html>"
