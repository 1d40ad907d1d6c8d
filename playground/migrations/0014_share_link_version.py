"""A link to a prompt may be to one of its versions."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("playground", "0013_cache")]

    operations = [
        migrations.AddField(
            model_name="sharelink",
            name="version",
            field=models.PositiveIntegerField(
                help_text="Of a prompt: its number; null: the newest.", null=True
            ),
        ),
    ]
