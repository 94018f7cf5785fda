"""The doctor's checks of data sets, weight files and the checkout of upstream."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.fake_machine import FakeMachine

from pivotnet.annotation.expansion import expansion_path
from pivotnet.annotation.folder import OPTIONS_FILE, annotation_folder, sample_path, split_path
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
    (finding,) = trees.check_data(tmp_path / "none", tmp_path)
    assert finding.status == ERROR and "does not exist" in finding.text
    (finding,) = trees.check_data(tmp_path, tmp_path)
    assert finding.status == ERROR and "no folder samples" in finding.text


def cut_table(root):
    (root / "v1.0-trainval" / "ego_pose.json").unlink()


def cut_expansion(root):
    (root / "maps" / "expansion" / "singapore-queenstown.json").unlink()


def cut_sample(root):
    sample_path(root, split_path(root, "val").read_text().split()[0]).unlink()


def change_map(root):
    name = next(iter(json.loads((annotation_folder(root) / OPTIONS_FILE).read_text())["maps"]))
    with open(expansion_path(root, name), "a") as stream:
        stream.write(" ")


def change_options(root):
    path = annotation_folder(root) / OPTIONS_FILE
    path.write_text(path.read_text().replace('"resolution": 0.15', '"resolution": 0.3'))


@pytest.mark.parametrize(
    ("break_it", "status", "text"),
    [
        (cut_table, WARNING, "lacks ego_pose.json"),
        (cut_expansion, WARNING, "map expansion lacks singapore-queenstown.json"),
        (lambda root: next(root.glob("samples/CAM_BACK/*.jpg")).unlink(), ERROR, "2 samples, but CAM_BACK 1"),
        (cut_sample, ERROR, "1 of 2 annotated samples are missing"),
        (change_map, WARNING, "made from another map"),
        (change_options, WARNING, "made with resolution 0.3, this program uses 0.15"),
        (lambda root: (annotation_folder(root) / OPTIONS_FILE).write_text("{"), WARNING, "missing or damaged"),
        (lambda root: split_path(root, "train").unlink(), ERROR, "no lists of the splits"),
        (lambda root: split_path(root, "val").write_text(""), WARNING, "no annotated sample in the val split"),
    ],
)
def test_one_broken_part_is_one_finding_with_a_remedy(root, break_it, status, text):
    break_it(root)
    findings = bad(trees.check_data(root, root))
    assert [finding.status for finding in findings] == [status], findings
    assert text in findings[0].text and findings[0].remedy


def test_unannotated_data_needs_tables_and_expansion(root):
    shutil.rmtree(annotation_folder(root))
    cut_table(root)
    cut_expansion(root)
    findings = bad(trees.check_data(root, root))
    assert [finding.status for finding in findings] == [ERROR, ERROR, WARNING]
    assert "not annotated yet" in findings[-1].text


def test_names_of_weight_files_contain_their_checksums():
    for backbone in BACKBONES.values():
        assert not backbone.sha256 or backbone.weight_file.endswith(f"-{backbone.sha256}.pth")


def test_weights_by_their_checksums(tmp_path, monkeypatch):
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
    assert "damaged or cut off" in findings[0].text and "no weight file" in findings[1].text


@pytest.fixture
def upstream(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A checkout with one file, and a patch for it."""
    folder, patch = tmp_path / "up stream", tmp_path / "pivotnet.patch"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    (folder / "run.sh").write_text("echo cuda\n")
    for arguments in (["init", "-q"], ["add", "run.sh"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (folder / "run.sh").write_text("echo npu\n")
    patch.write_bytes(subprocess.run([*git, "diff"], check=True, stdout=subprocess.PIPE).stdout)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    monkeypatch.setattr(trees, "PINNED", head)
    return folder, patch


def test_the_checkout_is_patched_unpatched_changed_or_of_another_commit(upstream, monkeypatch):
    folder, patch = upstream
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


def test_a_checkout_that_the_user_named_must_be_there(tmp_path):
    machine = FakeMachine(tmp_path)
    (finding,) = trees.check_checkout(machine, tmp_path / "none", tmp_path / "patch", named=True)
    assert finding.status == ERROR
    (finding,) = trees.check_checkout(machine, tmp_path / "none", tmp_path / "patch", named=False)
    assert finding.status == NOTE and "built-in" in finding.text
