/* Path resolution that does not leave a root. */
#ifndef NORTHSTAR_RESOLVE_H
#define NORTHSTAR_RESOLVE_H

/*
 * Opens `path` like a process whose root directory is `root`: absolute links and `..` stay inside.
 * Magic links (in /proc, they lead anywhere) are refused with ELOOP. O_CLOEXEC is added. Returns a
 * descriptor, or -1 with errno; EAGAIN if concurrent renames disturbed every attempt.
 */
int open_in_root(int root, const char *path, int flags);

/* The same without openat2(2): for kernels before 5.6, and for tests that compare both. */
int walk_in_root(int root, const char *path, int flags);

#endif
