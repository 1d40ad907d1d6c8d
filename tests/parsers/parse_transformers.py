"""What the launcher of `transformers serve`, and its own command line behind it, make of command lines."""

from typing import Any

from common import answer, launcher
from transformers.cli.transformers import app

SERVE = app.commands["serve"]


def parse(command: list[str]) -> dict[str, Any]:
    module, arguments = launcher(command)
    given, rest = module.parse(arguments)
    with SERVE.make_context("serve", [given.served_name, *rest]) as context:
        return vars(given) | context.params


answer(parse, [flag for one in SERVE.params for flag in (*one.opts, *one.secondary_opts)])
