"""Readers of vendor tools' output, on what such tools print (numbers changed)."""

from __future__ import annotations

from support.fake_machine import npu_smi

from pivotnet.doctor import npu, versions


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
