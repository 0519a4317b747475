"""A column with a default."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "2", "1"


def upgrade():
    op.add_column("users", sa.Column("note", sa.Text, nullable=False, server_default="none"))
