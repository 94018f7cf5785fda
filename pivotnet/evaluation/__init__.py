"""Predictions -> polylines -> AP table and pictures."""
