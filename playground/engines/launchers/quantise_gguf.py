"""Quantise a GGUF file with llama.cpp's own code. Run by the llama.cpp environment's own Python.

quantise_gguf.py SOURCE OUT PLAN

PLAN is a JSON file: {"types": {tensor: type}, "file_type": number, "threads": number}. Tensors that it does
not name are copied as they are. Prints `done: BYTES TOTAL` as it goes, in bytes of the source.

xllamacpp has no call for it, but the library inside exports what llama.cpp's own program is made of: the
reader and writer of GGUF, and the conversions of rows. Only these are called, all of them plain C.
"""

import ctypes
import json
import math
import mmap
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xllamacpp

CHUNK = 1 << 20  # Values converted at once by a thread.
QUANTISATION_VERSION = 2

i32, i64, size_t, text, handle = (
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_void_p,
)


class InitParams(ctypes.Structure):
    """struct gguf_init_params."""

    _fields_ = [("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p)]


CALLS = {
    "gguf_init_from_file": (handle, [text, InitParams]),
    "gguf_init_empty": (handle, []),
    "gguf_set_kv": (None, [handle, handle]),
    "gguf_set_val_u32": (None, [handle, text, ctypes.c_uint32]),
    "gguf_get_n_tensors": (i64, [handle]),
    "gguf_get_tensor_name": (text, [handle, i64]),
    "gguf_get_tensor_type": (i32, [handle, i64]),
    "gguf_get_tensor_offset": (size_t, [handle, i64]),
    "gguf_get_tensor_size": (size_t, [handle, i64]),
    "gguf_get_data_offset": (size_t, [handle]),
    "gguf_set_tensor_type": (None, [handle, text, i32]),
    "gguf_add_tensor": (None, [handle, handle]),
    "gguf_get_meta_size": (size_t, [handle]),
    "gguf_get_meta_data": (None, [handle, handle]),
    "ggml_get_tensor": (handle, [handle, text]),
    "ggml_nelements": (i64, [handle]),
    "ggml_nrows": (i64, [handle]),
    "ggml_row_size": (size_t, [i32, i64]),
    "ggml_type_name": (text, [i32]),
    "ggml_quantize_chunk": (size_t, [i32, handle, handle, i64, i64, i64, handle]),
    "ggml_validate_row_data": (ctypes.c_bool, [i32, handle, size_t]),
    "ggml_fp16_to_fp32_row": (None, [handle, handle, i64]),
    "ggml_bf16_to_fp32_row": (None, [handle, handle, i64]),
}


def library():
    """xllamacpp's own library with the types of the calls made here; one that lacks any of them says so."""
    file = next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))
    found = ctypes.CDLL(str(file))
    for name, (result, arguments) in CALLS.items():
        try:
            call = getattr(found, name)
        except AttributeError:
            sys.exit(f"This version of xllamacpp ({xllamacpp.__version__}) cannot quantise: it lacks {name}.")
        call.restype, call.argtypes = result, arguments
    return found


lib = library()


class Source:
    """The file to quantise, and what its header says of each tensor."""

    def __init__(self, path):
        context = ctypes.c_void_p()
        self.gguf = lib.gguf_init_from_file(str(path).encode(), InitParams(True, ctypes.addressof(context)))
        if not self.gguf:
            sys.exit(f"llama.cpp cannot read {path}.")
        self.context = context.value
        self.file = path.open("rb")
        self.data = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        self.begin = lib.gguf_get_data_offset(self.gguf)
        self.count = lib.gguf_get_n_tensors(self.gguf)

    def name(self, place):
        return lib.gguf_get_tensor_name(self.gguf, place)

    def tensor(self, place):
        return lib.ggml_get_tensor(self.context, self.name(place))

    def address(self, place):
        return self.base + self.begin + lib.gguf_get_tensor_offset(self.gguf, place)

    def type(self, place):
        return lib.gguf_get_tensor_type(self.gguf, place)

    def bytes(self, place):
        return lib.gguf_get_tensor_size(self.gguf, place)


