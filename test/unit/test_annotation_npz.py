"""Reading .npz files: plain, upstream's pickled ones, damaged and hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from pivotnet.annotation.npz import read_npz, write_npz
from pivotnet.errors import PivotNetError


def save_ours(path, **arrays):
    with open(path, "wb") as stream:
        write_npz(stream, arrays)


@pytest.mark.parametrize("save", [save_ours, np.savez, np.savez_compressed])
def test_plain_arrays(tmp_path, save):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b.c": np.array(["x", "yz"]),
        "d": np.zeros((0, 2), np.uint8),
        "e": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "f": np.array(3.5, ">f4"),
        "g": np.array([], "U"),
    }
    save(tmp_path / "plain.npz", **arrays)
    read = read_npz(tmp_path / "plain.npz")
    assert list(read) == list(arrays)
    for key, array in arrays.items():
        assert read[key].dtype == array.dtype
        np.testing.assert_array_equal(read[key], array)
    assert list(read_npz(tmp_path / "plain.npz", ["d"])) == ["d"]
    assert list(read_npz(tmp_path / "plain.npz", lambda name: name in ("b.c", "x"))) == ["b.c"]


def test_what_is_written_is_numpys_and_the_same_each_time(tmp_path):
    arrays = {"mask": (np.arange(240000) % 1000 == 0).astype(np.uint8), "name": np.array(["x"])}
    save_ours(tmp_path / "a.npz", **arrays)
    save_ours(tmp_path / "b.npz", **arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert list(read) == list(arrays)
        np.testing.assert_array_equal(read["mask"], arrays["mask"])
    with pytest.raises(ValueError, match="objects, which would have to be pickled"):
        save_ours(tmp_path / "c.npz", objects=np.array({}, object))


def zipfiles_archive(arrays) -> bytes:
    """An archive of the same members, put together by zipfile."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy"), member.getvalue())
    return content.getvalue()


def test_the_archive_is_zipfiles():
    """To the byte where nothing is compressed; elsewhere its members are those that zipfile reads."""
    rng = np.random.default_rng(0)
    stored = {
        "points": rng.normal(size=(400, 2)),
        "fortran": np.asfortranarray(rng.normal(size=(5, 30))),
        "every.other": np.arange(20.0)[::2],
        "Länge": np.array(2.5, ">f4"),
        "none": np.zeros((0, 2), np.int64),
        "names": np.array(["x", "yz"]),
    }
    ours = io.BytesIO()
    write_npz(ours, stored)
    assert ours.getvalue() == zipfiles_archive(stored)
    deflated = {
        "mask": rng.integers(0, 3, (3, 40, 20)).astype(np.uint8),
        "turned": np.asfortranarray(rng.integers(0, 3, (40, 50))),
        "mirrored": np.zeros((3, 400, 200), np.uint8)[:, ::-1],
        "paths": np.array([f"samples/{number}.jpg" for number in range(99)]),
    }
    ours = io.BytesIO()
    write_npz(ours, deflated)
    with zipfile.ZipFile(ours) as archive, zipfile.ZipFile(io.BytesIO(zipfiles_archive(deflated))) as theirs:
        assert archive.testzip() is None and archive.namelist() == theirs.namelist()
        for name in archive.namelist():
            assert archive.getinfo(name).compress_type == zipfile.ZIP_DEFLATED
            assert archive.read(name) == theirs.read(name)
            for field in ("date_time", "external_attr", "flag_bits", "CRC", "file_size", "create_system"):
                assert getattr(archive.getinfo(name), field) == getattr(theirs.getinfo(name), field)


def test_an_uncommon_compression_is_told(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive, archive.open("x.npy", "w") as member:
        np.save(member, np.zeros(3))
    with pytest.raises(PivotNetError, match="uncommon"):
        read_npz(tmp_path / "a.npz")


def test_pickled_containers(tmp_path):
    vectors = [{"pts": np.eye(2), "pts_num": 2, "type": 0}, {"pts": [[1.0, 2.0]], "pts_num": np.int64(1), "type": 2}]
    pivots = {0: np.ones((1, 10, 2)), 1: np.array([]), 2: np.float64(3)}
    np.savez(tmp_path / "old.npz", vectors=np.array(vectors, object), pivots=np.array(pivots, object))
    read = read_npz(tmp_path / "old.npz")
    assert read["vectors"][1] == vectors[1]
    np.testing.assert_array_equal(read["vectors"][0]["pts"], np.eye(2))
    np.testing.assert_array_equal(read["pivots"].item()[0], pivots[0])
    assert read["pivots"].item()[2] == 3.0


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_homes_of_numpy(module):
    from pivotnet.annotation.npz import _ArrayUnpickler

    find = _ArrayUnpickler.find_class
    assert callable(find(None, module, "_reconstruct")) and callable(find(None, module, "scalar"))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_hostile_pickle_is_refused(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "evil.npz", pivots=np.array({0: Hostile(f"touch {trace}")}, object))
    with pytest.raises(PivotNetError, match=r"evil\.npz.*system"):
        read_npz(tmp_path / "evil.npz")
    assert not trace.exists()
    with np.load(tmp_path / "evil.npz", allow_pickle=True) as arrays:  # the file is as hostile as meant
        arrays["pivots"]
    assert trace.exists()


def test_pickle_of_another_kind(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([len, sorted], object))
    with pytest.raises(PivotNetError, match="len"):
        read_npz(tmp_path / "a.npz")
    assert pickle.loads(pickle.dumps(len)) is len


@pytest.mark.parametrize("pickled", [False, True])
def test_every_truncation_is_an_error(tmp_path, pickled):
    content = np.array({"a": [1, 2], 3: np.arange(40)}, object) if pickled else np.arange(40)
    np.savez(tmp_path / "whole.npz", content=content)
    whole = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(PivotNetError, match=r"cut\.npz is damaged") as caught:
            read_npz(tmp_path / "cut.npz")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_flipped_bits_are_noticed(tmp_path, save):
    save(tmp_path / "whole.npz", content=np.arange(1000))
    damaged = bytearray((tmp_path / "whole.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(damaged)
    with pytest.raises(PivotNetError, match="damaged"):
        read_npz(tmp_path / "flipped.npz")


def test_missing_file_folder_and_key(tmp_path):
    with pytest.raises(PivotNetError, match="does not exist"):
        read_npz(tmp_path / "none.npz")
    with pytest.raises(PivotNetError, match="cannot read"):
        read_npz(tmp_path)
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(PivotNetError, match="lacks y, z"):
        read_npz(tmp_path / "a.npz", ["x", "y", "z"])
