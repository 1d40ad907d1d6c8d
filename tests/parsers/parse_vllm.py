"""What vLLM makes of command lines: the parser of its API server, its checks, and its engine's arguments."""

from typing import Any

from common import after, answer
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

PARSER = make_arg_parser(FlexibleArgumentParser(allow_abbrev=False))


def parse(command: list[str]) -> dict[str, Any]:
    arguments = PARSER.parse_args(after(command, "vllm.entrypoints.openai.api_server"))
    validate_parsed_serve_args(arguments)
    AsyncEngineArgs.from_cli_args(arguments)
    return vars(arguments)


answer(parse, [flag for action in PARSER._actions for flag in action.option_strings])
