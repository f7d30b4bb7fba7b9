"""Refuses the forms of clients that post a file in chunks, which this service does not join."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from werkzeug.datastructures import Headers

from core.errors import ChunkedUpload

# The field with a chunk's number, and the one with the number of chunks.
COUNTED = {
    "dzchunkindex": "dztotalchunkcount",  # Dropzone
    "resumableChunkNumber": "resumableTotalChunks",  # Resumable.js
    "flowChunkNumber": "flowTotalChunks",  # Flow.js
    "qqpartindex": "qqtotalparts",  # Fine Uploader
    "chunk": "chunks",  # Plupload, WebUploader
    "chunkNumber": "totalChunks",  # simple-uploader.js
    "chunk-index": "total-chunk",  # Syncfusion
}
# ng-file-upload tells sizes: of a chunk, and of the whole.
MEASURED = ("_chunkSize", "_totalSize")
# Kendo UI and DevExtreme describe the chunk in JSON.
DESCRIBED = ("metadata", "chunkMetadata")
TOTAL = re.compile(r'"total(?:Chunks|Count)"\s*:\s*(\d{1,9})')
"""A number; a text under that name is somebody's own metadata."""
FIELDS = {*COUNTED, *COUNTED.values(), *MEASURED, *DESCRIBED}
"""The fields whose values must be known."""


def refuse_chunk(fields: Mapping[str, str]) -> None:
    """Refuse a form whose fields say that its file is one chunk of several.

    Args:
        fields: the form's fields by name, as far as they are in FIELDS. A chunk that is the whole file is none.

    Raises:
        ChunkedUpload: it is one of several.
    """
    counted = (fields.get(total, "") for number, total in COUNTED.items() if number in fields)
    described = (found[1] for name in DESCRIBED if (found := TOTAL.search(fields.get(name, ""))))
    size, whole = (_number(fields.get(name, "")) for name in MEASURED)
    if any(_number(count) > 1 for count in (*counted, *described)) or 0 < size < whole:
        raise ChunkedUpload


def refuse_range(headers: Headers) -> None:
    """Refuse a request that carries a range of a file, as blueimp's jQuery File Upload sends it.

    Raises:
        ChunkedUpload: it does.

    Source: RFC 9110, section 14.5: a range of a request is nothing that a server may pass over.
    """
    if "Content-Range" in headers:
        raise ChunkedUpload


def refuse_look_up(names: Iterable[str]) -> None:
    """Refuse the question for a chunk that Resumable.js and Flow.js ask before they send it.

    Args:
        names: of the query's parameters.

    Raises:
        ChunkedUpload: it is such a question.
    """
    if COUNTED.keys() & set(names):
        raise ChunkedUpload


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) else 0
