"""`make run`: the whole service on this machine, with embedded servers for what is not configured."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
import sys
import sysconfig
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dotenv import load_dotenv

from config import Config, ConfigError, is_given
from local import servers as local_servers
from local.processes import Manager

READY_SECONDS = 60
S3_PORT = 8333
REDIS_PORT = 6390
BUCKET = "ferryman"
SHELL_FILE = "env.sh"
PRESETS = Path(__file__).with_name("presets.toml")
TRACES = {
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_SERVICE_NAME": "ferryman",
}


class Plan(NamedTuple):
    """What a start has to run: the embedded servers, and the settings of the service."""

    port: str
    data: Path
    servers: dict[str, local_servers.Server]
    settings: dict[str, str]
    config: Config

    @property
    def s3_port(self) -> int | None:
        """The port of the embedded S3; None without one."""
        return int((self.data / "s3-port").read_text()) if "s3" in self.servers else None


def main() -> int:
    """Start everything, report when it is ready, and stop everything at the end. Returns the exit code."""
    load_dotenv()
    try:
        plan = _plan(os.environ)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"make run: {error}\n")
        return 2
    shutil.rmtree(plan.data / "metrics", ignore_errors=True)  # of processes that are gone
    manager = Manager()
    for name, command, environment in _processes(plan):
        manager.add_process(name, command, env=environment)
    threading.Thread(target=_announce, args=(plan,), daemon=True).start()
    manager.loop()
    if plan.s3_port:
        local_servers.remove_seaweed_sockets(plan.s3_port)
    return 0 if manager.was_stopped_by_user else 1


def _plan(env: Mapping[str, str]) -> Plan:
    """Decide what to run, and write the settings for other shells.

    Raises:
        ConfigError: a setting is missing or wrong.
        OSError: the port is taken, or the data folder cannot be used.
    """
    port = env.get("PORT") or "5000"
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"PORT must be a port number, not {port!r}")
    data = Path(env.get("DATA_DIR") or "var").resolve()
    if not local_servers.is_free(int(port)):
        raise OSError(f"port {port} is taken; choose another, as in: make run PORT={int(port) + 1}")
    servers, settings = _embedded_parts(env, data)
    config = Config.from_mapping({**env, **settings})
    _write_shell_env(data / SHELL_FILE, settings, port)
    if config.AUTH == "open" and not config.is_loopback:
        raise ConfigError("without keys it stays on this machine; for other addresses set AUTH=required")
    return Plan(port, data, servers, settings, config)


def _processes(plan: Plan) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield the name, the shell command and the environment of every process."""
    for name, server in plan.servers.items():
        log = shlex.quote(str(plan.data / f"{name}.log"))
        command = f"exec {shlex.join(server.command)} >>{log} 2>&1"
        yield name, command, {**os.environ, **server.environment}
    environment = {
        **TRACES,
        **os.environ,
        **plan.settings,
        "PORT": plan.port,
        "PYTHONUNBUFFERED": "1",
        "REMAP_SIGTERM": "SIGQUIT",
    }
    yield "web", _web_command("s3" in plan.servers), environment
    yield "worker", f"exec {_traced()}{_python()} -m celery -q -A worker worker", environment


