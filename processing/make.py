"""Making: one run that makes the derivatives of an original, into the spool, and then delivers them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, BinaryIO

from werkzeug.http import parse_options_header

from core import logs
from core.database import new_id, utcnow
from core.errors import BytesLost, ProcessorDied, ProofFailed, StoreError, Unprocessable, UploadError
from core.file_row import FileRow
from core.metrics import metrics
from core.services import services
from delivery.deliver import backoff_seconds, deliver, deliver_claimed, drop_bytes
from delivery.lease import Heartbeat, LeaseLost
from models import File, UploadStatus
from processing import recipes, sandbox
from processing.budgets import limits_of
from processing.hints import HINTS
from processing.recipes import Recipe
from processing.scratch import Scratch
from storage import file_queries

log = logging.getLogger(__name__)

ATTEMPTS: dict[type[UploadError], int] = {Unprocessable: 1, ProofFailed: 1, ProcessorDied: 2}
LANES = {"image": "images", "table": "tables.lane"}
NOT_MADE = "Processing has made nothing of this kind."
ORIGINAL_GONE = "The original is gone."
UNEXPECTED = "Processing failed unexpectedly."
MAX_SUMMARY_BYTES = 16 * 1024
OUTCOMES = {Unprocessable: "unprocessable", ProcessorDied: "died", ProofFailed: "proof_failed"}


def make(file_id: str) -> None:
    """Make a derivative, and what its lane makes along with it; then deliver. A no-op if another run has it.

    Args:
        file_id: the derivative's row.
    """
    with logs.about(file_id=file_id):
        ferry, run_id = services(), new_id()
        row = File.claim(file_id, run_id, ferry.config.LEASE_SECONDS, to_make=True)
        if row is None:
            return
        ferry.leases[file_id] = run_id
        try:
            made = _run(row, run_id)
        finally:
            ferry.leases.pop(file_id, None)
            ferry.bell.ring()
        for other in made:
            if other != file_id:
                deliver(other)


def _run(row: FileRow, run_id: str) -> Sequence[str]:
    """Return the ids of the derivatives that have their bytes."""
    recipe = recipes.load_one(row)
    try:
        made = _make(row, recipe, run_id)
    except LeaseLost:
        log.info("derivative %s was taken over by another run, or deleted", row.id)
        return ()
    except UploadError as error:
        _fail(row, run_id, error, recipe)
        return ()
    except Exception:
        log.exception("derivative %s was not made", row.id)
        metrics().failed("Unexpected")
        _fail(row, run_id, ProcessorDied(UNEXPECTED), recipe)
        return ()
    finally:
        _release_original(row)
    if row.id in made and (again := File.find(row.id)) and again.lease_owner == run_id:
        deliver_claimed(again, run_id)
    return made


def _release_original(row: FileRow) -> None:
    parent = File.find(row.parent_id or "")
    if parent and parent.sha256:  # else its digest is still to be taken of the bytes
        drop_bytes(parent)


def _make(row: FileRow, recipe: Recipe, run_id: str) -> Sequence[str]:
    ferry = services()
    parent = File.find(row.parent_id or "")
    if parent is None or parent.upload_status != UploadStatus.COMPLETE:
        raise BytesLost(ORIGINAL_GONE)
    if row.attempts > ferry.config.MAX_ATTEMPTS:
        raise UploadError(f"Given up after {row.attempts - 1} attempts.")
    together = _siblings(row, recipe)
    beat = Heartbeat(row, run_id, ferry.config.LEASE_SECONDS)
    with Scratch(ferry.spool, f"{row.id}.{run_id}") as scratch, _original(parent, scratch, beat) as source:
        wanted = [_declared(recipes.load_one(one), parent).dump() for one in together]
        answer = sandbox.run(
            LANES[recipe.kind],
            list({one["digest"]: one for one in wanted}.values()),
            limits_of(recipe.kind, parent, ferry.config),
            source,
            scratch.folder,
            lambda: beat(0),
            ferry.config.LEASE_SECONDS,
        )
        metrics().processed(recipe.kind, "made", answer.cpu_seconds, answer.memory_bytes)
        return _take(row, run_id, parent, together, answer, scratch)


def _declared(recipe: Recipe, parent: FileRow) -> Recipe:
    """Return a recipe that knows the `charset` of its original's media type, if it names one."""
    charset = parse_options_header(parent.content_type)[1].get("charset", "")
    is_known = recipe.kind == "table" and charset and HINTS["encoding"].read(charset)
    return recipe._replace(values={**recipe.values, "declared_encoding": charset}) if is_known else recipe


def _siblings(row: FileRow, recipe: Recipe) -> list[FileRow]:
    """Return the derivatives that are made together: all images that wait, by one decoding; else of one recipe."""
    found = [row]
    for other in file_queries.derivatives([row.parent_id or ""]):
        waits = other.upload_status == UploadStatus.PENDING and other.made_at is None and other.id != row.id
        is_alike = other.recipe_digest == row.recipe_digest or recipe.kind == "image"
        if waits and is_alike and recipes.load_one(other).kind == recipe.kind:
            found.append(other)
    return found


