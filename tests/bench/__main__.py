"""Every benchmark in turn, or the one named: `make bench ARGS=gateway`. Prints figures; gates nothing."""

import importlib
import subprocess
import sys

NAMES = ("gateway", "page_stream", "columns", "agreement", "batches", "usage")

# Those that want the databases of tests.
BY_PYTEST = ("saturation", "usage")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        print(f"== {name}")
        if name in BY_PYTEST:
            subprocess.run([sys.executable, "-m", "pytest", f"tests/bench/{name}.py", "-q", "-s"], check=True)
        else:
            importlib.import_module(f"tests.bench.{name}").main()


if __name__ == "__main__":
    main()
