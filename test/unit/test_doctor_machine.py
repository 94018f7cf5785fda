"""The doctor on good and broken machines, and its readers of what vendors' tools print (numbers changed)."""

import json

import pytest
from support.fake_machine import ASCEND, CANN_INFO, PROCESS, SMI, TCMALLOC, FakeMachine, link_command, npu_smi

from pivotnet import cli
from pivotnet.commands import doctor as command
from pivotnet.doctor import examination, npu, versions
from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Machine


def found(machine: FakeMachine) -> list:
    return [finding for check in examination.machine_checks(machine).values() for finding in check(machine)]


def statuses(machine: FakeMachine, *wanted: str) -> list[str]:
    """ "topic: text" of the findings with these statuses."""
    return [f"{finding.topic}: {finding.text}" for finding in found(machine) if finding.status in wanted]


def test_a_good_server_has_nothing_but_good_findings(tmp_path):
    machine = FakeMachine(tmp_path)
    assert statuses(machine, WARNING, ERROR, NOTE) == []
    good = statuses(machine, OK)
    assert "NPU: 8 x 910B3, 64 GiB each, health OK" in good
    assert "driver: 25.2.0" in good and "firmware: 7.7.0.6.236" in good
    assert "versions: torch 2.8.0+cpu, torch_npu 2.8.0.post2 and CANN 8.5.0 belong together" in good


def test_a_laptop_gets_notes_only(tmp_path):
    machine = FakeMachine(tmp_path, npus=0)
    machine.python_build, machine.cores, machine.usable_cores = "", 2, 2
    assert statuses(machine, WARNING, ERROR) == []
    assert any("none here" in text for text in statuses(machine, NOTE))
    machine.packages["torch_npu"] = "2.8.0.post2"
    machine.import_problems["torch"] = "ImportError: libhccl.so: cannot open shared object file"
    (text,) = statuses(machine, ERROR)
    assert "libhccl.so" in text


