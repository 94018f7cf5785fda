"""tools/download.py against a server on this machine."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import download
import pytest

SWINT, RES50 = "upernet_swin_tiny_patch4_window7_512x512.pth", "resnet50-0676ba61.pth"
CONTENT = b"PK\x03\x04" + os.urandom(40_000)


@pytest.fixture
def release(monkeypatch):
    """A server of ``files``, from the middle of one on if ``ranges``; ``requests`` are (name, Range header)."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
            server.requests.append((name, wanted))
            content = server.files.get(name)
            start = int(wanted[len("bytes=") : -1]) if wanted and server.ranges else 0
            if content is None or (start and start >= len(content)):
                return self.send_error(404 if content is None else 416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:])

        def log_message(self, *arguments: object) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.ranges = {SWINT: CONTENT, RES50: CONTENT}, [], True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIVOTNET_RELEASE", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def fails(capsys, *words: object) -> str:
    """The one line of a download that fails."""
    assert download.main([str(word) for word in words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_file_arrives_and_is_not_fetched_again(release, tmp_path, capsys):
    folder = tmp_path / "my weights"
    arguments = ["swint", "--to", str(folder)]
    assert download.main(arguments) == 0 and (folder / SWINT).read_bytes() == CONTENT
    assert (folder / "SHA256SUMS").read_text() == f"{hashlib.sha256(CONTENT).hexdigest()}  {SWINT}\n"
    assert download.main(arguments) == 0 and len(release.requests) == 1
    assert f"{SWINT} is there" in capsys.readouterr().out
    (folder / SWINT).write_bytes(CONTENT[:-1])
    assert "is damaged" in fails(capsys, *arguments)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("arrived", [10_000, len(CONTENT)])
def test_an_interrupted_download_goes_on(release, tmp_path, arrived, ranges):
    release.ranges = ranges
    (tmp_path / f"{SWINT}.part").write_bytes(CONTENT[:arrived])
    assert download.main(["swint", "--to", str(tmp_path)]) == 0
    assert (tmp_path / SWINT).read_bytes() == CONTENT and not (tmp_path / f"{SWINT}.part").exists()
    assert release.requests[0] == (SWINT, f"bytes={arrived}-")


def test_what_is_no_weight_file_is_not_kept(release, tmp_path, capsys):
    release.files[SWINT] = b"<!DOCTYPE html> please log in"
    for name in ("res50", "swint"):  # res50's digits are not those of CONTENT
        assert "damaged or no weight file" in fails(capsys, name, "--to", tmp_path)
    assert "cannot download" in fails(capsys, "effb0", "--to", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("PIVOTNET_RELEASE", "http://127.0.0.1:9")
    said = fails(capsys, "swint", "--to", tmp_path)
    assert "without a network, fetch it on another machine" in said and str(tmp_path / SWINT) in said
    assert "unknown name resnet" in fails(capsys, "resnet", "--to", tmp_path / "new")
    assert not (tmp_path / "new").exists()
