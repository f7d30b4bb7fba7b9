"""Owners, their keys and quotas, and files that were deleted."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNDELIVERED = sa.text("upload_status IN ('PENDING', 'PROCESSING')")
ERASED = sa.text("erased_at IS NOT NULL")


def upgrade() -> None:
    # Files from before this revision belong to whoever uses the service without a key.
    op.add_column("files", sa.Column("owner", sa.String(64), nullable=False, server_default="anonymous"))
    op.add_column("files", sa.Column("erased_at", sa.DateTime(timezone=True)))
    op.create_index("ix_files_owner", "files", ["owner"], postgresql_where=UNDELIVERED, sqlite_where=UNDELIVERED)
    op.create_index("ix_files_owner_created_at", "files", ["owner", "created_at", "id"])
    op.create_index("ix_files_erased_at", "files", ["erased_at"], postgresql_where=ERASED, sqlite_where=ERASED)
    op.drop_index("ix_files_created_at", "files")
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False, index=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "accounts",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("uploaded_bytes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False, index=True),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    # Revision 0004 knows no erased files, and would show them again. Objects not deleted yet stay.
    op.execute("DELETE FROM files WHERE erased_at IS NOT NULL")
    for table in ("reservations", "accounts", "api_keys"):
        op.drop_table(table)
    op.create_index("ix_files_created_at", "files", ["created_at", "id"])
    for index in ("ix_files_erased_at", "ix_files_owner_created_at", "ix_files_owner"):
        op.drop_index(index, "files")
    with op.batch_alter_table("files") as files:
        files.drop_column("erased_at")
        files.drop_column("owner")
