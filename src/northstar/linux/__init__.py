"""The kernel's interfaces: one module per interface, named as the kernel names things.

Charter. This package is raw access: a function per system call, ioctl or kernel file, the
constants under their kernel names with the page that defines them, and `OSError` with errno and
path when the kernel refuses. There is no policy, no timeout, no retry beyond what the interface
itself asks for, and no import of a package above. Policy is in the packages above: for block
devices and images in `northstar.devices`.
"""
