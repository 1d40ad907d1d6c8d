"""Usage added up by day, of what is there already too."""

from datetime import date

import django.db.models.deletion
from django.db import migrations, models

import endpoints.fields
from endpoints import usage_days


def sum_up(apps, schema_editor):
    """What was used before."""
    usage_days.again(date(2000, 1, 1), date(9000, 1, 1))


class Migration(migrations.Migration):
    dependencies = [
        ("endpoints", "0010_ordered_json"),
        ("playground", "0016_ordered_json"),
    ]

    operations = [
        migrations.CreateModel(
            name="UsageDay",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("day", models.DateField()),
                ("dimension", models.CharField(help_text="key, endpoint, model, engine", max_length=10)),
                ("value", models.CharField(max_length=255)),
                ("key", models.BigIntegerField(null=True)),
                ("requests", models.BigIntegerField()),
                ("errors", models.BigIntegerField()),
                ("prompt_tokens", models.BigIntegerField(null=True)),
                ("cached_tokens", models.BigIntegerField(null=True)),
                ("completion_tokens", models.BigIntegerField(null=True)),
                ("gpu_s", models.FloatField(null=True)),
                ("core_s", models.FloatField(null=True)),
                ("cost", models.FloatField(null=True)),
                ("unpriced", models.BigIntegerField()),
                ("ttft_steps", endpoints.fields.Integers()),
                ("ttft_times", endpoints.fields.Integers()),
                (
                    "team",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="playground.team",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("team", "day", "dimension", "value", "key"),
                        name="usage_day_once",
                        nulls_distinct=False,
                    )
                ],
            },
        ),
        migrations.RunPython(sum_up, migrations.RunPython.noop),
    ]
