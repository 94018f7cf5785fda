"""Tokens (unique names of records) that depend on nothing but the seed and what the record is."""

from __future__ import annotations

import hashlib


class Tokens:
    """Gives every record its token: 32 hexadecimal digits, or a UUID in map files."""

    def __init__(self, *scope: object) -> None:
        self._scope = "/".join(map(str, scope))

    def plain(self, *what: object) -> str:
        """Token of the tables."""
        text = "/".join([self._scope, *map(str, what)])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def uuid(self, *what: object) -> str:
        """Token of the map expansion."""
        t = self.plain(*what)
        return f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}"
