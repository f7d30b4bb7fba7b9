"""Everything the bench starts, and how it is stopped: by killing process groups, whatever happened."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import psutil

from bench import client
from bench.s3_sink import ACCESS_KEY, ACCESS_SECRET
from config import Config
from local import servers as local_servers
from storage.store import Store
from tests.kit.stack import ROOT, RedisServer, S3Server, Service, Web, Worker, wait_for

RESULTS = ROOT / "bench" / "results"
BUCKET = "bench"
WEB_PROCESSES = 2
WEB_THREADS = 16
QUIET_SECONDS = 20
LOOK_SECONDS = 0.05
IDLE_SECONDS = 0.02  # of processor in that time


class PortServer(Service):
    """A program that listens on one port.

    Args:
        folder: where its log goes.
        name: its name.
        command: how to start it; `{port}` in it stands for its port.
        env: its environment.
    """

    def __init__(self, folder: Path, name: str, command: list[str], env: Mapping[str, str] | None = None) -> None:
        self.port = local_servers.free_port()
        filled = [part.replace("{port}", str(self.port)) for part in command]
        super().__init__(name, filled, env or {}, folder / f"{name}.log")

    def wait(self) -> None:
        """Wait until it listens."""
        wait_for(self._listens, what=self.name)

    def _listens(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.text()
        with suppress(OSError), socket.create_connection((local_servers.LOOPBACK, self.port), 1):
            return True
        return False


class Destination(ABC):
    """An S3 end that tells how many objects it has taken."""

    port: int

    @abstractmethod
    def landed(self) -> int:
        """How many objects are there."""

    def wait_landed(self, count: int) -> bool:
        """Wait until it has taken so many; if nothing comes any more, the answer is False."""
        seen, deadline = -1, 0.0
        while (landed := self.landed()) < count:
            if landed > seen:
                seen, deadline = landed, time.monotonic() + QUIET_SECONDS
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)
        time.sleep(LOOK_SECONDS)  # what follows in the service: a look at the object, and the row
        return True


class Sink(Destination, PortServer):
    """The fast S3 end, by http or https."""

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        command = [sys.executable, "-m", "bench.s3_sink", "{port}", *([str(certificate)] if certificate else [])]
        super().__init__(folder, "sink-tls" if certificate else "sink", command)

    def landed(self) -> int:
        """How many objects it has taken."""
        return int(client.get(self.port, "/-/landed").body)


class RealStore(Destination, S3Server):
    """An S3 end that keeps what it takes: SeaweedFS."""

    @cached_property
    def _store(self) -> Store:
        return Store(Config.from_mapping(self.settings))

    def landed(self) -> int:
        """How many objects are in the bucket, up to a thousand."""
        return self._store.client.list_objects_v2(Bucket=self._store.bucket)["KeyCount"]


class Stack(NamedTuple):
    """Web server, worker and broker of one service: ours or the article's."""

    who: str
    web: Service
    worker: Service
    redis: RedisServer
    port: int

    def post(self, mode: str, path: Path, rate: float = 0) -> client.Answer:
        """Upload a file."""
        return client.post_form(self.port, f"/{mode}_upload", path, rate)

    def start(self) -> None:
        """Start web server and worker."""
        self.web.start()
        self.worker.start()

    def wait(self) -> None:
        """Wait until both are ready."""
        wait_for(lambda: client.get(self.port, "/healthz").status == 200 if self._listens() else False, what="web")
        wait_for(lambda: "ready." in self.worker.text(), what="worker")

    def rest(self) -> None:
        """Wait until both have nothing to do any more."""
        used = -1.0
        while (now := self._cpu_seconds()) - used > IDLE_SECONDS:
            used = now
            time.sleep(LOOK_SECONDS)

    def kill(self) -> None:
        """End web server and worker at once."""
        for service in (self.web, self.worker):
            if service.process:
                service.kill()

    def _cpu_seconds(self) -> float:
        parents = [psutil.Process(service.pid) for service in (self.web, self.worker)]
        times = [one.cpu_times() for parent in parents for one in (parent, *parent.children(recursive=True))]
        return sum(one.user + one.system for one in times)

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((local_servers.LOOPBACK, self.port), 1):
            return True
        return False


def s3_settings(port: int) -> dict[str, str]:
    """The settings for an S3 end that takes any keys."""
    return {
        "S3_ENDPOINT_URL": f"http://{local_servers.LOOPBACK}:{port}",
        "S3_CHECKSUM_MODE": "crc64nvme",  # which the sink only gives back, as a probe would find out
        "S3_BUCKET_NAME": BUCKET,
        "AWS_ACCESS_KEY": ACCESS_KEY,
        "AWS_ACCESS_SECRET": ACCESS_SECRET,
    }


