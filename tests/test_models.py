from importlib import import_module

import pytest
from django.apps import apps
from django.core.management import call_command

from playground.models import Team


@pytest.mark.django_db
def test_models_have_no_missing_migration() -> None:
    call_command("makemigrations", check=True, dry_run=True)


@pytest.mark.django_db
def test_the_first_migration_makes_the_default_team() -> None:
    """Tests that flush the database may have been before this one."""
    Team.objects.filter(slug="default").delete()
    migration = import_module("playground.migrations.0002_default_team")
    assert [type(one).__name__ for one in migration.Migration.operations] == ["RunPython"]
    migration.Migration.operations[0].code(apps, None)
    assert Team.objects.filter(slug="default").count() == 1
