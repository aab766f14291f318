"""The kernel's interfaces: one module per interface, with the kernel's names.

This package is raw access: a function per system call, ioctl or kernel file, the constants under
their kernel names with the page that defines them, and `OSError` with errno and path when the
kernel refuses. It contains no policy and no timeout, retries only what the interface itself
requires, and imports no other package of the project. Policy is in the packages above: for block
devices and images in `northstar.devices`. The exception is `removal`; its docstring gives the
reason.
"""
