"""An enum value, outside of a transaction."""

from alembic import op

revision, down_revision = "4", "3"


def upgrade():
    with op.get_context().autocommit_block():
        op.execute("ALTER TYPE order_status ADD VALUE 'sent'")
