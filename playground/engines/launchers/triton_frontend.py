"""Serve a safetensors model with NVIDIA's own OpenAI front end of Triton and its vLLM backend.

Run by the Python of NVIDIA's container (tritonserver:…-vllm-python-py3), which holds the front end and tritonserver's
bindings. The key comes from SLIPWAY_ENGINE_KEY and is handed over within this process, never on a command line.

triton_frontend.py --model FOLDER --served-name NAME --port N [--context N] [--max-tokens N] [--dtype T] [--log-verbose N]
"""

import argparse
import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

FRONTEND = Path("/opt/tritonserver/python/openai/openai_frontend")
KEY = os.environ.pop("SLIPWAY_ENGINE_KEY", "")
CONFIG = 'backend: "vllm"\ninstance_group [ { count: 1 kind: KIND_MODEL } ]\n'


def parse():
    parser = argparse.ArgumentParser(prog="triton", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--served-name", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--log-verbose", type=int, default=0)
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser.parse_args()


def repository(given):
    """A model repository, in the folder the process works in, that names the weights where they lie."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+", given.served_name):
        sys.exit(f"triton: error: argument --served-name: Triton takes no name like {given.served_name!r}")
    base = Path("repository").absolute()
    shutil.rmtree(base, ignore_errors=True)
    version = base / given.served_name / "1"
    version.mkdir(parents=True)
    engine = {"model": given.model, "max_model_len": given.context, "dtype": given.dtype}
    engine |= {"trust_remote_code": given.trust_remote_code or None}
    (version / "model.json").write_text(json.dumps({name: value for name, value in engine.items() if value}))
    (version.parent / "config.pbtxt").write_text(CONFIG)
    return base


def main():
    given = parse()
    if not (FRONTEND / "main.py").is_file():
        sys.exit(f"triton: error: no OpenAI front end at {FRONTEND}")
    known = (FRONTEND / "main.py").read_text()
    line = ["main.py", "--model-repository", str(repository(given)), "--tokenizer", given.model, "--backend", "vllm"]
    line += ["--host", given.host, "--openai-port", str(given.port)]
    line += ["--tritonserver-log-verbose-level", str(given.log_verbose)]
    if given.max_tokens and "--default-max-tokens" in known:
        line += ["--default-max-tokens", str(given.max_tokens)]  # Where a request says nothing it would be 16.
    if KEY and "--openai-restricted-api" not in known:
        sys.exit("triton: error: argument --openai-restricted-api: this container is too old, its front end asks for no key")
    if KEY:
        line += ["--openai-restricted-api", "inference,model-repository,metrics", "authorization", f"Bearer {KEY}"]
    sys.argv = line
    sys.path.insert(0, str(FRONTEND))
    runpy.run_path(str(FRONTEND / "main.py"), run_name="__main__")


if __name__ == "__main__":
    main()