def python_server(folder: Path, module: str, *arguments: str) -> PortServer:
    """One of our own small servers."""
    return PortServer(folder, module, [sys.executable, "-m", f"bench.{module}", "{port}", *arguments])


def ours(folder: Path, s3: Mapping[str, str], redis: RedisServer) -> Stack:
    """The real service, on SQLite, by gunicorn and Celery."""
    folder.mkdir()
    env = our_settings(folder, s3, redis)
    web = Web(folder, env, WEB_PROCESSES)
    return Stack("ours", web, Worker(folder, env), redis, int(web.url.rpartition(":")[2]))


def our_settings(folder: Path, s3: Mapping[str, str], redis: RedisServer) -> dict[str, str]:
    """The service's environment."""
    return {
        **s3,
        **redis.settings,
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'ferryman.db'}",
        "SPOOL_DIR": str(folder / "spool"),
    }


def article(folder: Path, s3: Mapping[str, str], redis: RedisServer) -> Stack:
    """The article's way, under the same gunicorn and worker settings."""
    folder.mkdir()
    env = {
        **our_settings(folder, s3, redis),
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{folder / 'article.db'}",
        "TMPDIR": str(folder),  # where Werkzeug keeps what it takes in: on the same disk as our spool
    }
    command = [sys.executable, "-m", "gunicorn", "-c", os.devnull, "-k", "gthread", "-w", str(WEB_PROCESSES)]
    command += ["--threads", str(WEB_THREADS), "--keep-alive", "15", "--timeout", "60", "--access-logfile", "-"]
    command += ["--worker-tmp-dir", "/dev/shm"] if Path("/dev/shm").is_dir() else []
    web = PortServer(folder, "web", [*command, "-b", "127.0.0.1:{port}", "bench.article:create_app()"], env)
    subprocess.run([sys.executable, "-m", "bench.article"], env=web.env, cwd=ROOT, check=True, capture_output=True)
    worker = [sys.executable, "-m", "celery", "-A", "bench.article:celery", "worker", "-l", "INFO"]
    worker += ["--concurrency", "2", "--without-mingle", "--without-gossip"]
    return Stack("article", web, Service("worker", worker, env, folder / "worker.log"), redis, web.port)


@contextmanager
def running(*services: Service) -> Iterator[None]:
    """Start services, wait for those that tell when they are ready, and kill all of them in the end."""
    with ExitStack() as stack:
        for service in services:
            stack.callback(_end, service)
            service.start()
        for service in services:
            if isinstance(service, PortServer | RedisServer | S3Server):
                service.wait()
        yield


@contextmanager
def started(*stacks: Stack) -> Iterator[None]:
    """Start stacks with their brokers, wait until they are ready, and kill all of them in the end."""
    with ExitStack() as all_of_them, running(*(stack.redis for stack in stacks)):
        for stack in stacks:
            all_of_them.callback(stack.kill)
            stack.start()
        for stack in stacks:
            stack.wait()
        yield


def _end(service: Service) -> None:
    if service.process:
        service.kill()
    if isinstance(service, S3Server):
        local_servers.remove_seaweed_sockets(service.port)


def restart(*stacks: Stack) -> None:
    """Start web servers and workers anew, with fresh processes on the same data."""
    for stack in stacks:
        stack.kill()
        stack.worker.log.unlink()
        stack.start()
    for stack in stacks:
        stack.wait()


def node_peers(folder: Path, s3_port: int) -> PortServer | None:
    """The Node peers, installed on first use; None where they cannot be had."""
    home = RESULTS / "node"
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        sys.stderr.write("bench: NO NODE PEERS, since node or npm is not there\n")
        return None
    home.mkdir(parents=True, exist_ok=True)
    source = ROOT / "bench" / "node"
    wanted, installed = (source / "package.json").read_text(), home / "installed.json"
    if not installed.exists() or installed.read_text() != wanted:
        (home / "package.json").write_text(wanted)
        install = subprocess.run(
            [npm, "install", "--no-audit", "--no-fund"], cwd=home, capture_output=True, text=True
        )
        if install.returncode:
            sys.stderr.write(f"bench: NO NODE PEERS, npm install failed:\n{install.stderr}\n")
            return None
        installed.write_text(wanted)
    shutil.copy(source / "peers.mjs", home)
    (folder / "node").mkdir()
    endpoint = f"http://{local_servers.LOOPBACK}:{s3_port}"
    return PortServer(
        folder, "peers", [node, str(home / "peers.mjs"), "{port}", str(folder / "node"), endpoint, BUCKET]
    )
