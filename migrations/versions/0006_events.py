"""The log of what happens to files, and how much of them is sent."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("bytes_sent", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("file_id", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("upload_status", sa.String(16), nullable=False),
        sa.Column("bytes_sent", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_file_id", "events", ["file_id", "id"])


def downgrade() -> None:
    op.drop_table("events")
    with op.batch_alter_table("files") as files:
        files.drop_column("bytes_sent")
