"""People and teams: who exists, who belongs where, how one signs in, what was done by whom."""

import secrets

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone

from .fields import OrderedJSONField


class User(AbstractUser):
    """A person. `is_staff` means site administrator: nodes, engines, teams and who else is one."""

    team = models.ForeignKey(
        "Team",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        help_text="The team the person works in now; null, or one they left: their first.",
    )


class Team(models.Model):
    name = models.CharField(max_length=80)
    slug = models.SlugField(max_length=80, unique=True)
    person = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="personal_team",
        help_text="Whose personal team it is: nobody else joins it.",
    )
    # What its members may take together, see `quotas`; absent: the site's, or no limit.
    # {"replicas": 4, "gpu_hours_day": 24, "storage_gb": 100, "batch_rows_day": 100000}
    quotas = models.JSONField(default=dict)
    # The same for each person by themselves.
    person_quotas = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    class Role(models.TextChoices):
        VIEWER = "viewer", "Viewer"
        MEMBER = "member", "Member"
        OPERATOR = "operator", "Operator"
        ADMIN = "admin", "Administrator"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.MEMBER)
    # Instead of the team's `person_quotas`, by name.
    quotas = models.JSONField(default=dict)
    joined_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "team"], name="membership_once")]


class LoginLink(models.Model):
    """A one-time sign-in link. Only the SHA-256 of its token is kept."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    token_hash = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)


class Invitation(models.Model):
    """A link that brings whoever has it into a team, once. Only the SHA-256 of its token is kept."""

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=16, choices=Membership.Role.choices, default=Membership.Role.MEMBER)
    note = models.CharField(max_length=120, blank=True, help_text="For whom it is.")
    token_hash = models.CharField(max_length=64, unique=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)


class AccessToken(models.Model):
    """A person's token for the management API: acts as that person, in one team or in all of theirs."""

    class Scope(models.TextChoices):
        READ = "read", "read"
        WRITE = "write", "read and change"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="tokens")
    team = models.ForeignKey(Team, on_delete=models.CASCADE, null=True, related_name="+")
    name = models.CharField(max_length=80)
    scope = models.CharField(max_length=8, choices=Scope.choices, default=Scope.READ)
    prefix = models.CharField(max_length=12, unique=True)
    secret_hash = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)


class AuditEntry(models.Model):
    """One act worth remembering, refused ones included. Append only; it outlives what it tells of."""

    team = models.ForeignKey(Team, on_delete=models.SET_NULL, null=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    at = models.DateTimeField(auto_now_add=True)
    action = models.CharField(max_length=60)
    object = models.CharField(max_length=120)
    detail = models.JSONField(default=dict)
    # As they were called then.
    who = models.CharField(max_length=150, blank=True)
    team_name = models.CharField(max_length=80, blank=True)
    name = models.CharField(max_length=200, blank=True, help_text="The object's.")
    # The fields that changed, and what they held: {"price_per_hour": "2.10"}. Null where nothing was changed.
    before = OrderedJSONField(null=True)
    after = OrderedJSONField(null=True)
    address = models.GenericIPAddressField(null=True)
    via = models.CharField(max_length=20, blank=True, help_text="page, socket, api, command, worker.")

    class Meta:
        indexes = [
            models.Index(fields=["team", "-id"], name="audit_newest"),
            models.Index(fields=["object", "-id"], name="audit_by_object"),
        ]


class TeamOwned(models.Model):
    """Base of everything that belongs to a team. Views fetch such rows only through `access`."""

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="+")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True


class Shared(TeamOwned):
    """A team's row whose owner says what the others of the team may do with it: see `access.can`.

    The owner is whoever made it; the team's administrators may always do what the owner may.
    """

    class Sharing(models.TextChoices):
        EDIT = "edit", "the team may write"
        VIEW = "view", "the team may read"
        PRIVATE = "private", "private"

    sharing = models.CharField(max_length=8, choices=Sharing.choices, default=Sharing.EDIT)

    class Meta:
        abstract = True


def _nonce() -> str:
    return secrets.token_hex(16)


class ShareLink(models.Model):
    """A read-only link to one thing for whoever has it, until a day. Its token is made of `nonce`."""

    class Kind(models.TextChoices):
        CONVERSATION = "conversation", "conversation"
        PROMPT = "prompt", "prompt"
        BATCH = "batch", "batch"

    team = models.ForeignKey(Team, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=16, choices=Kind.choices)
    object_id = models.BigIntegerField()
    version = models.PositiveIntegerField(null=True, help_text="Of a prompt: its number; null: the newest.")
    nonce = models.CharField(max_length=32, default=_nonce, unique=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    opened = models.PositiveIntegerField(default=0)

    class Meta:
        indexes = [models.Index(fields=["kind", "object_id"], name="share_link_of")]
