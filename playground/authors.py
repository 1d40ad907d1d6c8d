"""Who gave an answer, as it was then: a column may have been given another model since."""

from dataclasses import dataclass

from playground import adapters, engines
from playground.models import Configuration, Generation

# What has to be at hand of a row, so that asking costs no query.
NEEDS = (
    "column__deployment",
    "replica__deployment",
    "configuration__environment",
    "configuration__model",
)


@dataclass(frozen=True)
class Author:
    deployment: str
    """Its name; empty where it is gone."""
    adapter: str
    """The LoRA adapter that answered; empty for the model itself."""
    engine: str
    """The engine's short name; empty where it is not known."""
    configuration: Configuration | None


def of(answer: Generation) -> Author:
    """By its replica and its request; by its column while it has neither."""
    asked = answer.replica.deployment if answer.replica else answer.column.deployment
    configuration = answer.configuration
    engine = configuration.engine if configuration else (asked.engine if asked else "")
    adapter = _adapter(answer) if configuration else answer.column.adapter
    return Author(asked.name if asked else "", adapter, engine, configuration)


def _adapter(answer: Generation) -> str:
    """The one whose request it was."""
    assert answer.configuration is not None
    engine = engines.get(answer.configuration.engine)
    for place, name in enumerate(adapters.names(answer.configuration)):
        if engine.selecting(place, name).items() <= answer.request.items():
            return name
    return ""
