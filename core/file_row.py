"""The columns of a File row, for type checkers: rows that were read, and drafts of new ones."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from models import Mode, UploadStatus


class FileRow(Protocol):
    """One File. Times are in UTC, sizes in bytes."""

    id: str
    owner: str
    """The account whose keys see the file."""
    subject: str | None
    """The user of the account whose file it is; None for the account's own."""
    name: str
    """The file's name, as the client sent it."""
    name_search: str
    """The name in the form that searches compare."""
    key: str
    """The object's key in S3."""
    mode: Mode
    size: int
    content_type: str
    """The media type that the client declared."""
    detected_type: str
    """The media type that the first bytes tell; empty in rows from before detection."""
    crc64nvme: str
    """Base64 of the CRC64NVME of the received bytes, as S3 writes it."""
    user_metadata: str | None
    """The client's own words beside the file, as JSON; None without any."""
    spool_id: str
    """Identity of the spool that holds the bytes."""
    due_at: datetime
    """When the sweep takes the row: the end of the lease while PROCESSING, the next attempt while PENDING."""
    retry_until: datetime
    """When a failing delivery is given up."""
    upload_status: UploadStatus
    url: str | None
    """The object's address; None until COMPLETE."""
    sha256: str | None
    """Hexadecimal SHA-256. The request or the delivery computes it; of a file that was sent to S3 while it
    arrived, a later pass. None until then."""
    bytes_sent: int
    """Bytes that the present run has sent to S3."""
    attempts: int
    error: str | None
    lease_owner: str | None
    """Id of the run that holds the lease."""
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    expires_at: datetime | None
    """When the file shall be deleted; None for never."""
    erased_at: datetime | None
    """When the owner deleted the file, or it expired. Nobody sees the row any more; the sweep removes it."""
    process: str | None
    """The recipes for its processing, as JSON; None without any."""
    parent_id: str | None
    """The original that a derivative was made from; None for an original."""
    recipe: str | None
    """A derivative's own recipe, as JSON."""
    recipe_digest: str | None
    output: str | None
    """Which output of its recipe a derivative is: `variant`, `part`, `rejected`, `report`."""
    sheet_no: int | None
    """Which sheet of a workbook a derivative is of; 0 for the first or only one."""
    made_at: datetime | None
    """When a derivative's bytes were made; None before."""
    summary: str | None
    """What a derivative's making has found, as JSON."""
    cpu_seconds: float | None
    """The computing of the child that made this derivative; None where another was made along with it."""
