"""Debian's nginx with deploy/nginx.conf, in front of real web servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.kit.ports import free_port
from tests.kit.programs import NGINX
from tests.kit.stack import ROOT, Service, Web


def replaced(text: str, changes: dict[str, str]) -> str:
    """Replace what stands exactly once in a text."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


class Nginx(Service):
    """nginx in front of web servers.

    Args:
        folder: where it writes.
        webs: the servers.
        blocks: more blocks of the configuration's `http`.
        changes: what else is replaced in the configuration.
    """

    def __init__(
        self, folder: Path, webs: Sequence[Web], blocks: str = "", changes: dict[str, str] | None = None
    ) -> None:
        self.port = free_port()
        servers = "".join(f"server {web.url.removeprefix('http://')}; " for web in webs)
        here = {
            "listen 8080": f"listen 127.0.0.1:{self.port}",
            "server app:5000;": servers,
            "pid /tmp/nginx.pid": f"pid {folder}/nginx.pid",
            "http {": f"http {{ client_body_temp_path {folder}/bodies; proxy_temp_path {folder}/answers; {blocks}",
        }
        config = folder / "nginx.conf"
        config.write_text(replaced((ROOT / "deploy" / "nginx.conf").read_text(), here | (changes or {})))
        rights = "user root; " if os.geteuid() == 0 else ""
        command = [NGINX or "nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]
        super().__init__("nginx", [*command, "-g", f"daemon off; {rights}"], {}, folder / "nginx.log")
