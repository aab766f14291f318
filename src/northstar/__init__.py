"""Northstar: a container runtime for Linux on embedded devices."""

__version__ = "0.1.0"
