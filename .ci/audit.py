"""`make check`: whether a known vulnerability is in what constraints.txt pins; offline, that nobody could tell."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 5
UNREACHABLE = (
    "connectionerror",
    "connecttimeout",
    "readtimeout",
    "could not connect",
    "failed to connect",
    "sslerror",
)


class Unreachable(Exception):
    """Nobody knows advisories here."""


def main(options: list[str]) -> int:
    """Ask the advisory service by pip-audit; the answer is the exit code.

    Args:
        options: further options for pip-audit.
    """
    pins = [line for line in Path("constraints.txt").read_text().splitlines() if "==" in line]
    try:
        advisories(pins[:1], options)  # a service that does not know one package would take long to not know all
        found = advisories(pins, options)
    except Unreachable:
        sys.stderr.write("pip-audit: NOT CHECKED, SINCE THE ADVISORY SERVICE CANNOT BE REACHED\n")
        return 0
    for line in found:
        sys.stderr.write(f"pip-audit: {line}\n")
    return 1 if found else 0


def advisories(pins: list[str], options: list[str]) -> list[str]:
    """A line for each package with known vulnerabilities.

    Raises:
        Unreachable: the service does not answer, or knows none of the packages.
        RuntimeError: pip-audit failed otherwise.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        command = [sys.executable, "-m", "pip_audit", "-r", file.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT_SECONDS), *options]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if not result.stdout:
        if any(sign in result.stderr.lower() for sign in UNREACHABLE):
            raise Unreachable
        raise RuntimeError(result.stderr)
    packages: list[dict[str, Any]] = json.loads(result.stdout)["dependencies"]
    if all("skip_reason" in package for package in packages):
        raise Unreachable
    return [
        f"{package['name']} {package['version']}: {', '.join(advisory['id'] for advisory in package['vulns'])}"
        for package in packages
        if package.get("vulns")
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
