"""Builds the simulated CANN libraries into tools/cannsim/build/lib with g++: python tools/cannsim/build.py Run with the
interpreter whose torch is to be used; torch_npu and mx_driving are taken from tools/cannsim/site, where setup.sh
installs them. Only what changed is compiled again. CXX names another compiler."""

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # torch without torch_npu
import torch  # noqa: E402

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
BUILD = HERE / "build"
OBJECTS = BUILD / "objects"
LIBRARIES = BUILD / "lib"

# Libraries that the wheels ask for by name; each is empty and leads to libcannsim.so.
ALIASES = ("ascendcl", "hccl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel", "nnopbase", "ascend_hal")
ALIASES += ("drvdsmi_host", "cust_opapi")
LINKED = re.compile(r"(acl|Hccl|Aml|rt[A-Z]|Msprof)\w+")
OPERATOR = re.compile(rb"aclnn[A-Z]\w{2,}")


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise OSError(f"{shlex.join(command)}\n{result.stderr[-4000:]}")
    return result.stdout


def wheel_libraries() -> list[Path]:
    """The shared libraries whose needs are stubbed."""
    found = []
    for name in ("lib/libtorch_npu.so", "lib/libtensorpipe.so", "lib/libnpu_profiler.so", "_C*.so"):
        found += sorted(SITE.glob(f"torch_npu/{name}"))
    found += sorted(SITE.glob("mx_driving/_C*.so"))
    if len(found) < 5:
        raise FileNotFoundError(f"wheels are missing in {SITE}: run tools/cannsim/setup.sh")
    return found


def stubs_in_c(defined: set[str], wheels: list[Path]) -> str:
    """C for every function that the wheels ask of CANN and the simulator does not define. Two kinds. Functions that a
    wheel links against would keep it from loading: they return 0, as a feature that does nothing (profiling, dumps,
    memory hints). aclnn operators that a wheel looks up by name fail with that name, so that torch_npu takes the same
    path as with a real CANN and then says what is missing."""
    listing = run(["nm", "-D", "--undefined-only", *map(str, wheels)])
    undefined = {line.split()[-1].split("@")[0] for line in listing.splitlines() if line.strip()}
    linked = {name for name in undefined if LINKED.fullmatch(name)} - defined
    named = {name.decode() for wheel in wheels for name in OPERATOR.findall(wheel.read_bytes())}
    operators = {name.removesuffix("GetWorkspaceSize") for name in named} - defined
    lines = ["int cannsim_operator_missing(const char *name);"]
    lines += [f"long {name}(void) {{ return 0; }}" for name in sorted(linked)]
    for name in sorted(operators):
        for function in (name, f"{name}GetWorkspaceSize"):
            lines.append(f'int {function}(void) {{ return cannsim_operator_missing("{name}"); }}')
    return "\n".join(lines) + "\n"


def make(output: Path, inputs: list[Path], arguments: list[str]) -> None:
    """Run g++ where ``output`` is older than its inputs or was made by another command."""
    command = [os.environ.get("CXX", "g++"), *arguments, "-o", str(output)]
    note = OBJECTS / f"{output.name}.command"
    if output.exists() and note.exists() and note.read_text() == shlex.join(command):
        if all(path.stat().st_mtime <= output.stat().st_mtime for path in inputs):
            return
    run(command)
    note.write_text(shlex.join(command))


def write(path: Path, text: str) -> Path:
    """Write a file unless it has this text: what is made of it stays newer."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
    return path


def build() -> None:
    OBJECTS.mkdir(parents=True, exist_ok=True)
    LIBRARIES.mkdir(parents=True, exist_ok=True)
    include, libraries = Path(torch.__path__[0], "include"), Path(torch.__path__[0], "lib")
    # which std::string torch was built with (before 2.7 on x86_64: the old one)
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    wheels = wheel_libraries()
    third_party = SITE / "torch_npu/include/third_party"
    base = ["-std=c++17", "-fPIC", "-w", abi]
    cann = [*base, "-O2", f"-I{third_party.parent}", f"-I{third_party / 'acl/inc'}", f"-I{third_party / 'hccl/inc'}"]
    aten = [*base, "-O0", f"-I{include}"]  # the work is done inside ATen
    headers = sorted((HERE / "src").rglob("*.h"))

    # ATen's declarations are most of the work: they are parsed once.
    aten_header = write(OBJECTS / "aten.h", "#include <ATen/ATen.h>\n#include <ATen/Functions.h>\n")
    precompiled = OBJECTS / "aten.h.gch"
    make(precompiled, [aten_header], [*aten, "-x", "c++-header", str(aten_header)])

    def compiled(source: Path) -> Path:
        output = OBJECTS / f"{source.stem}.o"
        if source.parent.name == "aclnn":
            make(output, [source, precompiled, *headers], [*aten, "-include", str(aten_header), "-c", str(source)])
        else:
            make(output, [source, *headers], [*cann, "-c", str(source)])
        return output

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        operator_objects = list(pool.map(compiled, sorted((HERE / "src/aclnn").glob("*.cpp"))))
        runtime_objects = list(pool.map(compiled, sorted((HERE / "src").glob("*.cpp"))))

    # What neither the runtime nor the operators define.
    listing = run(["nm", "--defined-only", "-f", "posix", *map(str, runtime_objects + operator_objects)])
    defined = {line.split()[0] for line in listing.splitlines() if " " in line}
    stubs, stub_object = write(OBJECTS / "stubs.c", stubs_in_c(defined, wheels)), OBJECTS / "stubs.o"
    make(stub_object, [stubs], ["-x", "c", "-O0", "-fPIC", "-w", "-c", str(stubs)])

    runtime_objects.append(stub_object)
    arguments = ["-shared", "-Wl,-soname,libcannsim.so", *map(str, runtime_objects), "-lpthread", "-lrt"]
    make(LIBRARIES / "libcannsim.so", runtime_objects, arguments)
    empty = write(OBJECTS / "empty.c", "")
    to_runtime = ["-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", f"-L{LIBRARIES}", "-lcannsim"]
    for alias in ALIASES:
        output = LIBRARIES / f"lib{alias}.so"
        arguments = ["-shared", "-fPIC", f"-Wl,-soname,lib{alias}.so", "-x", "c", str(empty), "-x", "none", *to_runtime]
        make(output, [empty], arguments)
    preload = HERE / "src/preload/cpu_fallback.cpp"
    arguments = ["-std=c++17", "-O1", "-fPIC", "-shared", str(preload), "-ldl"]
    make(LIBRARIES / "libcannsim_preload.so", [preload], arguments)
    arguments = ["-shared", "-Wl,-soname,libopapi.so", *map(str, operator_objects), *to_runtime]
    make(LIBRARIES / "libopapi.so", operator_objects, [*arguments, f"-L{libraries}", "-ltorch_cpu", "-lc10"])


if __name__ == "__main__":
    try:
        build()
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
