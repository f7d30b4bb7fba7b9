"""The Celery app for `celery -A worker worker`."""

from dotenv import load_dotenv

from app import create_app

load_dotenv()
celery = create_app().extensions["ferryman"].celery
