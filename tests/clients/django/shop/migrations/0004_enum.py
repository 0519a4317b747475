"""An enum value, outside of a transaction."""

from django.db import migrations


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0003_index")]
    operations = [migrations.RunSQL("ALTER TYPE order_status ADD VALUE 'sent'", migrations.RunSQL.noop)]
