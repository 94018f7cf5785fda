"""Files appear whole or not at all, with the usual rights and nothing left beside them; what they hold keeps to rules;
errors are one line."""

import multiprocessing
import os
import time

import numpy as np
import pytest

from pivotnet import schema
from pivotnet.errors import PivotNetError
from pivotnet.files import atomic_write, lock_output, locked, make_folder, read_file, read_json, read_tokens, write_json
from pivotnet.schema import MOST, Array, Misfit, check, check_arrays, fields, items, mapping, nullable, number


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_write(path) as stream:
        stream.write(b"\x00\x01")
        assert not path.exists()
    assert path.read_bytes() == b"\x00\x01"
    with atomic_write(path, "w", durable=False) as stream:
        stream.write("old")
        assert path.read_bytes() == b"\x00\x01"
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), atomic_write(path, "w") as stream:
            stream.write("new")
            raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_rights_follow_the_umask(tmp_path):
    for umask in (0o022, 0o077):
        before = os.umask(umask)
        write_json(tmp_path / "file", {})
        os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_error_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "a", tmp_path / "file" / "a"):
        with pytest.raises(PivotNetError, match="cannot write .*a: .*directory"), atomic_write(path):
            pytest.fail("it was opened")
    assert os.listdir(tmp_path) == ["file"]


def test_folders_are_made(tmp_path):
    for _ in range(2):
        assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    for option, remedy in ((None, "link it to another disk"), ("--output", "choose another --output")):
        with pytest.raises(PivotNetError, match=f"cannot make .*file: File exists; .*{remedy}"):
            make_folder(tmp_path / "file", option)


def test_json_is_read_and_written(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, "é"]})
    assert read_json(path, "make it") == {"a": [1, "é"]} and path.read_text().endswith("\n")
    with pytest.raises(PivotNetError, match="cannot read .*none.json: No such file.*; make it"):
        read_json(tmp_path / "none.json", "make it")
    for damaged in (b'{"a": ', b"\xff", b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(PivotNetError, match=r"a\.json is truncated or no JSON .*; make it$"):
            read_json(path, "make it")
    path.write_text("[]")
    with pytest.raises(PivotNetError, match=r"a\.json: is \[\], not an object; make it$"):
        read_json(path, "make it")


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="no regular file|it is a folder"):
            read_file(path)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(OSError, match="it has 11 bytes, more than 10"):
        read_file(tmp_path / "large", 10)


def test_lists_hold_tokens_only(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("a\nb-1_C.npz\n\n")
    assert read_tokens(path) == ["a", "b-1_C"]
    for bad in (b"a\n../b", b"/etc/x", b"a/b", b"..", b"\xff", b"a\0", "é".encode(), b"a" * 129):
        path.write_bytes(bad)
        with pytest.raises(PivotNetError, match=r"val\.txt.*give a list of sample tokens, one per line"):
            read_tokens(path)


def test_a_folder_has_one_user_at_a_time(tmp_path, capsys):
    with lock_output(tmp_path):
        with pytest.raises(PivotNetError, match="another run is writing into .*: wait for it"), lock_output(tmp_path):
            pass
        forking = multiprocessing.get_context("fork")
        started = forking.Event()
        worker = forking.Process(target=lambda: (started.set(), time.sleep(60)))
        worker.start()
        assert started.wait(30)
    with locked(tmp_path):
        assert capsys.readouterr().out == "", "nothing to wait for, though a worker outlives the run"
    worker.kill()
    worker.join()


RULE = fields(
    {"a": number(0, 9, whole=True), "b": items(number(-1, 1), 2, 2)},
    {"c": nullable(schema.text), "d": mapping(schema.flag)},
)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": 9, "b": (0, 0.5), "c": None, "d": {"x": True}, "other": object()}, None),
        ({"a": 1, "b": [0, 1]}, None),
        ([], r"is \[\], not an object"),
        ({"a": 1}, "lacks 'b'"),
        ({"a": True, "b": [0, 0]}, r"\.a is True, not a whole number from 0 to 9"),
        ({"a": 10**400, "b": [0, 0]}, r"\.a is 1000.*000, not a whole number"),
        ({"a": 1, "b": [0, float("nan")]}, r"\.b\[1\] is nan, not a number from -1 to 1"),
        ({"a": 1, "b": [0, 0], "d": {"x": 1}}, r"\.d\.x is 1, not true or false"),
        ({"a": 1, "b": [0, 0], "d": {"x": {"y": {"z\n": 1}}}}, r"\.d\.x is"),
    ],
)
def test_a_misfit_names_place_value_and_limit(value, problem):
    if problem is None:
        check(RULE, value, "file", "remedy")
        return
    with pytest.raises(PivotNetError, match=rf"^file: {problem}.*; remedy$") as caught:
        check(RULE, value, "file", "remedy")
    assert len(str(caught.value)) < 200


TOKENS = ["", ".", "..", "a/b", "a.b", "é", "a\n", "a" * 129, None, 5]
PATHS = ["/a/b", "a", "a/../b", "a/./b", "a//b", "a/b\0", "a/b\n", "a/" + "b" * 5000, None]


@pytest.mark.parametrize(("rule", "bad"), [(schema.file_token, TOKENS), (schema.camera_file, PATHS)])
def test_names_of_files_stay_in_their_folder(rule, bad):
    rule("A-1_" * 32 if rule is schema.file_token else "samples/CAM_FRONT/n015+0800__é 1.jpg")
    for value in bad:
        with pytest.raises(Misfit):
            rule(value)


def test_arrays():
    rules = {"x": Array("f", ("points", 2), -1, 1), "y": Array("iu", ("points",), 0, 3), "z": Array("U", (2,))}
    good = {"x": np.zeros((4, 2)), "y": np.arange(4), "z": np.array(["a", "b"])}
    check_arrays(good, rules)
    check_arrays({**good, "x": np.zeros((0, 2), np.float32), "y": np.zeros(0, np.uint8)}, rules)
    for key, array, problem in (
        ("x", np.zeros((4, 2), int), "x is of type int64, not of kind f"),
        ("x", np.zeros(8), r"x has shape \(8,\), not \(points, 2\)"),
        ("x", np.full((4, 2), np.nan), "x has the value nan, which is not from -1 to 1"),
        ("y", np.arange(5), "y has 5 points, but x has 4"),
        ("y", np.arange(1, 5), "y has the value 4"),
        ("z", np.array([b"a", b"b"]), "z is of type"),
        ("x", np.zeros((MOST + 1, 2)), f"x has {MOST + 1} points, more than {MOST}"),
    ):
        with pytest.raises(Misfit, match=problem):
            check_arrays({**good, key: array}, rules)
    assert rules["x"].largest == MOST * 16 + schema.LARGEST_HEADER
