"""What people and clients wrote keeps the order it was written in: `json` in place of `jsonb`."""

from django.db import migrations

from playground.models.fields import OrderedJSONField

CHANGED = {
    "apibatch": {"metadata": {"null": True}},
    "loggedrequest": {
        "request": {"help_text": "The body as it came, without the key."},
        "answer": {"null": True, "help_text": "The whole answer; a stream's put together."},
    },
    "release": {"sampling": {"default": dict}},
}
# The gateway's trigger names the column, whose type cannot change under it.
DROP = "DROP TRIGGER slipway_routes ON endpoints_release;\n"
CREATE = (
    "CREATE TRIGGER slipway_routes AFTER INSERT OR DELETE OR UPDATE OF sampling, deployment_id,"
    " prompt_version_id ON endpoints_release FOR EACH STATEMENT EXECUTE FUNCTION slipway_notify_routes();\n"
)


def altered(kind: str) -> str:
    tables = (
        f"ALTER TABLE endpoints_{table} "
        + ", ".join(f"ALTER {column} TYPE {kind} USING {column}::{kind}" for column in columns)
        for table, columns in CHANGED.items()
    )
    return DROP + "".join(f"{table};\n" for table in tables) + CREATE


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0009_notify_private_prompts"), ("playground", "0016_ordered_json")]
    operations = [
        migrations.RunSQL(
            altered("json"),
            altered("jsonb"),
            state_operations=[
                migrations.AlterField(table, column, OrderedJSONField(**said))
                for table, columns in CHANGED.items()
                for column, said in columns.items()
            ],
        )
    ]
