"""What a training step asks of its device: launches, host waits, copies."""
