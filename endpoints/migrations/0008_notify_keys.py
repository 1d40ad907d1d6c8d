"""The gateway's table also follows what a key may do, which prompt a release names, and the prompts."""

from django.db import migrations, models

FUNCTION = "FOR EACH STATEMENT EXECUTE FUNCTION slipway_notify_routes();\n"
BEFORE = {
    "endpoints_apikey": "revoked_at, expires_at, scopes",
    "endpoints_release": "sampling, deployment_id",
}
WATCHED = {
    "endpoints_apikey": "revoked_at, expires_at, scopes, name, endpoints, routes, limits",
    "endpoints_release": "sampling, deployment_id, prompt_version_id",
}
PROMPTS = {"playground_prompt": "name, head"}


def create(watched: dict[str, str]) -> str:
    return "".join(
        f"CREATE TRIGGER slipway_routes AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {table} {FUNCTION}"
        for table, columns in watched.items()
    )


def drop(watched: dict[str, str]) -> str:
    return "".join(f"DROP TRIGGER slipway_routes ON {table};\n" for table in watched)


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0007_usage_facts"), ("playground", "0011_teams_and_prompts")]
    operations = [
        migrations.AddField("apikey", "family", models.BigIntegerField(null=True)),
        migrations.RunSQL(drop(BEFORE) + create(WATCHED | PROMPTS), drop(WATCHED | PROMPTS) + create(BEFORE)),
    ]
