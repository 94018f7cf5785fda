"""pivotnet annotate: its steps against independent formulas and the packages that upstream uses; sample files, ours and
upstream's; damaged and hostile .npz files; whole, resumed, refused and interrupted runs. Upstream's own samples are in
test/golden."""

import dataclasses
import io
import json
import math
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import shapely
from numpy.lib import format as npy
from shapely.geometry import LineString
from support.commands import ENVIRONMENT, fails, wait_for
from support.samples import Reduced, one_divider, unpack_hard_samples
from visvalingamwyatt import Simplifier

from pivotnet.annotation.format import Line, load_annotation, pad_pivots, save_annotation, to_arrays, to_upstream
from pivotnet.annotation.npz import read_npz, write_npz
from pivotnet.annotation.tables import read_samples, rotation_matrices, split_of_scene, yaw_degrees
from pivotnet.annotation.vectors import AREA_THRESHOLD, parts_of_type, simplify
from pivotnet.cli import main
from pivotnet.errors import PivotNetError
from pivotnet.schema import Array

X = {"x": Array("O", ())}
OUTSIDE = ("/etc/x.jpg", "samples/CAM_BACK_RIGHT/../../../x.jpg", "a.jpg", "samples//a.jpg", "a/b\n.jpg")
RECONSTRUCT = np.zeros(0).__reduce__()[0]


def walk(rng, count):
    """Points [count, 2] within some 60 m of the origin; every other walk crosses itself."""
    angle = np.cumsum(rng.normal(0, 0.8, count))
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.5, 9, (count, 1))
    return np.cumsum(steps, axis=0) + rng.uniform(-40, 40, 2)


def test_only_lines_are_left():
    """A clip can leave points and collections, on which upstream stops."""
    window = shapely.box(0, 0, 10, 10)
    touching = LineString([(-1, 1), (1, -1)]).intersection(window)
    both = LineString([(-1, 1), (1, -1), (5, -1), (5, 5)]).intersection(window)
    assert touching.geom_type == "Point" and both.geom_type == "GeometryCollection"
    lines, owners = parts_of_type(np.array([touching, both, LineString()], object))
    assert [line.wkt for line in lines] == ["LINESTRING (5 0, 5 5)"] and owners.tolist() == [1]


@pytest.mark.parametrize("threshold", [0.1, 0.5, AREA_THRESHOLD, 30.0, math.inf])
def test_the_package_keeps_the_same_points(threshold):
    """Of random walks, every other one on a grid, where many triangles are equal or have no area."""
    for seed in range(300):
        rng = np.random.default_rng(seed)
        count = int(rng.integers(1, 70))
        points = np.cumsum(rng.integers(-1, 3, (count, 2)), 0).astype(float) if seed % 2 else walk(rng, count) / 5
        kept = points[simplify(points, threshold)]
        theirs = points[[0, -1][:count]] if threshold == math.inf else Simplifier(points).simplify(threshold=threshold)
        np.testing.assert_array_equal(kept, theirs)


def test_rotations():
    turn = np.array([[math.cos(0.4), 0, 0, math.sin(0.4)]])  # by 0.8 about z
    np.testing.assert_allclose(rotation_matrices(turn)[0, :2, 0], [math.cos(0.8), math.sin(0.8)], atol=1e-15)
    pyquaternion = pytest.importorskip("pyquaternion")
    quaternions = np.random.default_rng(1).normal(size=(200, 4))
    quaternions[::2] /= np.linalg.norm(quaternions[::2], axis=1, keepdims=True)
    want = np.array([pyquaternion.Quaternion(q).rotation_matrix for q in quaternions])
    np.testing.assert_allclose(rotation_matrices(quaternions), want, rtol=0, atol=1e-15)
    yaws = np.degrees(np.arctan2(want[:, 1, 0], want[:, 0, 0]))
    np.testing.assert_allclose([yaw_degrees(q) for q in quaternions], yaws, rtol=0, atol=1e-12)


def test_splits():
    for scene, version, split in (
        ("scene-0003", "v1.0-trainval", "val"),
        ("scene-0553", "v1.0-mini", "train"),
        ("scene-0916", "v1.0-mini", "val"),
        ("scene-0077", "v1.0-test", "test"),
    ):
        assert split_of_scene(scene, version) == split
    with pytest.raises(PivotNetError, match="town-7"):
        split_of_scene("town-7", "v1.0-trainval")
    splits = pytest.importorskip("nuscenes.utils.splits")
    for version, names in (("v1.0-trainval", ("train", "val")), ("v1.0-mini", ("mini_train", "mini_val"))):
        for name in names:
            assert {split_of_scene(scene, version) for scene in getattr(splits, name)} == {name.split("_")[-1]}


