"""Machines for the doctor's tests: files in a folder, and commands that print what the vendor's tools print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pivotnet.doctor.machine import Machine, Output

_LINE = "+---------------------------+---------------+----------------------------------------------------+\n"
_DOUBLE = _LINE.replace("-", "=")
_HEAD = (
    "| npu-smi 24.1.0                   Version: 24.1.0                                               |\n"
    + _LINE
    + "| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|\n"
    + "| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |\n"
    + _DOUBLE
)
_BUSES = ("C1", "C2", "81", "82", "01", "02", "41", "42")


def npu_smi(health: Mapping[int, str], processes: str = "") -> str:
    """The text of ``npu-smi info`` for devices {number: health}."""
    rows = "".join(
        f"| {number:<5} 910B3               | {state:<13} | 90.1        35                0    / 0             |\n"
        f"| 0                         | 0000:{_BUSES[number]}:00.0  "
        "| 0           0    / 0          3375 / 65536         |\n" + _DOUBLE
        for number, state in health.items()
    )
    tail = (
        "| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |\n" + _DOUBLE
    )
    none = "".join(f"| No running processes found in NPU {number:<61}|\n" for number in health)
    return _LINE + _HEAD + rows + _LINE + tail + (processes or none) + _DOUBLE


NPU_SMI_EIGHT = npu_smi({number: "OK" for number in range(8)})
PROCESS = "| 0       0                 | 41873         | python3                  | 28671                   |\n"
GIB = 1 << 30
SMI = ("npu-smi", "info")
ASCEND = "/usr/local/Ascend"
CANN_INFO = f"{ASCEND}/cann/aarch64-linux/ascend_toolkit_install.info"
TCMALLOC = "/usr/lib/aarch64-linux-gnu/libtcmalloc.so.4"


def link_command(number: int) -> tuple[str, ...]:
    """What asks for the state of a card's link."""
    return "hccn_tool", "-i", str(number), "-link", "-g"


class FakeMachine(Machine):
    """An Atlas 800T A2 with everything right; tests break one thing each."""

    def __init__(self, root: Path, environ: Mapping[str, str] | None = None, npus: int = 8) -> None:
        super().__init__(root, dict(environ or {}))
        self.architecture, self.python, self.cores, self.usable_cores = "aarch64", (3, 11), 192, 192
        self.python_build = "'--with-lto' '--enable-optimizations'"
        self.commands: dict[tuple[str, ...], Output] = {}
        self.packages = {
            **{"torch": "2.8.0", "numpy": "1.26.4", "scipy": "1.13.1", "shapely": "2.0.7", "pillow": "11.3.0"},
            **{"opencv-python-headless": "4.11.0.86", "rich": "14.1.0"},
            **{"tensorboard": "2.20.0", "matplotlib": "3.9.4"},
        }
        self.import_problems: dict[str, str] = {}
        self.locked: set[str] = set()
        self.space = (100 * GIB, 90 * GIB)
        self.write("/dev/shm/.keep", "")
        if npus:
            self._add_npus(npus)

    def _add_npus(self, count: int) -> None:
        for name in ("davinci_manager", "devmm_svm", "hisi_hdc", *(f"davinci{number}" for number in range(count))):
            self.write(f"/dev/{name}", "")
        self.write("/etc/ascend_install.info", f"Driver_Install_Path_Param={ASCEND}\n")
        self.write(f"{ASCEND}/driver/version.info", "Version=25.2.0\nascendhal_version=7.35.23\n")
        self.write(f"{ASCEND}/firmware/version.info", "Version=7.7.0.6.236\n")
        self.write(CANN_INFO, "package_name=Ascend-cann-toolkit\nversion=8.5.0\n")
        (self.path(f"{ASCEND}/cann/opp")).mkdir()
        self.write(TCMALLOC, "")
        addresses = (f"address_{number}=192.168.100.{number + 101}\n" for number in range(count))
        self.write("/etc/hccn.conf", "".join(addresses))
        self.environ = {
            **{"ASCEND_HOME_PATH": f"{ASCEND}/cann", "LD_PRELOAD": TCMALLOC},
            **{"HCCL_IF_IP": "10.0.0.5", "HCCL_CONNECT_TIMEOUT": "1200", "TASK_QUEUE_ENABLE": "2"},
            **self.environ,
        }
        self.packages |= {"torch_npu": "2.8.0.post2", "mx-driving": "26.2.0.post2"}
        self.commands = {
            SMI: Output(0, npu_smi({number: "OK" for number in range(count)})),
            ("hostname", "-I"): Output(0, "10.0.0.5 172.17.0.1 \n"),
            **{link_command(number): Output(0, "link status: UP\n") for number in range(count)},
        }

    def write(self, name: str, text: str) -> None:
        """Put a file into this machine."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def usable(self, path: Path) -> bool:
        return path.name not in self.locked

    def run(self, *command: str) -> Output | None:
        return self.commands.get(command)

    def package(self, name: str) -> str | None:
        return self.packages.get(name)

    def import_error(self, *modules: str) -> str | None:
        return next((self.import_problems[module] for module in modules if module in self.import_problems), None)

    def free_space(self, path: Path) -> tuple[int, int] | None:
        return self.space
