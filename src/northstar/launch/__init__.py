"""Starts containers: plans a start as a list of operations, which the C program performs."""
