"""Announce every change the gateway routes by, whoever makes it: runners need not know of the gateway."""

from django.db import migrations

FUNCTION = """
CREATE FUNCTION slipway_notify_routes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('slipway_routes', '');
    RETURN NULL;
END $$;
"""
# Heartbeats and usage marks are left out: only the named columns fire it.
WATCHED = {
    "endpoints_apikey": "revoked_at, expires_at, scopes",
    "endpoints_endpoint": "live_id",
    "endpoints_release": "sampling, deployment_id",
    "playground_deployment": "desired, problem, released",
    "playground_replica": "state, drain_at, port, relay_port",
}
CREATE = "".join(
    f"CREATE TRIGGER slipway_routes AFTER INSERT OR DELETE OR UPDATE OF {columns} ON {table} "
    "FOR EACH STATEMENT EXECUTE FUNCTION slipway_notify_routes();\n"
    for table, columns in WATCHED.items()
)
DROP = "".join(f"DROP TRIGGER slipway_routes ON {table};\n" for table in WATCHED)


class Migration(migrations.Migration):
    dependencies = [("endpoints", "0002_initial"), ("playground", "0002_default_team")]
    operations = [migrations.RunSQL(FUNCTION + CREATE, DROP + "DROP FUNCTION slipway_notify_routes();")]
