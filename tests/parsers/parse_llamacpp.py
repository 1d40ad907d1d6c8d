"""What llama.cpp's launcher, and xllamacpp behind it, make of command lines."""

from typing import Any

from common import answer, launcher


def parse(command: list[str]) -> dict[str, Any]:
    module, arguments = launcher(command)
    params = module.server_params(module.parse(arguments))
    names = [name for name in dir(params) if not name.startswith("_")]
    found = {name: plain(getattr(params, name)) for name in names}
    return found | {
        "cpuparams": threads(params.cpuparams),
        "cpuparams_batch": threads(params.cpuparams_batch),
    }


def plain(value: Any) -> Any:
    """A value as it can be compared; objects of the library differ by their address only."""
    return (
        value
        if isinstance(value, str | int | float | bool | list | set | dict)
        else str(value).split(" at 0x")[0]
    )


def threads(params: Any) -> int:
    return int(params.n_threads)


answer(parse)
