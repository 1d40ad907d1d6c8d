"""Who of a team reads and writes in a conversation, a prompt or a batch: its owner and administrators say."""

from typing import Any, Literal

from playground import sharing_rules
from playground.api.answers import Given
from playground.api.caller import Request, fetch
from playground.api.routes import Routes
from playground.api.shapes import SharingShown
from playground.models import Batch, Conversation, Prompt

router = Routes(tags=["sharing"])


class SharingGiven(Given):
    """What the others of the team may do: "edit", "view", or nothing, not even see it."""

    sharing: Literal["edit", "view", "private"]


@router.writes("PUT", "/conversations/{pk}/sharing", SharingShown, needs="chat", of=Conversation)
def of_conversation(request: Request, pk: int, given: SharingGiven) -> Any:
    """Who reads and writes in a conversation."""
    return _shared(request, Conversation, pk, given)


@router.writes("PUT", "/prompts/{pk}/sharing", SharingShown, needs="chat", of=Prompt)
def of_prompt(request: Request, pk: int, given: SharingGiven) -> Any:
    """Who reads and changes a prompt. A private one is not found by the team's API keys."""
    return _shared(request, Prompt, pk, given)


@router.writes("PUT", "/batches/{pk}/sharing", SharingShown, needs="chat", of=Batch)
def of_batch(request: Request, pk: int, given: SharingGiven) -> Any:
    """Who reads a batch, and who pauses, cancels and scores it."""
    return _shared(request, Batch, pk, given)


def _shared(request: Request, kind: Any, pk: int, given: SharingGiven) -> Any:
    row = fetch(request, kind._default_manager.select_related("team", "created_by"), pk)
    sharing_rules.share(row, request.auth.user, given.sharing)
    return row
