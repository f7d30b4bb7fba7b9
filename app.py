"""The application factory."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from flask.json.provider import DefaultJSONProvider
from flask_migrate import Migrate
from werkzeug.middleware.proxy_fix import ProxyFix

import routes
from access import auth, throttle
from access.team_tokens import TeamTokens
from access.throttle import Throttle
from config import Config
from core import background, database, logs, metrics, problems
from core.services import Services
from delivery.ahead import Ahead
from delivery.pool import UploadPool
from delivery.queue import make_celery
from delivery.scanner import Scanner
from events import log as event_log
from events import streams, webhooks
from events.bell import Bell
from events.hub import Hub
from events.webhook_sender import SENDERS
from intake import derive, upload_help
from intake.direct import companion
from intake.direct import views as direct
from intake.protocols import views as uploads
from models import Mode
from openapi import document as openapi_document
from ops import cli, health, scrape
from processing import derivatives, presets
from processing.slots import Slots
from storage.door import Door
from storage.spool import Spool
from storage.store import Store
from web import content, converters, cors, edits, links, listing, pages, security_headers, tokens


class JSONProvider(DefaultJSONProvider):
    """JSON in the order it is written, in any script."""

    sort_keys = False
    ensure_ascii = False


def create_app(env: Mapping[str, str] | None = None) -> Flask:
    """Build the app from settings.

    Args:
        env: environment-like text; by default the process's environment.

    Raises:
        ConfigError: a setting of `env` is missing or wrong.
        SystemExit: one of the process's environment is; one line says which.
    """
    config = Config.of_process() if env is None else Config.from_mapping(env)
    app = Flask(__name__, static_folder="web/static", template_folder="web/templates")
    app.json = JSONProvider(app)
    app.url_map.merge_slashes = False  # the router would redirect to an address with the client's Host in it
    converters.init_app(app)
    logs.init_app(app)
    security_headers.init_app(app)
    metrics.init_app(app, Mode, config.PROMETHEUS_MULTIPROC_DIR)
    threads = config.WEB_THREADS + config.UPLOAD_THREADS + SENDERS + 4  # requests, deliveries, and all loops
    background.init_app(app)
    database.init_app(app, config.SQLALCHEMY_DATABASE_URI, config.SPOOL_FSYNC, threads)
    Migrate(app, database.db)
    app.extensions["ferryman"] = _parts(app, config)
    problems.init_app(app)
    cors.init_app(app)
    auth.init_app(app)
    throttle.init_app(app)
    event_log.init_app(app)
    derivatives.init_app(app)
    webhooks.init_app(app)
    health.init_app(app)
    for view in (
        pages,
        upload_help,
        routes,
        uploads,
        direct,
        companion,
        derive,
        listing,
        content,
        edits,
        links,
        tokens,
        streams,
        health,
        scrape,
    ):
        app.register_blueprint(view.bp)
    openapi_document.init_app(app)
    cli.init_app(app)
    app.wsgi_app = uploads.overriding(app.wsgi_app)  # type: ignore[method-assign, assignment]
    if config.TRUSTED_PROXIES:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=config.TRUSTED_PROXIES)  # type: ignore[method-assign]
    return app


def _parts(app: Flask, config: Config) -> Services:
    bell = Bell(config.CELERY_BROKER_URL)
    spool, store = Spool(config.SPOOL_DIR, config.SPOOL_MAX_BYTES, config.SPOOL_FSYNC), Store(config)
    return Services(
        config=config,
        spool=spool,
        store=store,
        door=Door(config, store),
        pool=UploadPool(config.UPLOAD_THREADS, config.UPLOAD_BACKLOG),
        ahead=Ahead(store, spool, config),
        celery=make_celery(app, config, spool.id),
        throttle=Throttle(config),
        team_tokens=TeamTokens(config) if config.takes_team_tokens else None,
        bell=bell,
        hub=Hub(bell),
        presets=presets.load(config.PRESETS_FILE),
        slots=Slots(app, config.PROCESS_SLOTS),
        scanner=Scanner(config.CLAMD_ADDRESS, config.CLAMD_MAX_BYTES) if config.CLAMD_ADDRESS else None,
    )
