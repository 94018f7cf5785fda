"""Rules: what they allow, and how a misfit is told."""

import numpy as np
import pytest

from pivotnet import schema
from pivotnet.errors import PivotNetError
from pivotnet.schema import MOST, Array, Misfit, check, check_arrays, fields, items, mapping, nullable, number

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
        ({"a": 1.0, "b": [0, 0]}, r"\.a is 1.0, not a whole number"),
        ({"a": 10**400, "b": [0, 0]}, r"\.a is 1000.*000, not a whole number"),
        ({"a": 1, "b": [0, float("nan")]}, r"\.b\[1\] is nan, not a number from -1 to 1"),
        ({"a": 1, "b": [0]}, r"\.b is \[0\], not a list of 2 to 2 items"),
        ({"a": 1, "b": [0, 0], "c": "x" * 5000}, r"\.c is 'xxx.*', not a text"),
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
        ("x", np.zeros((4, 3)), r"x has shape \(4, 3\)"),
        ("x", np.full((4, 2), np.nan), "x has the value nan, which is not from -1 to 1"),
        ("x", np.array([[0, -np.inf]] * 4), "x has the value -inf"),
        ("y", np.arange(5), "y has 5 points, but x has 4"),
        ("y", np.arange(1, 5), "y has the value 4"),
        ("z", np.array([b"a", b"b"]), "z is of type"),
        ("x", np.zeros((MOST + 1, 2)), f"x has {MOST + 1} points, more than {MOST}"),
    ):
        with pytest.raises(Misfit, match=problem):
            check_arrays({**good, key: array}, rules)
    assert rules["x"].largest == MOST * 16 + schema.LARGEST_HEADER
