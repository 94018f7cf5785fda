"""test/env_npu.sh on machines with and without NPUs, made of empty files."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "env_npu.sh"
SOURCE = 'source "$SCRIPT"'
PUBLISHED = {
    **{"ASCEND_SLOG_PRINT_TO_STDOUT": "0", "ASCEND_GLOBAL_LOG_LEVEL": "3", "ASCEND_GLOBAL_EVENT_ENABLE": "0"},
    **{"TASK_QUEUE_ENABLE": "2", "COMBINED_ENABLE": "1", "CPU_AFFINITY_CONF": "1"},
    **{"HCCL_WHITELIST_DISABLE": "1", "HCCL_CONNECT_TIMEOUT": "1200"},
}
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "-1", "MALLOC_MMAP_MAX_": "0"}


class Server:
    """Folders that stand for /dev and /usr/local/Ascend, and a PATH with msnpureport."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.dev = folder, folder / "dev"
        self.set_env = folder / "Ascend" / "ascend-toolkit" / "set_env.sh"  # CANN's
        for path in (self.dev, self.set_env.parent, folder / "bin"):
            path.mkdir(parents=True)
        for name in ("davinci_manager", *(f"davinci{number}" for number in range(8))):
            (self.dev / name).touch()
        self.tool("msnpureport", 'echo "$*" >>"$CALLS"')
        self.tool("hostname", 'echo "10.0.0.5 172.17.0.1 "')
        self.tcmalloc = folder / "libtcmalloc.so.4"
        library = next(Path("/lib").glob("*/libutil.so.1"), Path("/lib64/libutil.so.1"))
        shutil.copy(library, self.tcmalloc)  # a library that may really be preloaded

    def tool(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def bash(self, commands: str = SOURCE, **environment: str) -> tuple[dict[str, str], str]:
        """The variables that commands leave to what is started after them, and stderr; they must print nothing. They
        run under set -euo pipefail, in an environment with nothing else in it."""
        variables = {
            **{"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "HOME": str(self.folder), "SCRIPT": str(SCRIPT)},
            **{"CALLS": str(self.folder / "calls"), "PIVOTNET_DEV": str(self.dev)},
            **{"PIVOTNET_ASCEND": str(self.folder / "Ascend"), "PIVOTNET_TCMALLOC": str(self.tcmalloc)},
        }
        command = ["bash", "-euo", "pipefail", "-c", f"{commands}; echo; env -0"]
        done = subprocess.run(command, capture_output=True, text=True, env={**variables, **environment})
        assert done.returncode == 0 and done.stdout[0] == "\n", done
        found = dict(entry.split("=", 1) for entry in done.stdout[1:].split("\0") if "=" in entry)
        return {name: value for name, value in found.items() if name not in ("_", "SHLVL")}, done.stderr


@pytest.fixture
def server(tmp_path) -> Server:
    return Server(tmp_path / "server")


def test_variables_are_those_of_the_published_script(server):
    environment, hint = server.bash()
    assert PUBLISHED.items() <= environment.items() and not MALLOC.keys() & environment.keys()
    assert environment["HCCL_IF_IP"] == "10.0.0.5"
    assert int(environment["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 8)
    assert "source {cann_root_dir}/set_env.sh" in hint, "there is no CANN"


def test_what_the_user_has_set_stays(server):
    own = {**{name: "7" for name in PUBLISHED}, "HCCL_IF_IP": "", "OMP_NUM_THREADS": "3"}
    assert own.items() <= server.bash(**own, ASCEND_HOME_PATH="/opt/cann")[0].items()


def test_sourced_twice_changes_nothing(server):
    server.set_env.write_text('export LD_LIBRARY_PATH="/cann/lib:${LD_LIBRARY_PATH:-}" ASCEND_TOOLKIT_HOME=/cann\n')
    twice = (SOURCE, f"{SOURCE}; {SOURCE}", f"{SOURCE}; bash -euc '{SOURCE}; echo; env -0'; exit")
    results = [server.bash(commands, LD_LIBRARY_PATH="/mine", LD_PRELOAD="") for commands in twice]
    assert results[0] == results[1] == results[2] and results[0][1] == ""
    assert results[0][0]["LD_LIBRARY_PATH"] == "/cann/lib:/mine", "added to, not replaced"
    calls = (server.folder / "calls").read_text().splitlines()
    assert calls == [f"-g error -d {number}" for number in range(8)] * 3, "once a shell and device"


def test_tcmalloc_is_added_to_what_is_preloaded(server):
    other, own = server.tcmalloc.with_name("other.so"), server.tcmalloc.with_name("libtcmalloc_minimal.so.4")
    for library in (other, own):
        shutil.copy(server.tcmalloc, library)
    both = f"{server.tcmalloc}:{other}"
    # one tcmalloc is enough
    for before, after in ((str(other), both), ("", str(server.tcmalloc)), (str(own), str(own))):
        assert server.bash(LD_PRELOAD=before, ASCEND_HOME_PATH="/cann")[0]["LD_PRELOAD"] == after


def test_a_sloppy_set_env_is_found_and_does_not_end_the_callers_shell(server, tmp_path):
    home = tmp_path / "opt" / "latest"
    home.mkdir(parents=True)
    for path in (server.set_env, home.parent / "set_env.sh", home / "set_env.sh"):
        path.write_text(f'false\necho "$NEVER_SET_BEFORE"\nexport FROM={path}\n')
        named = {} if path == server.set_env else {"ASCEND_TOOLKIT_HOME": str(home)}
        environment, _ = server.bash(f"{SOURCE}; case $- in *e*u*) export STRICT=yes ;; esac", **named)
        assert environment["FROM"] == str(path) and environment["STRICT"] == "yes"


def test_a_machine_without_an_npu_hears_nothing(server):
    for path in server.dev.iterdir():
        path.unlink()
    environment, said = server.bash(PIVOTNET_TCMALLOC="", MALLOC_ARENA_MAX="4")
    assert said == "" and {**MALLOC, "MALLOC_ARENA_MAX": "4"}.items() <= environment.items()
    assert not (PUBLISHED.keys() | {"HCCL_IF_IP", "OMP_NUM_THREADS"}) & environment.keys()
    assert not (server.folder / "calls").exists()
    (server.dev / "nvidia0").touch()
    assert not MALLOC.keys() & server.bash()[0].keys(), "a GPU's tensors are not malloc's"


def test_several_machines_meet_at_the_address_on_the_way_to_the_master(server):
    several = {"NNODES": "2", "MASTER_ADDR": "10.1.0.1", "ASCEND_HOME_PATH": "/cann"}
    server.tool("ip", 'echo "10.1.0.1 via 10.0.0.1 dev eth7 src 10.7.0.5 uid 0"')
    assert server.bash(**several)[0]["HCCL_IF_IP"] == "10.7.0.5"
    server.tool("ip", "exit 2")
    assert server.bash(**several)[0]["HCCL_IF_IP"] == "10.0.0.5"
    server.tool("hostname", "exit 1")
    assert "HCCL_IF_IP" not in server.bash(**several)[0], "better than an empty one"
