"""Operators with a kernel of their own per device."""
