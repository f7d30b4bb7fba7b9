"""Uploads whose bytes clients send to the bucket themselves, and tickets for them."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
UNFINISHED = sa.text("finished_at IS NULL AND gone_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "direct_uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(255)),
        sa.Column("token_id", sa.String(32)),
        sa.Column("limits", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("landing_key", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("size", sa.BigInteger()),
        sa.Column("most_bytes", sa.BigInteger(), nullable=False),
        sa.Column("digests", sa.Text(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("part_bytes", sa.BigInteger()),
        sa.Column("s3_upload_id", sa.Text()),
        sa.Column("closing", sa.Boolean(), nullable=False),
        sa.Column("promised", sa.Boolean(), nullable=False),
        sa.Column("parts", sa.Text()),
        sa.Column("claim", sa.String(32)),
        sa.Column("look_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("finished_at", TIME),
        sa.Column("gone_at", TIME),
    )
    where = {"postgresql_where": UNFINISHED, "sqlite_where": UNFINISHED}
    for column in ("look_at", "owner"):
        op.create_index(f"ix_direct_uploads_{column}", "direct_uploads", [column], **where)
    op.create_index("ix_direct_uploads_updated_at", "direct_uploads", ["updated_at"])
    op.add_column("api_keys", sa.Column("subject", sa.String(255)))
    op.add_column("api_keys", sa.Column("token_id", sa.String(32)))
    op.add_column("api_keys", sa.Column("limits", sa.Text()))
    op.add_column("api_keys", sa.Column("expires_at", TIME))
    op.create_index("ix_api_keys_expires_at", "api_keys", ["expires_at"])


def downgrade() -> None:
    op.execute("DELETE FROM api_keys WHERE expires_at IS NOT NULL")
    op.drop_index("ix_api_keys_expires_at", "api_keys")
    with op.batch_alter_table("api_keys") as table:
        for name in ("subject", "token_id", "limits", "expires_at"):
            table.drop_column(name)
    op.drop_table("direct_uploads")
