"""Commands for whoever runs the service: `flask create-bucket`."""

from __future__ import annotations

import time

import click
from flask import Flask
from flask.cli import with_appcontext

from errors import StoreError
from tasks import services


def init_app(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(create_bucket)


@click.command("create-bucket")
@click.option("--public-read", is_flag=True, help="Let everyone read its objects.")
@click.option("--wait", default=0.0, metavar="SECONDS", help="Keep trying for so long.")
@with_appcontext
def create_bucket(public_read: bool, wait: float) -> None:
    """Make the bucket, unless it is there."""
    deadline = time.monotonic() + wait
    while True:
        try:
            services().store.make_bucket(public_read)
            return
        except StoreError as error:
            if time.monotonic() >= deadline:
                raise click.ClickException(error.detail) from error
            time.sleep(0.2)
