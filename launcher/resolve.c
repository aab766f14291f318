#include "resolve.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <linux/magic.h>

#include "syscalls.h"

enum {
	LINKS_MAX = 40, /* MAXSYMLINKS, path_resolution(7) */
	TRIES_MAX = 100,
	PROC_ROOT_INODE = 1, /* PROC_ROOT_INO, linux/proc_ns.h */
};

/*
 * The position of a walk. The kernel never resolves `..`: after a concurrent rename it may lead out
 * of the root. Instead the path from the root is kept, and `..` walks it again without its last
 * name.
 */
struct position {
	int root;
	int at; /* a directory, O_PATH */
	char path[PATH_MAX]; /* of `at`: no links, no dots; empty for the root, else `/a/b` */
};

/* Replaces the current directory. */
static void enter(struct position *position, int directory)
{
	if (position->at >= 0)
		close(position->at);
	position->at = directory;
}

static int enter_root(struct position *position)
{
	int directory = openat(position->root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (directory < 0)
		return -1;
	enter(position, directory);
	position->path[0] = '\0';
	return 0;
}

static int enter_below(struct position *position, int directory, const char *name)
{
	size_t used = strlen(position->path), length = strlen(name);

	enter(position, directory);
	if (used + 1 + length >= sizeof position->path) {
		errno = ENAMETOOLONG;
		return -1;
	}
	position->path[used] = '/';
	memcpy(position->path + used + 1, name, length + 1);
	return 0;
}

/* Removes the first name from a path; false if none is left. A name that is too long stays so. */
static bool next_name(const char **path, char name[NAME_MAX + 2])
{
	size_t length;

	*path += strspn(*path, "/");
	length = strcspn(*path, "/");
	memcpy(name, *path, length < NAME_MAX + 1 ? length : NAME_MAX + 1);
	name[length < NAME_MAX + 1 ? length : NAME_MAX + 1] = '\0';
	*path += length;
	return length > 0;
}

static int enter_parent(struct position *position)
{
	char parent[PATH_MAX], name[NAME_MAX + 2];
	const char *rest = parent;
	char *last;

	strcpy(parent, position->path);
	last = strrchr(parent, '/');
	if (last)
		*last = '\0';
	if (enter_root(position))
		return -1;
	while (next_name(&rest, name)) {
		int directory =
			openat(position->at, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

		if (directory < 0 || enter_below(position, directory, name))
			return -1;
	}
	return 0;
}

/*
 * The links below a process's directory in /proc are magic; those directly in /proc (self, mounts,
 * net) are not. No other property distinguishes them.
 */
static bool is_magic(int link, int directory)
{
	struct statfs system;
	struct stat above;

	return fstatfs(link, &system) || fstat(directory, &above) ||
	       ((unsigned long)system.f_type == PROC_SUPER_MAGIC &&
		above.st_ino != PROC_ROOT_INODE);
}

/* Puts the target of a link in front of the remaining path: 0, or -1 with errno. */
static int follow(struct position *position, int link, const char *tail, char rest[PATH_MAX])
{
	char target[PATH_MAX];
	size_t left = strlen(tail);
	ssize_t length;

	if (is_magic(link, position->at)) {
		errno = ELOOP;
		return -1;
	}
	length = readlinkat(link, "", target, sizeof target);
	if (length < 0)
		return -1;
	if (length == 0) {
		errno = ENOENT;
		return -1;
	}
	if ((size_t)length + left >= PATH_MAX) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memmove(rest + length, tail, left + 1);
	memcpy(rest, target, (size_t)length);
	return target[0] == '/' ? enter_root(position) : 0;
}

/* Walks a path; the caller closes `position->at`. */
static int walk(struct position *position, char rest[PATH_MAX], int flags)
{
	const char *tail = rest;
	char name[NAME_MAX + 2];
	int links = 0;

	while (next_name(&tail, name)) {
		struct stat file;
		int found, error;

		if (!strcmp(name, "."))
			continue;
		if (!strcmp(name, "..")) {
			if (enter_parent(position))
				return -1;
			continue;
		}
		found = openat(position->at, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (found < 0)
			return -1;
		error = fstat(found, &file);
		if (!error && S_ISDIR(file.st_mode)) {
			if (enter_below(position, found, name))
				return -1;
			continue;
		}
		if (!error && S_ISLNK(file.st_mode)) {
			if (++links > LINKS_MAX) {
				errno = ELOOP;
				error = -1;
			} else {
				error = follow(position, found, tail, rest);
				tail = rest;
			}
		} else if (!error && *tail) {
			errno = ENOTDIR;
			error = -1;
		} else if (!error && flags & O_PATH) {
			return found;
		} else if (!error) {
			close(found);
			return openat(position->at, name, flags | O_NOFOLLOW | O_CLOEXEC);
		}
		close(found);
		if (error)
			return -1;
	}
	return openat(position->at, ".", flags | O_CLOEXEC);
}

int walk_in_root(int root, const char *path, int flags)
{
	struct position position = { .root = root, .at = -1 };
	char rest[PATH_MAX];
	int result = -1, error;

	if (strlen(path) >= sizeof rest) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if (!*path) {
		errno = ENOENT;
		return -1;
	}
	strcpy(rest, path);
	if (!enter_root(&position))
		result = walk(&position, rest, flags);
	error = errno;
	if (position.at >= 0)
		close(position.at);
	errno = error;
	return result;
}

int open_in_root(int root, const char *path, int flags)
{
	struct open_how how = {
		.flags = (unsigned int)(flags | O_CLOEXEC),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	int result;

	/* A concurrent rename anywhere makes the kernel refuse a `..`: openat2(2), EAGAIN. */
	for (int i = 0; i < TRIES_MAX; i++) {
		result = syscall_openat2(root, path, &how, sizeof how);
		if (result >= 0 || errno != EAGAIN)
			break;
	}
	/* EPERM: an outer seccomp filter that is older than the system call. */
	if (result < 0 && (errno == ENOSYS || errno == EPERM))
		return walk_in_root(root, path, flags);
	return result;
}
