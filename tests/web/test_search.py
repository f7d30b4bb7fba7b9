# ruff: noqa: RUF001 - names are to be alike
"""Searching by name: as people mean it, on both databases; the name itself stays as it was sent."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from unicodedata import normalize
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text

from tests.kit.stack import PostgresServer, S3Server, Web

NFD = normalize("NFD", "Résumé.txt")  # as macOS sends it
NFC = "RÉSUMÉ final.txt"
NAMES = (NFD, NFC, "Straße.txt", "STRASSE.txt", "İstanbul.txt", "ＦＵＬＬ.txt", "full.txt", "Ångström 100%_.txt")


def ask(web: Web, method: str, path: str, body: bytes | None = None) -> Any:
    connection = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "multipart/form-data; boundary=b"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def web(request: pytest.FixtureRequest, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """A server that has a file of each name, one of them from a version that knew no searches by name."""
    folder = tmp_path_factory.mktemp("search")
    uri = f"sqlite:///{folder / 'files.db'}"
    if request.param == "postgresql":
        postgres: PostgresServer = request.getfixturevalue("postgres")
        uri = postgres.new_database(uuid4().hex)
    places = {"SPOOL_DIR": str(folder / "spool"), "SQLALCHEMY_DATABASE_URI": uri}
    server = Web(folder, {**s3.settings, **places})
    server.start()
    try:
        server.wait()
        for name in NAMES:
            head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
            assert ask(server, "POST", "/async_upload", head.encode() + b"x\r\n--b--\r\n")["name"] == name
        engine = create_engine(uri)
        with engine.begin() as connection:
            connection.execute(text("UPDATE files SET name_search = '' WHERE name = 'full.txt'"))
        engine.dispose()
        yield server
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("searched", "found"),
    [
        ("Résumé", {NFD, NFC}),
        (normalize("NFD", "résumé"), {NFD, NFC}),
        ("RÉSUMÉ", {NFD, NFC}),
        (normalize("NFD", "RÉSUMÉ F"), {NFC}),
        ("resume", set()),
        ("straße", {"Straße.txt", "STRASSE.txt"}),
        ("STRASSE", {"Straße.txt", "STRASSE.txt"}),
        ("STRAẞE", {"Straße.txt", "STRASSE.txt"}),
        ("İSTANBUL", {"İstanbul.txt"}),
        (normalize("NFD", "i̇stanbul"), {"İstanbul.txt"}),
        ("ｆｕｌｌ", {"ＦＵＬＬ.txt"}),
        ("FULL", {"full.txt"}),
        ("\N{ANGSTROM SIGN}NGSTRÖM", {"Ångström 100%_.txt"}),
        ("0%_", {"Ångström 100%_.txt"}),
        ("%", {"Ångström 100%_.txt"}),
        (".TXT", set(NAMES)),
    ],
)
def test_a_name_is_found_in_any_case_and_form(web: Web, searched: str, found: set[str]) -> None:
    files = ask(web, "GET", f"/files?name={quote(searched)}")["files"]
    assert {file["name"] for file in files} == found
