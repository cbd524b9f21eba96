"""Builds the extension dataplane._native by cffi in API mode.

Owns the cdef, which is the marked part of include/dp.h, and the compiler's flags for a release.
Never parses C beyond finding the marks. Checks with warnings as errors and sanitizers are in
native/Makefile.
"""

import os
from pathlib import Path

from cffi import FFI

HERE = Path(os.path.relpath(Path(__file__).resolve().parent))
HEADER = HERE / "include" / "dp.h"
BEGIN, END = "/* cdef: begin */", "/* cdef: end */"

ffi = FFI()
ffi.cdef(HEADER.read_text(encoding="utf-8").split(BEGIN, 1)[1].split(END, 1)[0])
ffi.set_source(
    "dataplane._native",
    '#include "dp.h"',
    include_dirs=[str(HERE / "include"), str(HERE / "src")],
    sources=[str(path) for path in sorted(HERE.glob("src/*.c"))],
    depends=[str(HEADER), *(str(path) for path in sorted(HERE.glob("src/*.h")))],
    libraries=["ssl", "crypto", "seccomp"],
    # -UNDEBUG: the interpreter's own flags turn asserts off; ours stay.
    extra_compile_args=[
        "-std=gnu17",
        "-O2",
        "-g",
        "-UNDEBUG",
        "-Wall",
        "-Wextra",
        "-fvisibility=hidden",
        "-fstack-protector-strong",
        "-pthread",
    ],
    extra_link_args=["-pthread", "-Wl,-z,relro,-z,now"],
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
