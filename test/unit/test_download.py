"""tools/download.py against a server on this machine."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import download
import pytest
from support.commands import fails

from pivotnet.errors import run_command

SWINT, RES50 = "upernet_swin_tiny_patch4_window7_512x512.pth", "resnet50-0676ba61.pth"
CONTENT = b"PK\x03\x04" + os.urandom(40_000)


@pytest.fixture
def release(monkeypatch):
    """A server of ``files``; ``requests`` are their names."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path[1:])
            found = server.files.get(self.path[1:], b"")
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(found)

        def log_message(self, *arguments: object) -> None:
            pass

    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests = {SWINT: CONTENT, RES50: CONTENT}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIVOTNET_RELEASE", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def run(words: list[str]) -> int:
    return run_command(lambda: download.main(words))


def test_a_file_arrives_and_is_not_fetched_again(release, tmp_path, capsys):
    folder = tmp_path / "my weights"
    arguments = ["swint", "--to", str(folder)]
    assert download.main(arguments) == 0 and (folder / SWINT).read_bytes() == CONTENT
    assert download.main(arguments) == 0 and release.requests == [SWINT]
    assert f"{SWINT} is there" in capsys.readouterr().out
    (folder / SWINT).write_bytes(b"<html>")
    assert "is damaged" in fails(capsys, *arguments, run=run)


def test_what_is_cut_off_missing_or_no_weight_file_is_not_kept(release, tmp_path, capsys):
    # res50's digits are not those of CONTENT
    release.files["efficientnet-b0-355c32eb.pth"] = CONTENT[:10_000]
    for name, words in (("res50", "damaged or no weight file"), ("effb0", "cannot download")):
        assert words in fails(capsys, name, "--to", tmp_path, run=run)
    release.files[SWINT] = b"<!DOCTYPE html> please log in".ljust(len(CONTENT))
    assert "damaged or no weight file" in fails(capsys, "swint", "--to", tmp_path, run=run)
    assert "404" in fails(capsys, "effb0_ep30", "--to", tmp_path, run=run)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIVOTNET_RELEASE", "http://127.0.0.1:9")
    said = fails(capsys, "swint", "--to", tmp_path, run=run)
    assert "without a network, fetch it on another machine" in said and str(tmp_path / SWINT) in said
    assert "unknown name resnet" in fails(capsys, "resnet", "--to", tmp_path / "new", run=run)
    assert not (tmp_path / "new").exists()
