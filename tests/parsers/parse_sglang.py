"""What SGLang's own argument parser makes of command lines."""

import argparse
from typing import Any

from common import after, answer
from sglang.srt.server_args import ServerArgs

PARSER = argparse.ArgumentParser(allow_abbrev=False)
ServerArgs.add_cli_args(PARSER)


def parse(command: list[str]) -> dict[str, Any]:
    return vars(PARSER.parse_args(after(command, "sglang.launch_server")))


answer(parse)
