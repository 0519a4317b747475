"""A column with a default."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [migrations.AddField("user", "note", models.TextField(default="none", db_default="none"))]
