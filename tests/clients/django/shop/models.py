"""The conformance schema as Django's models."""

import uuid

from django.db import models
from django.db.models.functions import Now


class StatusField(models.CharField):
    """A column of the database's own enum type."""

    def db_type(self, connection):
        return "order_status"


class Tenant(models.Model):
    id = models.BigAutoField(primary_key=True)
    name = models.TextField()

    class Meta:
        db_table = "tenants"

    def __str__(self):
        return self.name


class Country(models.Model):
    code = models.TextField(primary_key=True)
    name = models.TextField()

    class Meta:
        db_table = "countries"

    def __str__(self):
        return self.code


class User(models.Model):
    id = models.BigAutoField(primary_key=True)
    tenant = models.ForeignKey(Tenant, models.CASCADE)
    email = models.TextField()
    name = models.TextField()
    country = models.ForeignKey(Country, models.PROTECT, db_column="country", null=True, blank=True)
    version = models.IntegerField(default=1, db_default=1)

    class Meta:
        db_table = "users"
        constraints = [models.UniqueConstraint(fields=["tenant", "email"], name="users_tenant_id_email_key")]

    def __str__(self):
        return self.email


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    tenant_id = models.BigIntegerField()
    user = models.ForeignKey(User, models.CASCADE, related_name="orders")
    status = StatusField(max_length=10, db_default="new")
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "orders"

    def __str__(self):
        return str(self.amount)


class Item(models.Model):
    id = models.BigAutoField(primary_key=True)
    tenant_id = models.BigIntegerField()
    order = models.ForeignKey(Order, models.CASCADE, related_name="items")
    product = models.TextField()
    quantity = models.IntegerField()

    class Meta:
        db_table = "order_items"


class Note(models.Model):
    id = models.BigAutoField(primary_key=True)
    order = models.ForeignKey(Order, models.DO_NOTHING, related_name="notes", db_constraint=False)
    text = models.TextField()

    class Meta:
        db_table = "order_notes"


class Document(models.Model):
    pk = models.CompositePrimaryKey("tenant_id", "id")
    tenant_id = models.BigIntegerField()
    id = models.UUIDField(default=uuid.uuid4)
    title = models.TextField()

    class Meta:
        db_table = "documents"
