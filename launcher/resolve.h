/* Paths inside a root that must not be left. */
#ifndef NORTHSTAR_RESOLVE_H
#define NORTHSTAR_RESOLVE_H

/*
 * Opens `path` as a process would whose root directory is `root`: absolute links and `..` stay
 * inside. Magic links (those of /proc lead anywhere) are refused with ELOOP. O_CLOEXEC is added.
 * Returns a descriptor, or -1 with errno, EAGAIN if renames elsewhere disturbed it all the time.
 */
int open_in_root(int root, const char *path, int flags);

/* The same without openat2(2): for kernels before 5.6, and for the tests that compare both. */
int walk_in_root(int root, const char *path, int flags);

#endif
