"""SQLAlchemy's models of the conformance schema, and its migrations by Alembic's operations."""

import uuid
from datetime import datetime
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

ORDER_STATUS = ENUM("new", "paid", "sent", name="order_status", create_type=False)


class Base(DeclarativeBase):
    """The models' base."""


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    name: Mapped[str]


class Country(Base):
    __tablename__ = "countries"
    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]


class User(Base):
    __tablename__ = "users"
    __table_args__ = (sa.UniqueConstraint("tenant_id", "email"),)
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(sa.ForeignKey("tenants.id"))
    email: Mapped[str]
    name: Mapped[str]
    country: Mapped[str | None] = mapped_column(sa.ForeignKey("countries.code"))
    version: Mapped[int] = mapped_column(server_default="1", default=1)
    tenant: Mapped[Tenant] = relationship()
    orders: Mapped[list["Order"]] = relationship(
        back_populates="user", order_by="Order.amount", cascade="all, delete-orphan", passive_deletes=True
    )
    __mapper_args__ = {"version_id_col": version}


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(sa.BigInteger, sa.Identity(), primary_key=True)
    tenant_id: Mapped[int] = mapped_column(sa.BigInteger)
    user_id: Mapped[int] = mapped_column(sa.ForeignKey("users.id", ondelete="CASCADE"))
    status: Mapped[str] = mapped_column(ORDER_STATUS, server_default="new")
    amount: Mapped[Decimal] = mapped_column(sa.Numeric(12, 2))
    created_at: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    user: Mapped[User] = relationship(back_populates="orders")
    items: Mapped[list["Item"]] = relationship(order_by="Item.product", passive_deletes=True, cascade="all, delete-orphan")
    notes: Mapped[list["Note"]] = relationship(
        primaryjoin="Order.id == foreign(Note.order_id)", order_by="Note.text", passive_deletes="all"
    )


class Item(Base):
    __tablename__ = "order_items"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    tenant_id: Mapped[int] = mapped_column(sa.BigInteger)
    order_id: Mapped[int] = mapped_column(sa.ForeignKey("orders.id", ondelete="CASCADE"))
    product: Mapped[str]
    quantity: Mapped[int]


class Note(Base):
    __tablename__ = "order_notes"
    id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    order_id: Mapped[int] = mapped_column(sa.BigInteger, index=True)
    text: Mapped[str]


class Document(Base):
    __tablename__ = "documents"
    tenant_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4, server_default=sa.func.gen_random_uuid())
    title: Mapped[str]
