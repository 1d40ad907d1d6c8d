"""Quantise a folder of safetensors with llm-compressor. Run by an environment of its own that holds it.

quantise_safetensors.py SOURCE OUT PLAN

PLAN is a JSON file: {"scheme": "FP8_DYNAMIC"}. Only schemes that need no data to calibrate by: weights are
rounded to the nearest value, activations are scaled as they come. Prints `step: …` as it goes.
"""

import json
import os
import shutil
import sys
from pathlib import Path

from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

# What configures a model and its tokenizer, where the library writes none of its own.
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model")


def step(words):
    print(f"step: {words}", flush=True)


def main():
    os.nice(10)  # Answers go before it.
    source, out, plan = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    step("loading")
    model = AutoModelForCausalLM.from_pretrained(
        source, dtype="auto", device_map="auto", local_files_only=True, trust_remote_code=False
    )
    step("quantising")
    # The head decides the next token by small differences, and is read once a token.
    oneshot(
        model=model,
        recipe=QuantizationModifier(targets="Linear", scheme=plan["scheme"], ignore=["lm_head"]),
    )
    step("writing")
    model.save_pretrained(out, save_compressed=True)
    AutoTokenizer.from_pretrained(source, local_files_only=True, trust_remote_code=False).save_pretrained(out)
    for pattern in BESIDE:
        for file in source.glob(pattern):
            if not (out / file.name).exists() and not file.name.endswith(".index.json"):
                shutil.copyfile(file, out / file.name)
    # How it was made: it holds nothing that loads.
    (out / "recipe.yaml").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
