"""Reads the one file of a multipart form, straight into the spool."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from flask import Request
from multipart import MultipartError, MultipartSegment, ParserLimitReached

from config import Config
from core.errors import InvalidUpload, UnsupportedUpload, UploadTooLarge
from intake import body, options
from intake.digests import Digests
from intake.forms import chunked
from intake.forms.parser import Event, FormParser
from intake.received import OnChunk, ReceivedFile
from storage.spool_file import SpoolFile
from web.json_body import refuse_encoding

FIELD = "file"
READ_FIELDS = chunked.FIELDS.union(options.FIELDS)


def read_form(
    request: Request,
    incoming: SpoolFile,
    config: Config,
    on_chunk: OnChunk,
    also_digest: tuple[str, ...] = (),
) -> ReceivedFile:
    """Write the form's one file into the spool while it arrives, and read the options beside it.

    Args:
        request: a multipart/form-data request with an unread body.
        incoming: the spool file.
        config: the limits.
        on_chunk: called with each chunk of the file once it is written, and at the file's end with no bytes.
        also_digest: names of further digests to compute, as in hashlib.

    Raises:
        UnsupportedUpload: the body is not multipart/form-data, or the file's type is not accepted.
        InvalidUpload: there is not exactly one named file in the field `file`, the form or an option is malformed,
            or the file or the body does not match a digest from the client.
        UploadTooLarge: the request or a part's header exceeds its limit.
        Busy: the spool is full.
        TooSlow: the client stalls, or sends too slowly.

    Source: RFC 7578. Digest fields in the request's header are for the whole body, those in the part's header for
        the file.
    """
    reader = _Reader(incoming, config, on_chunk, also_digest)
    for event in _form_events(request, config.MAX_CONTENT_LENGTH):
        if isinstance(event, MultipartSegment):
            reader.begin(event)
        else:
            reader.update(event)
    return reader.finish()


class _Reader:
    """Takes the one file out of a form's parts."""

    def __init__(
        self,
        incoming: SpoolFile,
        config: Config,
        on_chunk: OnChunk,
        also_digest: tuple[str, ...],
    ) -> None:
        self._incoming = incoming
        self._config = config
        self._on_chunk = on_chunk
        self._also_digest = also_digest
        self._received: ReceivedFile | None = None
        self._others = _OtherParts()
        self._in_file = False

    def begin(self, part: MultipartSegment) -> None:
        """Begin a part."""
        self._in_file = bool(part.filename)
        if self._in_file:
            chunked.refuse_chunk(self._others.texts())
            self._received = _begin_file(part, self._received, self._config, self._also_digest)
            self._received.options = options.read(self._others.texts())
        else:
            self._others.begin(part)

    def update(self, content: bytes | None) -> None:
        """Handle content of the present part; None is its end."""
        if self._in_file and self._received:
            self._update_file(self._received, content)
        elif content:
            self._others.update(content)

    def _update_file(self, received: ReceivedFile, content: bytes | None) -> None:
        if content:
            self._incoming.write(content)
        received.update(content, self._config)
        self._on_chunk(received, content or b"")

    def finish(self) -> ReceivedFile:
        """Return the file, once the form has ended."""
        fields = self._others.texts()
        chunked.refuse_chunk(fields)
        if self._received is None:
            raise InvalidUpload(self._others.why_no_file)
        self._received.digests.verify()
        self._received.options = options.read(fields)
        return self._received


class _OtherParts:
    """The parts of a form without a file: text fields, and empty file inputs."""

    def __init__(self) -> None:
        self.why_no_file = f"The form has no file in the field '{FIELD}'."
        self._name = ""
        self._is_nameless = False
        self._contents: dict[str, bytearray] = {}

    def begin(self, part: MultipartSegment) -> None:
        """Begin a part."""
        self._name, self._is_nameless = part.name, part.filename is not None
        if part.name == FIELD:
            holds_text = f"The field '{FIELD}' holds text, not a file."
            self.why_no_file = "The file has no name." if self._is_nameless else holds_text
        if part.name in options.FIELDS and part.name in self._contents:
            if part.name != options.REPEATABLE:
                raise InvalidUpload(f"Send the field '{part.name}' once.")
            self._contents[part.name] += b","
        if part.name in READ_FIELDS:
            self._contents.setdefault(part.name, bytearray())

    def update(self, content: bytes) -> None:
        """Handle the content of a part.

        Raises:
            InvalidUpload: it is a file without a name, or too long a text.
        """
        if self._is_nameless:
            raise InvalidUpload("The file has no name.")
        if (known := self._contents.get(self._name)) is not None:
            known += content[: options.MAX_VALUE_BYTES + 1 - len(known)]
            if len(known) > options.MAX_VALUE_BYTES:
                raise InvalidUpload(f"The field '{self._name}' is too long.")

    def texts(self) -> dict[str, str]:
        """Return what the fields hold that are read.

        Raises:
            InvalidUpload: an option is not UTF-8, the charset of a form's texts (RFC 7578, section 5.1.2).
        """
        try:
            own = {name: self._contents[name].decode() for name in options.FIELDS if name in self._contents}
        except UnicodeDecodeError:
            raise InvalidUpload("The form's fields must be UTF-8.") from None
        return {name: bytes(content).decode(errors="replace") for name, content in self._contents.items()} | own


def _begin_file(
    part: MultipartSegment, earlier: ReceivedFile | None, config: Config, also_digest: tuple[str, ...]
) -> ReceivedFile:
    """Check a file's part headers before its bytes are read."""
    if part.name != FIELD or earlier is not None:
        raise InvalidUpload(f"Send exactly one file, in the field '{FIELD}'.")
    digests = Digests(partial(_field, part), also_digest)
    return ReceivedFile.begin(part.filename, part.header("Content-Type"), config, digests)


def _field(part: MultipartSegment, name: str) -> str | None:
    """Return a header field of a part; several lines are one list (RFC 9110, section 5.3)."""
    lines = [value for field, value in part.headerlist if field.lower() == name.lower()]
    return ", ".join(lines) or None


def _form_events(request: Request, max_bytes: int) -> Iterator[Event]:
    """Parse the body as it arrives, and check that it is complete."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedUpload("Send the file as multipart/form-data.")
    refuse_encoding(request)
    chunked.refuse_range(request.headers)
    chunked.refuse_chunk(request.args)
    parser = FormParser(request.headers["Content-Type"])
    whole = Digests(request.headers.get)
    try:
        with parser:
            for chunk in body.chunks(request, max_bytes):
                whole.update(chunk)
                yield from parser.events(chunk)
            yield from parser.events(b"")
        whole.verify()
    except ParserLimitReached as error:
        raise UploadTooLarge(f"{error}.") from error
    except MultipartError as error:
        has_length = request.content_length is not None or "Transfer-Encoding" in request.headers
        raise InvalidUpload(parser.explain(error, has_length)) from error