# what: (how it breaks a machine of two NPUs, status, text)
BROKEN = {
    "alarm": (lambda m: smi(m, 0, npu_smi({0: "OK", 1: "Alarm"})), ERROR, "device 1 (910B3): health Alarm"),
    "device lost": (lambda m: smi(m, 0, npu_smi({0: "OK"})), ERROR, "device(s) 1 have a file"),
    "smi fails": (lambda m: smi(m, 1, "init failed\nret is -8005"), ERROR, "status 1: ret is -8005"),
    "smi hangs": (lambda m: smi(m, 124, "no answer within 60 s"), ERROR, "no answer within 60 s"),
    "no smi": (lambda m: m.commands.pop(SMI), WARNING, "health unknown"),
    "busy": (lambda m: smi(m, 0, npu_smi({0: "OK", 1: "OK"}, PROCESS)), WARNING, "in use by process 41873 (python3)"),
    "container": (lambda m: m.path("/dev/devmm_svm").unlink(), ERROR, "/dev/devmm_svm missing"),
    "no right": (lambda m: m.locked.add("davinci1"), ERROR, "no right to use /dev/davinci1"),
    "no driver": (lambda m: m.path(f"{ASCEND}/driver/version.info").unlink(), ERROR, "version.info cannot be read"),
    "no kernels": (lambda m: m.path(f"{ASCEND}/cann/opp").rmdir(), ERROR, "no operators"),
    "old cann": (lambda m: m.write(CANN_INFO, "version=8.1.RC1"), WARNING, "8.5.0, this is the older 8.1.RC1"),
    "new cann": (lambda m: m.write(CANN_INFO, "version=9.0.0"), WARNING, "this is 9.0.0: not a tested pair"),
    "no torch_npu": (lambda m: m.packages.pop("torch_npu"), ERROR, "training would run on the CPU"),
    "other torch_npu": (lambda m: m.packages.update(torch_npu="2.7.1"), ERROR, "made for another torch than 2.8.0+cpu"),
    "torch_npu breaks": (lambda m: m.import_problems.update(torch_npu="libascendcl.so"), ERROR, "libascendcl.so"),
    "no mx_driving": (lambda m: m.packages.pop("mx-driving"), ERROR, "deformable attention"),
    "other mx_driving": (lambda m: m.packages.update({"mx-driving": "26.2.0.post1"}), ERROR, "not made for torch 2.8"),
    "both mx_driving": (lambda m: m.packages.update({"mx-driving-a5": "26.2.0.post2"}), ERROR, "hold the same files"),
    "no scipy": (lambda m: m.packages.pop("scipy"), ERROR, "missing: scipy"),
    "python 3.8": (lambda m: setattr(m, "python", (3, 8)), ERROR, "3.8 on aarch64"),
    "slow python": (lambda m: setattr(m, "python_build", "'--with-lto'"), WARNING, "built without PGO"),
    "small shm": (lambda m: setattr(m, "space", (64 << 20, 64 << 20)), ERROR, "loader workers would die"),
    "few cores": (lambda m: vars(m).update(cores=4, usable_cores=4), WARNING, "4 cores for 2 ranks"),
    "taskset": (lambda m: setattr(m, "usable_cores", 32), WARNING, "only 32 usable"),
    "no tcmalloc": (lambda m: [m.environ.pop("LD_PRELOAD"), m.path(TCMALLOC).unlink()], WARNING, "not found"),
    "preload gone": (lambda m: m.environ.update(LD_PRELOAD="/opt/a.so:/opt/b.so"), WARNING, "/opt/a.so, /opt/b.so"),
    "other host": (lambda m: m.environ.update(HCCL_IF_IP="10.9.9.9"), ERROR, "10.9.9.9 is no address of this host"),
    "timeout": (lambda m: m.environ.update(HCCL_CONNECT_TIMEOUT="60"), ERROR, "HCCL_CONNECT_TIMEOUT=60"),
    "event": (lambda m: m.environ.update(HCCL_EXEC_TIMEOUT="3600"), WARNING, "HCCL_EVENT_TIMEOUT (1868 s) does not"),
    "visible": (lambda m: m.environ.update(ASCEND_RT_VISIBLE_DEVICES="0,7"), ERROR, "=0,7 names devices that do not"),
    "blocking": (lambda m: m.environ.update(ASCEND_LAUNCH_BLOCKING="1"), WARNING, "waits for every operator"),
    "log": (lambda m: m.environ.update(ASCEND_GLOBAL_LOG_LEVEL="1"), WARNING, "ASCEND_GLOBAL_LOG_LEVEL=1"),
    "link": (lambda m: m.commands.update({link_command(1): (0, "DOWN")}), WARNING, "link of device(s) 1 is not up"),
    "threads": (lambda m: m.environ.update(OMP_NUM_THREADS="150"), WARNING, "OMP_NUM_THREADS=150 x 2 ranks"),
    "several machines": (
        lambda m: [m.environ.update(NNODES="2"), m.write("/etc/hccn.conf", "address_0=192.168.100.101\n")],
        *(ERROR, "no address in /etc/hccn.conf for device(s) 1"),
    ),
}


def smi(machine: FakeMachine, status: int, text: str) -> None:
    """npu-smi prints something else."""
    machine.commands[SMI] = (status, text)


@pytest.mark.parametrize("what", BROKEN)
def test_one_broken_thing_is_one_finding_with_a_remedy(tmp_path, what):
    machine = FakeMachine(tmp_path, npus=2)
    break_it, status, text = BROKEN[what]
    break_it(machine)
    bad = [finding for finding in found(machine) if finding.status in (WARNING, ERROR)]
    assert [finding.status for finding in bad] == [status], bad
    assert text in bad[0].text and bad[0].remedy
    assert (what == "old cann") == any("refuses --graph and does not" in note for note in statuses(machine, NOTE))


def test_the_report_goes_on_after_a_check_that_breaks(tmp_path, monkeypatch):
    def broken(machine):
        raise OSError("odd machine")

    monkeypatch.setitem(examination.CHECKS, "cores", broken)
    findings = examination.examine(FakeMachine(tmp_path), output=tmp_path)
    assert [f.text for f in findings if "odd machine" in f.text] == ["this check failed: OSError: odd machine"]
    assert findings[-1].topic == "checkout"


