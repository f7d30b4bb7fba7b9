"""Names as searches compare them: composed, and without case."""

from unicodedata import normalize

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BATCH = 1000
READ = sa.text("SELECT id, name FROM files WHERE id > :last ORDER BY id LIMIT :batch")
WRITE = sa.text("UPDATE files SET name_search = :folded WHERE id = :id")


def upgrade() -> None:
    op.add_column("files", sa.Column("name_search", sa.Text, nullable=False, server_default=""))
    connection, last = op.get_bind(), ""
    while rows := connection.execute(READ, {"last": last, "batch": BATCH}).all():
        connection.execute(WRITE, [{"id": row.id, "folded": _fold(row.name)} for row in rows])
        last = rows[-1].id


def downgrade() -> None:
    with op.batch_alter_table("files") as files:
        files.drop_column("name_search")


def _fold(name: str) -> str:
    return normalize("NFC", normalize("NFD", name).casefold())
