"""Writes C for every function that the wheels ask of CANN and the simulator does not define.

    python generate_stubs.py NM_OF_OBJECTS WHEEL_LIBRARY... > stubs.c

Two kinds. Functions that a wheel links against would keep it from loading: they return 0, as a feature that does
nothing (profiling, dumps, memory hints). aclnn operators that a wheel looks up by name fail with that name, so that
torch_npu takes the same path as with a real CANN and then says what is missing.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

LINKED = re.compile(r"(acl|Hccl|Aml|rt[A-Z]|Msprof)\w+")
OPERATOR = re.compile(rb"aclnn[A-Z]\w{2,}")


def undefined_symbols(library: Path) -> set[str]:
    """Names that ``library`` takes from other libraries."""
    listing = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True)
    return {line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()}


def operator_names(library: Path) -> set[str]:
    """aclnn operators that ``library`` names, without the suffix of the first phase."""
    found = {name.decode() for name in OPERATOR.findall(library.read_bytes())}
    return {name[: -len("GetWorkspaceSize")] if name.endswith("GetWorkspaceSize") else name for name in found}


def main(defined_file: str, *libraries: str) -> None:
    defined = set(Path(defined_file).read_text().split())
    linked: set[str] = set()
    operators: set[str] = set()
    for library in map(Path, libraries):
        linked |= {name for name in undefined_symbols(library) if LINKED.fullmatch(name)}
        operators |= operator_names(library)
    print("int cannsim_operator_missing(const char *name);")
    for name in sorted(linked - defined):
        print(f"long {name}(void) {{ return 0; }}")
    for name in sorted(operators - defined):
        for suffix in ("", "GetWorkspaceSize"):
            print(f'int {name}{suffix}(void) {{ return cannsim_operator_missing("{name}"); }}')


if __name__ == "__main__":
    main(*sys.argv[1:])
