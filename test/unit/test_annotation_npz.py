"""Reading .npz files: plain, upstream's pickled ones, damaged and hostile ones."""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from pivotnet.annotation.npz import read_npz, write_npz
from pivotnet.errors import PivotNetError
from pivotnet.schema import Array

X = {"x": Array("O", ())}
RECONSTRUCT = np.zeros(0).__reduce__()[0]


def save_ours(path, **arrays):
    with open(path, "wb") as stream:
        write_npz(stream, arrays)


def member_bytes(dtype, shape):
    header = io.BytesIO()
    npy.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    return header.getvalue()


def save_member(path, data, dtype="|O", shape=(), method=zipfile.ZIP_STORED, claimed=None):
    """An archive of one member ``x``: the header of an array, and ``data``; its directory claims ``claimed`` bytes."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("x.npy", member_bytes(dtype, shape) + data)
        archive.infolist()[0].file_size = claimed or archive.infolist()[0].file_size


def refused(path):
    """The one line that says why a file is not read."""
    with pytest.raises(PivotNetError, match=rf"{path.name} is damaged or no \.npz file \(") as caught:
        read_npz(path, X)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize("save", [save_ours, np.savez, np.savez_compressed])
def test_plain_arrays(tmp_path, save):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b.c": np.array(["x", "yz"]),
        "d": np.zeros((0, 2), np.uint8),
        "e": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "f": np.array(3.5, ">f4"),
        "g": np.array([], "U"),
        "mirrored": (np.arange(240000) % 1000 == 0).astype(np.uint8).reshape(3, 400, 200)[:, ::-1],
        "Länge": np.arange(20.0)[::2],
    }
    save(tmp_path / "plain.npz", **arrays)
    rules = {key: Array(array.dtype.kind, array.shape) for key, array in arrays.items()}
    with np.load(tmp_path / "plain.npz", allow_pickle=False) as numpys:
        for read in (read_npz(tmp_path / "plain.npz", rules), dict(numpys)):
            assert list(read) == list(arrays)
            for key, array in arrays.items():
                np.testing.assert_array_equal(read[key], array, strict=True)


@pytest.mark.parametrize(("protocol", "home"), [(3, b"numpy.core"), (3, b"numpy._core"), (4, None)])
def test_pickled_containers(tmp_path, protocol, home):
    """Whatever numpy wrote them: numpy 1 uses protocol 3, numpy 2 protocol 4, and has its functions in _core."""
    vectors = [
        {"pts": np.eye(2), "pts_num": 2, "type": 0},
        {"pts": [[1.0, 2.0], (None, True)], "pts_num": np.int64(1), "type": -(2**40), "empty": ()},
        {3: np.asfortranarray(np.arange(6.0).reshape(2, 3)), 4: np.arange(300, dtype=">u2"), 5: np.zeros((0, 2), bool)},
    ]
    vectors[2]["again"] = vectors[2][3]
    data = pickle.dumps(np.array(vectors, object), protocol)
    if home:
        data = data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", home)
    save_member(tmp_path / "old.npz", data, shape=(3,))
    np.testing.assert_equal(read_npz(tmp_path / "old.npz", {"x": Array("O", (3,))})["x"].tolist(), vectors)


class Reduced:
    """Is pickled as a call, and a state that is set on what it returns."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def array_of(dtype, data, shape=(1,)):
    return Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


def nested(depth):
    return pickle.dumps(np.array({0: None}, object), 3).replace(b"K\x00N", b"K\x00N" + b"\x85" * depth)


FAR_FIELD = Reduced(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("f8"), 10**6)}, 8, 1, 0))


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (array_of(np.dtype(object), b"12345678"), "holds objects, which is no value"),
        (array_of(np.dtype(object), [1]), "holds objects, which is no value"),
        (array_of(FAR_FIELD, b"12345678"), "type V8, which is no plain number"),
        (array_of(Reduced(np.dtype, ("f8", False, True), (3, "<", None, ("a",), {}, 8, 1, 0)), bytes(8)), "no plain"),
        (array_of(np.dtype("f8"), bytes(8), (2**40,)), "too small"),
        (array_of(np.dtype("f8"), bytes(8), (-1, -1)), "negative"),
        (array_of(np.dtype("f8"), [1.0]), "not made of a type and bytes"),
        (Reduced(RECONSTRUCT, (np.ndarray, (0,), b"b")), "holds _reconstruct, which is no value"),
        (Reduced(np.dtype, ("f8", False, True)), "holds dtype, which is no value"),
        (np.dtype("f8"), "holds float64, which is no value"),
        (np.ndarray, "holds ndarray, which is no value"),
        (Reduced(np.dtype, ("f8",), ["x" * 10**6]), "damaged"),
        (len, r"builtins.len, which is no array"),
        ({1, 2}, "opcode EMPTY_SET|names builtins.set"),
        ([[]] * 2, "uses a container twice"),
    ],
)
def test_foreign_objects_are_refused(tmp_path, item, reason):
    for protocol in (3, 4):
        save_member(tmp_path / "evil.npz", pickle.dumps(np.array({0: item}, object), protocol))
        assert re.search(reason, refused(tmp_path / "evil.npz"))


