"""The table of Django's cache: allauth counts attempts to sign in there. Its rows may be lost at any time."""

from django.core.management import call_command
from django.db import migrations


def make(apps, schema_editor):
    call_command("createcachetable", database=schema_editor.connection.alias, verbosity=0)


class Migration(migrations.Migration):
    dependencies = [("playground", "0012_personal_teams")]

    operations = [
        migrations.RunPython(make, migrations.RunPython.noop),
    ]
