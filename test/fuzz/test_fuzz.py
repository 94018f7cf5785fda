"""Hostile files are refused in one line; see tools/fuzz.py for longer runs."""

from fuzz import BAD, run_cases


def test_no_case_of_hostile_input_does_harm():
    assert [case for case in run_cases(0, range(300)) if case.outcome in BAD] == []
