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


# One name of each; some only say that there is a newer one.
FLAGS = [action.option_strings[0] for action in PARSER._actions if "Deprecated" not in type(action).__name__]
answer(parse, FLAGS)
