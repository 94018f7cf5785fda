"""Predictions and targets -> loss."""
