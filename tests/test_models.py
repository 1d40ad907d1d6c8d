import pytest
from django.core.management import call_command

from playground.models import Team


@pytest.mark.django_db
def test_models_have_no_missing_migration() -> None:
    call_command("makemigrations", check=True, dry_run=True)


@pytest.mark.django_db
def test_the_first_migration_makes_the_default_team() -> None:
    assert Team.objects.filter(slug="default").count() == 1
