"""What was asked in the background, for limits and usage: batches begun today count from their rows."""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

BEGUN_TODAY = """
    INSERT INTO playground_rowstaken (team_id, user_id, what, rows, at)
    SELECT batch.team_id, batch.created_by_id, 'batch', version.row_count * count(*), batch.created_at
    FROM playground_batch AS batch
    JOIN playground_batchcolumn AS own ON own.batch_id = batch.id
    JOIN playground_datasetversion AS version ON version.id = batch.version_id
    WHERE batch.created_at >= date_trunc('day', now(), 'UTC')
    GROUP BY batch.id, version.id
"""


class Migration(migrations.Migration):
    dependencies = [
        ("playground", "0016_ordered_json"),
    ]

    operations = [
        migrations.CreateModel(
            name="MeasuredUse",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("kind", models.CharField(help_text="noise or load", max_length=8)),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("failed", models.BooleanField()),
                ("prompt_tokens", models.PositiveIntegerField(null=True)),
                ("completion_tokens", models.PositiveIntegerField(null=True)),
                ("cached_tokens", models.PositiveIntegerField(null=True)),
                ("ttft_ms", models.FloatField(null=True)),
                ("busy_s", models.FloatField(null=True)),
                ("gpu_s", models.FloatField(null=True)),
                ("core_s", models.FloatField(null=True)),
                ("cost", models.FloatField(null=True)),
                (
                    "configuration",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="playground.configuration",
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="playground.team",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["team", "at"], name="measured_use_of_team")],
            },
        ),
        migrations.CreateModel(
            name="RowsTaken",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "what",
                    models.CharField(
                        choices=[
                            ("batch", "batch"),
                            ("again", "failed rows again"),
                            ("noise", "noise floor"),
                            ("load", "load run"),
                        ],
                        max_length=8,
                    ),
                ),
                ("rows", models.PositiveIntegerField()),
                ("at", models.DateTimeField(auto_now_add=True)),
                (
                    "team",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to="playground.team",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["team", "at"], name="rows_taken_of_team")],
            },
        ),
        migrations.RunSQL(BEGUN_TODAY, migrations.RunSQL.noop),
    ]
