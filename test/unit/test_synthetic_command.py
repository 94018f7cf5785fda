"""``pivotnet synth``: repeated, interrupted and impossible runs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pivotnet import cli
from pivotnet.errors import PivotNetError
from pivotnet.synthetic import generate as generator
from pivotnet.synthetic.plan import Options

SMALL = ["--scenes", "2", "--samples-per-scene", "1", "--no-images"]


def synth(out: Path, *options: str) -> int:
    return cli.main(["synth", str(out), *(options or SMALL)])


def test_images_are_there_for_every_key_frame_whatever_the_number_of_workers(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    for out, workers in ((one, "1"), (two, "2")):
        assert synth(out, "--scenes", "1", "--samples-per-scene", "2", "--workers", workers) == 0
        assert "made in" in capsys.readouterr().out
    records = json.loads((one / "v1.0-trainval" / "sample_data.json").read_text())
    assert len(records) == 14
    for record in records:
        if record["fileformat"] == "jpg":
            content = (one / record["filename"]).read_bytes()
            assert content == (two / record["filename"]).read_bytes()
            assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (900, 1600, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_the_same_run_again_changes_nothing_and_another_one_is_refused(tmp_path, capsys):
    assert synth(tmp_path) == 0, "an empty folder is filled"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert synth(tmp_path) == 0
    assert "already there" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert synth(tmp_path, *SMALL, "--seed", "5") == 2
    assert "seed 0 there, 5 asked for" in capsys.readouterr().err
    (tmp_path / "synthetic.json").unlink()
    assert synth(tmp_path) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--scenes", "401"),
        ("--samples-per-scene", "0"),
        ("--seed", "-1"),
    ],
)
def test_numbers_out_of_range_are_reported_in_one_line(tmp_path, capsys, option, value):
    assert synth(tmp_path / "set", option, value) == 2
    error = capsys.readouterr().err
    assert option in error and value in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_full_disk_or_an_interrupt_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    for error, status in ((OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)):

        def stop(*_, error=error):
            raise error

        monkeypatch.setattr(generator.nuscenes_tables, "semantic_prior", stop)
        assert synth(tmp_path / "set") == status
        assert not list(tmp_path.iterdir())
    error = capsys.readouterr().err
    assert "No space left on device; free some space" in error


def test_a_file_in_the_way_is_reported(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "set", "cannot write")):
        assert synth(out) == 2
        assert message in capsys.readouterr().err


def test_a_worker_that_dies_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(generator, "ImageWriter", lambda root, plan: _die)
    with pytest.raises(PivotNetError, match="--workers"):
        generator.generate(tmp_path / "set", Options(scenes=1, samples_per_scene=2), 2, lambda done, total: None)
    assert not list(tmp_path.iterdir())


def _die(of: object) -> None:
    os._exit(9)
