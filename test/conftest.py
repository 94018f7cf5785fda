"""How pytest-xdist shares the tests among its workers."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share data sets and networks, and those of test/npu one process: each goes to one worker whole."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "test/npu" if nodeid.startswith("test/npu/") else super()._split_scope(nodeid)

    return ByFile(config, log)
