"""Batch -> predictions."""
