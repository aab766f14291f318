"""Policy above `northstar.linux`: from the image in a package to a mounted file system.

This package acquires loop devices in competition with other programs, verifies and mounts images,
undoes a failed mount, and removes devices that an earlier run left. The ioctls and system calls
are in `northstar.linux`.

All functions block; the runtime calls them in its thread pools.
"""
