"""Machines for the doctor's tests: files in a folder, and commands that print what the vendor's tools print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pivotnet.doctor.machine import Machine

_LINE = "+===========================+===============+====================================================+\n"
_HEAD = (
    "| npu-smi 24.1.0                   Version: 24.1.0                                               |\n"
    + _LINE
    + "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|\n"
    + "| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |\n"
    + _LINE
)


def npu_smi(health: Mapping[int, str], processes: str = "") -> str:
    """The text of ``npu-smi info`` for devices {number: health}."""
    rows = "".join(
        f"| {number:<5} 910B3               | {state:<13} | 90.1        35                0    / 0             |\n"
        f"| 0                         | 0000:C{number}:00.0  "
        "| 0           0    / 0          3375 / 65536         |\n" + _LINE
        for number, state in health.items()
    )
    tail = (
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |\n" + _LINE
    )
    none = "".join(f"| No running processes found in NPU {number:<61}|\n" for number in health)
    return _LINE + _HEAD + rows + _LINE + tail + (processes or none) + _LINE


PROCESS = "| 0       0                 | 41873         | python3                  | 28671                   |\n"
GIB = 1 << 30
SMI = ("npu-smi", "info")
ASCEND = "/usr/local/Ascend"
CANN_INFO = f"{ASCEND}/cann/aarch64-linux/ascend_toolkit_install.info"
TCMALLOC = "/usr/lib/aarch64-linux-gnu/libtcmalloc.so.4"


def link_command(number: int) -> tuple[str, ...]:
    return "hccn_tool", "-i", str(number), "-link", "-g"


class FakeMachine(Machine):
    """An Atlas 800T A2 with everything right; tests break one thing each."""

    def __init__(self, root: Path, environ: Mapping[str, str] | None = None, npus: int = 8) -> None:
        super().__init__(root, dict(environ or {}))
        self.architecture, self.python, self.cores, self.usable_cores = "aarch64", (3, 11), 192, 192
        self.python_build = "'--with-lto' '--enable-optimizations'"
        self.commands: dict[tuple[str, ...], tuple[int, str]] = {}
        self.packages = dict.fromkeys(("scipy", "shapely", "pillow", "opencv-python-headless", "rich"), "1.0")
        self.packages |= {"torch": "2.8.0+cpu", "numpy": "1.26.4", "tensorboard": "2.20.0", "matplotlib": "3.9.4"}
        self.import_problems: dict[str, str] = {}
        self.locked: set[str] = set()
        self.space = (100 * GIB, 90 * GIB)
        if not npus:
            return
        for name in ("davinci_manager", "devmm_svm", "hisi_hdc", *(f"davinci{number}" for number in range(npus))):
            self.write(f"/dev/{name}", "")
        self.write("/etc/ascend_install.info", f"Driver_Install_Path_Param={ASCEND}\n")
        self.write(f"{ASCEND}/driver/version.info", "Version=25.2.0\nascendhal_version=7.35.23\n")
        self.write(f"{ASCEND}/firmware/version.info", "Version=7.7.0.6.236\n")
        self.write(CANN_INFO, "package_name=Ascend-cann-toolkit\nversion=8.5.0\n")
        (self.path(f"{ASCEND}/cann/opp")).mkdir()
        self.write(TCMALLOC, "")
        self.write("/etc/hccn.conf", "".join(f"address_{number}=192.168.100.{number}\n" for number in range(npus)))
        self.environ = {
            **{"ASCEND_HOME_PATH": f"{ASCEND}/cann", "LD_PRELOAD": TCMALLOC},
            **{"HCCL_IF_IP": "10.0.0.5", "HCCL_CONNECT_TIMEOUT": "1200", "TASK_QUEUE_ENABLE": "2"},
            **self.environ,
        }
        self.packages |= {"torch_npu": "2.8.0.post2", "mx-driving": "26.2.0.post2"}
        self.commands = {
            SMI: (0, npu_smi(dict.fromkeys(range(npus), "OK"))),
            ("hostname", "-I"): (0, "10.0.0.5 172.17.0.1 \n"),
            **{link_command(number): (0, "link status: UP\n") for number in range(npus)},
        }

    def write(self, name: str, text: str) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def usable(self, path: Path) -> bool:
        return path.name not in self.locked

    def run(self, *command: str) -> tuple[int, str] | None:
        return self.commands.get(command)

    def package(self, name: str) -> str | None:
        return self.packages.get(name)

    def import_error(self, *modules: str) -> str | None:
        return next((self.import_problems[module] for module in modules if module in self.import_problems), None)

    def free_space(self, path: Path) -> tuple[int, int] | None:
        return self.space
