"""Loop, optimiser, schedule, checkpoints, distributed start, timing."""
