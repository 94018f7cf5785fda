"""What training runs have measured: the "Final result" block, tables and curves."""
