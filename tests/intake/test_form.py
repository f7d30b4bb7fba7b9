"""Forms as clients send them, byte by byte, through the real server: what is taken, what each mistake says."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from intake.forms.disposition import Disposition, parse
from tests.kit.stack import RedisServer, S3Server, Web, serving

NAME = "報告書.txt"
QUOTED = "".join(f"%{byte:02X}" for byte in NAME.encode())


@pytest.fixture(scope="module")
def web(s3: S3Server, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with serving(tmp_path_factory.mktemp("forms"), s3, redis_server) as web:
        yield web


class Answer(NamedTuple):
    status: int
    body: dict[str, Any]


def post(web: Web, body: bytes, content_type: str = "multipart/form-data; boundary=b", query: str = "") -> Answer:
    """Post bytes as they are, by a client that adds nothing to them."""
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=20)
    try:
        connection.request("POST", f"/async_upload{query}", body, {"Content-Type": content_type})
        answer = connection.getresponse()
        return Answer(answer.status, json.loads(answer.read()))
    finally:
        connection.close()


def part(disposition: str | bytes, *headers: bytes, content: bytes = b"hello") -> bytes:
    line = disposition.encode() if isinstance(disposition, str) else disposition
    lines = [b"--b", b"Content-Disposition: " + line, *headers, b"", content, b""]
    return b"\r\n".join(lines)


def file_part(*headers: bytes, content: bytes = b"hello") -> bytes:
    return part('form-data; name="file"; filename="a.txt"', *headers, content=content)


END = b"--b--\r\n"

NAMES = {
    "a browser": ('form-data; name="file"; filename="報告書.txt"', NAME),
    "a browser, quotes": ('form-data; name="file"; filename="a%22b%0D%0A.txt"', 'a"b\r\n.txt'),
    "a browser, percent": ('form-data; name="file"; filename="50%20off.txt"', "50%20off.txt"),
    "a browser, backslash": ('form-data; name="file"; filename="a\\b\\"', "a\\b\\"),
    "curl, quotes": ('form-data; name="file"; filename="a\\"b\\\\c.txt"', 'a"b\\c.txt'),
    ".NET": (
        f"form-data; name=file; filename=\"=?utf-8?B?5aCx5ZGK5pu4LnR4dA==?=\"; filename*=utf-8''{QUOTED}",
        NAME,
    ),
    ".NET Framework": ('form-data; name=file; filename="=?utf-8?B?5aCx5ZGK5pu4LnR4dA==?="', NAME),
    "encoded words, Q": ('form-data; name="file"; filename="=?ISO-8859-1?Q?caf=E9.txt?="', "café.txt"),
    "no encoded word": ('form-data; name="file"; filename="=?nonsense?B?e?="', "=?nonsense?B?e?="),
    "urllib3 before 1.25": (f"form-data; name=\"file\"; filename*=utf-8''{QUOTED}", NAME),
    "a language": (f"form-data; name=\"file\"; filename*=UTF-8'ja'{QUOTED}", NAME),
    "Latin-1": ("form-data; name=\"file\"; filename*=iso-8859-1''caf%E9.txt", "café.txt"),
    "quotes around filename*": (f'form-data; name="file"; filename*="utf-8\'\'{QUOTED}"', NAME),
    "filename* first": (f'form-data; name="file"; filename*=utf-8\'\'{QUOTED}; filename="x.txt"', NAME),
    "pieces": ('form-data; name="file"; filename*1="port.txt"; filename*0="re"', "report.txt"),
    "encoded pieces": (
        'form-data; name="file"; filename*0*=utf-8\'\'caf%C3%A9; filename*1=" 1.txt"',
        "café 1.txt",
    ),
    "a token": ("form-data; name=file; filename=report.pdf", "report.pdf"),
    "blanks without quotes": ("form-data; name=file; filename=my.report final.txt", "my.report final.txt"),
    "Japanese without quotes": ("form-data; name=file; filename=報告書.txt; x=y", NAME),
    "blanks everywhere": ('Form-Data ;\tNAME = "file" ; FileName = "a.txt" ;', "a.txt"),
    "a path of Windows": ('form-data; name="file"; filename="C:\\Users\\me\\a.txt"', "a.txt"),
    "a semicolon in quotes": ('form-data; name="file"; filename="a;b=c.txt"', "a;b=c.txt"),
    "an emoji": ('form-data; name="file"; filename="📄.txt"', "📄.txt"),
    "no extension": ('form-data; name="file"; filename="Makefile"', "Makefile"),
    "a hidden file": ('form-data; name="file"; filename=".profile"', ".profile"),
}


@pytest.mark.parametrize("client", NAMES)
def test_a_name_comes_whole(web: Web, client: str) -> None:
    disposition, name = NAMES[client]
    answer = post(web, part(disposition) + END)
    assert (answer.status, answer.body.get("name")) == (202, name), answer


MALFORMED = [
    'form-data; name="file"; filename="re.port "final".txt"',
    'form-data; name="file"; filename="a.txt',
    'form-data; name="file"; filename=a"b.txt',
    'form-data; name="file"; filename="a.txt" x',
    'form-data; name="file"; filename="a.txt"; filename="b.txt"',
    'form-data; name="file"; filename="a.txt"; =x',
    "form-data; name=\"file\"; filename*=utf-8''%E5%A",
    "form-data; name=\"file\"; filename*=utf-8''%E5",
    "form-data; name=\"file\"; filename*=klingon''a.txt",
    'form-data; name="file"; filename*=a.txt',
    'form-data; name="file"; filename*0="re"; filename*2="port.txt"',
]


@pytest.mark.parametrize("disposition", MALFORMED)
def test_a_name_is_never_cut(web: Web, disposition: str) -> None:
    answer = post(web, part(disposition) + END)
    assert answer.status == 400
    assert answer.body["detail"] == "The Content-Disposition of a part of the form is malformed."


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=80))
def test_any_name_of_a_browser_comes_whole(name: str) -> None:
    sent = name.replace('"', "%22")
    if "%22" not in name and "%0" not in name and name[1:3] != ":\\" and name[:2] not in ("\\\\", "=?"):
        found = parse(f'form-data; name="file"; filename="{sent}"')
        assert found == Disposition("form-data", "file", name)


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parse(f"form-data;{text}")
    except ValueError:
        pass


TYPES = [
    (b"video/webm;codecs=vp8,opus", "video/webm"),
    (b"video/x-matroska;codecs=avc1,opus", "video/x-matroska"),
    (b"video/mp4; codecs=avc1.42E01E,mp4a.40.2", "video/mp4"),
    (b'video/mp4; codecs="avc1.42E01E, mp4a.40.2"', 'video/mp4; codecs="avc1.42E01E, mp4a.40.2"'),
    ("text/plain; name=報告.txt".encode(), "text/plain"),
    (b"text/plain; charset=", "text/plain"),
    (b"text/plain;", "text/plain"),
    (b"text/plain;; charset=utf-8", "text/plain;; charset=utf-8"),
    (b"image/png ", "image/png"),
    (b"\timage/png\t", "image/png"),
    (b"image/*", "text/plain"),
    (b"*/*", "text/plain"),
    (b"", "text/plain"),
    (b"text/plain" + b"; x=y" * 80, "text/plain"),
]


@pytest.mark.parametrize(("sent", "kept"), TYPES)
def test_a_type_is_kept_as_far_as_it_is_one(web: Web, sent: bytes, kept: str) -> None:
    answer = post(web, file_part(b"Content-Type: " + sent) + END)
    assert (answer.status, answer.body["content_type"]) == (202, kept)


@pytest.mark.parametrize("sent", [b"nonsense", b"a/b/c", b"/", b"text/", b"a/" + b"b" * 300])
def test_a_type_that_is_none_is_refused(web: Web, sent: bytes) -> None:
    answer = post(web, file_part(b"Content-Type: " + sent) + END)
    assert (answer.status, answer.body["detail"]) == (400, "The file's Content-Type is not a media type.")


EMPTY = part('form-data; name="avatar"; filename=""', b"Content-Type: application/octet-stream", content=b"")
EMPTY_FILE = EMPTY.replace(b"avatar", b"file")
FILEPOND = part('form-data; name="file"', content=b"{}")
TAKEN = {
    "an empty input beside it": EMPTY + file_part(),
    "an empty input after it": file_part() + EMPTY,
    "an empty input of the same name": EMPTY_FILE + file_part() + EMPTY_FILE,
    "FilePond": FILEPOND + file_part(),
    "Content-Length": file_part(b"Content-Length: 5"),
    "a wrong Content-Length": file_part(b"Content-Length: 4", b"Content-Length: 6"),
    "an odd Content-Length": file_part(b"Content-Length: 05 "),
    "many headers": file_part(*(b"X-%d: y" % number for number in range(40))),
    "odd header names": file_part(b"X.Y: z", b"(): z", b": z"),
    "a folded header": file_part(b"X-Long: a", b" b", b"\tc"),
    "Latin-1 in another header": file_part(b"X-Name: caf\xe9"),
    "a preamble": b"This is a form.\r\n" + file_part(),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_does_not_matter_is_passed_over(web: Web, case: str) -> None:
    answer = post(web, TAKEN[case] + END)
    assert (answer.status, answer.body.get("name"), answer.body.get("size")) == (202, "a.txt", 5), answer


@pytest.mark.parametrize("size", [5, 3_000_000])
@pytest.mark.parametrize("blanks", [b" ", b"\t ", b" " * 200])
def test_blanks_after_a_boundary_are_padding(web: Web, blanks: bytes, size: int) -> None:
    """Wherever a piece of the body ends: 3 MB come in several, and hold what looks like a boundary."""
    content = (b"\r\n--a" + blanks + b"\r\nx--b" + blanks + b"\r\n-" + b"\r\n" * 9).ljust(size, b"-")[-size:]
    text = part('form-data; name="note"')
    body = (text + file_part(content=content)).replace(b"--b\r\nC", b"--b" + blanks + b"\r\nC")
    answer = post(web, body + b"--b--" + blanks)
    assert (answer.status, answer.body.get("size")) == (202, len(content)), answer
    done = web.settled(answer.body["id"])
    assert requests.get(f"{web.url}/files/{done['id']}/content?proxy=1", timeout=20).content == content


@pytest.mark.parametrize("boundary", ["a b", "----=_Part_1:2", '"a b"', '"a\\"b"', "(x)/y?"])
def test_a_boundary_may_hold_anything(web: Web, boundary: str) -> None:
    plain = boundary.strip('"').replace("\\", "").encode()
    body = (file_part() + END).replace(b"--b", b"--" + plain)
    assert post(web, body, f"multipart/form-data; boundary={boundary}").status == 202


BODY = file_part() + END
MISTAKES = {
    "no boundary": (BODY, "multipart/form-data", "has no boundary"),
    "an empty boundary": (BODY, 'multipart/form-data; boundary=""', "has no boundary"),
    "another boundary": (BODY, "multipart/form-data; boundary=other", "does not begin with the boundary"),
    "a compressed body": (gzip.compress(BODY), None, "is compressed"),
    "LF alone": (BODY.replace(b"\r\n", b"\n"), None, "CR and LF"),
    "LF alone in the headers": (BODY.replace(b"\r\nContent", b"\nContent"), None, "CR and LF"),
    "a name in Latin-1": (part(b'form-data; name="file"; filename="caf\xe9.txt"') + END, None, "is not UTF-8"),
    "a name in Shift_JIS": (
        part('form-data; name="file"; filename="報.txt"'.encode("shift_jis")) + END,
        None,
        "is not UTF-8",
    ),
    "no disposition": (b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, None, "has no Content-Disposition"),
    "another disposition": (part("attachment; filename=a.txt") + END, None, "is not form-data"),
    "two dispositions": (file_part(b"Content-Disposition: form-data") + END, None, "is malformed"),
    "a header without a colon": (file_part(b"nonsense") + END, None, "has no colon"),
    "an empty body": (b"", None, "The body is empty."),
    "cut off in the file": (file_part(), None, "cut off"),
    "cut off in a header": (file_part()[:20], None, "cut off"),
    "more after the boundary": (file_part() + b"--bxx\r\n", None, "followed by other characters"),
    "only empty inputs": (EMPTY + EMPTY_FILE + END, None, "no name"),
    "only an empty input": (EMPTY + END, None, "no file"),
    "only text": (FILEPOND + END, None, "holds text"),
    "a file without a name": (EMPTY_FILE[:-2] + b"x\r\n" + END, None, "no name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_has_its_sentence(web: Web, mistake: str) -> None:
    body, content_type, sentence = MISTAKES[mistake]
    answer = post(web, body, content_type or "multipart/form-data; boundary=b")
    assert answer.status == 400
    assert sentence in answer.body["detail"]


def test_a_request_of_http_1_0_without_a_length(web: Web) -> None:
    address = urlsplit(web.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        head = b"POST /async_upload HTTP/1.0\r\nHost: localhost\r\n"
        connection.sendall(head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + BODY)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert b" 400 " in answer.splitlines()[0]
    assert b"The request has no Content-Length." in answer


def text(name: str, value: str) -> bytes:
    return part(f'form-data; name="{name}"', content=value.encode())


CHUNKS = {
    "Dropzone": text("dzuuid", "u") + text("dzchunkindex", "0") + text("dztotalchunkcount", "4"),
    "Resumable.js": text("resumableChunkNumber", "1") + text("resumableTotalChunks", "2"),
    "Flow.js": text("flowChunkNumber", "2") + text("flowTotalChunks", "2"),
    "Fine Uploader": text("qqpartindex", "0") + text("qqtotalparts", "3"),
    "Plupload": text("name", "a.txt") + text("chunk", "0") + text("chunks", "2"),
    "simple-uploader.js": text("chunkNumber", "1") + text("totalChunks", "2"),
    "Syncfusion": text("chunk-index", "0") + text("total-chunk", "2"),
    "ng-file-upload": text("_chunkSize", "5") + text("_totalSize", "10") + text("_chunkNumber", "0"),
    "Kendo UI": text("metadata", '{"chunkIndex":0,"totalChunks":2}'),
    "DevExtreme": text("chunkMetadata", '{"FileName":"a.txt","Index":0,"TotalCount":2}'.replace("Total", "total")),
}


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("client", CHUNKS)
def test_a_chunk_is_refused(web: Web, client: str, order: str) -> None:
    fields = CHUNKS[client]
    answer = post(web, (fields + file_part() if order == "before" else file_part() + fields) + END)
    assert answer.status == 422
    assert "not joined" in answer.body["detail"]
    assert requests.get(f"{web.url}/files?limit=1&name=a.txt", timeout=20).ok


@pytest.mark.parametrize("client", CHUNKS)
def test_a_file_of_one_chunk_is_a_file(web: Web, client: str) -> None:
    fields = CHUNKS[client]
    for count in (b"2", b"3", b"4", b"10"):
        fields = fields.replace(b"\r\n\r\n" + count + b"\r\n", b"\r\n\r\n1\r\n").replace(b":2}", b":1}")
    assert post(web, fields + file_part() + END).status == 202


def test_a_chunk_is_refused_by_its_query_and_by_its_range(web: Web) -> None:
    assert post(web, BODY, query="?chunk=0&chunks=3").status == 422
    answer = requests.post(
        f"{web.url}/async_upload",
        files={"file": ("a.txt", b"12345")},
        headers={"Content-Range": "bytes 0-4/10"},
        timeout=20,
    )
    assert answer.status_code == 422


@pytest.mark.parametrize("query", ["resumableChunkNumber=1&resumableTotalChunks=1", "flowChunkNumber=1"])
def test_no_chunk_is_said_to_be_here_already(web: Web, query: str) -> None:
    """Resumable.js and Flow.js ask by GET, and take 200 for yes; 422 they take for no, and send the chunk."""
    assert requests.get(f"{web.url}/async_upload?{query}", timeout=20).status_code == 422


def test_nothing_of_what_is_refused_stays(web: Web) -> None:
    before = len(requests.get(f"{web.url}/files?limit=100", timeout=20).json()["files"])
    spool = Path(web.env["SPOOL_DIR"])
    for fields in CHUNKS.values():
        post(web, file_part() + fields + END)
    assert len(requests.get(f"{web.url}/files?limit=100", timeout=20).json()["files"]) == before
    assert not list(spool.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "content_type", "extension"),
    [
        ("LICENSE", b"text/plain", "txt"),
        ("Makefile", b"application/octet-stream", "bin"),
        ("photo", b"image/png", "png"),
    ],
)
def test_a_key_gets_an_extension_from_the_type(web: Web, name: str, content_type: bytes, extension: str) -> None:
    sent = part(f'form-data; name="file"; filename="{name}"', b"Content-Type: " + content_type)
    answer = post(web, sent + END)
    assert answer.body["key"].endswith(f".{extension}")
    assert f"--{name.lower()}-" in answer.body["key"]