def test_json_holds_no_foreign_variables(tmp_path):
    machine = FakeMachine(tmp_path, {"SECRET_TOKEN": "hunter2", "HCCL_IF_IP": "10.0.0.5"})
    content = examination.ticket(found(machine), machine)
    assert content["environment"]["HCCL_IF_IP"] == "10.0.0.5" and content["can_train"] is True
    assert "hunter2" not in json.dumps(content)
    assert {"topic", "status", "text", "remedy"} == set(content["findings"][0])


def test_exit_status_says_whether_training_could_start(tmp_path, monkeypatch, capsys):
    machine = FakeMachine(tmp_path, npus=2)
    monkeypatch.setattr(command, "Machine", lambda: machine)
    assert cli.main(["doctor", "--output", str(tmp_path)]) == 0 and "training can start" in capsys.readouterr().out
    BROKEN["alarm"][0](machine)
    assert cli.main(["doctor", "--output", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "training cannot start: 1 error(s)" in out and "health Alarm" in out


def test_commands_that_are_missing_or_hang(monkeypatch):
    monkeypatch.setattr("pivotnet.doctor.machine.TIMEOUT", 0.2)
    machine = Machine()
    assert machine.run("no-such-command-here") is None
    assert machine.run("sleep", "5") == (124, "no answer within 0 s")
    assert machine.run("sh", "-c", "echo broken >&2; exit 3") == (3, "broken\n")


def test_chips_with_memory_of_one_kind_and_wider_columns():
    text = """
    | npu-smi 23.0.0                                   Version: 23.0.0                                       |
    | NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
    | Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
    +===============================+=================+======================================================+
    | 6       310P3                 | Warning         | NA           50                0     / 0             |
    | 0       0                     | 0000:84:00.0    | 0            1839 / 21525                            |
    """
    assert npu.parse_npu_smi(text) == ([npu.Npu(6, "310P3", "Warning", 21525)], [])
    for text in ("", "dcmi init failed. ret is -8005", "| | | |\n|---|", npu_smi({0: "OK"})[:400], "|" * 50):
        assert npu.parse_npu_smi(text) == ([], [])


def test_releases_of_cann_are_read_and_ordered():
    for text, release in (
        ("# version: 1.0\ntoolkit_running_version=[7.6.0.1.220:8.0.0]\n", "8.0.0"),
        ("package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100R001C21SPC001B238\n", "8.1.RC1"),
        ("version=8.3.rc1.beta1", "8.3.RC1"),
        ("nothing here", None),
    ):
        assert npu.parse_cann_release(text) == release
    releases = list(versions.TORCH_NPU_OF_CANN)
    assert sorted(reversed(releases), key=versions.release_order) == releases and len(releases) == 8


def test_profiles_agree_with_the_tables_and_the_requirements(pytestconfig):
    for torch, torch_npu, mx_driving, cann in versions.PROFILES.values():
        if torch_npu is not None:
            assert (versions.cann_for(torch_npu), versions.mx_driving_for(torch)) == (cann, mx_driving)
            assert versions.parse_version(torch_npu) == versions.parse_version(torch)
    torch, torch_npu, mx_driving, _ = versions.PROFILES["default"]
    files = [pytestconfig.rootpath / name for name in ("requirements.txt", "requirements-npu.txt")]
    pinned = {line for path in files for line in path.read_text().splitlines()}
    assert {f"torch=={torch}", f"torch-npu=={torch_npu}", f"mx-driving=={mx_driving}"} <= pinned
    (oldest, newest), patch = versions.TORCH, (pytestconfig.rootpath / "pivotnet.patch").read_bytes()
    limits = f"+torch>={versions.dotted(oldest)},<{newest[0]}.{newest[1] + 1}\r\n"  # in the patched requirement.txt
    assert limits.encode() in patch
