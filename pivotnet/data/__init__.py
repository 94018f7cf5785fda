"""Annotated sample and JPEGs -> batch."""
