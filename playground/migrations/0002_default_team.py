from django.db import migrations


def make(apps, schema_editor):
    apps.get_model("playground", "Team").objects.create(name="Default", slug="default")


class Migration(migrations.Migration):
    dependencies = [("playground", "0001_initial")]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
