"""An index without a lock, outside of a transaction."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0002_column")]
    operations = [AddIndexConcurrently("order", models.Index(fields=["status"], name="orders_by_status"))]
