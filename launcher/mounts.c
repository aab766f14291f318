/*
 * The mounts of a container. No path leads out of the container's root: targets, and sources inside
 * an image, are resolved inside it (resolve.h), also through symlinks and `..`. The new mount is
 * then moved onto the resolved descriptor, so no path is looked up twice. legacy_mount.c is the
 * substitute for kernels that lack these calls.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "legacy_mount.h"
#include "resolve.h"
#include "steps.h"
#include "syscalls.h"

static const char *root_path;
static int root = -1;
static bool use_mount_api; /* decided once for all six calls, so there are two variants, not 2^6 */

static int open_root(void)
{
	if (root >= 0)
		close(root);
	root = open(root_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -1 : 0;
}

/* Later mounts must not propagate to the host, nor mounts of the host to the container. */
static int make_all_private(void)
{
	ABOUT("/");
	return syscall_mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

/*
 * An image is mounted in the runtime's mount namespace only: the launcher's has none of them, so the
 * clone of init does not copy hundreds of mounts that the pivot then detaches. The mount is attached
 * where the runtime has it, so the paths of the plan are valid in both namespaces.
 */
int step_attach(struct operation *operation, const struct plan *plan)
{
	int mount = take_descriptor(operation, plan);
	const char *path = take(operation);

	if (make_all_private())
		return -1;
	ABOUT(path);
	return syscall_move_mount(mount, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH);
}

int step_root(struct operation *operation)
{
	if (make_all_private())
		return -1;
	use_mount_api = has_mount_api();
	root_path = take(operation);
	ABOUT(root_path);
	return open_root();
}

static int open_target(const char *target)
{
	ABOUT(target);
	return open_in_root(root, target, O_PATH);
}

static int set_attributes(int mount, uint64_t set, uint64_t clear, unsigned int recursive)
{
	struct mount_attr attributes = { .attr_set = set, .attr_clr = clear };

	if (!set && !clear)
		return 0;
	return syscall_mount_setattr(mount, "", AT_EMPTY_PATH | recursive, &attributes,
				     sizeof attributes);
}

/* The kernel answers EINVAL or ENOTDIR to a directory on a file, as to many other errors. This adds
 * the cause. */
static void explain_mismatch(bool directory, int at)
{
	int error = errno;
	struct stat where;

	if (!fstat(at, &where) && S_ISDIR(where.st_mode) != directory) {
		text_append(&progress->what,
			    ": a directory can be mounted only on a directory, a file only on a file");
		error = EINVAL;
	}
	errno = error;
}

static bool is_directory(int file)
{
	struct stat what;

	return !fstat(file, &what) && S_ISDIR(what.st_mode);
}

/* After a mount on `/` the open root is the covered one; its path leads to the new mount. */
static int reopen_root(void)
{
	ABOUT(root_path);
	return open_root();
}

/* Mounts a detached mount inside the container and closes it. */
static int attach(int mount, const char *target)
{
	int at = open_target(target);

	if (at < 0)
		return -1;
	if (syscall_move_mount(mount, "", at, "",
			       MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)) {
		explain_mismatch(is_directory(mount), at);
		return -1;
	}
	close(at);
	close(mount);
	return reopen_root();
}

/* After a mount(2) on `at`: returns the root of the new mount, and closes `at`. */
static int open_mounted(int at, const char *target)
{
	int top;

	if (reopen_root())
		return -1;
	top = open_target(target);
	if (top < 0 || legacy_verify(top, at))
		return -1;
	close(at);
	return top;
}

/* ---- Bind mounts ---- */

static int open_source(const char *inside, const char *source)
{
	int directory, at;

	ABOUT(inside, source);
	if (!*inside && use_mount_api) /* unlike open(2) with O_PATH it triggers automounts */
		return syscall_open_tree(AT_FDCWD, source, OPEN_TREE_CLOEXEC);
	if (!*inside)
		return open(source, O_PATH | O_CLOEXEC);
	directory = open(inside, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (directory < 0)
		return -1;
	at = open_in_root(directory, source, O_PATH);
	close(directory);
	return at;
}

static int bind_detached(int from, const char *target, uint64_t set, uint64_t clear, bool recursive)
{
	unsigned int below = recursive ? AT_RECURSIVE : 0;
	int mount = syscall_open_tree(
		from, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | below);

	if (mount < 0)
		return -1;
	/* Before the mount is attached and so visible; recursive: of all mounts below, too. */
	ABOUT(target);
	if (set_attributes(mount, set, clear, below))
		return -1;
	return attach(mount, target);
}

static int bind_legacy(int from, const char *target, uint64_t set, uint64_t clear, bool recursive)
{
	int at = open_target(target), top;

	if (at < 0)
		return -1;
	if (legacy_bind(from, at, recursive)) {
		explain_mismatch(is_directory(from), at);
		return -1;
	}
	top = open_mounted(at, target);
	if (top < 0 || legacy_attributes(top, set, clear, recursive))
		return -1;
	return close(top);
}

int step_bind(struct operation *operation)
{
	const char *inside = take(operation), *source = take(operation), *target = take(operation);
	uint64_t set = take_number(operation), clear = take_number(operation);
	int flags = parse_bind_flags(take(operation)), from = open_source(inside, source);

	if (from < 0)
		return flags & BIND_OPTIONAL && (errno == ENOENT || errno == ENOTDIR) ? 1 : -1;
	if ((use_mount_api ? bind_detached : bind_legacy)(from, target, set, clear,
							 flags & BIND_RECURSIVE))
		return -1;
	return close(from);
}

/* ---- New file systems ---- */

/* Appends the kernel's message on a refused file system; it is read from the fsopen(2) context. */
static void append_reason(int context)
{
	int error = errno;
	char message[256];
	ssize_t length = read(context, message, sizeof message - 1);

	/* A level, a space, the message, a line feed: `e tmpfs: Bad value for 'size'`. */
	if (length > 3) {
		message[length - 1] = '\0';
		text_append(&progress->what, ": ");
		text_append(&progress->what, message + 2);
	}
	errno = error;
}

static int set_option(int context, const char *option)
{
	char key[64];
	size_t length = strcspn(option, "=");

	if (!option[length])
		return syscall_fsconfig(context, FSCONFIG_SET_FLAG, option, NULL, 0);
	if (length >= sizeof key) {
		errno = EINVAL;
		return -1;
	}
	memcpy(key, option, length);
	key[length] = '\0';
	return syscall_fsconfig(context, FSCONFIG_SET_STRING, key, option + length + 1, 0);
}

/* Creates a detached mount of a new file system, with the arguments left in `options`. */
static int make_filesystem(const char *type, const char *source, struct operation *options,
			   unsigned int attributes, const char *target)
{
	int context, mount;

	ABOUT(target);
	context = syscall_fsopen(type, FSOPEN_CLOEXEC);
	if (context < 0)
		return -1;
	if (*source && syscall_fsconfig(context, FSCONFIG_SET_STRING, "source", source, 0))
		goto refused;
	for (const char *option; (option = take(options));)
		if (set_option(context, option)) {
			ABOUT(target, ": ", option);
			goto refused;
		}
	if (syscall_fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		goto refused;
	mount = syscall_fsmount(context, FSMOUNT_CLOEXEC, attributes);
	if (mount < 0)
		goto refused;
	close(context);
	return mount;
refused:
	append_reason(context);
	return -1;
}

/* Mounts a new file system by mount(2), and returns its target. */
static int mount_filesystem(const char *type, const char *source, struct operation *options,
			    unsigned int attributes, const char *target)
{
	int at = open_target(target);

	if (at >= 0 && legacy_filesystem(type, source, options, attributes, at)) {
		explain_mismatch(true, at);
		return -1;
	}
	return at;
}

int step_filesystem(struct operation *operation)
{
	const char *type = take(operation), *source = take(operation), *target = take(operation);
	unsigned int attributes = (unsigned int)take_number(operation);
	int mount;

	if (use_mount_api) {
		mount = make_filesystem(type, source, operation, attributes, target);
		return mount < 0 ? -1 : attach(mount, target);
	}
	mount = mount_filesystem(type, source, operation, attributes, target);
	if (mount < 0)
		return -1;
	close(mount);
	return reopen_root();
}

static int make_device(int directory, const struct device *device)
{
	if (device->target)
		return symlinkat(device->target, directory, device->name);
	/* Exactly 666: init's umask is 0. */
	return mknodat(directory, device->name, S_IFCHR | 0666,
		       makedev(device->major, device->minor));
}

static int make_devices(int directory, const char *target, struct operation *operation)
{
	const char *entry;

	while ((entry = take(operation))) {
		struct device device;

		parse_device(entry, &device);
		ABOUT(target, "/", device.name);
		if (make_device(directory, &device))
			return -1;
	}
	ABOUT(target);
	return 0;
}

int step_dev(struct operation *operation)
{
	static const char mode[] = "mode=755";
	struct operation options = { .next = mode, .end = mode + sizeof mode };
	const char *target = take(operation);
	uint64_t attributes = take_number(operation);
	int mount;

	/* Read-only only after the devices are created. */
	if (use_mount_api) {
		mount = make_filesystem("tmpfs", "none", &options, 0, target);
		if (mount < 0 || make_devices(mount, target, operation) ||
		    set_attributes(mount, attributes, 0, 0))
			return -1;
		return attach(mount, target);
	}
	mount = mount_filesystem("tmpfs", "none", &options, 0, target);
	if (mount < 0)
		return -1;
	mount = open_mounted(mount, target);
	if (mount < 0 || make_devices(mount, target, operation) ||
	    legacy_attributes(mount, attributes, 0, false))
		return -1;
	return close(mount);
}

int step_pivot(void)
{
	ABOUT(root_path);
	if (fchdir(root))
		return -1;
	/* The old root is stacked on the new one, so the image needs no directory for it:
	 * pivot_root(2), "pivot_root(".", ".")". */
	if (syscall_pivot_root(".", ".") || syscall_umount2(".", MNT_DETACH))
		return -1;
	close(root);
	return chdir("/");
}
