"""The doctor's checks of data sets, weight files and the checkout of upstream."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pivotnet.annotation.folder import OPTIONS_FILE
from pivotnet.annotation.format import FOLDER
from pivotnet.annotation.runner import annotate
from pivotnet.config import BACKBONES, BackboneInfo
from pivotnet.doctor import trees
from pivotnet.doctor.machine import ERROR, NOTE, OK, WARNING, Finding, Machine
from pivotnet.synthetic.generate import generate
from pivotnet.synthetic.plan import Options


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An annotated data set; its images are empty files."""
    root = tmp_path_factory.mktemp("data") / "root"
    generate(root, Options(scenes=2, samples_per_scene=1, seed=3, images=False), 1, lambda done, total: None)
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


def bad(findings) -> list[Finding]:
    return [finding for finding in findings if finding.status in (WARNING, ERROR)]


def test_a_complete_data_set_is_good(root):
    findings = list(trees.check_data(root, root / "none"))
    assert bad(findings) == []
    texts = [finding.text for finding in findings]
    assert "v1.0-trainval: 13 tables" in texts and "images: 2 from each of 6 cameras" in texts
    assert "annotations: train 1, val 1 samples, up to date" in texts


def test_no_data_is_a_note_and_a_wrong_folder_an_error(tmp_path):
    (finding,) = trees.check_data(None, tmp_path / "none")
    assert finding.status == NOTE
    for folder, text in ((tmp_path / "none", "does not exist"), (tmp_path, "no folder samples")):
        (finding,) = trees.check_data(folder, tmp_path)
        assert finding.status == ERROR and text in finding.text


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


def test_unannotated_data_needs_tables_and_expansion(root):
    shutil.rmtree(root / FOLDER)
    change(root, "v1.0-trainval/ego_pose.json")
    change(root, "maps/expansion/singapore-queenstown.json")
    findings = bad(trees.check_data(root, root))
    assert [finding.status for finding in findings] == [ERROR, ERROR, WARNING]
    assert "not annotated yet" in findings[-1].text


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

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    (folder / "run.sh").write_text("echo cuda\n")
    for words in (["init"], ["add", "run.sh"], ["commit", "-m", "first"]):
        git(*words)
    (folder / "run.sh").write_text("echo npu\n")
    patch.write_text(git("diff"))
    monkeypatch.setattr(trees, "PINNED", git("rev-parse", "HEAD").strip())
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
