"""Images in several sizes, by libvips: upright, sRGB, without metadata; one decoding for all sizes."""

from __future__ import annotations

import math
import os
from typing import Any

import pyvips

from processing.lanes.outcome import Made, Unprocessable

HEAD_BYTES = 64
LOADERS = {
    "VipsForeignLoadJpeg": "jpeg",
    "VipsForeignLoadPng": "png",
    "VipsForeignLoadWebp": "webp",
    "VipsForeignLoadNsgif": "gif",
    "VipsForeignLoadTiff": "tiff",
    "VipsForeignLoadHeif": "heif",
}
"""The loaders of libvips that may see a client's bytes, and what their name of an image begins with."""
OTHERS = (
    (b"<", "SVG"),
    (b"%PDF", "PDF"),
    (b"BM", "BMP"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "avif": "image/avif"}
EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "avif": "avif"}
MEGA = 1_000_000
DAMAGED = "The image is damaged or cut off."


def prepare() -> None:
    """Let libvips read no kinds but those of LOADERS."""
    pyvips.operation_block_set("VipsForeignLoad", True)
    for loader in LOADERS:
        pyvips.operation_block_set(loader, False)


def run(source: int, recipes: list[dict[str, Any]], limits: dict[str, int]) -> Made:
    """Make every size of an image.

    Args:
        source: the descriptor of the original, open for reading.
        recipes: the sizes.
        limits: `pixels`, of all frames together.

    Raises:
        Unprocessable: it is no image of a known kind, too large, or damaged.
        MemoryError: there is not enough memory.
    """
    _refuse_others(os.pread(source, HEAD_BYTES, 0))
    try:
        header = _open(source)
        facts = _facts(header, limits["pixels"])
        return _make(source, recipes, facts)
    except pyvips.Error as error:
        if "out of memory" in str(error).lower():
            raise MemoryError from None
        raise Unprocessable(DAMAGED) from None


def _refuse_others(head: bytes) -> None:
    kinds = [kind for start, kind in OTHERS if head.lstrip().startswith(start)]
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head:
        kinds = ["HEIC"]
    if kinds:
        raise Unprocessable(f"{kinds[0]} images are not processed.")


def _open(source: int) -> pyvips.Image:
    os.lseek(source, 0, os.SEEK_SET)
    stream = pyvips.Source.new_from_descriptor(source)
    return pyvips.Image.new_from_source(stream, "", access="sequential", fail_on="truncated")


def _facts(header: pyvips.Image, most_pixels: int) -> dict[str, Any]:
    """Return what the header tells, before anything is decoded."""
    frames = header.get("n-pages") if header.get_typeof("n-pages") else 1
    pixels = header.width * header.height * frames
    if pixels > most_pixels:
        of_frames = f" in {frames} frames" if frames > 1 else ""
        most = f"{most_pixels / MEGA:g} are processed at most (IMAGE_MAX_PIXELS)"
        raise Unprocessable(f"The image has {pixels / MEGA:.3g} megapixels{of_frames}, {most}.")
    turned = header.get("orientation") >= 5 if header.get_typeof("orientation") else False
    width, height = (header.height, header.width) if turned else (header.width, header.height)
    kind = header.get("vips-loader").removesuffix("_source").removesuffix("load")
    return {"format": "avif" if kind == "heif" else kind, "width": width, "height": height, "frames": frames}


def _scale(values: dict[str, Any], facts: dict[str, Any]) -> float:
    """Return how much of the original's size an image needs; it is never enlarged."""
    ratios = values["width"] / facts["width"], values["height"] / facts["height"]
    return float(min(1.0, max(ratios) if values["fit"] == "cover" else min(ratios)))


def _make(source: int, recipes: list[dict[str, Any]], facts: dict[str, Any]) -> Made:
    made, order = Made(), sorted(recipes, key=lambda one: -_scale(one["values"], facts))
    base, note = _decode(source, order[0]["values"], facts, _has_plain_colors(source))
    for number, recipe in enumerate(order):
        values = recipe["values"]
        image = _fit(base, values)
        base = image if values["fit"] == "inside" else base
        file = f"{number}.{EXTENSIONS[values['format']]}"
        _save(image, file, values)
        summary = {"width": image.width, "height": image.height, "source": facts, **note}
        made.add(recipe, file, "variant", MEDIA_TYPES[values["format"]], summary=summary)
    return made


def _has_plain_colors(source: int) -> bool:
    """Returns True if an image is in sRGB, or gray, so that no profile need be applied, which takes a while."""
    header = _open(source)
    return header.interpretation in ("srgb", "b-w") and not header.get_typeof("icc-profile-data")


def _decode(
    source: int, largest: dict[str, Any], facts: dict[str, Any], is_plain: bool
) -> tuple[pyvips.Image, dict[str, str]]:
    """Decode the original once, as large as the largest size needs, upright and in sRGB."""
    scale = _scale(largest, facts)
    size = {"width": math.ceil(facts["width"] * scale), "height": math.ceil(facts["height"] * scale)}
    if largest["fit"] == "inside":
        size = {"width": largest["width"], "height": largest["height"]}
    try:
        return _plain(_thumbnail(source, size, {} if is_plain else {"export_profile": "srgb"})).copy_memory(), {}
    except pyvips.Error as error:
        if "profile" not in str(error) and "icc" not in str(error):
            raise
        header = _open(source).copy()
        header.remove("icc-profile-data")
        image = header.thumbnail_image(size["width"], height=size["height"], size="down", fail_on="truncated")
        return _plain(image).copy_memory(), {"profile": "the embedded color profile is damaged, and ignored"}


def _thumbnail(source: int, size: dict[str, int], colors: dict[str, str]) -> pyvips.Image:
    os.lseek(source, 0, os.SEEK_SET)
    stream = pyvips.Source.new_from_descriptor(source)
    strict = "fail_on=truncated"  # by the loader's own option: libvips 8.18 forgets the one of thumbnail_source
    return pyvips.Image.thumbnail_source(
        stream, size["width"], height=size["height"], size="down", option_string=strict, **colors
    )


def _plain(image: pyvips.Image) -> pyvips.Image:
    """Return an image in 8 bits of sRGB."""
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    return image.cast("uchar") if image.format != "uchar" else image


def _fit(base: pyvips.Image, values: dict[str, Any]) -> pyvips.Image:
    width, height = values["width"], values["height"]
    if values["fit"] == "cover":
        width, height = min(width, base.width), min(height, base.height)
        return base.thumbnail_image(width, height=height, size="down", crop="centre").copy_memory()
    if base.width <= width and base.height <= height:
        return base
    return base.thumbnail_image(width, height=height, size="down").copy_memory()


def _save(image: pyvips.Image, file: str, values: dict[str, Any]) -> None:
    kind, quality = values["format"], values["quality"]
    if kind == "jpeg":
        color = [int(values["background"][start : start + 2], 16) for start in (1, 3, 5)]
        flat = image.flatten(background=color) if image.hasalpha() else image
        flat.jpegsave(file, Q=quality, keep="none", optimize_coding=True)
    elif kind == "webp":
        image.webpsave(file, Q=quality, keep="none")
    elif kind == "png":
        image.pngsave(file, keep="none")
    else:
        image.heifsave(file, Q=quality, compression="av1", effort=2, keep="none")
