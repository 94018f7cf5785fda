"""What tools/golden.py is made of: running upstream on a CPU, recording it, comparing this project with recordings."""
