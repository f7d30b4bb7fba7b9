"""Indexes for a million rows: a small one for the sweep, and two for listings."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UNDELIVERED = sa.text("upload_status IN ('PENDING', 'PROCESSING')")


def upgrade() -> None:
    op.create_index(
        "ix_files_spool_id_due_at",
        "files",
        ["spool_id", "due_at"],
        postgresql_where=UNDELIVERED,
        sqlite_where=UNDELIVERED,
    )
    op.create_index("ix_files_upload_status_created_at", "files", ["upload_status", "created_at", "id"])
    op.create_index("ix_files_created_at", "files", ["created_at", "id"])
    op.drop_index("ix_files_upload_status_due_at", "files")


def downgrade() -> None:
    op.create_index("ix_files_upload_status_due_at", "files", ["upload_status", "due_at"])
    op.drop_index("ix_files_created_at", "files")
    op.drop_index("ix_files_upload_status_created_at", "files")
    op.drop_index("ix_files_spool_id_due_at", "files")
