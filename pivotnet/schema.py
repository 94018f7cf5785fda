"""What files must hold: rules for values and arrays, which each reader declares, and the check of what it has read. A
rule is a function that raises ``Misfit`` for a value that it does not allow. The rules here are made of limits and of
other rules. Limits are generous: they keep out what is damaged, not what is unusual."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pivotnet.errors import PivotNetError

if TYPE_CHECKING:  # the run scripts' checks need no package
    import numpy as np

Rule = Callable[[Any], None]
LARGEST = 1e12  # of any number, where nothing narrower is known
MOST = 20_000  # items along a dimension of an array that has no fixed size
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")  # with what is added to it, still a file name
_LONGEST_TEXT = 4096  # characters
LARGEST_HEADER = 10_000  # bytes, of an array in a file
_LARGEST_PICKLE = 16 * 2**20  # bytes; those of a sample have some hundred thousands
_LARGEST_TEXT_ITEM = 2048  # bytes, four a character


class Misfit(ValueError):
    """A value that a rule does not allow: where it is (``[3].points``), and what is wrong."""

    def __init__(self, problem: str, where: str = "") -> None:
        super().__init__(f"{where} {problem}".strip())
        self.problem, self.where = problem, where


def check(rule: Rule, value: Any, path: Any, remedy: str) -> None:
    """Raise PivotNetError, which names the file ``path`` and ends with ``remedy``, unless the rule allows the value."""
    try:
        rule(value)
    except Misfit as error:
        raise PivotNetError(f"{path}: {error}; {remedy}") from None


def refuse(value: Any, wanted: str) -> None:
    """Raise Misfit: the value is not what is wanted."""
    raise Misfit(f"is {reprlib.repr(value)}, not {wanted}")


def _within(where: str, rule: Rule, value: Any) -> None:
    try:
        rule(value)
    except Misfit as error:
        raise Misfit(error.problem, where + error.where) from None


def file_token(value: Any) -> None:
    """Rule of a name that becomes part of a file's name: letters, digits, - and _."""
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        refuse(value, "a token of letters, digits, - and _")


def camera_file(value: Any) -> None:
    """Rule of a file's path below the data root: relative, and never upwards."""
    parts = value.split("/") if isinstance(value, str) else []
    if len(parts) < 2 or len(value) > _LONGEST_TEXT or not value.isprintable() or {"", ".", ".."} & set(parts):
        refuse(value, "a path below the data root, as samples/CAM_FRONT/a.jpg")


def text(value: Any) -> None:
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT:
        refuse(value, f"a text of up to {_LONGEST_TEXT} characters")


def printable(value: Any) -> None:
    """Rule of a short text that reports print: a terminal might obey other characters."""
    text(value)
    if not value.isprintable():
        refuse(value, "a text of printable characters")


def flag(value: Any) -> None:
    if not isinstance(value, bool):
        refuse(value, "true or false")


def number(low: float = -LARGEST, high: float = LARGEST, whole: bool = False) -> Rule:
    """Numbers from ``low`` to ``high``; not NaN."""
    kinds = int if whole else (int, float)

    def rule(value: Any) -> None:
        if not isinstance(value, kinds) or isinstance(value, bool) or not low <= value <= high:
            refuse(value, f"a {'whole ' if whole else ''}number from {low:g} to {high:g}")

    return rule


def nullable(rule: Rule) -> Rule:
    """None, or what ``rule`` allows."""
    return lambda value: None if value is None else rule(value)


def items(rule: Rule, least: int = 0, most: float = math.inf) -> Rule:
    """Lists (and tuples) of ``least`` to ``most`` values that ``rule`` allows."""

    def checked(value: Any) -> None:
        if not isinstance(value, (list, tuple)) or not least <= len(value) <= most:
            refuse(value, f"a list of {least} to {most} items")
        for index, item in enumerate(value):
            try:  # not _within: a list may have a million items
                rule(item)
            except Misfit as error:
                raise Misfit(error.problem, f"[{index}]{error.where}") from None

    return checked


def mapping(rule: Rule, key_rule: Rule = text) -> Rule:
    """Dicts from what ``key_rule`` allows to what ``rule`` allows."""

    def checked(value: Any) -> None:
        if not isinstance(value, dict):
            refuse(value, "an object")
        for key, item in value.items():
            _within(".<key>", key_rule, key)
            _within(f".{key}", rule, item)

    return checked


def fields(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None) -> Rule:
    """Dicts with the required keys; other keys are free, but what is known of the optional ones holds."""

    def checked(value: Any) -> None:
        if not isinstance(value, dict):
            refuse(value, "an object")
        for key, rule in required.items():
            if key not in value:
                raise Misfit(f"lacks {key!r}")
            _within(f".{key}", rule, value[key])
        for key, rule in (optional or {}).items():
            if key in value:
                _within(f".{key}", rule, value[key])

    return checked


def anything(_value: Any) -> None:
    """Rule that allows all."""


an_object = mapping(anything)


class Array(NamedTuple):
    """Rule of an array, and how large it can be."""

    kinds: str  # of its type, numpy's letters: i, u, f, U; O where objects are pickled
    shape: tuple[int | str, ...]  # a name stands for any size up to ``most``, the same wherever the name occurs
    low: float = -LARGEST
    high: float = LARGEST
    most: int = MOST  # of a size that has a name

    @property
    def largest(self) -> int:
        """Bytes of the largest such array in a file, with its header."""
        if "O" in self.kinds:
            return _LARGEST_PICKLE
        itemsize = _LARGEST_TEXT_ITEM if self.kinds == "U" else 8
        count = math.prod(self.most if isinstance(size, str) else size for size in self.shape)
        return itemsize * count + LARGEST_HEADER


def check_arrays(arrays: Mapping[str, np.ndarray], rules: Mapping[str, Array]) -> None:
    """Raise Misfit unless each array fits its rule, and sizes of the same name agree between them."""
    sizes: dict[str, tuple[int, str]] = {}  # of each named dimension, and the array that had it first
    for key, rule in rules.items():
        array = arrays[key]
        if array.dtype.kind not in rule.kinds:
            raise Misfit(f"is of type {array.dtype}, not of kind {' or '.join(rule.kinds)}", key)
        if array.ndim != len(rule.shape):
            raise Misfit(f"has shape {array.shape}, not {_shown(rule.shape)}", key)
        for size, wanted in zip(array.shape, rule.shape):
            if isinstance(wanted, str):
                first = sizes.setdefault(wanted, (size, key))
                if size > rule.most:
                    raise Misfit(f"has {size} {wanted}, more than {rule.most}", key)
                if size != first[0]:
                    raise Misfit(f"has {size} {wanted}, but {first[1]} has {first[0]}", key)
            elif size != wanted:
                raise Misfit(f"has shape {array.shape}, not {_shown(rule.shape)}", key)
        if array.size and array.dtype.kind in "iuf":
            low, high = array.min(), array.max()
            if not (rule.low <= low and high <= rule.high):
                bad = high if rule.low <= low else low
                raise Misfit(f"has the value {bad}, which is not from {rule.low:g} to {rule.high:g}", key)


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
