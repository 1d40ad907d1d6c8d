"""What the launcher of SGLang, and SGLang's own argument parser behind it, make of command lines."""

import argparse
from typing import Any

from common import answer, launcher
from sglang.srt.server_args import ServerArgs

PARSER = argparse.ArgumentParser(allow_abbrev=False)
ServerArgs.add_cli_args(PARSER)


def parse(command: list[str]) -> dict[str, Any]:
    _, arguments = launcher(command)
    return vars(PARSER.parse_args(arguments))


answer(parse)
