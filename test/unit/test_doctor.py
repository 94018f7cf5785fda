"""The doctor on good and broken machines, data sets, weight files and checkouts of upstream, and its readers of what
vendors' tools print (numbers changed)."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_machine import ASCEND, CANN_INFO, PROCESS, SMI, TCMALLOC, FakeMachine, link_command, npu_smi
from support.upstream_tree import git

from pivotnet import cli
from pivotnet.annotation.folder import OPTIONS_FILE
from pivotnet.annotation.format import FOLDER
from pivotnet.annotation.runner import annotate
from pivotnet.commands import doctor as command
from pivotnet.config import BACKBONES, BackboneInfo
from pivotnet.doctor import examination, npu, trees, versions
from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Finding, Machine
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options


def found(machine: FakeMachine) -> list:
    return [finding for check in examination.machine_checks(machine).values() for finding in check(machine)]


def bad(findings) -> list[Finding]:
    return [finding for finding in findings if finding.status in (WARNING, ERROR)]


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
    "no smi": (lambda m: m.commands.pop(SMI), WARNING, "health unknown"),
    "busy": (lambda m: smi(m, 0, npu_smi({0: "OK", 1: "OK"}, PROCESS)), WARNING, "in use by process 41873 (python3)"),
    "container": (lambda m: m.path("/dev/devmm_svm").unlink(), ERROR, "/dev/devmm_svm missing"),
    "no right": (lambda m: m.locked.add("davinci1"), ERROR, "no right to use /dev/davinci1"),
    "no driver": (lambda m: m.path(f"{ASCEND}/driver/version.info").unlink(), ERROR, "version.info cannot be read"),
    "no kernels": (lambda m: m.path(f"{ASCEND}/cann/opp").rmdir(), ERROR, "no operators"),
    "old cann": (lambda m: m.write(CANN_INFO, "version=8.1.RC1"), WARNING, "8.5.0, this is the older 8.1.RC1"),
    "no torch_npu": (lambda m: m.packages.pop("torch_npu"), ERROR, "training would run on the CPU"),
    "no mx_driving": (lambda m: m.packages.pop("mx-driving"), ERROR, "deformable attention"),
    "both mx_driving": (lambda m: m.packages.update({"mx-driving-a5": "26.2.0.post2"}), ERROR, "hold the same files"),
    "no scipy": (lambda m: m.packages.pop("scipy"), ERROR, "missing: scipy"),
    "slow python": (lambda m: setattr(m, "python_build", "'--with-lto'"), WARNING, "built without PGO"),
    "small shm": (lambda m: setattr(m, "space", (64 << 20, 64 << 20)), ERROR, "loader workers would die"),
    "few cores": (lambda m: vars(m).update(cores=4, usable_cores=4), WARNING, "4 cores for 2 ranks"),
    "no tcmalloc": (lambda m: [m.environ.pop("LD_PRELOAD"), m.path(TCMALLOC).unlink()], WARNING, "not found"),
    "preload gone": (lambda m: m.environ.update(LD_PRELOAD="/opt/a.so:/opt/b.so"), WARNING, "/opt/a.so, /opt/b.so"),
    "other host": (lambda m: m.environ.update(HCCL_IF_IP="10.9.9.9"), ERROR, "10.9.9.9 is no address of this host"),
    "timeout": (lambda m: m.environ.update(HCCL_CONNECT_TIMEOUT="60"), ERROR, "HCCL_CONNECT_TIMEOUT=60"),
    "event": (lambda m: m.environ.update(HCCL_EXEC_TIMEOUT="3600"), WARNING, "HCCL_EVENT_TIMEOUT (1868 s) does not"),
    "visible": (lambda m: m.environ.update(ASCEND_RT_VISIBLE_DEVICES="0,7"), ERROR, "=0,7 names devices that do not"),
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
    (finding,) = bad(found(machine))
    assert finding.status == status and text in finding.text and finding.remedy
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


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An annotated data set; its images are empty files."""
    root = tmp_path_factory.mktemp("data") / "root"
    generate(root, Options(scenes=2, samples_per_scene=1, seed=3, images=False), 1)
    for row in json.loads((root / "v1.0-trainval" / "sample_data.json").read_text()):
        if row["filename"].startswith("samples/CAM"):
            path = root / row["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    annotate(root, workers=1)
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "my data"))


def test_a_complete_data_set_is_good(root):
    findings = list(trees.check_data(root, root / "none"))
    assert bad(findings) == []
    texts = [finding.text for finding in findings]
    assert "v1.0-trainval: 13 tables" in texts and "images: 2 from each of 6 cameras" in texts
    assert "annotations: train 1, val 1 samples, up to date" in texts


