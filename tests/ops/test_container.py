"""The container files: valid, wired to settings that exist, and complete."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from config import Config
from local.run import TRACES
from tests.kit.settings import READ_BY_OTHERS
from tests.kit.stack import ROOT

Services: TypeAlias = dict[str, dict[str, Any]]

SCRIPTS = Path(sysconfig.get_path("scripts"))
OURS = ("app", "celery_worker", "migrate")
SETTINGS = {setting.name for setting in fields(Config)}
STORE = {"S3_ENDPOINT_URL", "S3_BUCKET_NAME", "AWS_ACCESS_KEY", "AWS_ACCESS_SECRET"}
# Addresses on the host mean nothing inside a container, so whoever uses Compose leaves them out.
ON_THE_HOST = ("SQLALCHEMY_DATABASE_URI", "CELERY_BROKER_URL")
AWS = {"S3_BUCKET_NAME": "photos", "AWS_ACCESS_KEY": "aws-key", "AWS_ACCESS_SECRET": "aws-secret"}


def compose(folder: Path, dotenv: str | None = None) -> Services:
    """The services, as Docker Compose reads the file with this .env beside it."""
    shutil.copy(ROOT / "docker-compose.yaml", folder)
    if dotenv is not None:
        (folder / ".env").write_text(dotenv)
    command = [str(SCRIPTS / "docker-compose"), "-f", "docker-compose.yaml", "config", "--format", "json"]
    result = subprocess.run(
        command, cwd=folder, env={"HOME": str(folder)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    services: Services = json.loads(result.stdout)["services"]
    return services


def dotenv_for_aws() -> str:
    """.env.example with every setting uncommented, pointing at a bucket at AWS."""
    example = (ROOT / ".env.example").read_text()
    given: dict[str, str] = dict(re.findall(r"^#? ?([A-Z][A-Z0-9_]*)=(.*)$", example, re.MULTILINE))
    given = {name: value for name, value in given.items() if name not in ON_THE_HOST}
    return "".join(f"{name}={value}\n" for name, value in {**given, **AWS}.items())


@pytest.fixture
def bundled(tmp_path: Path) -> Services:
    return compose(tmp_path)


@pytest.fixture
def at_aws(tmp_path: Path) -> Services:
    return compose(tmp_path, dotenv_for_aws())


@pytest.fixture(params=["bundled", "at_aws"])
def services(request: pytest.FixtureRequest) -> Services:
    """The services without a .env, and with a full one."""
    found: Services = request.getfixturevalue(request.param)
    return found


def waits(services: Services) -> Iterator[tuple[str, str]]:
    """Each dependency between services: what is waited for, and in which condition."""
    for service in services.values():
        for needed, wait in service.get("depends_on", {}).items():
            yield needed, wait["condition"]


def test_the_three_services_of_the_article_are_there(services: Services) -> None:
    assert {"app", "redis", "celery_worker"} <= set(services)


def test_the_app_and_its_worker_share_the_spool(services: Services) -> None:
    for name in ("app", "celery_worker"):
        volumes = {volume["source"]: volume["target"] for volume in services[name]["volumes"]}
        assert volumes == {"spool": services[name]["environment"]["SPOOL_DIR"]}
    assert services["app"]["environment"] == services["celery_worker"]["environment"]


def test_what_runs_on_is_checked_for_health_and_waited_for(services: Services) -> None:
    done = {name for name, condition in waits(services) if condition == "service_completed_successfully"}
    healthy = {name for name, condition in waits(services) if condition == "service_healthy"}
    assert set(services) == {"app", "celery_worker"} | done | healthy
    image_has_one = "HEALTHCHECK" in (ROOT / "Dockerfile").read_text()
    for name in set(services) - done:
        of_image = image_has_one and services[name]["image"] == "ferryman"
        assert of_image or services[name]["healthcheck"]["test"], name


def test_every_setting_given_is_known_and_taken(services: Services) -> None:
    for name in OURS:
        environment = services[name]["environment"]
        assert set(environment) <= SETTINGS | READ_BY_OTHERS  # .env is given to every container
        assert environment["HOST"] == "0.0.0.0"
        config = Config.from_mapping(environment)
        assert Path("/spool") == config.SPOOL_DIR
        assert "@postgres/" in config.SQLALCHEMY_DATABASE_URI
        assert config.CELERY_BROKER_URL == "redis://redis:6379/0"


def test_ports_are_published_on_loopback_only(services: Services) -> None:
    published = {
        (name, port["host_ip"], port["published"])
        for name, service in services.items()
        for port in service.get("ports", [])
    }
    assert published == {("app", "127.0.0.1", "5000"), ("s3", "127.0.0.1", "8333")}


def test_images_are_pinned_and_built_once(services: Services) -> None:
    foreign = {service["image"] for service in services.values()} - {"ferryman"}
    assert all(re.search(r":\d+\.\d+", image) for image in foreign), foreign
    assert len([name for name, service in services.items() if "build" in service]) == 1


@pytest.mark.parametrize(
    ("service", "module", "setting"),
    [
        ("app", "gunicorn.conf.py", "graceful_timeout"),
        ("celery_worker", "delivery/queue.py", "worker_soft_shutdown_timeout"),
    ],
)
def test_a_stop_leaves_time_for_what_runs(bundled: Services, service: str, module: str, setting: str) -> None:
    found = re.search(rf'{setting}"? ?[=:] ?(\d+)', (ROOT / module).read_text())
    assert found
    assert int(bundled[service]["stop_grace_period"].removesuffix("s")) >= int(found[1]) + 10


def test_celery_is_stopped_by_the_signal_that_ends(bundled: Services) -> None:
    assert bundled["celery_worker"]["stop_signal"] == "SIGQUIT"


def test_without_a_dotenv_the_store_brought_along_is_used(bundled: Services) -> None:
    app, bucket, store = (bundled[name]["environment"] for name in ("app", "bucket", "s3"))
    assert {name: app[name] for name in STORE} == bucket
    assert app["AWS_ACCESS_KEY"] == store["AWS_ACCESS_KEY_ID"]
    assert app["AWS_ACCESS_SECRET"] == store["AWS_SECRET_ACCESS_KEY"]
    assert app["S3_BUCKET_BASE_URL"] == "http://localhost:8333/ferryman"


def test_a_dotenv_points_it_at_aws(at_aws: Services) -> None:
    config = Config.from_mapping(at_aws["app"]["environment"])
    assert config.S3_ENDPOINT_URL is None
    assert config.bucket_base_url == "https://photos.s3.us-east-1.amazonaws.com"
    assert config.AWS_ACCESS_SECRET == "aws-secret"


def test_nobody_else_gets_the_keys_for_aws(at_aws: Services) -> None:
    for name in set(at_aws) - set(OURS):
        assert "aws-secret" not in json.dumps(at_aws[name]), name
    assert at_aws["bucket"]["environment"]["S3_ENDPOINT_URL"] == "http://s3:8333"


def test_another_store_gives_its_own_urls(tmp_path: Path) -> None:
    app = compose(tmp_path, "S3_ENDPOINT_URL=https://store.example\nS3_BUCKET_NAME=photos\n")["app"]
    assert app["environment"]["S3_BUCKET_BASE_URL"] == "https://store.example/photos"


def test_a_password_reaches_both_sides(tmp_path: Path) -> None:
    services = compose(tmp_path, "POSTGRES_PASSWORD=other\n")
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "other"
    assert ":other@postgres/" in services["app"]["environment"]["SQLALCHEMY_DATABASE_URI"]


def test_traces_go_out_only_where_someone_takes_them(tmp_path: Path) -> None:
    commands = [json.loads((ROOT / "Dockerfile").read_text().rpartition("CMD ")[2])]
    commands.append(compose(tmp_path)["celery_worker"]["command"])
    for *shell, script in commands:
        started = script.replace("$$", "$").rpartition("exec ")[2]
        for endpoint, first in (("", started.split()[1]), ("http://collector:4318", "opentelemetry-instrument")):
            env = {"PATH": os.environ["PATH"], "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
            result = subprocess.run(
                [*shell, f"echo {started}"], env=env, capture_output=True, text=True, check=True
            )
            assert result.stdout.split()[0] == first


def test_the_image_sends_traces_as_make_run_does() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {name: re.search(rf"\b{name}=(\S+)", dockerfile)[1] for name in TRACES} == TRACES  # type: ignore[index]


def test_hadolint_has_nothing_to_say() -> None:
    command = [str(SCRIPTS / "hadolint"), "--no-color", "Dockerfile"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def is_ignored(name: str) -> bool:
    """Whether .dockerignore leaves a top-level name out of the build; its last matching line decides."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    matching = [line for line in lines if fnmatchcase(name, line.removeprefix("!"))]
    return bool(matching) and not matching[-1].startswith("!")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the Dockerfile copies into the image's own."""
    folder = tmp_path / "app"
    folder.mkdir()
    stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1]
    for source, target in re.findall(r"^COPY (?!--)(\S+) (\S+)$", stage, re.MULTILINE):
        for path in ROOT.glob(source):
            if path.is_dir():
                shutil.copytree(path, folder / target)
            elif not is_ignored(path.name):
                shutil.copy(path, folder / target)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import worker"],
        ["-m", "flask", "--app", "app", "db", "upgrade"],
        ["-m", "gunicorn", "--check-config", "-c", "gunicorn.conf.py", "app:create_app()"],
    ],
)
def test_the_image_has_every_file_it_runs(
    command: list[str], image: Path, bundled: Services, tmp_path: Path
) -> None:
    assert not (image / "local").exists()
    environment: dict[str, str] = {
        **bundled["app"]["environment"],
        "SPOOL_DIR": str(tmp_path / "spool"),
        "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path / 'files.db'}",
    }
    result = subprocess.run(
        [sys.executable, *command], cwd=image, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
