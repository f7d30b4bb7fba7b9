"""The spools of all hosts, and when each was last in use."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "spools",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    # Those of hosts that are gone already are found, ten minutes from now.
    op.execute("INSERT INTO spools (id, host, seen_at) SELECT DISTINCT spool_id, '', CURRENT_TIMESTAMP FROM files")


def downgrade() -> None:
    op.drop_table("spools")
