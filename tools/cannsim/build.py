"""Builds the simulated CANN libraries into tools/cannsim/build/lib with g++.

    python tools/cannsim/build.py [--jobs N]

Run with the interpreter whose torch is to be used; torch_npu and mx_driving are taken from tools/cannsim/site, where
setup.sh installs them. Only what changed is compiled again. CXX names another compiler.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
BUILD = HERE / "build"
OBJECTS = BUILD / "objects"
LIBRARIES = BUILD / "lib"

# Libraries that the wheels ask for by name; each is empty and leads to libcannsim.so.
ALIASES = ("ascendcl", "hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel", "nnopbase", "ascend_hal")
ALIASES += ("drvdsmi_host", "cust_opapi")


class BuildError(Exception):
    """An error that the user can fix."""


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{shlex.join(command)}\n{result.stderr[-4000:]}")
    return result.stdout


def torch_folder() -> Path:
    specification = importlib.util.find_spec("torch")
    if specification is None or not specification.submodule_search_locations:
        raise BuildError(f"{sys.executable} has no torch")
    return Path(specification.submodule_search_locations[0])


def torch_string_abi() -> str:
    """Which std::string torch was built with (before 2.7 on x86_64: the old one); asked without loading torch_npu."""
    question = "import torch; print(int(torch._C._GLIBCXX_USE_CXX11_ABI))"
    environment = dict(os.environ, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    answer = subprocess.run([sys.executable, "-c", question], env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise BuildError(f"{sys.executable} cannot import torch: {answer.stderr.strip()[-500:]}")
    return f"-D_GLIBCXX_USE_CXX11_ABI={answer.stdout.strip()}"


def wheel_libraries() -> list[Path]:
    """The shared libraries whose needs are stubbed."""
    patterns = ("torch_npu/lib/libtorch_npu.so", "torch_npu/lib/libtensorpipe.so", "torch_npu/lib/libnpu_profiler.so")
    patterns += ("torch_npu/_C*.so", "mx_driving/_C*.so")
    found = []
    for pattern in patterns:
        matches = sorted(SITE.glob(pattern))
        if not matches:
            raise BuildError(f"{SITE / pattern} is missing: run tools/cannsim/setup.sh")
        found += matches
    return found


class Compiler:
    """Runs g++ where an output is older than its inputs or was made by another command."""

    def __init__(self) -> None:
        self.name = os.environ.get("CXX", "g++")

    def make(self, output: Path, inputs: list[Path], arguments: list[str]) -> bool:
        """Makes ``output`` unless it is up to date; says whether it had to."""
        command = [self.name, *arguments, "-o", str(output)]
        note = OBJECTS / f"{output.name}.command"
        if output.exists() and note.exists() and note.read_text() == shlex.join(command):
            made = output.stat().st_mtime
            if all(path.stat().st_mtime <= made for path in inputs):
                return False
        run(command)
        note.write_text(shlex.join(command))
        return True


def build(jobs: int) -> None:
    OBJECTS.mkdir(parents=True, exist_ok=True)
    LIBRARIES.mkdir(parents=True, exist_ok=True)
    compiler = Compiler()
    torch = torch_folder()
    wheels = wheel_libraries()
    third_party = SITE / "torch_npu/include/third_party"
    base = ["-std=c++17", "-fPIC", "-w", torch_string_abi()]
    cann = [*base, "-O2", f"-I{third_party.parent}", f"-I{third_party / 'acl/inc'}", f"-I{third_party / 'hccl/inc'}"]
    aten = [*base, "-O0", f"-I{torch / 'include'}"]  # the work is done inside ATen
    headers = sorted((HERE / "src").rglob("*.h"))

    # ATen's declarations are most of the work: they are parsed once.
    aten_header = OBJECTS / "aten.h"
    if not aten_header.exists():
        aten_header.write_text("#include <ATen/ATen.h>\n#include <ATen/Functions.h>\n")
    precompiled = OBJECTS / "aten.h.gch"
    compiler.make(precompiled, [aten_header], [*aten, "-x", "c++-header", str(aten_header)])

    def compile_one(source: Path) -> Path:
        output = OBJECTS / f"{source.stem}.o"
        if source.parent.name == "aclnn":
            arguments = [*aten, "-include", str(aten_header), "-c", str(source)]
            compiler.make(output, [source, precompiled, *headers], arguments)
        else:
            compiler.make(output, [source, *headers], [*cann, "-c", str(source)])
        return output

    with ThreadPoolExecutor(jobs) as pool:
        runtime = pool.map(compile_one, sorted((HERE / "src").glob("*.cpp")))
        operators = pool.map(compile_one, sorted((HERE / "src/aclnn").glob("*.cpp")))
        runtime_objects, operator_objects = list(runtime), list(operators)

    # What neither the runtime nor the operators define.
    listing = run(["nm", "--defined-only", "-f", "posix", *map(str, runtime_objects + operator_objects)])
    defined = OBJECTS / "defined.txt"
    defined.write_text("\n".join(line.split()[0] for line in listing.splitlines() if " " in line))
    stubs = OBJECTS / "stubs.c"
    generator = HERE / "src/generate_stubs.py"
    text = run([sys.executable, str(generator), str(defined), *map(str, wheels)])
    if not stubs.exists() or stubs.read_text() != text:
        stubs.write_text(text)
    stub_object = OBJECTS / "stubs.o"
    compiler.make(stub_object, [stubs], ["-x", "c", "-O0", "-fPIC", "-w", "-c", str(stubs)])

    origin = ["-Wl,-rpath,$ORIGIN"]
    runtime_objects.append(stub_object)
    runtime_library = LIBRARIES / "libcannsim.so"
    arguments = ["-shared", "-Wl,-soname,libcannsim.so", *map(str, runtime_objects), "-lpthread", "-lrt"]
    compiler.make(runtime_library, runtime_objects, arguments)
    empty = OBJECTS / "empty.c"
    if not empty.exists():
        empty.write_text("")
    to_runtime = [*origin, "-Wl,--no-as-needed", f"-L{LIBRARIES}", "-lcannsim"]
    for alias in ALIASES:
        output = LIBRARIES / f"lib{alias}.so"
        arguments = ["-shared", "-fPIC", f"-Wl,-soname,lib{alias}.so", "-x", "c", str(empty), "-x", "none", *to_runtime]
        compiler.make(output, [empty], arguments)
    preload = HERE / "src/preload/cpu_fallback.cpp"
    arguments = ["-std=c++17", "-O1", "-fPIC", "-shared", str(preload), "-ldl"]
    compiler.make(LIBRARIES / "libcannsim_preload.so", [preload], arguments)
    arguments = ["-shared", "-Wl,-soname,libopapi.so", *map(str, operator_objects), *to_runtime]
    arguments += [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
    compiler.make(LIBRARIES / "libopapi.so", operator_objects, arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    try:
        build(parser.parse_args().jobs)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
