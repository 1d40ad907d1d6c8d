"""Turn a GGUF file into a folder of safetensors. Run by the transformers environment's own Python: convert_gguf.py FILE OUT."""

import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig


def main():
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    print("step: reading the GGUF weights", flush=True)
    # Saving fails for weights that are still quantised.
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype="bfloat16",
        quantization_config=GgufConfig(dequantize=True),
    )
    print("step: reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    print("step: writing safetensors", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main()
