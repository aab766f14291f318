"""Measurements, started by hand."""
