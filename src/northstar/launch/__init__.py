"""From a manifest to a process: what a start does is planned here, and done by the C program."""
