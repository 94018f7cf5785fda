"""Which versions fit together, each with its source. README.md shows the same profiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pivotnet.doctor.parsers import parse_version

# Versions of torch with which this code is tested.
OLDEST_TORCH, NEWEST_TORCH = (2, 1), (2, 13)
OLDEST_PYTHON, NEWEST_PYTHON = (3, 9), (3, 13)


@dataclass(frozen=True)
class Profile:
    """A set of versions to install together; None where a part is not needed."""

    name: str
    torch: str
    torch_npu: Optional[str]
    mx_driving: Optional[str]
    python: str
    cann: Optional[str]
    source: str


PROFILES = (
    Profile(
        "default",
        "2.8.0",
        "2.8.0.post2",
        "26.2.0.post2",
        "3.9 to 3.11",
        "8.5.0",
        "requirements.txt, requirements-npu.txt; CANN: README in the wheel of torch_npu 2.8.0.post2; "
        "not yet run on hardware",
    ),
    Profile(
        "published",
        "2.1.0",
        "2.1.0.post12",
        "26.2.0.post1",
        "3.9 to 3.11",
        "8.1.RC1",
        "README of Ascend DrivingSDK's model_examples/PivotNet (torch 2.1.0, FrameworkPTAdapter 7.0.0, CANN 8.1.RC1); "
        "with mx_driving from the registry not yet run on hardware",
    ),
    Profile("newest, CPU and CUDA", "2.13", None, None, "3.11 and later", None, "test suite of this repository"),
)

_WHEEL_README = "table of versions in the README of the wheel torch_npu 2.8.0.post5"
_COMPATIBILITY = "COMPATIBILITY.md of torch_npu (gitcode.com/Ascend/pytorch)"
# torch_npu's version -> (release of CANN that the vendor names for it, source)
CANN_OF_TORCH_NPU = {
    "2.1.0.post8": ("8.0.RC3", _WHEEL_README),
    "2.1.0.post10": ("8.0.0", _WHEEL_README),
    "2.1.0.post12": ("8.1.RC1", _WHEEL_README),
    "2.1.0.post13": ("8.2.RC1", _WHEEL_README),
    "2.1.0.post17": ("8.3.RC1", _WHEEL_README),
    "2.3.1.post2": ("8.0.RC3", _WHEEL_README),
    "2.3.1.post4": ("8.0.0", _WHEEL_README),
    "2.3.1.post6": ("8.1.RC1", _WHEEL_README),
    "2.4.0": ("8.0.RC3", _WHEEL_README),
    "2.4.0.post2": ("8.0.0", _WHEEL_README),
    "2.4.0.post4": ("8.1.RC1", _WHEEL_README),
    "2.5.1": ("8.1.RC1", _WHEEL_README),
    "2.5.1.post1": ("8.2.RC1", _WHEEL_README),
    "2.6.0": ("8.2.RC1", _WHEEL_README),
    "2.6.0.post3": ("8.3.RC1", _WHEEL_README),
    "2.6.0.post5": ("8.5.0", _WHEEL_README),
    "2.7.1": ("8.3.RC1", _WHEEL_README),
    "2.7.1.post2": ("8.5.0", _WHEEL_README),
    "2.7.1.post4": ("9.0.0", _COMPATIBILITY),
    "2.7.1.post8": ("9.1.0", _COMPATIBILITY),
    "2.8.0": ("8.3.RC1", _WHEEL_README),
    "2.8.0.post2": ("8.5.0", _WHEEL_README),
    "2.8.0.post4": ("9.0.0", _COMPATIBILITY),
    "2.9.0": ("8.5.0", _WHEEL_README),
    "2.9.0.post2": ("9.0.0", _COMPATIBILITY),
    "2.9.0.post6": ("9.1.0", _COMPATIBILITY),
    "2.10.0": ("9.0.0", _COMPATIBILITY),
    "2.10.0.post4": ("9.1.0", _COMPATIBILITY),
    "2.11.0": ("9.1.0", _COMPATIBILITY),
    "2.12.0": ("9.1.0", _COMPATIBILITY),
}

# mx_driving's version -> (first torch, first torch that is too new); "Requires-Dist: torch" in the wheels' METADATA
TORCH_OF_MX_DRIVING = {"26.2.0.post1": ((2, 1), (2, 6)), "26.2.0.post2": ((2, 6), (2, 9))}


def cann_of_torch_npu(version: str) -> Optional[str]:
    """The release of CANN that belongs to a version of torch_npu; None when the table does not know it."""
    entry = CANN_OF_TORCH_NPU.get(version)
    return entry[0] if entry else None


def mx_driving_fits(mx_driving: str, torch: str) -> Optional[bool]:
    """Whether a build of mx_driving is made for a version of torch; None when the table does not know it."""
    limits = TORCH_OF_MX_DRIVING.get(mx_driving)
    return None if limits is None else limits[0] <= parse_version(torch)[:2] < limits[1]


def mx_driving_for(torch: str) -> Optional[str]:
    """The build of mx_driving for a version of torch; None when the table has none."""
    fitting = [version for version in TORCH_OF_MX_DRIVING if mx_driving_fits(version, torch)]
    return fitting[-1] if fitting else None
