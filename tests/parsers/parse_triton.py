"""What the launcher of Triton makes of command lines."""

import sys
from typing import Any

from common import answer, launcher


def parse(command: list[str]) -> dict[str, Any]:
    module, arguments = launcher(command)
    own, sys.argv = sys.argv, ["triton", *arguments]
    try:
        return vars(module.parse())
    finally:
        sys.argv = own


answer(parse)
