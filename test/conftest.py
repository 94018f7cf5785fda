"""How pytest-xdist shares the tests among its workers."""

import os
import shutil
import tempfile
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """What processes of the tests leave in the temporary folder, since they are killed, goes at the end."""
    if not hasattr(config, "workerinput"):  # a worker of xdist has the folder of its parent
        folder = tempfile.mkdtemp(prefix="pn-")  # short: names of sockets below it have at most 108 characters
        os.environ["TMPDIR"] = folder  # pytest's own files stay where they were
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests share data sets and networks, and those of test/npu one process: each goes to one worker whole."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "test/npu" if nodeid.startswith("test/npu/") else super()._split_scope(nodeid)

    return ByFile(config, log)