def random_lines(rng, counts, labels):
    return [Line(rng.random((count, 2)), label) for count, label in zip(counts, labels)]


def sample(lines=True):
    rng = np.random.default_rng(0)
    points, lengths = pad_pivots(random_lines(rng, (2, 10, 2, 30), (0, 0, 1, 2)) if lines else [])
    instance, thick = rng.integers(0, 5, (2, 3, 400, 200)).astype(np.uint8)
    return dataclasses.replace(
        one_divider("a", 80),
        trans=rng.random((6, 3)),
        semantic_mask=(instance > 0).astype(np.uint8),
        instance_mask=instance,
        instance_mask8=thick,
        ego_vectors=random_lines(rng, (1, 4, 0, 7), (0, 0, 1, 2)) if lines else [],
        map_vectors=random_lines(rng, (4, 7), (0, 2)) if lines else [],
        ctr_points=random_lines(rng, (3, 4), (0, 2)) if lines else [],
        pivot_points=points,
        pivot_lengths=lengths,
    )


@pytest.mark.parametrize("lines", [True, False])
def test_what_is_saved_is_loaded_from_our_files_and_upstreams(tmp_path, lines):
    """to_upstream gives what upstream reads from its files; a file written from it as upstream does is loaded."""
    annotation = sample(lines)
    for name in "ab":
        save_annotation(tmp_path / f"{name}.npz", annotation)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:  # anybody can read it
        assert {"instance_mask8", "pivot_pts.points", "ego_vectors.offsets"} <= set(arrays.files)
    item = to_upstream(annotation)
    assert [len(item["pivot_pts"][label]) for label in range(3)] == ([2, 1, 1] if lines else [0, 0, 0])
    assert all(item["pivot_pts"][label].shape == (0,) for label in range(3)) != lines
    np.savez_compressed(tmp_path / "old.npz", **item)
    for name in ("a", "old"):
        loaded = load_annotation(tmp_path / f"{name}.npz")
        theirs = to_arrays(loaded)
        for key, array in to_arrays(annotation).items():
            assert (array.dtype, array.shape) == (theirs[key].dtype, theirs[key].shape)
            np.testing.assert_array_equal(array, theirs[key])
        np.testing.assert_equal(annotation.pivot_points, loaded.pivot_points)


def test_damaged_and_foreign_files(tmp_path):
    save_annotation(tmp_path / "a.npz", sample())
    with np.load(tmp_path / "a.npz") as arrays:
        content = dict(arrays)
    points, paths = content["map_vectors.points"], content["image_paths"]
    for key, value, reason in (
        ("map_vectors.offsets", np.array([0, 4, 12]), "offsets, which do not cut"),
        ("map_vectors.offsets", np.array([0, 12, 11]), "offsets, which do not cut"),
        ("map_vectors.types", np.zeros(9, int), "offsets, which do not cut"),
        ("map_vectors.types", np.array([0, 3]), "map_vectors.types has the value 3, which is not from 0 to 2"),
        ("pivot_pts.points", np.zeros((44, 3)), r"pivot_pts.points has shape \(44, 3\), not \(points of"),
        ("pivot_pts.types", np.array([0, 1, 1, 2]), "10 pivot points in a line of ped_crossing, more than 2"),
        ("map_vectors.points", np.full(points.shape, np.nan), "map_vectors.points has the value nan"),
        ("map_vectors.points", np.full(points.shape, 1e308), "map_vectors.points has the value 1e.308"),
        ("semantic_mask", content["instance_mask"] + 2, "semantic_mask has the value"),
        ("rots", np.ones((6, 3, 3)), "no rotation"),
        ("intrins", np.zeros((6, 3, 3)), "singular"),
        *(("image_paths", np.array([*paths[:5], path]), r"image_paths\[5\] is .* path below") for path in OUTSIDE),
        ("image_paths", paths[[0, 1, 2, 3, 4, 4]], "no image of CAM_BACK_RIGHT"),
    ):
        np.savez(tmp_path / "b.npz", **{**content, key: value})
        with pytest.raises(PivotNetError, match=rf"b\.npz is .*{reason}.* again$"):
            load_annotation(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("pivot_length", {0: [2, 11], 1: [2], 2: [30]}, "pivot_length .* does not fit 2 lines of up to 10"),
        ("pivot_pts", {0: [[1.0]], 1: [], 2: []}, "reshape"),
        ("pivot_pts", {1: []}, "KeyError"),
        ("ego_vectors", [{"pts": [[1.0, 2.0]], "type": 7}], "ego_vectors.types has the value 7"),
    ],
)
def test_upstreams_damaged_files(tmp_path, key, value, reason):
    np.savez(tmp_path / "b.npz", **{**to_upstream(sample()), key: np.array(value, object)})
    with pytest.raises(PivotNetError, match=rf"b\.npz is no annotated sample.*{reason}.* again$"):
        load_annotation(tmp_path / "b.npz")


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
                assert (array.dtype, array.shape) == (read[key].dtype, read[key].shape)
                np.testing.assert_array_equal(read[key], array)


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
    monkeypatch.setattr("pivotnet.annotation.npz._MOST_OPCODES", 100_000)
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


