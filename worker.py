"""The Celery app for `celery -A worker worker`."""

import logging.config
import os
from typing import Any

from celery.signals import setup_logging
from dotenv import load_dotenv

from app import create_app
from config import Config
from core import logs

load_dotenv()
Config.of_process()  # which says what is wrong, before the logs choke on it
logging.config.dictConfig(logs.configuration(os.environ))
logging.captureWarnings(True)


@setup_logging.connect
def keep_our_logs(**_: Any) -> None:
    """Exist: with a receiver of this signal, Celery sets up no logs of its own."""


celery = create_app().extensions["ferryman"].celery
