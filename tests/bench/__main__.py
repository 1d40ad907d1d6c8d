"""Every benchmark in turn, or the one named: `make bench ARGS=gateway`. Prints figures; gates nothing."""

import importlib
import sys

NAMES = ("gateway", "page_stream", "columns", "agreement", "batches")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}")
        importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main()
