"""The doctor on good and broken machines."""

from __future__ import annotations

import argparse
import json

import pytest
from support.fake_machine import NPU_SMI_ALARM, FakeMachine, npu_smi

from pivotnet.commands import doctor as command
from pivotnet.doctor import examination, host, npu, software
from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Machine, Output

CHECKS = (
    *(npu.check_devices, npu.check_driver, npu.check_cann),
    *(software.check_python, software.check_packages, software.check_npu_packages),
    *(npu.check_hccl, npu.check_variables),
    *(host.check_tcmalloc, host.check_cores, host.check_shared_memory),
)


def found(machine: FakeMachine) -> list:
    return [finding for check in CHECKS for finding in check(machine)]


def statuses(machine: FakeMachine, *wanted: str) -> list[str]:
    """ "topic: text" of the findings with these statuses."""
    return [f"{finding.topic}: {finding.text}" for finding in found(machine) if finding.status in wanted]


def one(machine: FakeMachine, status: str, text: str) -> None:
    """There is exactly one finding worse than a note, of this status, with this text and with a remedy."""
    bad = [finding for finding in found(machine) if finding.status in (WARNING, ERROR)]
    assert [finding.status for finding in bad] == [status], bad
    assert text in bad[0].text and bad[0].remedy


def test_a_good_server_has_nothing_but_good_findings(tmp_path):
    machine = FakeMachine(tmp_path)
    assert statuses(machine, WARNING, ERROR, NOTE) == []
    good = statuses(machine, OK)
    assert "NPU: 8 x 910B3, 64 GiB each, health OK" in good
    assert "driver: 25.2.0" in good and "firmware: 7.7.0.6.236" in good
    assert "versions: torch 2.8.0, torch_npu 2.8.0.post2 and CANN 8.5.0 belong together" in good


def test_a_laptop_gets_notes_only(tmp_path):
    machine = FakeMachine(tmp_path, npus=0)
    machine.build, machine.fake_cores = "", (2, 2)
    assert statuses(machine, WARNING, ERROR) == []
    assert any("none here" in text for text in statuses(machine, NOTE))