def reader(kind):
    """The call that makes float32 of rows of a type: (from, to, values); None for float32 itself."""
    name = lib.ggml_type_name(kind).decode()
    if name == "f32":
        return None
    if name in ("f16", "bf16"):
        return getattr(lib, f"ggml_{'fp16' if name == 'f16' else name}_to_fp32_row")
    try:
        call = getattr(lib, f"dequantize_row_{name}")
    except AttributeError:
        sys.exit(f"llama.cpp cannot read weights of type {name} here.")
    call.restype, call.argtypes = None, [handle, handle, i64]
    return call


def make_header(source, types, file_type):
    """The new file's header: the old one's values and tensors, some of them of another type."""
    out = lib.gguf_init_empty()
    lib.gguf_set_kv(out, source.gguf)
    lib.gguf_set_val_u32(out, b"general.file_type", file_type)
    lib.gguf_set_val_u32(out, b"general.quantization_version", QUANTISATION_VERSION)
    for place in range(source.count):
        lib.gguf_add_tensor(out, source.tensor(place))
        if (kind := types.get(source.name(place))) is not None:
            lib.gguf_set_tensor_type(out, source.name(place), kind)
    return out


def convert(source, place, kind, pool):
    """The bytes of one tensor in its new type."""
    tensor = source.tensor(place)
    values, rows = lib.ggml_nelements(tensor), lib.ggml_nrows(tensor)
    length, old = values // rows, source.type(place)
    made = ctypes.create_string_buffer(lib.ggml_row_size(kind, length) * rows)
    read, step = reader(old), max(1, CHUNK // length)
    # Some types keep of a value that is no number a weight of nothing, and look sound.
    check(source, place, old, source.address(place), source.bytes(place))

    def some(first):
        count = min(step, rows - first)
        given = source.address(place) + first * lib.ggml_row_size(old, length)
        if read is not None:
            floats = ctypes.create_string_buffer(count * length * 4)
            read(given, ctypes.addressof(floats), count * length)
            given = ctypes.addressof(floats)
        target = ctypes.addressof(made) + first * lib.ggml_row_size(kind, length)
        lib.ggml_quantize_chunk(kind, given, target, 0, count, length, None)

    for _ in pool.map(some, range(0, rows, step)):
        pass
    check(source, place, kind, ctypes.addressof(made), len(made))
    return made


def check(source, place, kind, address, size):
    """End unless every value is a number."""
    if not lib.ggml_validate_row_data(kind, address, size):
        sys.exit(f"{source.name(place).decode()} holds values that are no numbers.")


def write(source, out, path, types, threads):
    size = lib.gguf_get_meta_size(out)
    head = ctypes.create_string_buffer(size)
    lib.gguf_get_meta_data(out, ctypes.addressof(head))
    total, done = len(source.data) - source.begin, 0
    with path.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        file.write(head)
        for place in range(source.count):
            kind, begin = types.get(source.name(place)), size + lib.gguf_get_tensor_offset(out, place)
            file.write(bytes(begin - file.tell()))
            if kind is None:
                start = source.address(place) - source.base
                file.write(memoryview(source.data)[start : start + source.bytes(place)])
            else:
                file.write(convert(source, place, kind, pool))
            done += source.bytes(place)
            print(f"done: {done} {total}", flush=True)
        file.write(bytes(-file.tell() % 32))


def type_number(name):
    return int(getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}"))


def main():
    os.nice(10)  # Answers go before it.
    given, path, plan = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
    numbers = xllamacpp.ggml_type
    types = {
        name.encode(): int(getattr(numbers, f"GGML_TYPE_{kind.upper()}"))
        for name, kind in plan["types"].items()
    }
    source = Source(given)
    out = make_header(source, types, plan["file_type"])
    write(source, out, path, types, max(1, math.floor(plan["threads"])))


if __name__ == "__main__":
    main()
