"""Derivatives: what is made of files, as files of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

DERIVED = sa.text("parent_id IS NOT NULL AND erased_at IS NULL")
UNMADE = sa.text("parent_id IS NOT NULL AND made_at IS NULL AND upload_status IN ('PENDING', 'PROCESSING')")
EVENTS = sa.text("parent_id IS NOT NULL")
COLUMNS = {
    "process": sa.Text(),
    "parent_id": sa.String(32),
    "recipe": sa.Text(),
    "recipe_digest": sa.String(16),
    "output": sa.String(16),
    "sheet_no": sa.Integer(),
    "made_at": sa.DateTime(timezone=True),
    "summary": sa.Text(),
    "cpu_seconds": sa.Double(),
}


def upgrade() -> None:
    for name, kind in COLUMNS.items():
        op.add_column("files", sa.Column(name, kind))
    op.create_index(
        "ix_files_parent_id",
        "files",
        ["parent_id", "recipe_digest", "output", "sheet_no"],
        unique=True,
        postgresql_where=DERIVED,
        sqlite_where=DERIVED,
    )
    op.create_index(
        "ix_files_unmade", "files", ["spool_id", "due_at"], postgresql_where=UNMADE, sqlite_where=UNMADE
    )
    op.add_column("events", sa.Column("parent_id", sa.String(32)))
    op.create_index(
        "ix_events_parent_id", "events", ["parent_id", "id"], postgresql_where=EVENTS, sqlite_where=EVENTS
    )


def downgrade() -> None:
    op.drop_index("ix_events_parent_id", "events")
    with op.batch_alter_table("events") as events:
        events.drop_column("parent_id")
    # A version before this one would take them for uploads.
    op.execute("DELETE FROM files WHERE parent_id IS NOT NULL")
    for index in ("ix_files_unmade", "ix_files_parent_id"):
        op.drop_index(index, "files")
    with op.batch_alter_table("files") as files:
        for name in COLUMNS:
            files.drop_column(name)
