"""The media type that a file's bytes tell, beside the declared one."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("detected_type", sa.String(255), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("files") as files:
        files.drop_column("detected_type")
