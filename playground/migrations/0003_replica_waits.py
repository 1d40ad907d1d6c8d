from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("playground", "0002_default_team")]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="suspected_at",
            field=models.DateTimeField(
                help_text="When its heartbeat was first seen old; a beat clears it.", null=True
            ),
        ),
        migrations.AddField(
            model_name="replica",
            name="waits_for",
            field=models.ManyToManyField(
                help_text="Jobs it waits for while preparing.", related_name="+", to="playground.job"
            ),
        ),
    ]
