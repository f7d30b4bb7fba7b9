"""`make load`: Locust against a whole service on free ports, and what each part of it took of the processor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from local import servers as local_servers

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "load" / "results"
READY_SECONDS = 60
STOP_SECONDS = 30
LAST_UPLOADS_SECONDS = 20  # what users may still wait for at the end
OWN = ("S3_BUCKET_NAME", "S3_ENDPOINT_URL", "SQLALCHEMY_DATABASE_URI", "CELERY_BROKER_URL", "SPOOL_DIR")
PARTS = {"gunicorn": "web", "celery": "worker", "weed": "s3", "valkey-server": "redis", "locust": "client"}


def main() -> int:
    """Run the load, report where the time went; the exit code is Locust's."""
    users, seconds = _number("USERS", 8), _number("SECONDS", 30)
    host = os.environ.get("HOST") or ""
    if host.startswith("http"):
        if urlsplit(host).hostname not in ("localhost", "127.0.0.1", "::1"):
            sys.stderr.write("make load: HOST must be on this machine, such as http://localhost:5000\n")
            return 2
        return _load(host, users, seconds)
    with _service() as address:
        return _load(address, users, seconds)


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)


@contextmanager
def _service() -> Iterator[str]:
    """The whole service of `make run`, on free ports, with its data in a folder that goes with it."""
    port = local_servers.free_port()
    address = f"http://{local_servers.LOOPBACK}:{port}"
    data = Path(tempfile.mkdtemp(prefix="ferryman-load-"))
    settings = dict.fromkeys(OWN, "")  # whatever .env says
    settings |= {"HOST": local_servers.LOOPBACK, "PORT": str(port), "DATA_DIR": str(data)}
    with (data / "service.log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "local.run"],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, address, data / "service.log")
        yield address
    finally:
        _stop(process)
        shutil.rmtree(data, ignore_errors=True)


def _wait_until_ready(process: psutil.Popen, address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{address}/readyz", timeout=5).close()  # noqa: S310
            return
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready:\n{log.read_text(errors='replace')}")


def _stop(process: psutil.Popen) -> None:
    """Stop a process and all below it; what does not obey is killed."""
    with suppress(psutil.NoSuchProcess):
        below = process.children(recursive=True)
        process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs([process, *below], STOP_SECONDS)
        for left in alive:
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _load(address: str, users: int, seconds: int) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    report, table = RESULTS / "report.html", RESULTS / "load"
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "load" / "locustfile.py"), "--headless"]
    command += ["--host", address, "--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds}s"]
    command += ["--stop-timeout", str(LAST_UPLOADS_SECONDS), "--html", str(report), "--csv", str(table)]
    load_before = os.getloadavg()[0]
    psutil.cpu_percent()
    locust = psutil.Popen([*command, "--only-summary"], cwd=ROOT, start_new_session=True)
    try:
        used = _watch(locust, urlsplit(address).port or 80, seconds)
        code = int(locust.wait(seconds + LAST_UPLOADS_SECONDS + 30))
    finally:
        _stop(locust)
    facts = {
        "users": users,
        "seconds": seconds,
        "cores": psutil.cpu_count(),
        "cores_used": used,
        "load_average_before": round(load_before, 2),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (RESULTS / "load.json").write_text(json.dumps(facts, indent=2) + "\n")
    sys.stdout.write(f"\n{users} users, {facts['cores']} cores, load average {load_before:.2f} before\n")
    sys.stdout.write("".join(f"  {part:8} {cores:5.2f} cores\n" for part, cores in used.items()))
    sys.stdout.write(f"report: {report.relative_to(ROOT)}\n")
    return code


def _watch(locust: psutil.Popen, port: int, seconds: int) -> dict[str, float]:
    """How many cores each part used while the load lasted, and the whole machine."""
    time.sleep(min(3, seconds / 4))  # starting is not load
    service = _listener(port)
    psutil.cpu_percent()
    before, started = _cpu_seconds(service, locust), time.monotonic()
    with suppress(psutil.TimeoutExpired):
        locust.wait(max(1.0, seconds - 4.0))
    took, after = time.monotonic() - started, _cpu_seconds(service, locust)
    used = {part: round((after[part] - before.get(part, 0)) / took, 2) for part in after}
    return {**used, "machine": round(psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1), 2)}


def _listener(port: int) -> psutil.Process | None:
    """The process at the top of the service that listens on a port: local.run, or whoever started it."""
    for connection in psutil.net_connections("tcp4"):
        if connection.laddr and connection.laddr[1] == port and connection.status == "LISTEN" and connection.pid:
            listening = psutil.Process(connection.pid)
            starters = [above for above in listening.parents() if above.cmdline()[-1:] == ["local.run"]]
            return [listening, *starters][-1]
    return None


def _cpu_seconds(service: psutil.Process | None, locust: psutil.Process) -> dict[str, float]:
    """Processor seconds of each part up to now."""
    seconds: dict[str, float] = {}
    for process in [*(service.children(recursive=True) if service else []), service, locust]:
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process and (part := _part(process.cmdline())):
                times = process.cpu_times()
                seconds[part] = seconds.get(part, 0) + times.user + times.system
    return seconds


def _part(command: list[str]) -> str | None:
    words = {Path(word).name for word in command[:4]}
    return next((part for name, part in PARTS.items() if name in words), None)


if __name__ == "__main__":
    sys.exit(main())
