"""The gateway's table follows which prompts are private, too: those it does not have."""

from django.db import migrations

FUNCTION = "FOR EACH STATEMENT EXECUTE FUNCTION slipway_notify_routes()"


def watch(columns: str) -> str:
    return (
        "DROP TRIGGER slipway_routes ON playground_prompt;\n"
        f"CREATE TRIGGER slipway_routes AFTER INSERT OR DELETE OR UPDATE OF {columns} ON playground_prompt "
        f"{FUNCTION};"
    )


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0008_notify_keys"), ("playground", "0015_shared_prompts_and_batches")]
    operations = [migrations.RunSQL(watch("name, head, sharing"), watch("name, head"))]
