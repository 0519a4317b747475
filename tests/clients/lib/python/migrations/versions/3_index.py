"""An index without a lock, outside of a transaction."""

from alembic import op

revision, down_revision = "3", "2"


def upgrade():
    with op.get_context().autocommit_block():
        op.create_index("orders_by_status", "orders", ["status"], postgresql_concurrently=True)
