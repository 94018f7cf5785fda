"""One file a command: each parses options, calls the package and prints. Nothing else knows argparse."""
