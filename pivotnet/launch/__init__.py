"""Training runs as the run scripts start them: choices, data, folders, ranks, and no process left behind."""