def change(root: Path, pattern: str, old: str | None = None, new: str = "") -> None:
    """Replace text in the files that have such a name, or remove these."""
    for path in list(root.glob(pattern)):
        if old is None:
            path.unlink()
        else:
            path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("changes", "status", "text"),
    [
        (("v1.0-trainval/ego_pose.json",), WARNING, "lacks ego_pose.json"),
        (("maps/expansion/singapore-queenstown.json",), WARNING, "map expansion lacks singapore-queenstown.json"),
        (("samples/CAM_BACK/*.jpg",), ERROR, "2 samples, but CAM_BACK 0"),
        ((f"{FOLDER}/*.npz",), ERROR, "2 of 2 annotated samples are missing"),
        (("maps/expansion/*.json", "{", "{ "), WARNING, "made from another map"),
        ((f"{FOLDER}/{OPTIONS_FILE}", '"resolution": 0.15', '"resolution": 0.3'), WARNING, "with resolution 0.3, this"),
        ((f"{FOLDER}/{OPTIONS_FILE}", "}", ""), WARNING, "missing or damaged"),
        ((f"{FOLDER}/splits/train.txt",), ERROR, "no lists of the splits"),
        ((f"{FOLDER}/splits/val.txt", "\n", "/x\n"), ERROR, "not a token"),
        ((f"{FOLDER}/splits/val.txt",), WARNING, "no annotated sample in the val split"),
    ],
)
def test_one_broken_part_is_one_finding_with_a_remedy(root, changes, status, text):
    change(root, *changes)
    findings = bad(trees.check_data(root, root))
    assert {finding.status for finding in findings} == {status}, findings
    assert text in findings[0].text and findings[0].remedy


def test_weights_by_their_checksums(tmp_path, monkeypatch):
    assert all(backbone.sha256 in backbone.weight_file for backbone in BACKBONES.values())
    content = b"PK\x03\x04 and more"
    name = f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    known = BackboneInfo((1, 2), mark="", weight_file=name, sha256=name[4:12])
    files = {"a": known, "b": replace(known, weight_file="plain.pth", sha256=""), "c": replace(known, weight_file="-")}
    monkeypatch.setattr(trees, "BACKBONES", files)
    (tmp_path / name).write_bytes(content)
    (tmp_path / "plain.pth").write_bytes(content)
    findings = list(trees.check_weights([tmp_path / "none", tmp_path]))
    assert [finding.status for finding in findings] == [OK, OK, NOTE]
    assert "python3 tools/download.py c" in findings[2].remedy
    (tmp_path / name).write_bytes(content[:-1])
    (tmp_path / "plain.pth").write_bytes(b"<!DOCTYPE html>")
    findings = list(trees.check_weights([tmp_path]))
    assert [finding.status for finding in findings] == [ERROR, ERROR, NOTE]
    assert "damaged or cut off" in findings[0].text and "no readable weight file" in findings[1].text


def test_the_checkout_is_patched_unpatched_changed_of_another_commit_or_missing(tmp_path, monkeypatch):
    folder, patch = tmp_path / "up stream", tmp_path / "pivotnet.patch"
    folder.mkdir()
    (folder / "run.sh").write_text("echo cuda\n")
    for words in (["init"], ["add", "run.sh"], ["commit", "-m", "first"]):
        git(folder, *words)
    (folder / "run.sh").write_text("echo npu\n")
    patch.write_text(git(folder, "diff"))
    monkeypatch.setattr(trees, "PINNED", git(folder, "rev-parse", "HEAD").strip())
    for content, status, text in (
        ("echo npu\n", OK, "has the patch"),
        ("echo cuda\n", ERROR, "is not patched"),
        ("echo mine\n", WARNING, "differs"),
    ):
        (folder / "run.sh").write_text(content)
        (finding,) = trees.check_checkout(Machine(), folder, patch, named=False)
        assert finding.status == status and text in finding.text
        assert bool(finding.remedy) == (status != OK)
    monkeypatch.setattr(trees, "PINNED", "0" * 40)
    (finding,) = trees.check_checkout(Machine(), folder, patch, named=True)
    assert finding.status == ERROR and "the patch is for 000000000000" in finding.text
    for named, status in ((True, ERROR), (False, NOTE)):
        (finding,) = trees.check_checkout(Machine(), folder / "none", patch, named)
        assert finding.status == status and "built-in network" in finding.text + finding.remedy
