"""Programs that tests use where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.kit.stack import ROOT

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
NPM = shutil.which("npm")


def npm_clients(name: str, folder: Path) -> Path:
    """Install the clients from npm that a folder of tests/kit/node names. Returns where they are.

    Args:
        name: of that folder.
        folder: an empty one.
    """
    clients = folder / "clients"
    shutil.copytree(ROOT / "tests/kit/node" / name, clients, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run([str(NPM), "ci", "--no-audit", "--no-fund", "--silent"], cwd=clients, check=True, timeout=200)
    return clients
