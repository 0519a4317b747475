"""Fails in its second statement."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "5", "4"


def upgrade():
    op.add_column("users", sa.Column("half", sa.Integer))
    op.create_table("tenants", sa.Column("id", sa.Integer))
