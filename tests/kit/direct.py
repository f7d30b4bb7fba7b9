"""A client of direct uploads of a few lines, which adds nothing that a test does not say."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import requests

from storage.checksum import Crc64Nvme

SECONDS = 60


def crc64nvme(content: bytes) -> str:
    """Return the CRC64NVME of bytes in base64."""
    return Crc64Nvme.of([content]).text()


class Direct:
    """Speaks with a service, and with the bucket at the addresses that it gives.

    Args:
        url: the service's.
        key: sent as a bearer, if there is one.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, method: str, path: str, json: Any = None, **headers: str) -> requests.Response:
        """Send a request; `_` in a header's name is `-`."""
        given = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return requests.request(method, self.url + path, json=json, headers=given, timeout=SECONDS)

    def create(self, name: str = "a.txt", size: int = 5, **wanted: Any) -> requests.Response:
        """Ask for an upload."""
        return self.ask("POST", "/direct", {"name": name, "size": size, **wanted})

    def begin(self, name: str = "a.txt", size: int = 5, **wanted: Any) -> dict[str, Any]:
        """Begin an upload that is accepted."""
        answer = self.create(name, size, **wanted)
        assert answer.status_code == 201, answer.text
        begun: dict[str, Any] = answer.json()
        return begun

    def address(self, upload_id: str, number: int, **query: str) -> requests.Response:
        """Ask for the address of a part."""
        return self.ask("GET", f"/direct/{upload_id}/parts/{number}?{urlencode(query)}")

    def send_parts(self, begun: dict[str, Any], content: bytes) -> None:
        """Send all parts of an upload."""
        size = begun["part_size"]
        for number in range(1, begun["parts"] + 1):
            address = self.address(begun["id"], number).json()
            assert put(address, content[(number - 1) * size : number * size]).ok

    def finish(self, upload_id: str) -> requests.Response:
        """Say that all bytes are in S3."""
        return self.ask("POST", f"/direct/{upload_id}/finish")

    def delete(self, upload_id: str) -> requests.Response:
        """End an upload."""
        return self.ask("DELETE", f"/direct/{upload_id}")

    def content(self, file_id: str) -> bytes:
        """Read a file."""
        answer = requests.get(f"{self.url}/files/{file_id}/content?proxy=1", headers=self.headers, timeout=SECONDS)
        assert answer.ok, answer.text
        return answer.content


def put(address: dict[str, Any], content: bytes, **headers: str) -> requests.Response:
    """PUT bytes to an address, with its headers and others."""
    given = {**address["headers"], **{name.replace("_", "-"): value for name, value in headers.items()}}
    return requests.put(address["url"], data=content, headers=given, timeout=SECONDS)


def post(form: dict[str, Any], content: bytes, **fields: str) -> requests.Response:
    """Post a form with a file, with its fields and others."""
    given = {**form["fields"], **{name.replace("_", "-"): value for name, value in fields.items()}}
    return requests.post(form["url"], data=given, files={"file": ("blob", content)}, timeout=SECONDS)
