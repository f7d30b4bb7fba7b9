"""The image lane, by the files that others have tripped over, and bombs."""

from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import pyvips

from core.errors import ProcessorDied, Unprocessable
from tests.kit import lanes
from tests.kit.lanes import FILES, Result

Pixel = tuple[int, ...]

SIZES = {
    "sharp--Landscape_6.jpg": (256, 192),
    "sharp--Portrait_5.jpg": (192, 256),
    "pillow--rot1mir1.avif": (256, 171),
    "sharp--CMYK_no_profile.jpg": (256, 170),
    "thumbor--cmyk.jpg": (100, 100),
    "sharp--tbgn2c16.png": (32, 32),
    "sharp--animated-loop-3.gif": (256, 197),
    "sharp--rotating-squares.webp": (80, 80),
    "thumbor--image.avif": (192, 256),
    "pillow--png_decompression_dos.png": (1, 1),
}
CENTRES = {
    "sharp--CMYK_no_profile.jpg": (123, 139, 104),
    "thumbor--cmyk.jpg": (133, 121, 175),
    "sharp--p3.png": (255, 0, 0),
    "sharp--prophoto.png": (117, 160, 210),
}
REFUSED = {
    "sharp--truncated.jpg": "The image is damaged or cut off.",
    "sharp--truncated.png": "The image is damaged or cut off.",
    "sharp--corrupt-header.jpg": "The image is damaged or cut off.",
    "pillow--zero_width.gif": "The image is damaged or cut off.",
    "thumbor--image.heic": "HEIC images are not processed.",
    "thumbor--Commons-logo.svg": "SVG images are not processed.",
    "thumbor--16384x16384.png": "The image has 268 megapixels, 100 are processed at most (IMAGE_MAX_PIXELS).",
}
NEAR = 6


def opened(result: Result, name: str = "0.png") -> Any:
    return pyvips.Image.new_from_file(str(result.folder / name))


