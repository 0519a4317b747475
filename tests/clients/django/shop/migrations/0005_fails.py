"""Fails in its second operation."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0004_enum")]
    operations = [
        migrations.AddField("user", "half", models.IntegerField(null=True)),
        migrations.RunSQL("CREATE TABLE tenants (id int)"),
    ]
