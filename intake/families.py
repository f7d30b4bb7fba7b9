"""Families of media types whose formats begin alike, so that first bytes cannot tell them apart."""

from __future__ import annotations

FAMILIES = [
    {*names.split()}
    for names in (
        # Containers of sound, picture or both.
        "video/webm audio/webm video/matroska audio/matroska video/matroska-3d",
        "video/mp4 audio/mp4 audio/m4a audio/m4b audio/aac video/m4v video/quicktime video/3gpp"
        " audio/3gpp video/3gpp2 audio/3gpp2 video/3gp audio/mp4a-latm application/mp4",
        "image/heic image/heif image/heic-sequence image/heif-sequence image/avif image/avif-sequence image/avcs",
        "audio/ogg video/ogg application/ogg audio/opus audio/vorbis audio/speex audio/flac video/theora",
        "video/ms-wmv audio/ms-wma video/ms-asf application/vnd.ms-asf audio/wma video/wmv",
        "video/mpeg audio/mpeg video/mp2p video/mpeg2 audio/mp2 audio/mp3 audio/mpeg3",
        "video/mp2t video/mpegts video/vnd.dlna.mpeg-tts audio/mp2t",
        "video/msvideo video/avi video/vnd.avi",
        "audio/wav audio/wave audio/vnd.wave",
        "audio/aiff audio/aifc",
        "audio/midi audio/mid audio/sp-midi",
        "audio/amr audio/amr-wb",
        # Pictures.
        "image/jpeg image/jpg image/pjpeg image/jps image/mpo",
        "image/png image/apng image/vnd.mozilla.apng",
        "image/bmp image/ms-bmp image/dib",
        "image/icon image/vnd.microsoft.icon image/ico image/win-bitmap",
        "image/jp2 image/jpx image/jpm image/jpeg2000 video/mj2",
        "image/tiff image/tiff-fx image/canon-cr2 image/nikon-nef image/adobe-dng image/sony-arw image/pentax-pef"
        " image/olympus-orf image/panasonic-rw2 image/epson-erf image/dng image/geotiff",
        "image/vnd.adobe.photoshop image/photoshop image/psd application/photoshop",
        "image/vnd.dwg image/dwg application/acad application/dwg",
        "image/vnd.ms-photo image/jxr",
        # Fonts.
        "font/ttf font/otf font/sfnt font/collection application/font-sfnt application/font-ttf"
        " application/font-otf",
        "font/woff font/woff2 application/font-woff application/font-woff2",
        # Archives and documents.
        "application/msword application/vnd.ms-excel application/vnd.ms-powerpoint application/vnd.visio"
        " application/vnd.ms-project application/vnd.ms-outlook application/vnd.ms-works application/ole-storage",
        "application/gzip application/tgz application/gtar-compressed application/compressed-tar",
        "application/rar-compressed application/vnd.rar application/rar",
        "application/bzip2 application/bzip application/bzip2-compressed-tar",
        "application/rtf text/rtf text/richtext",
        "application/postscript application/eps image/eps application/illustrator",
        "application/sqlite3 application/vnd.sqlite3 application/sqlite application/geopackage+sqlite3",
        "application/deb application/vnd.debian.binary-package application/debian-package"
        " application/unix-archive",
    )
]
"""Without `x-` (RFC 6648)."""
ZIPS = {"application/zip", "application/epub+zip", "application/java-archive"}
ZIP_PREFIXES = ("application/vnd.openxmlformats-officedocument.", "application/vnd.oasis.opendocument.")
MEDIA = ("image/", "audio/", "video/", "font/")
"""Types whose files are binary, but for those below: a text is none of them."""
TEXT_MEDIA = {
    *("image/portable-anymap", "image/portable-bitmap", "image/portable-graymap", "image/portable-pixmap"),
    *("image/xpixmap", "image/xbitmap", "image/vnd.dxf", "image/dxf", "audio/mpegurl", "audio/scpls"),
}
FIRM = {
    *("image/apng", "image/avif", "image/bmp", "image/gif", "image/heic", "image/heif", "image/jpeg", "image/jpg"),
    *("image/png", "image/svg+xml", "image/tiff", "image/vnd.adobe.photoshop", "image/webp"),
    *("audio/aiff", "audio/amr", "audio/flac", "audio/midi", "audio/mp4", "audio/ogg", "audio/wav", "audio/webm"),
    *("video/3gpp", "video/flv", "video/matroska", "video/mp4", "video/ms-wmv", "video/msvideo", "video/ogg"),
    *("video/quicktime", "video/webm", "font/otf", "font/ttf", "font/woff", "font/woff2"),
    *("application/pdf", "application/zip"),
}
"""Formats that always begin with bytes of their own; what does not begin so is none of them."""


def plain(kind: str) -> str:
    """Return a media type without `x-`: audio/x-wav is audio/wav (RFC 6648)."""
    return kind.lower().replace("/x-", "/")


def are_alike(declared: str, detected: str) -> bool:
    """Returns True if bytes detected as the one type can also be the other."""
    one, other = plain(declared), plain(detected)
    # Word's, Java's and many more files are ZIP files that do not always tell it at their start.
    is_zip = other in ZIPS or other.startswith(ZIP_PREFIXES)
    is_in_zip = is_zip and one.startswith(("application/", "model/")) and one not in FIRM - ZIPS
    return one == other or is_in_zip or any(one in family and other in family for family in FAMILIES)
