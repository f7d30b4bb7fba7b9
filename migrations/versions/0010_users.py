"""Users of an owner, metadata, and files that expire."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UNDELIVERED = sa.text("upload_status IN ('PENDING', 'PROCESSING')")
EXPIRES = sa.text("expires_at IS NOT NULL AND erased_at IS NULL")
OF_USER = sa.text("subject IS NOT NULL")
UNDELIVERED_OF_USER = sa.text("subject IS NOT NULL AND upload_status IN ('PENDING', 'PROCESSING')")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("files", sa.Column("subject", sa.String(255)))
    op.add_column("files", sa.Column("user_metadata", sa.Text))
    op.add_column("files", sa.Column("expires_at", MOMENT))
    _create_index("ix_files_subject_created_at", ["owner", "subject", "created_at", "id"], OF_USER)
    _create_index("ix_files_subject", ["owner", "subject"], UNDELIVERED_OF_USER)
    op.drop_index("ix_files_owner", "files")  # and made anew: of two that serve alike, SQLite takes the younger
    _create_index("ix_files_owner", ["owner"], UNDELIVERED)
    _create_index("ix_files_expires_at", ["expires_at"], EXPIRES)
    op.create_table(
        "file_metadata",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(32), primary_key=True),
        sa.Column("created_at", MOMENT, primary_key=True),
        sa.Column("file_id", sa.String(32), primary_key=True),
    )
    op.create_index("ix_file_metadata_file_id", "file_metadata", ["file_id"])
    op.add_column("events", sa.Column("subject", sa.String(255)))
    op.add_column("reservations", sa.Column("subject", sa.String(255)))
    op.add_column("reservations", sa.Column("token_id", sa.String(32)))
    op.add_column("accounts", sa.Column("uploaded_files", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("accounts", sa.Column("expires_at", MOMENT))
    op.create_index("ix_accounts_expires_at", "accounts", ["expires_at"])


def downgrade() -> None:
    op.drop_index("ix_accounts_expires_at", "accounts")
    op.execute("DELETE FROM accounts WHERE expires_at IS NOT NULL")
    op.drop_table("file_metadata")
    for index in ("ix_files_expires_at", "ix_files_subject", "ix_files_subject_created_at"):
        op.drop_index(index, "files")
    columns = {
        "accounts": ("expires_at", "uploaded_files"),
        "reservations": ("token_id", "subject"),
        "events": ("subject",),
        "files": ("expires_at", "user_metadata", "subject"),
    }
    for table, names in columns.items():
        with op.batch_alter_table(table) as altered:
            for name in names:
                altered.drop_column(name)


def _create_index(name: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, "files", columns, postgresql_where=where, sqlite_where=where)