def test_nothing_is_called(tmp_path):
    trace = tmp_path / "trace"
    np.savez(tmp_path / "evil.npz", x=np.array({0: Reduced(os.system, (f"touch {trace}",))}, object))
    assert "system, which is no array" in refused(tmp_path / "evil.npz") and not trace.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pickle.dumps(np.zeros(())), "no array of objects"),
        (pickle.dumps(np.zeros(1, object)), "no array of objects of shape ()"),
        (pickle.dumps(array_of(np.dtype(object), b"12345678", ())), "has other items"),
        (pickle.dumps({}), "no array of objects"),
        (b"\x80\x03\x87.", "takes more than it has"),
        (b"\x80\x03N2.", "opcode DUP"),
        (b"", "exhausted"),
        (nested(7), "nested more than 8 deep"),
        (nested(50_000), "nested"),
        (nested(200_000), "more than 100000 op"),
    ],
)
def test_pickles_of_another_form_are_refused(tmp_path, monkeypatch, data, reason):
    monkeypatch.setattr("pivotnet.annotation.pickled._MOST_OPCODES", 100_000)
    save_member(tmp_path / "a.npz", nested(6))
    read_npz(tmp_path / "a.npz", X)
    save_member(tmp_path / "evil.npz", data)
    assert reason in refused(tmp_path / "evil.npz")


def test_claims_are_checked_before_memory_is_taken(tmp_path):
    path = tmp_path / "large.npz"
    for more, reason in (
        ({"claimed": 2**32 - 2, "method": zipfile.ZIP_DEFLATED}, "has 4294967294 bytes, more than 16777216"),
        ({"dtype": "|u1", "shape": (2**32,)}, "too small"),
        ({"dtype": [("a", "<f8")], "shape": (1,)}, "neither numbers nor text"),
        ({"dtype": "<M8[s]", "shape": (1,)}, "neither numbers nor text"),
        ({"dtype": "|u1", "shape": (1,) * 4000}, "header of 12"),
        ({"method": zipfile.ZIP_BZIP2}, "uncommon"),
    ):
        save_member(path, bytes(8), **more)
        assert reason in refused(path)


@pytest.mark.parametrize("pickled", [False, True])
def test_every_truncation_and_a_flipped_bit_are_errors(tmp_path, pickled):
    path, content = tmp_path / "a.npz", np.array({"a": [1, 2], 3: np.arange(40)}, object) if pickled else np.arange(40)
    for save in (np.savez, np.savez_compressed):
        save(path, x=content)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(flipped) // 3] ^= 1  # in the array's data
        for damaged in [flipped, *(whole[:length] for length in range(0, len(whole), 14))]:
            path.write_bytes(damaged)
            refused(path)
    data = pickle.dumps(content) if pickled else b""
    for length in range(0, len(data), 7):
        save_member(path, data[:length])
        refused(path)


def test_what_is_inflated_is_limited(tmp_path):
    """Whatever it claims: 4 MB of zeros inflate to 4 GiB. What nobody asks for is not read at all."""
    path = tmp_path / "bomb.npz"
    save_member(path, bytes(2**28), "|u1", (2**28,), zipfile.ZIP_DEFLATED, claimed=2000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PivotNetError, match="damaged"):
        read_npz(path, {"x": Array("u", (2000,))})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("y.npy", member_bytes("<f8", (2,)) + bytes(16))
    assert list(read_npz(path, {"z": Array("f", (2,))}, {"y": Array("f", (2,))})) == ["y"]


def test_missing_file_folder_and_key(tmp_path):
    with pytest.raises(PivotNetError, match="does not exist"):
        read_npz(tmp_path / "none.npz", X)
    os.mkfifo(tmp_path / "fifo.npz")
    for path in (tmp_path, tmp_path / "fifo.npz"):
        with pytest.raises(PivotNetError, match="cannot read"):
            read_npz(path, X)
    np.savez(tmp_path / "a.npz", x=np.zeros(1))
    with pytest.raises(PivotNetError, match="lacks y, z"):
        read_npz(tmp_path / "a.npz", {key: Array("f", (1,)) for key in "xyz"})
