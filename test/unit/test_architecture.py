"""The rules of ARCHITECTURE.md: who may import whom, what only some parts know, names that occur once."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pivotnet"
MODULES = sorted(PACKAGE.rglob("*.py"))
ROWS = re.findall(r"^\| (`.*?`) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
# {part of the package: its index in the order}; parts of one row may import each other
ORDER = {part: number for number, row in enumerate(ROWS) for part in re.findall(r"`(\w+)`", row)}


def part_of(module: str) -> str:
    """``pivotnet.data.images`` -> ``data``."""
    return module.split(".")[1]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, within functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            if node.module == "pivotnet":
                yield from (f"pivotnet.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent != PACKAGE or path.stem[0] != "_"], ids=name_of
)
def test_imports_point_one_way(path):
    own = ORDER[part_of(name_of(path))]
    for module in imports(path):
        if module.startswith("pivotnet.") and not module.startswith("pivotnet.__"):
            assert ORDER[part_of(module)] <= own, f"{name_of(path)} imports {module}, which comes after it"


def importers(package: str) -> set[str]:
    return {part_of(name_of(path)) for path in MODULES for name in imports(path) if name.split(".")[0] == package}


def test_only_commands_know_argparse():
    assert importers("argparse") <= {"commands", "cli", "upstream"}
    others = {name_of(path) for path in (PACKAGE / "upstream").glob("*.py") if "argparse" in set(imports(path))}
    assert others == {"pivotnet.upstream.annotation"}  # a command of upstream


def test_only_device_and_kernels_name_vendors():
    assert importers("torch_npu") | importers("mx_driving") <= {"device", "model"}
    words = re.compile(r"torch\.(cuda|npu)\b|\.is_cuda|\.cuda\(\)")
    naming = [name_of(path) for path in MODULES if words.search(path.read_text())]
    assert {name for name in naming if not name.startswith(("pivotnet.device", "pivotnet.model.ops"))} == set()


def test_no_two_modules_share_a_name():
    names = Counter(path.stem for path in MODULES if not path.stem.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_package_imports_no_tests_and_tests_import_no_tests():
    outside = {"pytest", "unittest", "test", "support"}
    assert {name for path in MODULES for name in imports(path) if name.split(".")[0] in outside} == set()
    tests = [path for path in (ROOT / "test").rglob("*.py")]
    found = [(path.name, name) for path in tests for name in imports(path) if name.split(".")[-1].startswith("test_")]
    assert found == []