def pixel(image: Any, left: int | None = None, top: int | None = None) -> Pixel:
    at = (image.width // 2 if left is None else left, image.height // 2 if top is None else top)
    return tuple(map(round, image.getpoint(*at)))


def is_near(one: Pixel, other: Pixel) -> bool:
    return all(abs(mine - theirs) <= NEAR for mine, theirs in zip(one, other, strict=False))


@pytest.mark.parametrize("name", SIZES)
def test_the_size_is_right_and_no_metadata_is_left(name: str, tmp_path: Path) -> None:
    result = lanes.image(FILES / name, tmp_path)
    image = opened(result)
    assert (image.width, image.height) == SIZES[name]
    assert image.format == "uchar"
    assert not {field for field in image.get_fields() if "exif" in field or "icc" in field or "xmp" in field}
    [output] = result.answer.outputs
    assert (output["summary"]["width"], output["summary"]["height"]) == SIZES[name]


@pytest.mark.parametrize("name", CENTRES)
def test_colors_are_those_of_srgb(name: str, tmp_path: Path) -> None:
    assert is_near(pixel(opened(lanes.image(FILES / name, tmp_path))), CENTRES[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_processed_says_why(name: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Unprocessable) as error:
        lanes.image(FILES / name, tmp_path)
    assert error.value.detail == REFUSED[name]
    assert time.monotonic() - began < 5


def test_half_transparent_colors_lie_on_the_background(tmp_path: Path) -> None:
    flag = FILES / "sharp--Flag_of_the_Netherlands-alpha.png"
    white = opened(lanes.image(flag, tmp_path / "white", format="jpeg", quality=95), "0.jpg")
    assert is_near(pixel(white, 10, 10), (213, 140, 147))
    black = opened(lanes.image(flag, tmp_path / "black", format="jpeg", background="#000000"), "0.jpg")
    assert sum(pixel(black, 10, 10)) < sum(pixel(white, 10, 10))
    assert opened(lanes.image(flag, tmp_path / "webp", format="webp"), "0.webp").hasalpha()


@pytest.mark.parametrize(
    ("name", "frames"), [("sharp--animated-loop-3.gif", 10), ("sharp--rotating-squares.webp", 9)]
)
def test_the_first_frame_is_taken_and_the_frames_are_told(name: str, frames: int, tmp_path: Path) -> None:
    result = lanes.image(FILES / name, tmp_path)
    assert result.answer.outputs[0]["summary"]["source"]["frames"] == frames
    assert opened(result).get_typeof("n-pages") == 0 or opened(result).get("n-pages") == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(orientation: int, tmp_path: Path) -> None:
    """A white square in the corner that is the upper left one when the image is turned as its EXIF says."""
    upright = pyvips.Image.black(120, 80, bands=3).draw_rect([255] * 3, 0, 0, 30, 20, fill=True)
    back = {
        1: lambda one: one,
        2: lambda one: one.fliphor(),
        3: lambda one: one.rot180(),
        4: lambda one: one.flipver(),
        5: lambda one: one.rot270().flipver(),
        6: lambda one: one.rot270(),
        7: lambda one: one.rot90().flipver(),
        8: lambda one: one.rot90(),
    }
    stored = back[orientation](upright).copy()
    stored.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    source = tmp_path / "turned.jpg"
    stored.jpegsave(str(source), Q=95)
    image = opened(lanes.image(source, tmp_path / "out"))
    assert (image.width, image.height) == (120, 80)
    assert is_near(pixel(image, 10, 8), (255, 255, 255))
    assert max(pixel(image, 110, 70)) < 20


def test_all_sizes_come_of_one_decoding_and_none_is_enlarged(tmp_path: Path) -> None:
    wanted = {
        "a": {"width": 400, "height": 16384, "format": "webp"},
        "b": {"width": 100, "height": 100, "fit": "cover", "format": "jpeg"},
        "c": {"width": 9000, "height": 9000, "format": "png"},
        "d": {"width": 64, "height": 64, "format": "avif"},
    }
    recipes = [{**lanes.preset("image", values), "digest": name} for name, values in wanted.items()]
    result = lanes.run("images", FILES / "sharp--Landscape_6.jpg", tmp_path, recipes)
    sizes = {
        output["recipe"]: (output["summary"]["width"], output["summary"]["height"], output["content_type"])
        for output in result.answer.outputs
    }
    assert sizes == {
        "a": (400, 300, "image/webp"),
        "b": (100, 100, "image/jpeg"),
        "c": (600, 450, "image/png"),
        "d": (64, 48, "image/avif"),
    }


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


BOMBS = {
    "4 gigapixels": png(65536, 65536, chunk(b"IDAT", zlib.compress(b"\0" * 10_000))),
    "one side": png(2**31 - 1, 1, chunk(b"IDAT", b"")),
    "text of 200 MB": png(
        1, 1, chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 200_000_000)), chunk(b"IDAT", b"x")
    ),
    "profile of 200 MB": png(
        1, 1, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * 200_000_000)), chunk(b"IDAT", b"x")
    ),
    "no pixels": png(4, 4, chunk(b"IDAT", b"")),
    "nothing": b"\x89PNG\r\n\x1a\n",
    "a text": b"hello, I am no image at all",
    "a script": b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file",
    "gif of 30,000 frames": b"GIF89a\x10\x27\x10\x27\x80\0\0\0\0\0\xff\xff\xff"
    + b"\x2c\0\0\0\0\x10\x27\x10\x27\0\x02\x02\x44\x01\0" * 30_000
    + b";",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_with_a_reason_and_within_the_limits(name: str, tmp_path: Path) -> None:
    source = tmp_path / "bomb"
    source.write_bytes(BOMBS[name])
    began = time.monotonic()
    with pytest.raises((Unprocessable, ProcessorDied)) as error:
        lanes.image(source, tmp_path / "out")
    assert error.value.detail.endswith((".", ")."))
    assert time.monotonic() - began < 20


def test_another_limit_of_pixels_is_the_operators(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match=r"megapixels, 0\.1 are processed at most"):
        lanes.image(FILES / "sharp--Landscape_6.jpg", tmp_path, {"IMAGE_MAX_PIXELS": "100000"})


def test_a_damaged_profile_is_ignored_and_that_is_told(tmp_path: Path) -> None:
    image = pyvips.Image.black(50, 50, bands=3).copy()
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", b"no profile at all" * 20)
    source = tmp_path / "odd.jpg"
    image.jpegsave(str(source))
    result = lanes.image(source, tmp_path / "out")
    assert opened(result).width == 50
