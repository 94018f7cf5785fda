"""``pivotnet synth``: repeated, interrupted and impossible runs."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import cv2
import pytest

from pivotnet import cli
from pivotnet.errors import PivotNetError
from pivotnet.synthetic import generate as generator
from pivotnet.synthetic.plan import Options

SMALL = ["--scenes", "2", "--samples-per-scene", "1", "--no-images"]


def test_images_and_sweeps_are_there_for_every_key_frame(tmp_path, capsys):
    out = tmp_path / "set"
    assert cli.main(["synth", str(out), "--scenes", "1", "--samples-per-scene", "1", "--workers", "1"]) == 0
    assert "made in" in capsys.readouterr().out
    records = json.loads((out / "v1.0-trainval" / "sample_data.json").read_text())
    assert len(records) == 7
    for record in records:
        path = out / record["filename"]
        if record["fileformat"] == "jpg":
            assert cv2.imread(str(path)).shape == (900, 1600, 3)
        else:
            assert path.stat().st_size % 20 == 0 and path.stat().st_size > 20_000
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_same_run_again_changes_nothing(tmp_path, capsys):
    out = str(tmp_path / "set")
    assert cli.main(["synth", out, *SMALL]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}
    assert cli.main(["synth", out, *SMALL]) == 0
    assert "already there" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path(out).rglob("*")}


def test_other_options_or_other_content_are_refused(tmp_path, capsys):
    out = tmp_path / "set"
    assert cli.main(["synth", str(out), *SMALL]) == 0
    assert cli.main(["synth", str(out), *SMALL, "--seed", "5"]) == 2
    assert "seed 0 there, 5 asked for" in capsys.readouterr().err
    (out / "synthetic.json").unlink()
    assert cli.main(["synth", str(out), *SMALL]) == 2
    assert "not empty" in capsys.readouterr().err
    assert cli.main(["synth", str(out / "maps" / "expansion" / "boston-seaport.json"), *SMALL]) == 2
    assert "is a file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scenes", "-1"], "--scenes -1"),
        (["--scenes", "601"], "--scenes 601"),
        (["--samples-per-scene", "0"], "--samples-per-scene 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--map-scale", "0.5"], "--map-scale 0.5"),
        (["--map-scale", "nan"], "--map-scale nan"),
        (["--workers", "-2"], "--workers -2"),
    ],
)
def test_numbers_out_of_range_are_told_in_one_line(tmp_path, capsys, arguments, told):
    assert cli.main(["synth", str(tmp_path / "set"), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled(tmp_path):
    assert cli.main(["synth", str(tmp_path), *SMALL]) == 0
    assert (tmp_path / "synthetic.json").is_file()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(generator, "map_mask", full)
    assert cli.main(["synth", str(tmp_path / "set"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_parent_that_is_a_file_is_told(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["synth", str(tmp_path / "file" / "set"), *SMALL]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_remains_of_a_killed_run_are_removed_but_not_those_of_a_running_one(tmp_path):
    dead, alive = tmp_path / ".set.dead.tmp", tmp_path / ".set.alive.tmp"
    for folder in (dead, alive):
        (folder / "maps").mkdir(parents=True)
    with generator._locked(alive):
        assert cli.main(["synth", str(tmp_path / "set"), *SMALL]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set.alive.tmp", "set"]


def test_a_run_that_was_overtaken_by_an_equal_one_is_content(tmp_path, monkeypatch):
    options = Options(scenes=2, samples_per_scene=1, images=False)
    write = generator._write

    def overtaken(root, plan, workers, progress):
        write(root, plan, workers, progress)
        monkeypatch.setattr(generator, "_write", write)
        assert generator.generate(tmp_path / "set", options, 1, progress)

    monkeypatch.setattr(generator, "_write", overtaken)
    monkeypatch.setattr(generator.glob, "escape", lambda name: "no such name")  # locks are per process, not per run
    assert not generator.generate(tmp_path / "set", options, 1, lambda done, total: None)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_worker_that_dies_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(generator.worker, "render", _die)
    with pytest.raises(PivotNetError, match="--workers"):
        generator.generate(tmp_path / "set", Options(scenes=1, samples_per_scene=1), 1, lambda done, total: None)
    assert not list(tmp_path.iterdir())


def _die(number: int, sample: int) -> None:
    import os

    os._exit(9)
