"""The schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ENUM

revision, down_revision = "1", None


def big():
    return sa.Column("id", sa.BigInteger, primary_key=True)


def tenant(*further):
    return sa.Column("tenant_id", sa.BigInteger, *further, nullable=False)


def upgrade():
    op.create_table(
        "tenants", sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True), sa.Column("name", sa.Text, nullable=False)
    )
    op.create_table(
        "countries", sa.Column("code", sa.Text, primary_key=True), sa.Column("name", sa.Text, nullable=False)
    )
    op.create_table(
        "users", big(), tenant(sa.ForeignKey("tenants.id")),
        sa.Column("email", sa.Text, nullable=False), sa.Column("name", sa.Text, nullable=False),
        sa.Column("country", sa.Text, sa.ForeignKey("countries.code")),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.UniqueConstraint("tenant_id", "email", name="users_tenant_id_email_key"),
    )
    op.create_table(
        "orders", sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True), tenant(),
        sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
        sa.Column("status", ENUM("new", "paid", name="order_status"), nullable=False, server_default="new"),
        sa.Column("amount", sa.Numeric(12, 2), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    )
    op.create_table(
        "order_items", big(), tenant(),
        sa.Column("order_id", sa.BigInteger, sa.ForeignKey("orders.id", ondelete="CASCADE"), nullable=False),
        sa.Column("product", sa.Text, nullable=False), sa.Column("quantity", sa.Integer, nullable=False),
    )
    op.create_table(
        "order_notes", big(), sa.Column("order_id", sa.BigInteger, nullable=False), sa.Column("text", sa.Text, nullable=False)
    )
    op.create_index("ix_order_notes_order_id", "order_notes", ["order_id"])
    op.create_table(
        "documents", tenant(),
        sa.Column("id", sa.Uuid, nullable=False, server_default=sa.func.gen_random_uuid()),
        sa.Column("title", sa.Text, nullable=False), sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
