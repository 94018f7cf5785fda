"""Adapters with upstream's names and signatures: the only thing that pivotnet.patch imports."""