def _original(parent: FileRow, scratch: Scratch, beat: Heartbeat) -> BinaryIO:
    """Open the original: from the spool, else as S3 holds it, checked.

    Raises:
        BytesLost: what S3 holds is not what was uploaded.
        StoreError: S3 does not give it.
    """
    ferry = services()
    if parent.spool_id == ferry.spool.id:
        try:
            return ferry.spool.open(parent.id)
        except FileNotFoundError:
            pass
    return scratch.fetch(ferry.store.read(parent.key, 0, parent.size) if parent.size else iter(()), parent, beat)


def _take(
    row: FileRow,
    run_id: str,
    parent: FileRow,
    together: Sequence[FileRow],
    answer: sandbox.Answer,
    scratch: Scratch,
) -> Sequence[str]:
    """Take what the child has made into the spool, and record it. Trusts nothing that the child says of it."""
    ours = {(one.recipe_digest, one.output, one.sheet_no): one for one in together}
    there = {(one.recipe_digest, one.output, one.sheet_no): one for one in file_queries.derivatives([parent.id])}
    known = {recipes.load_one(one).digest: recipes.load_one(one) for one in together}
    values: dict[str, dict[str, Any]] = {}
    further: list[FileRow] = []
    for entry in answer.outputs[: len(known) * MOST_OUTPUTS]:
        recipe, name = (
            known.get(str(entry.get("recipe"))),
            (entry.get("recipe"), entry["output"], entry["sheet_no"]),
        )
        if recipe is None or (name in there and name not in ours):
            continue  # was made by an earlier run
        child_id = ours[name].id if name in ours else new_id()
        columns = _columns(parent, recipe, child_id, entry, scratch)
        if name in ours:
            values[child_id] = columns
        else:
            further.append(_new_row(row, parent, recipe, child_id, columns, entry))
    error = answer.error or ("" if row.id in values else NOT_MADE)
    kept = File.made(row.id, run_id, values, further, error or None)
    for lost in {*values, *(one.id for one in further)} - set(kept or ()):
        services().spool.drop(lost)
    if kept is None:
        raise LeaseLost
    return [one for one in (row.id, *values, *(one.id for one in further)) if one in kept]


MOST_OUTPUTS = 100


def _columns(
    parent: FileRow, recipe: Recipe, child_id: str, entry: Mapping[str, Any], scratch: Scratch
) -> dict[str, Any]:
    """Take one output into the spool. Returns the columns of its row."""
    taken = scratch.take(str(entry["file"]), child_id)
    stem = parent.name.rpartition(".")[0] or parent.name
    ending = f"-{recipe.preset}.{recipes.extension(recipe, entry['output'])}"
    summary = json.dumps(entry.get("summary") or {}, separators=(",", ":"))
    return {
        "name": stem.encode()[: 255 - len(ending)].decode(errors="ignore") + ending,
        "key": recipes.key(recipe, parent, child_id, entry["output"], str(entry.get("sheet") or "")),
        "size": taken.size,
        "crc64nvme": taken.crc64nvme,
        "sha256": None,
        "content_type": str(entry["content_type"])[:255],
        "detected_type": str(entry["content_type"])[:255],
        "spool_id": services().spool.id,
        "summary": summary if len(summary) <= MAX_SUMMARY_BYTES else "{}",
    }


def _new_row(
    row: FileRow,
    parent: FileRow,
    recipe: Recipe,
    child_id: str,
    columns: Mapping[str, Any],
    entry: Mapping[str, Any],
) -> FileRow:
    now = utcnow()
    values = {**draft_values(parent, recipe, child_id), **columns}
    values |= {"output": entry["output"], "sheet_no": entry["sheet_no"], "made_at": now, "due_at": now}
    return File.draft(values.pop("name"), **values)


def draft_values(parent: FileRow, recipe: Recipe, child_id: str) -> dict[str, Any]:
    """Return the columns of a derivative's new row, which waits to be made."""
    now, config = utcnow(), services().config
    return {
        "id": child_id,
        "parent_id": parent.id,
        "owner": parent.owner,
        "subject": parent.subject,
        "name": parent.name,
        "key": recipes.key(recipe, parent, child_id, recipe.output),
        "mode": parent.mode,
        "size": 0,
        "content_type": "application/octet-stream",
        "detected_type": "",
        "crc64nvme": "",
        "spool_id": parent.spool_id,
        "upload_status": UploadStatus.PENDING,
        "attempts": 0,
        "bytes_sent": 0,
        "created_at": now,
        "updated_at": now,
        "due_at": now,
        "retry_until": now + timedelta(seconds=config.RETRY_WINDOW_SECONDS),
        "recipe": json.dumps(recipe.dump(), separators=(",", ":")),
        "recipe_digest": recipe.digest,
        "output": recipe.output,
        "sheet_no": 0,
    }


def _fail(row: FileRow, run_id: str, error: UploadError, recipe: Recipe) -> None:
    log.warning("derivative %s was not made: %s", row.id, error.detail)
    metrics().failed(type(error).__name__)
    if outcome := OUTCOMES.get(type(error)):
        metrics().processed(recipe.kind, outcome)
    heals = isinstance(error, StoreError)
    most = services().config.MAX_ATTEMPTS if heals else ATTEMPTS.get(type(error), 1)
    if row.attempts >= most or utcnow() >= row.retry_until:
        File.fail(row.id, run_id, error.detail)
    else:
        File.give_back(row.id, run_id, backoff_seconds(row.attempts), error.detail)
