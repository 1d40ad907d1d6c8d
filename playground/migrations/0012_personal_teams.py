"""Everybody gets a team of their own; administrators of the default team are the site's."""

from typing import Any

from django.db import migrations


def forwards(apps: Any, schema_editor: Any) -> None:
    User, Team = apps.get_model("playground", "User"), apps.get_model("playground", "Team")
    Membership = apps.get_model("playground", "Membership")
    User.objects.filter(memberships__team__slug="default", memberships__role="admin").update(is_staff=True)
    for user in User.objects.filter(personal_team=None):
        name = f"{user.username[:60]} (personal)"
        team = Team.objects.create(name=name, slug=f"personal-{user.pk}", person=user)
        Membership.objects.create(user=user, team=team, role="admin")


class Migration(migrations.Migration):
    dependencies = [("playground", "0011_teams_and_prompts")]
    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
