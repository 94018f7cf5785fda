"""pivotnet annotate: whole runs, resumed runs, refused mixtures, bad input, interrupts."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from support.commands import ENVIRONMENT
from support.recorded import unpack_hard_samples

from pivotnet.annotation.format import load_annotation
from pivotnet.annotation.tables import read_samples
from pivotnet.cli import main

VERSION = "v1.0-trainval"


@pytest.fixture
def root(tmp_path):
    return unpack_hard_samples(tmp_path)


def folder_of(root):
    return root / "customer" / "pivot-bezier"


def stamps(root):
    return {path.name: path.stat().st_mtime_ns for path in folder_of(root).glob("*.npz")}


def annotate(root, *options):
    return main(["annotate", "-d", str(root), "--workers", "1", *options])


def refused(capsys, root, *options):
    """The one line that a refused run prints."""
    assert annotate(root, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_whole_run_and_one_that_is_resumed(root, capsys):
    """Several processes write the same bytes; whole files are kept, others are made again."""
    assert annotate(root) == 0
    said = capsys.readouterr().out
    assert "8 written, 0 kept" in said and "divider 205, ped_crossing 14, boundary 40" in said
    assert "train 5, val 3" in said and re.search(r"time +[\d.]+ s, [\d.]+ samples/s", said)
    assert "1 samples have more than 127 instances" in said
    tokens = [sample.token for sample in read_samples(root, VERSION)]
    before = stamps(root)
    assert sorted(before) == sorted(f"{token}.npz" for token in tokens)
    train, val = ((folder_of(root) / "splits" / f"{name}.txt").read_text().split() for name in ("train", "val"))
    assert [token for token in tokens if token in train] == train and sorted(train + val) == sorted(tokens)
    whole = {name: (folder_of(root) / name).read_bytes() for name in before}
    gone, cut, empty, *kept = sorted(before)
    (folder_of(root) / gone).unlink()
    (folder_of(root) / cut).write_bytes(whole[cut][:3000])
    (folder_of(root) / empty).write_bytes(b"")
    assert annotate(root) == 0
    assert "3 written, 5 kept" in capsys.readouterr().out
    assert all(stamps(root)[name] == before[name] for name in kept)
    assert main(["annotate", "-d", str(root), "--workers", "3", "--overwrite"]) == 0
    assert "8 written" in capsys.readouterr().out
    assert whole == {path.name: path.read_bytes() for path in folder_of(root).glob("*.npz")}


def test_other_options_maps_and_origins_are_not_mixed(root, capsys):
    folder_of(root).mkdir(parents=True)
    for path in (root.parent / "npz").glob("*.npz"):
        shutil.copy(path, folder_of(root))
    assert "no annotation.json" in refused(capsys, root)
    assert annotate(root, "--overwrite") == 0
    before = stamps(root)
    message = refused(capsys, root, "--bezier")
    assert "bezier=False" in message and "bezier=True" in message and "--overwrite" in message
    assert stamps(root) == before
    assert annotate(root, "--bezier", "--overwrite") == 0
    assert "bezier=True" in refused(capsys, root)
    for name in before:
        (folder_of(root) / name).unlink()
    assert annotate(root) == 0  # without samples there is nothing to mix
    change(root / "maps" / "expansion" / "boston-seaport.json", lambda content: content["road_divider"].pop())
    assert "boston-seaport=" in refused(capsys, root)
    (folder_of(root) / "annotation.json").write_text("{}")
    assert "annotation.json: lacks 'maps'" in refused(capsys, root)


def test_mini_and_test_versions(root, capsys):
    for version in ("v1.0-mini", "v1.0-test"):
        shutil.copytree(root / VERSION, root / version)
        assert annotate(root, "--version", version) == 0
    lists = {path.name: len(path.read_text().split()) for path in (folder_of(root) / "splits").iterdir()}
    assert lists == {"train.txt": 8, "val.txt": 0, "test.txt": 8}  # no mini_val scene is among them


def test_bad_roots(root, tmp_path, capsys):
    assert f"{tmp_path / 'none'} is no folder" in refused(capsys, tmp_path / "none")
    assert "no nuScenes root with v1.0-trainval/sample.json" in refused(capsys, tmp_path)
    assert f"choose --version from {VERSION}" in refused(capsys, root, "--version", "v1.0-mini")
    assert not folder_of(root).exists()
    (root / "customer").write_text("in the way")
    assert f"cannot make {folder_of(root)}" in refused(capsys, root)


def test_bad_maps_and_tables(root, capsys):
    """Each is one line that names the file; nothing is written."""
    city, table = "maps/expansion/singapore-queenstown.json", f"{VERSION}/sample_data.json"
    old = "is of map expansion version {}, too old"
    for name, edit, message in (
        (city, None, f"{root / city} is missing (No such file or directory): unpack nuScenes-map-expansion-v1.3"),
        (city, lambda content: content.update(version="1.2"), old.format("1.2")),
        (city, lambda content: content.update(version=None), old.format(None)),
        (city, lambda content: content.update(version="new"), old.format("new")),
        (city, lambda content: content.clear(), old.format("1.0")),
        (city, lambda content: content["node"].pop(), "is no consistent map expansion (KeyError"),
        (city, lambda content: content["node"][0].update(x=float("nan")), ".node[0].x is nan, not a number"),
        (table, None, "cannot read"),
        (table, lambda rows: rows[0].update(is_key_frame=False), "has no key frame of CAM_"),
        (f"{VERSION}/log.json", lambda rows: rows.pop(), "do not fit together: one refers to"),
        (f"{VERSION}/calibrated_sensor.json", lambda rows: rows.clear(), "do not fit together"),
        (f"{VERSION}/sample.json", lambda rows: rows[0].update(token="../x"), "'../x'"),
        (f"{VERSION}/scene.json", lambda rows: rows[0].update(name="town-7"), "'town-7'"),
    ):
        whole = (root / name).read_text()
        if edit is None:
            (root / name).unlink()
        else:
            change(root / name, edit)
        assert message in refused(capsys, root)
        (root / name).write_text(whole[: len(whole) // 2])
        assert f"{root / name} is truncated or no JSON" in refused(capsys, root)
        (root / name).write_text(whole)
    (root / city).write_text("[]")
    assert "is [], not an object" in refused(capsys, root)
    assert not folder_of(root).exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk(root, workers):
    """Files of at most 16 kB: the first larger one stops the run with one line, and no file is cut."""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)); "
    code = limited + "from pivotnet.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "annotate", "-d", str(root), "--workers", workers]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "error: cannot write" in result.stderr
    for path in folder_of(root).iterdir():
        assert path.name == "annotation.json" or load_annotation(path)


@pytest.mark.parametrize(("workers", "number"), [("1", signal.SIGINT), ("2", signal.SIGINT), ("2", signal.SIGTERM)])
def test_an_interrupt_leaves_whole_files(root, workers, number):
    """Interrupted as by Ctrl-C (the whole process group) or by SIGTERM while samples are being written."""
    copies = 40
    for name, key in (("sample", "token"), ("sample_data", "sample_token")):

        def repeat(rows, key=key):
            rows[:] = [{**row, key: f"{row[key]}{copy}"} for copy in range(copies) for row in rows]

        change(root / VERSION / f"{name}.json", repeat)
    command = [sys.executable, "-m", "pivotnet", "annotate", "-d", str(root), "--workers", workers]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen(command, start_new_session=True, env=ENVIRONMENT, **pipes)
    deadline = time.monotonic() + 60
    while len(list(folder_of(root).glob("*.npz"))) < 10:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said.strip()) == (130, "interrupted")
    files = {path.name for path in folder_of(root).iterdir()} - {"annotation.json"}
    assert 10 <= len(files) < 8 * copies and all(re.fullmatch(r"\w+\.npz", name) for name in files)
    assert all(load_annotation(folder_of(root) / name) for name in files)
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)  # no worker is left
