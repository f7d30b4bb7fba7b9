"""Making: one run that makes the derivatives of an original, into the spool, and then delivers them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from werkzeug.http import parse_options_header

from core import logs
from core.database import new_id, utcnow
from core.errors import (
    Busy,
    BytesLost,
    ProcessorDied,
    ProofFailed,
    SpoolUnavailable,
    StoreError,
    Unprocessable,
    UploadError,
)
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from delivery.deliver import backoff_seconds, deliver, deliver_claimed, drop_bytes
from delivery.lease import Heartbeat, LeaseLost
from models import File, UploadStatus
from processing import outputs, recipes
from processing.budgets import limits_of
from processing.hints import HINTS
from processing.recipes import Recipe
from processing.sandbox import parent as sandbox
from processing.scratch import Scratch
from storage import file_queries

log = logging.getLogger(__name__)

ATTEMPTS: dict[type[UploadError], int] = {Unprocessable: 1, ProofFailed: 1, ProcessorDied: 2}
PASSING = (StoreError, Busy, SpoolUnavailable)
"""What is no fault of the file, and may pass."""
LANES = {"image": "images", "table": "tables.lane"}
ORIGINAL_GONE = "The original is gone."
UNEXPECTED = "Processing failed unexpectedly."
OUTCOMES = {Unprocessable: "unprocessable", ProcessorDied: "died", ProofFailed: "proof_failed"}


def make(file_id: str) -> None:
    """Make a derivative, and what its lane makes along with it; then deliver. A no-op if another run has it.

    Args:
        file_id: the derivative's row.
    """
    with logs.about(file_id=file_id):
        ferry, run_id = services(), new_id()
        rows = _claim(file_id, run_id)
        if not rows:
            return
        ferry.leases.update((row.id, run_id) for row in rows)
        try:
            made = _run(rows, run_id)
        finally:
            for row in rows:
                ferry.leases.pop(row.id, None)
            ferry.bell.ring()
        for other in made:
            if other != file_id:
                deliver(other)


def _claim(file_id: str, run_id: str) -> list[FileRow]:
    """Claim a derivative, and those that are made with it: all images by one decoding, else of one recipe."""
    first = _claim_one(file_id, run_id)
    if first is None:
        return []
    recipe, found = recipes.load_one(first), [first]
    for other in file_queries.derivatives([first.parent_id or ""]):
        is_alike = other.recipe_digest == first.recipe_digest or recipe.kind == "image"
        waits = other.upload_status == UploadStatus.PENDING and other.made_at is None
        if is_alike and waits and recipes.load_one(other).kind == recipe.kind:
            found += filter(None, [_claim_one(other.id, run_id)])
    return found


def _claim_one(file_id: str, run_id: str) -> FileRow | None:
    return File.claim(file_id, run_id, services().config.LEASE_SECONDS, to_make=True)


def _run(rows: Sequence[FileRow], run_id: str) -> Sequence[str]:
    """Return the ids of the derivatives that have their bytes."""
    try:
        made = _make(rows, run_id)
    except LeaseLost:
        log.info("a derivative was taken over by another run, or deleted")
        for row in rows:
            File.give_back(row.id, run_id, 0)
        return ()
    except UploadError as error:
        _fail(rows, run_id, error)
        return ()
    except Exception:
        log.exception("a derivative was not made")
        metrics().failed("Unexpected")
        _fail(rows, run_id, ProcessorDied(UNEXPECTED))
        return ()
    finally:
        _release_original(rows[0])
    again = File.find(rows[0].id)
    if again and rows[0].id in made and again.lease_owner == run_id:
        deliver_claimed(again, run_id)
    return made


def _release_original(row: FileRow) -> None:
    parent = File.find(row.parent_id or "")
    if parent and parent.sha256:  # else its digest is still to be taken of the bytes
        drop_bytes(parent)


def _make(rows: Sequence[FileRow], run_id: str) -> Sequence[str]:
    ferry, first = services(), rows[0]
    parent = File.find(first.parent_id or "")
    if parent is None or parent.upload_status != UploadStatus.COMPLETE:
        raise BytesLost(ORIGINAL_GONE)
    if first.attempts > ferry.config.MAX_ATTEMPTS:
        raise UploadError(f"Given up after {first.attempts - 1} attempts.")
    recipe = recipes.load_one(first)
    beats = [Heartbeat(row, run_id, ferry.config.LEASE_SECONDS) for row in rows]

    def beat() -> None:
        for each in beats:
            each(0)

    with Scratch(ferry.spool, f"{first.id}.{run_id}") as scratch, _original(parent, scratch, beats[0]) as source:
        wanted = {row.recipe_digest: _declared(recipes.load_one(row), parent).dump() for row in rows}
        limits = limits_of(recipe.kind, parent, ferry.config)
        silence = ferry.config.LEASE_SECONDS
        answer = sandbox.run(
            LANES[recipe.kind], list(wanted.values()), limits, source, scratch.folder, beat, silence
        )
        metrics().processed(recipe.kind, "made", answer.cpu_seconds, answer.memory_bytes)
        return outputs.take(rows, run_id, parent, answer, scratch)


def _declared(recipe: Recipe, parent: FileRow) -> Recipe:
    """Return a recipe that knows the `charset` of its original's media type, if it names one."""
    charset = parse_options_header(parent.content_type)[1].get("charset", "")
    is_known = recipe.kind == "table" and charset and HINTS["encoding"].read(charset)
    return recipe._replace(values={**recipe.values, "declared_encoding": charset}) if is_known else recipe


def _original(parent: FileRow, scratch: Scratch, beat: Heartbeat) -> BinaryIO:
    """Open the original: from the spool, else as S3 holds it, checked.

    Raises:
        BytesLost: what S3 holds is not what was uploaded.
        StoreError: S3 does not give it.
    """
    ferry = services()
    if parent.spool_id == ferry.spool.id:
        with suppress(FileNotFoundError):
            return ferry.spool.open(parent.id)
    return scratch.fetch(ferry.store.read(parent.key, 0, parent.size) if parent.size else iter(()), parent, beat)


def _fail(rows: Sequence[FileRow], run_id: str, error: UploadError) -> None:
    log.warning("derivatives were not made: %s", error.detail)
    metrics().failed(type(error).__name__)
    if outcome := OUTCOMES.get(type(error)):
        metrics().processed(recipes.load_one(rows[0]).kind, outcome)
    most = services().config.MAX_ATTEMPTS if isinstance(error, PASSING) else ATTEMPTS.get(type(error), 1)
    for row in rows:
        if row.attempts >= most or utcnow() >= row.retry_until:
            File.fail(row.id, run_id, error.detail)
        else:
            File.give_back(row.id, run_id, backoff_seconds(row.attempts), error.detail)
