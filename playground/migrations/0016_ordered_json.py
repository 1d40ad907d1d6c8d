"""What people typed keeps the order it was typed in: `json` in place of `jsonb`. One rewrite a table."""

from django.db import migrations

from playground.models.fields import OrderedJSONField

# Table, then column and what its field says.
CHANGED = {
    "auditentry": {"before": {"null": True}, "after": {"null": True}},
    "batch": {"parameters": {"default": dict}},
    "batchcolumn": {
        "parameters": {"null": True, "help_text": "Null: the batch's."},
        "defaults": {"default": dict},
    },
    "column": {"parameters": {"null": True, "help_text": "Null: the conversation's."}},
    "conversation": {"parameters": {"default": dict}, "prompt_values": {"default": dict}},
    "datasetrow": {"body": {}, "cells": {"default": dict}},
    "datasetversion": {"template": {"default": list}},
    "generation": {"request": {"default": dict, "help_text": "The body sent to the engine."}},
    "measurement": {"settings": {"default": dict}},
    "promptversion": {"messages": {}, "variables": {"default": list}, "parameters": {"default": dict}},
}


def altered(kind: str) -> str:
    return "\n".join(
        f"ALTER TABLE playground_{table} "
        + ", ".join(f"ALTER {column} TYPE {kind} USING {column}::{kind}" for column in columns)
        + ";"
        for table, columns in CHANGED.items()
    )


class Migration(migrations.Migration):
    dependencies = [("playground", "0015_shared_prompts_and_batches")]
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
