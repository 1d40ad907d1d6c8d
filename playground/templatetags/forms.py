"""What every form sends beside what is typed: the token against forgery, and the team its page was of."""

from typing import Any, cast

from django import template
from django.template.defaulttags import CsrfTokenNode
from django.utils.html import format_html
from django.utils.safestring import SafeString

from playground.models import User
from playground.views.context import of_page
from playground.views.request import FIELD, Request

register = template.Library()


class _Sent(CsrfTokenNode):
    def render(self, context: template.Context) -> SafeString:
        token = SafeString(super().render(context))
        request: Any = getattr(context, "request", None)
        if not token or not isinstance(getattr(request, "user", None), User):
            return token
        team = of_page(cast(Request, request))
        if team is None:
            return token
        return token + format_html('<input type="hidden" name="{}" value="{}">', FIELD, team.pk)


@register.tag
def csrf_token(parser: Any, token: Any) -> _Sent:
    """In place of Django's: a page that is open since before its person went to another team still acts in
    its own.
    """
    return _Sent()
