"""S3-compatible stores that install by pip, to be tried as users have them: SeaweedFS is in tests.kit.stack."""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path

from app import create_app
from tests.kit.ports import free_port
from tests.kit.stack import BUCKET, KEY, SECRET, S3Server, Service, wait_for

SCRIPTS = Path(sysconfig.get_path("scripts"))


class PipStore(Service):
    """A store with a bucket, on a port of its own.

    Args:
        folder: where it keeps its data and its log.
        name: its name.
        command: what starts it.
        port: where it listens.
        env: what it needs in its environment.
    """

    def __init__(self, folder: Path, name: str, command: list[str], port: int, env: Mapping[str, str]) -> None:
        self.port = port
        super().__init__(name, [str(SCRIPTS / command[0]), *command[1:]], env, folder / f"{name}.log")

    @property
    def settings(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "S3_BUCKET_NAME": BUCKET,
            "AWS_ACCESS_KEY": KEY,
            "AWS_ACCESS_SECRET": SECRET,
        }

    def stop(self, seconds: float = 20) -> int:
        """Kill it: nobody needs its data."""
        self.kill()
        return 0

    def wait(self) -> None:
        """Wait until it has the bucket."""
        wait_for(self._has_bucket, what="bucket")

    def _has_bucket(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.text()
        env = {**self.settings, "SPOOL_DIR": str(self.log.parent / f"{self.name}-spool")}
        return create_app(env).test_cli_runner().invoke(args=["create-bucket"]).exit_code == 0


def nanio(folder: Path) -> PipStore:
    port = free_port()
    command = ["nanio", "serve", "--data-dir", str(folder / "nanio"), "--host", "127.0.0.1", "--port", str(port)]
    return PipStore(folder, "nanio", command, port, {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET})


def rclone(folder: Path) -> PipStore:
    port = free_port()
    data = folder / "rclone"
    data.mkdir()
    command = ["rclone", "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(data)]
    return PipStore(folder, "rclone", command, port, {})


def juicefs(folder: Path) -> PipStore:
    port = free_port()
    meta = f"sqlite3://{folder / 'juicefs.db'}"
    bucket = ["--storage", "file", "--bucket", str(folder / "juicefs")]
    subprocess.run([SCRIPTS / "juicefs", "format", *bucket, meta, "tests"], check=True, capture_output=True)
    log = str(folder / "juicefs-gateway.log")
    command = ["juicefs", "gateway", "--multi-buckets", "--log", log, "--cache-dir", str(folder / "juicefs-cache")]
    env = {"MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET}
    return PipStore(folder, "juicefs", [*command, meta, f"127.0.0.1:{port}"], port, env)


def moto(folder: Path) -> PipStore:
    port = free_port()
    return PipStore(folder, "moto", ["moto_server", "-H", "127.0.0.1", "-p", str(port)], port, {})


STORES: dict[str, Callable[[Path], PipStore | S3Server]] = {
    "seaweedfs": S3Server,
    "nanio": nanio,
    "rclone": rclone,
    "juicefs": juicefs,
    "moto": moto,
}
