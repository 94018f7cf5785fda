"""SIGTERM: finish the step, save, end; but never wait in a collective whose other ranks are gone."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time

EXIT_STATUS = 128 + signal.SIGTERM  # 143, as if the signal had ended the process
GRACE_SECONDS = 5.0  # without a finished step after the signal; long steps get three of their own lengths


class Shutdown:
    """Whether this process was asked to stop; a context manager that catches SIGTERM (main thread only). torchrun sends
    SIGTERM to the ranks that are left when one has died. Those wait in a collective that may never end, where Python's
    own signal handlers do not run; so a thread that gets the signal at once ends the process when no step finishes in
    time. A healthy run finishes its step, agrees with the other ranks, saves and ends."""

    def __init__(self) -> None:
        self.requested = self.started = False
        self.busy = False  # saving or evaluating, which may take longer than a step
        self.progress, self.longest_step = time.monotonic(), 0.0

    def __enter__(self) -> Shutdown:
        self.receiver, self.sender = socket.socketpair()
        self.sender.setblocking(False)
        signal.set_wakeup_fd(self.sender.fileno(), warn_on_full_buffer=False)
        self.previous = signal.signal(signal.SIGTERM, lambda _number, _frame: None)
        self.progress = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self.previous)
        signal.set_wakeup_fd(-1)
        self.sender.close()

    def step_done(self) -> None:
        """Called after every step: the run is alive."""
        now = time.monotonic()
        if self.started:  # the first step also compiles, fills caches and waits for the loader: no measure
            self.longest_step = max(self.longest_step, now - self.progress)
        self.progress, self.started = now, True

    def _watch(self) -> None:
        while True:
            numbers = self.receiver.recv(64)
            if not numbers:
                self.receiver.close()
                return
            if signal.SIGTERM in numbers:
                break
        self.requested = True
        asked = time.monotonic()
        while self.sender.fileno() >= 0:
            time.sleep(0.2)
            idle = time.monotonic() - max(asked, self.progress)
            if not self.busy and idle > max(GRACE_SECONDS, 3 * self.longest_step):
                print("terminated: no step has finished since SIGTERM, another rank is gone", file=sys.stderr)
                os._exit(EXIT_STATUS)
