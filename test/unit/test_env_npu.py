"""test/env_npu.sh on machines with and without NPUs, made of empty files."""

from __future__ import annotations

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


class Server:
    """Folders that stand for /dev and /usr/local/Ascend, and a PATH with msnpureport."""

    def __init__(self, folder: Path, npus: int = 8) -> None:
        self.folder = folder
        for name in ("dev", "Ascend/ascend-toolkit", "bin"):
            (folder / name).mkdir(parents=True)
        for name in ("davinci_manager", *(f"davinci{number}" for number in range(npus))) if npus else ():
            (folder / "dev" / name).touch()
        self.tool("msnpureport", 'echo "$*" >>"$CALLS"')
        self.tool("hostname", 'echo "10.0.0.5 172.17.0.1 "')
        self.tcmalloc = folder / "libtcmalloc.so.4"
        libraries = [path for path in Path("/lib").glob("*/libutil.so.1")] or [Path("/lib64/libutil.so.1")]
        shutil.copy(libraries[0], self.tcmalloc)  # a library that may really be preloaded

    def tool(self, name: str, body: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def set_env(self, body: str) -> Path:
        """CANN's set_env.sh."""
        path = self.folder / "Ascend" / "ascend-toolkit" / "set_env.sh"
        path.write_text(body)
        return path

    def bash(self, commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run commands under set -euo pipefail, in an environment with nothing else in it."""
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            capture_output=True,
            text=True,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "SCRIPT": str(SCRIPT),
                "CALLS": str(self.folder / "calls"),
                "PIVOTNET_DEV": str(self.folder / "dev"),
                "PIVOTNET_ASCEND": str(self.folder / "Ascend"),
                "PIVOTNET_TCMALLOC": str(self.tcmalloc),
                **environment,
            },
        )

    def environment(self, commands: str = SOURCE, **environment: str) -> dict[str, str]:
        """Variables that the commands leave to what is started after them."""
        done = self.bash(f"{commands}; env -0", **environment)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        return dict(entry.split("=", 1) for entry in done.stdout.split("\0") if "=" in entry)


@pytest.fixture
def server(tmp_path) -> Server:
    return Server(tmp_path / "server")


def test_variables_are_those_of_the_published_script(server):
    environment = server.environment(f"cd /; {SOURCE} 2>/dev/null")
    assert PUBLISHED.items() <= environment.items()
    assert environment["HCCL_IF_IP"] == "10.0.0.5"
    assert int(environment["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 8)


def test_every_variable_has_a_reason_in_the_line_above():
    lines = SCRIPT.read_text().splitlines()
    for name in (*PUBLISHED, "HCCL_IF_IP", "OMP_NUM_THREADS"):
        (number,) = [index for index, line in enumerate(lines) if line.strip().startswith(f"pivotnet_default {name} ")]
        assert lines[number - 1].strip().startswith("# "), name


def test_what_the_user_has_set_stays(server):
    own = {**{name: "7" for name in PUBLISHED}, "HCCL_IF_IP": "", "OMP_NUM_THREADS": "3"}
    environment = server.environment(**own, ASCEND_HOME_PATH="/opt/cann")
    assert own.items() <= environment.items()


def test_sourced_twice_changes_nothing(server):
    server.set_env('export LD_LIBRARY_PATH="/cann/lib:${LD_LIBRARY_PATH:-}" ASCEND_TOOLKIT_HOME=/cann\n')
    once = server.environment(LD_LIBRARY_PATH="/mine", LD_PRELOAD="")
    twice = server.environment(f"{SOURCE}; {SOURCE}", LD_LIBRARY_PATH="/mine", LD_PRELOAD="")
    in_child = server.environment(
        f"{SOURCE}; bash -euc '{SOURCE}; env -0'; exit", LD_LIBRARY_PATH="/mine", LD_PRELOAD=""
    )
    for environment in (once, twice, in_child):
        for name in ("_", "SHLVL"):
            environment.pop(name, None)
    assert once == twice == in_child
    assert once["LD_LIBRARY_PATH"] == "/cann/lib:/mine", "added to, not replaced"


def test_tcmalloc_is_added_to_what_is_preloaded(server):
    other = server.tcmalloc.with_name("other.so")
    shutil.copy(server.tcmalloc, other)
    server.set_env("export ASCEND_HOME_PATH=/cann")
    assert server.environment(LD_PRELOAD=str(other))["LD_PRELOAD"] == f"{server.tcmalloc}:{other}"
    assert server.environment()["LD_PRELOAD"] == str(server.tcmalloc)
    own = str(server.tcmalloc.with_name("libtcmalloc_minimal.so.4"))
    shutil.copy(server.tcmalloc, own)
    assert server.environment(LD_PRELOAD=own)["LD_PRELOAD"] == own, "one tcmalloc is enough"


def test_set_env_is_found_beside_the_toolkit_that_the_user_names(server, tmp_path):
    home = tmp_path / "opt" / "latest"
    home.mkdir(parents=True)
    (home.parent / "set_env.sh").write_text("export FROM=beside\n")
    assert server.environment(ASCEND_TOOLKIT_HOME=str(home))["FROM"] == "beside"
    (home / "set_env.sh").write_text("export FROM=inside\n")
    assert server.environment(ASCEND_TOOLKIT_HOME=str(home))["FROM"] == "inside"


def test_a_sloppy_set_env_does_not_end_the_callers_shell(server):
    server.set_env('false\necho "$NEVER_SET_BEFORE"\nexport ASCEND_HOME_PATH=/cann\n')
    environment = server.environment(f"{SOURCE}; case $- in *e*u*) export STRICT=yes ;; esac")
    assert environment["ASCEND_HOME_PATH"] == "/cann" and environment["STRICT"] == "yes"


def test_each_device_that_exists_logs_errors_only(server, tmp_path):
    (tmp_path / "server" / "dev" / "davinci3").unlink()
    server.environment(f"{SOURCE}; {SOURCE}", ASCEND_HOME_PATH="/cann")
    calls = (server.folder / "calls").read_text().splitlines()
    assert calls == [f"-g error -d {number}" for number in (0, 1, 2, 4, 5, 6, 7)]


def test_silence_and_no_variables_without_an_npu(tmp_path):
    laptop = Server(tmp_path / "laptop", npus=0)
    done = laptop.bash(SOURCE, PIVOTNET_TCMALLOC="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    environment = laptop.environment()
    assert not (PUBLISHED.keys() | {"HCCL_IF_IP", "OMP_NUM_THREADS"}) & environment.keys()
    assert not (laptop.folder / "calls").exists()


def test_an_npu_without_cann_gets_a_hint(server):
    done = server.bash(SOURCE)
    assert done.returncode == 0 and done.stdout == "" and "source {cann_root_dir}/set_env.sh" in done.stderr


def test_several_machines_meet_at_the_address_on_the_way_to_the_master(server):
    server.tool("ip", 'echo "10.1.0.1 via 10.0.0.1 dev eth7 src 10.7.0.5 uid 0"')
    several = {"NNODES": "2", "MASTER_ADDR": "10.1.0.1", "ASCEND_HOME_PATH": "/cann"}
    assert server.environment(**several)["HCCL_IF_IP"] == "10.7.0.5"
    server.tool("ip", "exit 2")
    assert server.environment(**several)["HCCL_IF_IP"] == "10.0.0.5"


def test_no_address_is_better_than_an_empty_one(server):
    server.tool("hostname", "exit 1")
    assert "HCCL_IF_IP" not in server.environment(ASCEND_HOME_PATH="/cann")


@pytest.mark.parametrize("cards", ["many", "0", "-1", ""])
def test_an_odd_number_of_cards_is_left_to_the_run_scripts(server, cards):
    environment = server.environment(CARDS=cards, ASCEND_HOME_PATH="/cann")
    assert int(environment["OMP_NUM_THREADS"]) >= 1
