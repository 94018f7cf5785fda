"""Which versions fit together, each with its source. README.md shows the same profiles."""

from __future__ import annotations

import re

# Oldest and newest versions with which this code is tested.
TORCH = (2, 1), (2, 13)
PYTHON = (3, 9), (3, 11)

# Versions to install together: torch, torch_npu, mx_driving, CANN; None where a part is not needed.
PROFILES: dict[str, tuple[str, str | None, str | None, str | None]] = {
    # requirements*.txt; CANN: README in the wheel of torch_npu 2.8.0.post2; untested on hardware
    "default": ("2.8.0", "2.8.0.post2", "26.2.0.post2", "8.5.0"),
    # README of Ascend DrivingSDK's model_examples/PivotNet (torch 2.1.0, FrameworkPTAdapter 7.0.0, CANN 8.1.RC1);
    # mx_driving from the registry names compiler 8.5.0: with this CANN untested on hardware
    "published": ("2.1.0", "2.1.0.post12", "26.2.0.post1", "8.1.RC1"),
    # this repository's tests on a CPU
    "newest": ("2.13", None, None, None),
}

# Releases of CANN, the oldest first, and the versions of torch_npu for which the vendor names them.
TORCH_NPU_OF_CANN = {
    # table of versions in the README of the wheel torch_npu 2.8.0.post5
    "8.0.RC3": ("2.1.0.post8", "2.3.1.post2", "2.4.0"),
    "8.0.0": ("2.1.0.post10", "2.3.1.post4", "2.4.0.post2"),
    "8.1.RC1": ("2.1.0.post12", "2.3.1.post6", "2.4.0.post4", "2.5.1"),
    "8.2.RC1": ("2.1.0.post13", "2.5.1.post1", "2.6.0"),
    "8.3.RC1": ("2.1.0.post17", "2.6.0.post3", "2.7.1", "2.8.0"),
    "8.5.0": ("2.6.0.post5", "2.7.1.post2", "2.8.0.post2", "2.9.0"),
    # COMPATIBILITY.md of torch_npu (gitcode.com/Ascend/pytorch)
    "9.0.0": ("2.7.1.post4", "2.8.0.post4", "2.9.0.post2", "2.10.0"),
    "9.1.0": ("2.7.1.post8", "2.9.0.post6", "2.10.0.post4", "2.11.0", "2.12.0"),
}

# mx_driving's version -> (first torch, first torch that is too new); "Requires-Dist: torch" in the wheels' METADATA
TORCH_OF_MX_DRIVING = {"26.2.0.post1": ((2, 1), (2, 6)), "26.2.0.post2": ((2, 6), (2, 9))}


def cann_for(torch_npu: str) -> str | None:
    """The release of CANN for a version of torch_npu; None when the table has none."""
    return next((release for release, fitting in TORCH_NPU_OF_CANN.items() if torch_npu in fitting), None)


def mx_driving_for(torch: str) -> str | None:
    """The build of mx_driving for a version of torch; None when the table has none."""
    version = parse_version(torch)[:2]
    return next((name for name, (first, end) in TORCH_OF_MX_DRIVING.items() if first <= version < end), None)


def parse_version(text: str) -> tuple[int, ...]:
    """The numbers at the start of a version: (2, 8, 0) of 2.8.0.post2 or 2.8.0+cpu."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def dotted(version: tuple[int, ...]) -> str:
    """2.8.0 of (2, 8, 0)."""
    return ".".join(map(str, version))


def normal_release(text: str) -> str:
    """8.1.RC1 out of 8.1.rc1 or 8.1.RC1.beta1: how the vendor writes the same release of CANN elsewhere."""
    release = re.sub(r"[.-](alpha|beta)\d*$", "", text.strip(), flags=re.IGNORECASE)
    return re.sub(r"rc", "RC", release, flags=re.IGNORECASE)


def release_order(release: str) -> tuple[int, ...]:
    """A key that orders releases of CANN: 8.1.RC1 < 8.2.RC1 < 8.3.0; a release candidate comes before its release."""
    parts = re.findall(r"(RC)?(\d+)", release.upper())
    return tuple(int(digits) - (1000 if candidate else 0) for candidate, digits in parts)
