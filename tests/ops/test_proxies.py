"""Resumable uploads through the proxies in deploy/, in front of two hosts that have a spool each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.kit.nginx import Nginx, replaced
from tests.kit.ports import free_port
from tests.kit.programs import HAPROXY, NGINX
from tests.kit.stack import ROOT, RedisServer, S3Server, Service, Web, serving, wait_for
from tests.kit.tus import Tus

MIB = 1024 * 1024
CONTENT = os.urandom(3 * MIB)
Hosts = list[Web]


@pytest.fixture
def hosts(s3: S3Server, redis_server: RedisServer, tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts with a spool each, and one database."""
    database = f"sqlite:///{tmp_path / 'files.db'}"
    with ExitStack() as stack:
        found = []
        for name in ("first", "second"):
            (folder := tmp_path / name).mkdir()
            host = serving(folder, s3, redis_server, SQLALCHEMY_DATABASE_URI=database, TRUSTED_PROXIES="1")
            found.append(stack.enter_context(host))
        yield found


def address(web: Web) -> str:
    return web.url.removeprefix("http://")


def prefix(web: Web) -> str:
    return (Path(web.env["SPOOL_DIR"]) / "spool-id").read_text()[:8]


def nginx(hosts: Hosts, folder: Path) -> tuple[Service, int]:
    named = "".join(f"upstream host{n} {{ server {address(web)}; }} " for n, web in enumerate(hosts))
    routes = "".join(f'"~^/uploads/{prefix(web)}" host{n}; ' for n, web in enumerate(hosts))
    found = Nginx(folder, hosts, named, {"default app;": f"default app; {routes}"})
    return found, found.port


def haproxy(hosts: Hosts, folder: Path) -> tuple[Service, int]:
    port, (first, second) = free_port(), hosts
    changes = {
        "bind :8080": f"bind 127.0.0.1:{port}",
        "0123abcd": prefix(first),
        "4567cdef": prefix(second),
        " app:5000": f" {address(first)}",
        " app2:5000": f" {address(second)}",
    }
    config = folder / "haproxy.cfg"
    config.write_text(replaced((ROOT / "deploy" / "haproxy.cfg").read_text(), changes))
    command = [HAPROXY or "haproxy", "-db", "-f", str(config)]
    return Service("haproxy", command, {}, folder / "haproxy.log"), port


PROXIES: dict[str, tuple[str | None, Callable[[Hosts, Path], tuple[Service, int]]]] = {
    "nginx": (NGINX, nginx),
    "haproxy": (HAPROXY, haproxy),
}


@pytest.fixture(params=PROXIES)
def url(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path) -> Iterator[str]:
    """The address of a proxy in front of both."""
    program, make = PROXIES[request.param]
    if not program:
        pytest.skip(f"{request.param.upper()} IS NOT INSTALLED, so deploy/ is not tested with it")
    proxy, port = make(hosts, tmp_path)
    proxy.start()
    try:
        found = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(found), what=f"{request.param}: {proxy.text()}")
        yield found
    finally:
        proxy.kill()


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_an_upload_goes_to_the_host_that_has_its_bytes(url: str, hosts: Hosts) -> None:
    tus = Tus(url)
    paths: dict[str, str] = {}
    while len(paths) < len(hosts):
        path = tus.begin(len(CONTENT))
        paths[path.rpartition("/")[2][:8]] = path
    assert paths.keys() == {prefix(web) for web in hosts}
    for path in paths.values():
        for start in range(0, len(CONTENT), MIB):
            assert tus.head(path).offset == start
            assert tus.patch(path, start, CONTENT[start : start + MIB]).status == 204
        file_id = path.rpartition("/")[2]
        assert hosts[0].settled(file_id)["upload_status"] == "COMPLETE"
        found = requests.get(f"{url}/files/{file_id}/content?proxy=1", timeout=20)
        assert found.content == CONTENT


def test_a_proxy_stores_nothing_of_a_cut_upload(url: str) -> None:
    tus = Tus(url)
    path = tus.begin(len(CONTENT))
    with tus.stalled(path, 0, CONTENT[:MIB], len(CONTENT)):
        wait_for(lambda: tus.head(path).offset == MIB, what="kept bytes")
    assert tus.patch(path, MIB, CONTENT[MIB:]).status == 204


def test_a_raw_body_passes(url: str, hosts: Hosts) -> None:
    answer = requests.put(f"{url}/async_upload/a.bin", data=CONTENT, timeout=20)
    assert answer.status_code == 202
    assert hosts[0].settled(answer.json()["id"])["size"] == len(CONTENT)


def test_while_a_host_is_away_its_uploads_wait(url: str, hosts: Hosts) -> None:
    tus = Tus(url)
    path = tus.begin(len(CONTENT))
    tus.patch(path, 0, CONTENT[:MIB])
    [host] = [web for web in hosts if path.rpartition("/")[2].startswith(prefix(web))]
    host.kill()
    wait_for(lambda: tus.head(path).status == 423, what="423")
    time.sleep(1)
    assert tus.head(path).status == 423
    host.start()
    host.wait()
    wait_for(lambda: tus.head(path).status == 200, what="the host")
    assert tus.head(path).offset == MIB
