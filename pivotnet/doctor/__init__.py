"""What this machine has and what is wrong with it, each finding with its remedy."""