def _embedded_parts(env: Mapping[str, str], data: Path) -> tuple[dict[str, local_servers.Server], dict[str, str]]:
    """Choose the embedded servers: those whose address is not configured."""
    _make_private(data)
    servers: dict[str, local_servers.Server] = {}
    settings = {"AUTH": env.get("AUTH") or "open", "SPOOL_DIR": env.get("SPOOL_DIR") or str(data / "spool")}
    settings["LOG_FORMAT"] = env.get("LOG_FORMAT") or "text"
    settings["PROMETHEUS_MULTIPROC_DIR"] = env.get("PROMETHEUS_MULTIPROC_DIR") or str(data / "metrics")
    settings["PRESETS_FILE"] = env.get("PRESETS_FILE") or str(PRESETS)
    if not is_given(env, "TOKEN_SECRET"):
        settings["TOKEN_SECRET"] = _read_or_create(data / "token-secret", secrets.token_urlsafe(32))
    if not is_given(env, "SQLALCHEMY_DATABASE_URI"):
        settings["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{data / 'ferryman.db'}"
    if not is_given(env, "CELERY_BROKER_URL"):
        port = next(port for port in range(REDIS_PORT, REDIS_PORT + 1000) if local_servers.is_free(port))
        password = _read_or_create(data / "redis-password", secrets.token_hex(20))
        servers["redis"] = local_servers.valkey(data / "redis", port, password)
        settings["CELERY_BROKER_URL"] = f"redis://:{password}@{local_servers.LOOPBACK}:{port}/0"
    if not is_given(env, "S3_BUCKET_NAME") and not is_given(env, "S3_ENDPOINT_URL"):
        # The rows hold urls with this port, so it stays as long as it is free.
        last_port = int(_read_or_create(data / "s3-port", str(S3_PORT)))
        port = local_servers.seaweed_port(last_port)
        (data / "s3-port").write_text(str(port))
        secret = _read_or_create(data / "s3-secret", secrets.token_hex(20))
        servers["s3"] = local_servers.seaweed(data / "s3", port, BUCKET, secret)
        settings["S3_ENDPOINT_URL"] = f"http://{local_servers.LOOPBACK}:{port}"
        settings |= {"S3_BUCKET_NAME": BUCKET, "AWS_ACCESS_KEY": BUCKET, "AWS_ACCESS_SECRET": secret}
    return servers, settings


def _make_private(folder: Path) -> None:
    """Create the data folder, readable by its owner only.

    Raises:
        OSError: others may look into it, and it holds what is not ours.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o077:
        if any(folder.iterdir()) and not (folder / SHELL_FILE).exists():
            raise OSError(f"other users may read {folder}, which holds other files; choose another DATA_DIR")
        folder.chmod(0o700)


def _read_or_create(path: Path, first: str) -> str:
    """Return a secret of an earlier start, or create it, readable by its owner only."""
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(first)
    return path.read_text()


def _write_shell_env(path: Path, settings: Mapping[str, str], port: str) -> None:
    """Write the settings for other shells to a file, readable by its owner only."""
    # Of a command that ends at once there is nothing to count.
    exported = {name: value for name, value in settings.items() if name != "PROMETHEUS_MULTIPROC_DIR"}
    exported["FERRYMAN_URL"] = f"http://localhost:{port}"
    lines = [f'export PATH={shlex.quote(sysconfig.get_path("scripts"))}:"$PATH"']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in exported.items()]
    path.touch(mode=0o600)
    path.write_text("\n".join([*lines, ""]))


def _web_command(own_bucket: bool) -> str:
    flask = f"{_python()} -m flask --app app"
    steps = [f"{flask} db upgrade"]
    if own_bucket:
        steps.append(f"{flask} create-bucket --public-read --cors --wait {READY_SECONDS}")
    steps.append(f"exec {_traced()}{_python()} -m gunicorn -c gunicorn.conf.py 'app:create_app()'")
    return " && ".join(steps)


def _python() -> str:
    return shlex.quote(sys.executable)


def _traced() -> str:
    """Return the command prefix that makes a Python program send traces, if configured."""
    agent = shutil.which("opentelemetry-instrument", path=sysconfig.get_path("scripts"))
    return f"{shlex.quote(agent)} " if agent and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else ""


def _announce(plan: Plan) -> None:
    """Print the address when the service and the embedded S3 are ready."""
    address, s3_port = f"http://localhost:{plan.port}", plan.s3_port
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if _answers(f"{address}/readyz") and (s3_port is None or local_servers.seaweed_has_room(s3_port)):
            _say(_ready_lines(plan, address))
            return
        time.sleep(0.1)
    _say(f"Ferryman is not ready after {READY_SECONDS} s; see {address}/readyz and the logs above.")


def _ready_lines(plan: Plan, address: str) -> str:
    access = "for this machine, without a key" if plan.config.AUTH == "open" else "with a key, see `flask keys`"
    shell_file = shlex.quote(str(plan.data / SHELL_FILE))
    return (
        f"\nFerryman is ready: {address}   ({access}; Ctrl-C stops it)\n\n"
        f"  curl -i -F file=@README.md {address}/async_upload\n\n"
        f"  . {shell_file}   # in another shell, for `flask --app app --help`\n"
    )


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
