"""The kernel's interfaces: one module per interface, named as the kernel names things.

Charter. What stands here is raw access: a function per system call, ioctl or kernel file, the
constants under their kernel names with the page that defines them, and `OSError` with errno and
path when the kernel refuses. There is no policy, no retry beyond what the interface itself asks
for, and no import of anything above. Whoever wants a decision looks elsewhere.
"""
