"""What a child has made becomes rows, and files of the spool. Nothing that the child says of it is trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from core.database import new_id, utcnow
from core.errors import ProcessorDied
from core.file_row import FileRow
from core.services import services
from delivery.lease import LeaseLost
from models import IN_BUCKET, File, UploadStatus
from processing import recipes
from processing.recipes import OUTPUTS, Recipe
from processing.sandbox.parent import NONSENSE, Answer
from processing.scratch import Scratch
from storage import file_queries

NOT_MADE = "Processing has made nothing of this kind."
MAX_SUMMARY_BYTES, MAX_ENTRY_BYTES, MAX_ENTRIES = 16 * 1024, 500, 30
MOST_OUTPUTS = 100
MAX_TYPE = 255
SHEET = re.compile(r"[a-z0-9_]{0,32}", re.ASCII)

Name = tuple[str | None, str | None, int | None]
"""Which output of which recipe a derivative is."""


def take(rows: Sequence[FileRow], run_id: str, parent: FileRow, answer: Answer, scratch: Scratch) -> Sequence[str]:
    """Take what a child has made into the spool, and record it.

    Args:
        rows: the derivatives that the run holds.
        run_id: the run.
        parent: their original.
        answer: what the child says that it has made.
        scratch: where that is.

    Returns:
        The ids of the derivatives that have their bytes now.

    Raises:
        LeaseLost: the first of them is another's by now.
        ProcessorDied: the child's answer is nonsense.
    """
    ours = {_name(row): row for row in rows}
    known = {recipe.digest: recipe for recipe in map(recipes.load_one, rows)}
    there = {_name(row) for row in file_queries.derivatives([parent.id])} - ours.keys()
    values: dict[str, dict[str, Any]] = {row.id: {} for row in rows}
    further: list[FileRow] = []
    for entry in map(_checked, answer.outputs[: len(known) * MOST_OUTPUTS]):
        recipe, name = known.get(entry["recipe"]), (entry["recipe"], entry["output"], entry["sheet_no"])
        if recipe is None or name in there:  # an earlier run has made it
            continue
        child_id = ours[name].id if name in ours else new_id()
        columns = _columns(parent, recipe, child_id, entry, scratch)
        if name in ours:
            values[child_id] = columns
        else:
            further.append(_new_row(parent, recipe, child_id, columns, entry))
    if values[rows[0].id]:
        values[rows[0].id]["cpu_seconds"] = answer.cpu_seconds
    kept = File.made(run_id, values, further, answer.error or NOT_MADE)
    for lost in {*values, *(row.id for row in further)} - {*(kept or ())}:
        services().spool.drop(lost)
    if kept is None:
        raise LeaseLost
    return [one for one in (*values, *(row.id for row in further)) if one in kept]


def _name(row: FileRow) -> Name:
    return row.recipe_digest, row.output, row.sheet_no


def _checked(entry: Any) -> dict[str, Any]:
    """Return an output as the child names it, if it can be one."""
    kinds = {"recipe": str, "file": str, "output": str, "content_type": str, "sheet": str, "sheet_no": int}
    is_whole = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
    is_known = is_whole and entry["output"] in OUTPUTS and SHEET.fullmatch(entry["sheet"])
    if not is_known or not 0 <= entry["sheet_no"] < MOST_OUTPUTS:
        raise ProcessorDied(NONSENSE)
    return dict(entry)


def _columns(
    parent: FileRow, recipe: Recipe, child_id: str, entry: Mapping[str, Any], scratch: Scratch
) -> dict[str, Any]:
    """Take one output into the spool. Returns the columns of its row."""
    taken = scratch.take(entry["file"], child_id)
    stem = parent.name.rpartition(".")[0] or parent.name
    ending = f"-{recipe.preset}.{recipes.extension(recipe, entry['output'])}"
    return {
        "name": stem.encode()[: 255 - len(ending)].decode(errors="ignore") + ending,
        "key": recipes.key(recipe, parent, child_id, entry["output"], entry["sheet"]),
        "size": taken.size,
        "crc64nvme": taken.crc64nvme,
        "sha256": None,
        "content_type": entry["content_type"][:MAX_TYPE],
        "detected_type": entry["content_type"][:MAX_TYPE],
        "spool_id": services().spool.id,
        "summary": _summary(entry.get("summary")),
        "error": None,
    }


def _summary(found: Any) -> str:
    """Return a summary as JSON; of one that is too long only what is short."""
    whole = found if isinstance(found, dict) else {}
    text = json.dumps(whole, separators=(",", ":"))
    if len(text) <= MAX_SUMMARY_BYTES:
        return text
    short = {key: value for key, value in whole.items() if len(json.dumps(value)) <= MAX_ENTRY_BYTES}
    return json.dumps(dict(list(short.items())[:MAX_ENTRIES]), separators=(",", ":"))


def _new_row(
    parent: FileRow, recipe: Recipe, child_id: str, columns: Mapping[str, Any], entry: Mapping[str, Any]
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
        "spool_id": services().spool.id if parent.spool_id == IN_BUCKET else parent.spool_id,
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
