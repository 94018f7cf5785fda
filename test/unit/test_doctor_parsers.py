"""Readers of vendor tools' output, on what such tools print (numbers changed)."""

from __future__ import annotations

import pytest
from doctor_fixtures import NPU_SMI_ALARM, NPU_SMI_EIGHT, npu_smi

from pivotnet.doctor import parsers, versions


def test_eight_healthy_devices():
    table = parsers.parse_npu_smi(NPU_SMI_EIGHT)
    assert table.version == "24.1.0"
    assert [device.number for device in table.devices] == list(range(8))
    first = table.devices[0]
    assert (first.name, first.health, first.bus) == ("910B3", "OK", "0000:C1:00.0")
    assert (first.memory_used, first.memory_total) == (3375, 65536)
    assert table.processes == ()


def test_alarm_and_processes_are_seen():
    table = parsers.parse_npu_smi(NPU_SMI_ALARM)
    assert {device.number: device.health for device in table.devices}[1] == "Alarm"
    assert table.processes == ((0, 41873, "python3"),)


def test_chips_with_memory_of_one_kind_and_wider_columns():
    text = """
    | npu-smi 23.0.0                                   Version: 23.0.0                                       |
    | NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
    | Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
    +===============================+=================+======================================================+
    | 6       310P3                 | Warning         | NA           50                0     / 0             |
    | 0       0                     | 0000:84:00.0    | 0            1839 / 21525                            |
    """
    (device,) = parsers.parse_npu_smi(text).devices
    assert (device.number, device.name, device.health, device.memory_total) == (6, "310P3", "Warning", 21525)


@pytest.mark.parametrize(
    "text", ["", "dcmi module initialize failed. ret is -8005", "| | | |\n|---|", NPU_SMI_EIGHT[:400], "|" * 50]
)
def test_other_text_has_no_devices(text):
    assert parsers.parse_npu_smi(text).devices == ()


def test_device_numbers_may_have_gaps():
    assert [device.number for device in parsers.parse_npu_smi(npu_smi({2: "OK", 5: "OK"})).devices] == [2, 5]


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (
            "# version: 1.0\nruntime_running_version=[7.6.0.1.220:8.0.0]\n"
            "toolkit_running_version=[7.6.0.1.220:8.0.0]\n",
            "8.0.0",
        ),
        ("package_name=Ascend-cann-toolkit\nversion=8.1.RC1\ninnerversion=V100R001C21SPC001B238\n", "8.1.RC1"),
        ("version=8.3.rc1.beta1", "8.3.RC1"),
        ("version=8.5.0", "8.5.0"),
        ("nothing here", None),
        ("", None),
    ],
)
def test_cann_release(text, release):
    assert parsers.parse_cann_release(text) == release


def test_releases_are_ordered():
    releases = ["8.0.RC3", "8.0.0", "8.1.RC1", "8.3.RC1", "8.5.0", "9.0.0"]
    assert sorted(reversed(releases), key=parsers.release_order) == releases


@pytest.mark.parametrize(
    ("text", "status"), [("link status: UP\n", "UP"), ("link status : down", "DOWN"), ("no such device", None)]
)
def test_link_status(text, status):
    assert parsers.parse_link_status(text) == status


def test_assignments_leave_comments_out():
    text = "# a=b\nVersion=24.1.0\n\naddress_0=192.168.100.101\nnonsense\n"
    assert parsers.parse_assignments(text) == {"Version": "24.1.0", "address_0": "192.168.100.101"}


def test_lscpu():
    facts = parsers.parse_lscpu("CPU(s):              192\nNUMA node(s):        4\nModel name:          Kunpeng-920\n")
    assert facts["NUMA node(s)"] == "4" and facts["Model name"] == "Kunpeng-920"


@pytest.mark.parametrize(
    ("text", "numbers"), [("2.8.0.post2", (2, 8, 0)), ("2.8.0+cpu", (2, 8, 0)), ("2.13", (2, 13)), ("git", ())]
)
def test_version_numbers(text, numbers):
    assert parsers.parse_version(text) == numbers


def test_every_profile_with_an_npu_agrees_with_the_tables():
    for profile in versions.PROFILES:
        if profile.torch_npu is None:
            continue
        assert versions.cann_of_torch_npu(profile.torch_npu) == profile.cann
        assert versions.mx_driving_for(profile.torch) == profile.mx_driving
        assert parsers.parse_version(profile.torch_npu) == parsers.parse_version(profile.torch)


def test_requirements_are_the_default_profile(pytestconfig):
    default = versions.PROFILES[0]
    pinned = (pytestconfig.rootpath / "requirements.txt").read_text().splitlines()
    pinned += (pytestconfig.rootpath / "requirements-npu.txt").read_text().splitlines()
    wanted = {f"torch=={default.torch}", f"torch-npu=={default.torch_npu}", f"mx-driving=={default.mx_driving}"}
    assert wanted <= set(pinned)
