"""What an address needs of whoever opens it: declared where the address is made, enforced here as far as the
address alone tells, and proven by tests/test_matrix.py for every address there is.

Here: who is nobody is sent to sign in; a method that was not declared is 405; what is for site administrators
is refused to others. Roles depend on the object and its team: views ask `access` for those.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import AnonymousUser
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponseNotAllowed

from playground import access
from playground.models import User
from playground.seen import seen

# Beside the actions of `access.NEEDS`: anybody at all, and whoever is signed in, about themselves.
PUBLIC, SELF = "public", "self"
READING = ("GET", "HEAD")

View = Callable[..., Any]


@dataclass(frozen=True)
class Policy:
    """`reads` and `writes`: the action that a GET and a POST need, None where the view answers none.

    `of` is the kind of row that the address names first; without one the address is about the person's team,
    or about themselves. `why` is for what is public.
    """

    reads: str | None = None
    writes: str | None = None
    of: type[Model] | None = None
    why: str = ""

    def __post_init__(self) -> None:
        known = {None, PUBLIC, SELF, *access.NEEDS}
        if not {self.reads, self.writes} <= known:
            raise ValueError(
                f"a policy names actions of access.NEEDS, not {self.reads!r} and {self.writes!r}"
            )
        if self.reads is None and self.writes is None:
            raise ValueError("a policy says what reading or changing needs")

    def of_method(self, method: str | None) -> str | None:
        return self.reads if method in READING else self.writes if method == "POST" else None

    def is_of_site(self, action: str) -> bool:
        """Whether the site's administrators alone may: what is a team's is a 404 to strangers first."""
        return access.NEEDS.get(action) == access.SITE and not self.is_owned

    @property
    def is_owned(self) -> bool:
        """Whether what the address names is a team's."""
        return self.of is not None and is_owned(self.of)

    @property
    def methods(self) -> list[str]:
        return [*(READING if self.reads else ()), *(["POST"] if self.writes else ())]


# The fields by which a row without a team of its own belongs to one that has one.
OWNERS = ("conversation", "turn", "generation", "prompt", "endpoint", "usage", "dataset", "batch", "model")


def is_owned(kind: type[Model]) -> bool:
    """Whether a team owns rows of this kind: themselves, or what they belong to.

    A person works in a team and a token may be for one, but neither is the team's: those may be without.
    """
    fields = {one.name: one for one in kind._meta.get_fields() if not one.auto_created}
    if "team" in fields:
        return not fields["team"].null
    parents = [fields[name].related_model for name in OWNERS if name in fields]
    return any(isinstance(one, type) and is_owned(one) for one in parents)


def declare[V: View](
    reads: str | None = None, writes: str | None = None, of: type[Model] | None = None
) -> Callable[[V], V]:
    """For an operation of the management API, which no `page` makes: says its policy, checks nothing."""
    return lambda view: _said(view, Policy(reads, writes, of))


def of(view: View) -> Policy | None:
    """What was declared of a view, or of the function of an operation."""
    return getattr(view, "policy", None)


def _said[V: View](view: V, policy: Policy) -> V:
    view.policy = policy  # type: ignore[attr-defined]
    return view


def guarded(view: View, policy: Policy | None) -> View:
    """The view, for whoever is signed in, and may, as far as the policy alone tells.

    Without a policy only for whoever is signed in: the matrix test fails until there is one.
    """
    if policy is None:
        return login_required(view)
    guard = _guarded_async if iscoroutinefunction(view) else _guarded
    return _said(login_required(guard(view, policy)), policy)


def open_to_all(view: View, policy: Policy) -> View:
    """The view, declared public; the mark is on a view of this address's own."""

    @wraps(view)
    def opened(request: HttpRequest, *args: Any, **keys: Any) -> Any:
        return view(request, *args, **keys)

    return _said(opened, policy)


def _guarded(view: View, policy: Policy) -> View:
    @wraps(view)
    def guard(request: HttpRequest, *args: Any, **keys: Any) -> Any:
        action = policy.of_method(request.method)
        if action is None:
            return HttpResponseNotAllowed(policy.methods)
        if policy.is_of_site(action):
            access.require_site(_known(request.user), action)
        seen(request)
        try:
            return view(request, *args, **keys)
        except Http404:
            _remember(policy, request, keys)
            raise

    return guard


def _known(user: User | AnonymousUser) -> User:
    """Who is signed in: login_required let nobody else through."""
    assert isinstance(user, User)
    return user


def _remember(policy: Policy, request: HttpRequest, keys: Mapping[str, Any]) -> None:
    """That somebody tried to change what is another person's alone: no view asks `access` for that."""
    if request.method == "POST" and policy.writes == SELF and policy.of is not None:
        tried = f"{policy.of._meta.model_name}:{next(iter(keys.values()), '')}"
        access.audit(_known(request.user), None, "refused write", tried)


def _guarded_async(view: View, policy: Policy) -> View:
    @wraps(view)
    async def guard(request: HttpRequest, *args: Any, **keys: Any) -> Any:
        action = policy.of_method(request.method)
        if action is None:
            return HttpResponseNotAllowed(policy.methods)
        if policy.is_of_site(action):
            await sync_to_async(access.require_site)(_known(await request.auser()), action)
        await sync_to_async(seen)(request)
        return await view(request, *args, **keys)

    return guard
