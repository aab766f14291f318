"""Policy above `northstar.linux`: from the image in a package to a mounted file system.

Which loop device is taken and how long others are waited for, what is removed again after a
failure, how an image is verified, and what an earlier run left behind: all of this is decided
here. The ioctls and system calls themselves are in `northstar.linux`.

All functions block; the runtime calls them in its thread pool.
"""
