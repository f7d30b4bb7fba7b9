"""Deleting a file: its row, its object and its bytes in the spool, whatever runs and whatever fails meanwhile."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Row

import bucket
from errors import StoreError
from models import File
from services import services

log = logging.getLogger(__name__)


def erase(row: Row[Any]) -> bool:
    """Let nobody see the file from now on, and remove what can be removed at once; the sweep removes the rest.

    Returns:
        False if another request has erased it.
    """
    if not File.erase(row.id, row.owner):
        return False
    if not row.lease_owner:
        _remove(row)
    return True


def remove_erased() -> None:
    """Remove what is left of the erased files that no run has any more."""
    for row in File.erased(services().spool.id):
        _remove(row)


def _remove(row: Row[Any]) -> None:
    ferry = services()
    try:
        ferry.store.delete(row.key)
        bucket.abort_all(ferry.store, row.key)
    except StoreError as error:
        log.warning("the object of the erased file %s is left to the sweep: %s", row.id, error.detail)
        return
    if row.spool_id == ferry.spool.id:  # only the sweep of that spool can drop the bytes, and then the row
        ferry.spool.drop(row.id)
        File.remove(row.id)