def _break(machine: FakeMachine, what: str) -> None:
    ascend = "/usr/local/Ascend"
    actions = {
        "alarm": lambda: machine.commands.update({("npu-smi", "info"): Output(0, npu_smi({0: "OK", 1: "Alarm"}))}),
        "device lost": lambda: machine.commands.update({("npu-smi", "info"): Output(0, npu_smi({0: "OK"}))}),
        "smi fails": lambda: machine.commands.update(
            {("npu-smi", "info"): Output(1, "dcmi init failed. ret is -8005")}
        ),
        "smi hangs": lambda: machine.commands.update({("npu-smi", "info"): Output(124, "no answer within 60 s")}),
        "no smi": lambda: machine.commands.pop(("npu-smi", "info")),
        "container": lambda: machine.path("/dev/devmm_svm").unlink(),
        "no right": lambda: machine.locked.add("davinci1"),
        "no driver": lambda: machine.path(f"{ascend}/driver/version.info").unlink(),
        "no kernels": lambda: [
            machine.path(f"{ascend}/cann/opp/version.info").unlink(),
            machine.path(f"{ascend}/cann/opp").rmdir(),
        ],
        "old cann": lambda: machine.write(
            f"{ascend}/cann/aarch64-linux/ascend_toolkit_install.info", "version=8.1.RC1\n"
        ),
        "new cann": lambda: machine.write(
            f"{ascend}/cann/aarch64-linux/ascend_toolkit_install.info", "version=9.0.0\n"
        ),
        "no torch_npu": lambda: machine.packages.pop("torch_npu"),
        "other torch_npu": lambda: machine.packages.update({"torch_npu": "2.7.1"}),
        "torch_npu breaks": lambda: machine.import_problems.update({"torch_npu": "libascendcl.so: cannot open"}),
        "no mx_driving": lambda: machine.packages.pop("mx-driving"),
        "other mx_driving": lambda: machine.packages.update({"mx-driving": "26.2.0.post1"}),
        "both mx_driving": lambda: machine.packages.update({"mx-driving-a5": "26.2.0.post2"}),
        "no scipy": lambda: machine.packages.pop("scipy"),
        "python 3.8": lambda: setattr(machine, "version", (3, 8)),
        "slow python": lambda: setattr(machine, "build", "'--with-lto'"),
        "small shm": lambda: setattr(machine, "space", (64 << 20, 64 << 20)),
        "few cores": lambda: setattr(machine, "fake_cores", (4, 4)),
        "taskset": lambda: setattr(machine, "fake_cores", (192, 32)),
        "no tcmalloc": lambda: [
            machine.environ.pop("LD_PRELOAD"),
            machine.path("/usr/lib/aarch64-linux-gnu/libtcmalloc.so.4").unlink(),
        ],
        "preload gone": lambda: machine.environ.update({"LD_PRELOAD": "/opt/libtcmalloc.so:/opt/other.so"}),
        "other host": lambda: machine.environ.update({"HCCL_IF_IP": "10.9.9.9"}),
        "timeout": lambda: machine.environ.update({"HCCL_CONNECT_TIMEOUT": "60"}),
        "event": lambda: machine.environ.update({"HCCL_EXEC_TIMEOUT": "3600"}),
        "visible": lambda: machine.environ.update({"ASCEND_RT_VISIBLE_DEVICES": "0,7"}),
        "blocking": lambda: machine.environ.update({"ASCEND_LAUNCH_BLOCKING": "1"}),
        "log": lambda: machine.environ.update({"ASCEND_GLOBAL_LOG_LEVEL": "1"}),
        "link": lambda: machine.commands.update(
            {("hccn_tool", "-i", "1", "-link", "-g"): Output(0, "link status: DOWN")}
        ),
        "threads": lambda: machine.environ.update({"OMP_NUM_THREADS": "150"}),
    }
    actions[what]()


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [
        ("alarm", ERROR, "device 1 (910B3): health Alarm"),
        ("device lost", ERROR, "device(s) 1 have a file"),
        ("smi fails", ERROR, "status 1: dcmi init failed. ret is -8005"),
        ("smi hangs", ERROR, "no answer within 60 s"),
        ("no smi", WARNING, "health unknown"),
        ("container", ERROR, "/dev/devmm_svm missing"),
        ("no right", ERROR, "no right to use /dev/davinci1"),
        ("no driver", ERROR, "driver/version.info cannot be read"),
        ("no kernels", ERROR, "no operators"),
        ("old cann", WARNING, "belongs to CANN 8.5.0, this is the older 8.1.RC1"),
        ("new cann", WARNING, "this is 9.0.0: not a tested pair"),
        ("no torch_npu", ERROR, "training would run on the CPU"),
        ("other torch_npu", ERROR, "2.7.1 is made for another torch than 2.8.0"),
        ("torch_npu breaks", ERROR, "libascendcl.so: cannot open"),
        ("no mx_driving", ERROR, "deformable attention"),
        ("other mx_driving", ERROR, "26.2.0.post1 is not made for torch 2.8.0"),
        ("both mx_driving", ERROR, "hold the same files"),
        ("no scipy", ERROR, "missing: scipy"),
        ("python 3.8", ERROR, "3.8 on aarch64"),
        ("slow python", WARNING, "built without PGO"),
        ("small shm", ERROR, "loader workers would die"),
        ("few cores", WARNING, "4 cores for 2 ranks"),
        ("taskset", WARNING, "only 32 usable"),
        ("no tcmalloc", WARNING, "not found"),
        ("preload gone", WARNING, "LD_PRELOAD names /opt/libtcmalloc.so, /opt/other.so"),
        ("other host", ERROR, "10.9.9.9 is no address of this host"),
        ("timeout", ERROR, "HCCL_CONNECT_TIMEOUT=60"),
        ("event", WARNING, "HCCL_EVENT_TIMEOUT (1868 s) does not exceed"),
        ("visible", ERROR, "ASCEND_RT_VISIBLE_DEVICES=0,7 names devices that do not exist"),
        ("blocking", WARNING, "waits for every operator"),
        ("log", WARNING, "ASCEND_GLOBAL_LOG_LEVEL=1"),
        ("link", WARNING, "link of device(s) 1 is not up"),
        ("threads", WARNING, "OMP_NUM_THREADS=150 x 2 ranks"),
    ],
)
def test_one_broken_thing_is_one_finding_with_a_remedy(tmp_path, what, status, text):
    machine = FakeMachine(tmp_path, npus=2)
    _break(machine, what)
    one(machine, status, text)