def refuses(capsys, root, *options):
    return fails(capsys, "annotate", "-d", root, "--workers", "1", *options)


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
    assert "no annotation.json" in refuses(capsys, root)
    assert annotate(root, "--overwrite") == 0
    before = stamps(root)
    assert re.search("bezier=False.*bezier=True.*--overwrite", refuses(capsys, root, "--bezier"))
    assert stamps(root) == before
    assert annotate(root, "--bezier", "--overwrite") == 0
    assert "bezier=True" in refuses(capsys, root)
    for name in before:
        (folder_of(root) / name).unlink()
    assert annotate(root) == 0  # without samples there is nothing to mix
    change(root / "maps" / "expansion" / "boston-seaport.json", lambda content: content["road_divider"].pop())
    assert "boston-seaport=" in refuses(capsys, root)
    (folder_of(root) / "annotation.json").write_text("{}")
    assert "annotation.json: lacks 'maps'" in refuses(capsys, root)


def test_mini_and_test_versions(root, capsys):
    for version in ("v1.0-mini", "v1.0-test"):
        shutil.copytree(root / VERSION, root / version)
        assert annotate(root, "--version", version) == 0
    lists = {path.name: len(path.read_text().split()) for path in (folder_of(root) / "splits").iterdir()}
    assert lists == {"train.txt": 8, "val.txt": 0, "test.txt": 8}  # no mini_val scene is among them


def test_bad_roots(root, tmp_path, capsys):
    assert f"{tmp_path / 'none'} is no folder" in refuses(capsys, tmp_path / "none")
    assert "no nuScenes root with v1.0-trainval/sample.json" in refuses(capsys, tmp_path)
    assert f"choose --version from {VERSION}" in refuses(capsys, root, "--version", "v1.0-mini")
    assert not folder_of(root).exists()
    (root / "customer").write_text("in the way")
    assert f"cannot make {folder_of(root)}" in refuses(capsys, root)


def test_bad_maps_and_tables(root, capsys):
    """Each is one line that names the file; nothing is written."""
    city, table = "maps/expansion/singapore-queenstown.json", f"{VERSION}/sample_data.json"
    old = "is of map expansion version {}, too old"
    for name, edit, message in (
        (city, None, f"cannot read {root / city}: No such file or directory; unpack nuScenes-map-expansion-v1.3"),
        (city, lambda content: content.update(version="1.2"), old.format("1.2")),
        (city, lambda content: content["node"].pop(), "is no consistent map expansion (KeyError"),
        (city, lambda content: content["node"][0].update(x=float("nan")), ".node[0].x is nan, not a number"),
        (table, None, "cannot read"),
        (table, lambda rows: rows[0].update(is_key_frame=False), "has no key frame of CAM_"),
        (f"{VERSION}/log.json", lambda rows: rows.pop(), "do not fit together: one refers to"),
        (f"{VERSION}/sample.json", lambda rows: rows[0].update(token="../x"), "'../x'"),
        (f"{VERSION}/scene.json", lambda rows: rows[0].update(name="town-7"), "'town-7'"),
    ):
        whole = (root / name).read_text()
        if edit is None:
            (root / name).unlink()
        else:
            change(root / name, edit)
        assert message in refuses(capsys, root)
        (root / name).write_text(whole[: len(whole) // 2])
        assert f"{root / name} is truncated or no JSON" in refuses(capsys, root)
        (root / name).write_text(whole)
    (root / city).write_text("[]")
    assert "is [], not an object" in refuses(capsys, root)
    assert not folder_of(root).exists()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk(root, workers):
    """Files of at most 16 kB: the first larger one stops the run with one line, and no file is cut."""
    command = [sys.executable, "-m", "pivotnet", "annotate", "-d", str(root), "--workers", workers]
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)), "env": ENVIRONMENT}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, **limit)
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
    wait_for(lambda: len(list(folder_of(root).glob("*.npz"))) >= 10, lambda: running.poll() is None)
    (os.killpg if number == signal.SIGINT else os.kill)(running.pid, number)
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said.strip()) == (130, "interrupted")
    files = {path.name for path in folder_of(root).iterdir()} - {"annotation.json"}
    assert 10 <= len(files) < 8 * copies and all(re.fullmatch(r"\w+\.npz", name) for name in files)
    assert all(load_annotation(folder_of(root) / name) for name in files)
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)  # no worker is left
