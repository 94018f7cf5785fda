"""What a rendering process does: it holds the plan and renders one sample after another."""

from __future__ import annotations