def test_several_machines_need_addresses_and_links_of_the_cards(tmp_path):
    machine = FakeMachine(tmp_path, {"NNODES": "2"}, npus=2)
    machine.write("/etc/hccn.conf", "address_0=192.168.100.101\n")
    one(machine, ERROR, "no address in /etc/hccn.conf for device(s) 1")


def test_a_busy_device_is_named(tmp_path):
    machine = FakeMachine(tmp_path, npus=2)
    machine.commands[("npu-smi", "info")] = Output(0, NPU_SMI_ALARM)
    assert "NPU: device 0 is in use by process 41873 (python3)" in statuses(machine, WARNING)


def test_torch_npu_without_an_npu_is_named(tmp_path):
    machine = FakeMachine(tmp_path, npus=0)
    machine.packages["torch_npu"] = "2.8.0.post2"
    machine.import_problems["torch"] = "ImportError: libhccl.so: cannot open shared object file"
    errors = statuses(machine, ERROR)
    assert len(errors) == 1 and "libhccl.so" in errors[0]


def _arguments(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    return parser.parse_args(options)


def test_the_report_goes_on_after_a_check_that_breaks(tmp_path, monkeypatch):
    def broken(machine):
        raise OSError("odd machine")

    monkeypatch.setattr(npu, "check_driver", broken)
    findings = examination.examine(FakeMachine(tmp_path), output=tmp_path)
    assert [f.text for f in findings if "odd machine" in f.text] == ["this check failed: OSError: odd machine"]
    assert findings[-1].topic == "checkout"


def test_json_holds_no_foreign_variables(tmp_path):
    machine = FakeMachine(tmp_path, {"SECRET_TOKEN": "hunter2", "HCCL_IF_IP": "10.0.0.5"})
    content = examination.ticket(found(machine), machine)
    assert content["environment"]["HCCL_IF_IP"] == "10.0.0.5" and content["can_train"] is True
    assert "hunter2" not in json.dumps(content)
    assert {"topic", "status", "text", "remedy"} == set(content["findings"][0])


@pytest.mark.parametrize(("broken", "status"), [(False, 0), (True, 1)])
def test_exit_status_says_whether_training_could_start(tmp_path, monkeypatch, capsys, broken, status):
    machine = FakeMachine(tmp_path, npus=2)
    if broken:
        _break(machine, "alarm")
    monkeypatch.setattr(command, "Machine", lambda: machine)
    assert command.run(_arguments("--output", str(tmp_path))) == status
    out = capsys.readouterr().out
    assert ("training cannot start: 1 error(s)" in out) == broken
    assert ("health Alarm" in out) == broken


def test_commands_that_are_missing_or_hang(monkeypatch):
    monkeypatch.setattr("pivotnet.doctor.machine.TIMEOUT", 0.2)
    machine = Machine()
    assert machine.run("no-such-command-here") is None
    hung = machine.run("sleep", "5")
    assert hung is not None and hung.status == 124
    failed = machine.run("sh", "-c", "echo broken >&2; exit 3")
    assert failed == Output(3, "broken\n")
