"""tools/download.py against a server on this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "download.py"
SWINT, RES50 = "upernet_swin_tiny_patch4_window7_512x512.pth", "resnet50-0676ba61.pth"
CONTENT = b"PK\x03\x04" + os.urandom(40_000)


class Release:
    """Files by name, and the requests that came: (name, Range header)."""

    def __init__(self, ranges: bool) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        release = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, wanted = self.path.lstrip("/"), self.headers.get("Range", "")
                release.requests.append((name, wanted))
                content = release.files.get(name)
                start = int(wanted[len("bytes=") : -1]) if wanted and ranges else 0
                if content is None or (start and start >= len(content)):
                    self.send_error(404 if content is None else 416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start:])

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def release(request):
    running = Release(request.param)
    running.files = {SWINT: CONTENT, RES50: CONTENT}
    yield running
    running.server.shutdown()
    running.server.server_close()


def download(address: str, folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PIVOTNET_RELEASE": address, "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-S", str(SCRIPT), *names, "--to", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_a_file_arrives_and_is_not_fetched_again(release, tmp_path):
    folder = tmp_path / "my weights"
    done = download(release.address, folder, "swint")
    assert done.returncode == 0, done.stderr
    assert (folder / SWINT).read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (folder / "SHA256SUMS").read_text() == f"{digest}  {SWINT}\n"
    again = download(release.address, folder, "swint")
    assert again.returncode == 0 and f"{SWINT} is there" in again.stdout and len(release.requests) == 1
    (folder / SWINT).write_bytes(CONTENT[:-1])
    damaged = download(release.address, folder, "swint")
    assert damaged.returncode == 2 and "is damaged" in damaged.stderr


@pytest.mark.parametrize("arrived", [10_000, len(CONTENT)])
def test_an_interrupted_download_goes_on(release, tmp_path, arrived):
    (tmp_path / f"{SWINT}.part").write_bytes(CONTENT[:arrived])
    done = download(release.address, tmp_path, "swint")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / SWINT).read_bytes() == CONTENT and not (tmp_path / f"{SWINT}.part").exists()
    assert release.requests[0] == (SWINT, f"bytes={arrived}-")


def test_a_wrong_checksum_or_an_error_page_is_not_kept(release, tmp_path):
    done = download(release.address, tmp_path, "res50")  # the name's digits are not those of CONTENT
    assert done.returncode == 2 and "damaged or no weight file" in done.stderr
    release.files[SWINT] = b"<!DOCTYPE html> please log in"
    done = download(release.address, tmp_path, "swint")
    assert done.returncode == 2 and "damaged or no weight file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_says_what_to_do(tmp_path):
    done = download("http://127.0.0.1:9", tmp_path, "swint")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "without a network, fetch it on another machine" in last and str(tmp_path / SWINT) in last


def test_an_unknown_name_is_one_line(tmp_path):
    done = download("http://127.0.0.1:9", tmp_path / "new", "resnet")
    assert done.returncode == 2 and "unknown name resnet" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_missing_on_the_server(release, tmp_path):
    done = download(release.address, tmp_path, "effb0")
    assert done.returncode == 2 and "cannot download" in done.stderr and list(tmp_path.iterdir()) == []
