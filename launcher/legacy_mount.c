/*
 * mount(2) takes paths. Here each path is /proc/self/fd/N of a descriptor that was resolved inside
 * the container's root: it leads to the opened file even after a rename. The host's /proc is
 * available until pivot_root.
 *
 * A target has to be looked up twice: to mount on it, and to open the new mount. A rename between
 * both would lead to another mount, so the second descriptor is compared with the mount table.
 */
#include "legacy_mount.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include "report.h"
#include "syscalls.h"

/* The attributes whose numbers equal mount(2)'s flags; others are refused with EINVAL. */
enum { PLAIN_ATTRIBUTES = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC };

#ifndef ST_NOSYMFOLLOW /* statfs(2), Linux 5.10 */
#define ST_NOSYMFOLLOW 0x2000
#endif
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

enum { TABLE_BYTES_MAX = 4 << 20 };

bool has_mount_api(void)
{
	struct mount_attr nothing = { 0 };

	/* These calls always fail. ENOSYS: the kernel lacks the call. EPERM: an outer seccomp
	 * filter is older than the call. */
#define LACKS(call) ((call) < 0 && (errno == ENOSYS || errno == EPERM))
	return !(LACKS(syscall_open_tree(-1, "", OPEN_TREE_CLONE | AT_EMPTY_PATH)) ||
		 LACKS(syscall_move_mount(-1, "", -1, "",
					  MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)) ||
		 LACKS(syscall_fsopen(NULL, 0)) || LACKS(syscall_fsconfig(-1, 0, NULL, NULL, 0)) ||
		 LACKS(syscall_fsmount(-1, 0, 0)) ||
		 LACKS(syscall_mount_setattr(-1, "", AT_EMPTY_PATH, &nothing, sizeof nothing)));
#undef LACKS
}

struct descriptor_path {
	char at[40];
};

static const char *path_of(int descriptor, struct descriptor_path *path)
{
	strcpy(path->at, "/proc/self/fd/");
	strcat(path->at, decimal((uint64_t)descriptor));
	return path->at;
}

int legacy_bind(int from, int at, bool recursive)
{
	struct descriptor_path source, target;

	return syscall_mount(path_of(from, &source), path_of(at, &target), NULL,
			     MS_BIND | (recursive ? MS_REC : 0), NULL);
}

int legacy_filesystem(const char *type, const char *source, struct operation *options,
		     unsigned int attributes, int at)
{
	struct descriptor_path target;
	char data[4096] = ""; /* the kernel's limit: a page, mount(2) */

	if (attributes & ~(unsigned int)PLAIN_ATTRIBUTES) {
		errno = EINVAL;
		return -1;
	}
	for (const char *option; (option = take(options));) {
		if (strchr(option, ',')) { /* mount(2) would split it */
			errno = EINVAL;
			return -1;
		}
		if (strlen(data) + 1 + strlen(option) >= sizeof data) {
			errno = E2BIG;
			return -1;
		}
		if (*data)
			strcat(data, ",");
		strcat(data, option);
	}
	if (!syscall_mount(*source ? source : NULL, path_of(at, &target), type, attributes, data))
		return 0;
	if (*data) {
		text_append(&progress->what, ": ");
		text_append(&progress->what, data);
	}
	return -1;
}

/* ---- The mount table ---- */

/* A line of mountinfo, proc_pid_mountinfo(5); `point` is escaped and points into the table. */
struct entry {
	uint64_t id;
	uint64_t parent;
	const char *point;
	size_t length;
};

struct table {
	char *start;
	size_t size;
};

static int read_table(struct table *table)
{
	int file = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	ssize_t length = 1;

	if (file < 0)
		return -1;
	table->size = 0;
	table->start = mmap(NULL, TABLE_BYTES_MAX, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (table->start == MAP_FAILED)
		return -1;
	while (length > 0 && table->size < TABLE_BYTES_MAX) {
		length = read(file, table->start + table->size, TABLE_BYTES_MAX - table->size);
		if (length > 0)
			table->size += (size_t)length;
	}
	close(file);
	if (length == 0)
		return 0;
	munmap(table->start, TABLE_BYTES_MAX);
	if (length > 0)
		errno = EOVERFLOW;
	return -1;
}

static void drop_table(struct table *table)
{
	munmap(table->start, TABLE_BYTES_MAX);
}

/* Returns the length of the next word of a line, 0 at the end. */
static size_t next_word(const char **at, const char *end, const char **word)
{
	const char *space;

	*word = *at;
	space = memchr(*at, ' ', (size_t)(end - *at));
	*at = space ? space + 1 : end;
	return (size_t)((space ? space : end) - *word);
}

/* Parses the line at `*at` (NULL: the first) and advances `*at`; false at the end. */
static bool next_entry(const struct table *table, const char **at, struct entry *entry)
{
	const char *end = table->start + table->size, *line = *at, *stop, *word;
	size_t length;

	if (!line)
		line = table->start;
	if (line == end)
		return false;
	stop = memchr(line, '\n', (size_t)(end - line));
	if (!stop)
		return false;
	*at = stop + 1;
	length = next_word(&line, stop, &word);
	if (!parse_number(word, length, UINT64_MAX, &entry->id))
		return false;
	length = next_word(&line, stop, &word);
	if (!parse_number(word, length, UINT64_MAX, &entry->parent))
		return false;
	next_word(&line, stop, &word); /* the device */
	next_word(&line, stop, &word); /* the mount's root in its file system */
	entry->length = next_word(&line, stop, &entry->point);
	return entry->length > 0;
}

static bool find_entry(const struct table *table, uint64_t id, struct entry *entry)
{
	for (const char *at = NULL; next_entry(table, &at, entry);)
		if (entry->id == id)
			return true;
	return false;
}

/* Whether a mount point is below another one. */
static bool is_below(const struct entry *entry, const struct entry *above)
{
	return entry->length > above->length && entry->point[above->length] == '/' &&
	       !memcmp(entry->point, above->point, above->length);
}

/* Whether no path leads to a mount: another mount covers it or a directory above it. */
static bool is_hidden(const struct table *table, struct entry entry)
{
	struct entry other;

	do {
		for (const char *at = NULL; next_entry(table, &at, &other);) {
			bool on_it = other.parent == entry.id && other.length == entry.length &&
				     !memcmp(other.point, entry.point, entry.length);

			if (on_it || (other.parent == entry.parent && is_below(&entry, &other)))
				return true;
		}
	} while (entry.parent != entry.id && find_entry(table, entry.parent, &entry));
	return false;
}

/* The kernel writes space, tab, line feed and backslash as \ooo. */
static int unescape(const struct entry *entry, char path[PATH_MAX])
{
	size_t used = 0;

	for (size_t i = 0; i < entry->length; i++) {
		const char *at = entry->point + i;

		if (used + 1 >= PATH_MAX) {
			errno = ENAMETOOLONG;
			return -1;
		}
		if (at[0] == '\\' && entry->length - i > 3) {
			path[used++] =
				(char)((at[1] - '0') << 6 | (at[2] - '0') << 3 | (at[3] - '0'));
			i += 3;
		} else {
			path[used++] = at[0];
		}
	}
	path[used] = '\0';
	return 0;
}

/* The id of a descriptor's mount: `mnt_id:` of proc_pid_fdinfo(5). */
static int mount_id(int descriptor, uint64_t *id)
{
	char path[64] = "/proc/self/fdinfo/", text[512];
	const char *value;
	ssize_t length;
	int file;

	strcat(path, decimal((uint64_t)descriptor));
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return -1;
	length = read(file, text, sizeof text - 1);
	close(file);
	if (length < 0)
		return -1;
	text[length] = '\0';
	value = strstr(text, "mnt_id:");
	if (value) {
		value += strlen("mnt_id:");
		value += strspn(value, " \t");
		if (parse_number(value, strspn(value, "0123456789"), UINT64_MAX, id))
			return 0;
	}
	errno = EPROTO;
	return -1;
}

int legacy_verify(int top, int at)
{
	uint64_t wanted, below, newest = 0;
	struct table table;
	struct entry entry;

	if (mount_id(top, &wanted) || mount_id(at, &below) || read_table(&table))
		return -1;
	/* The table is in the order of mounting. */
	for (const char *line = NULL; next_entry(&table, &line, &entry);)
		if (entry.parent == below)
			newest = entry.id;
	drop_table(&table);
	if (newest == wanted)
		return 0;
	/* A host process can rename inside a bind mount that contains the target. */
	text_append(&progress->what, " was replaced while it was mounted on");
	errno = EAGAIN;
	return -1;
}

/* ---- Attributes ---- */

static int remount(int top, uint64_t set, uint64_t clear)
{
	struct descriptor_path path;
	struct statfs now;
	uint64_t flags;

	if ((set | clear) & ~(uint64_t)PLAIN_ATTRIBUTES) {
		errno = EINVAL;
		return -1;
	}
	if (fstatfs(top, &now))
		return -1;
	/* A remount sets all flags, except that those of access times persist if none is given. */
	flags = ((uint64_t)now.f_flags & PLAIN_ATTRIBUTES & ~clear) | set;
	if ((uint64_t)now.f_flags & ST_NOSYMFOLLOW)
		flags |= MS_NOSYMFOLLOW;
	return syscall_mount(NULL, path_of(top, &path), NULL,
			     (unsigned long)(MS_REMOUNT | MS_BIND | flags), NULL);
}

/* Remounts a mount of the table by its path. The path must lead to it, or it must be hidden. */
static int remount_below(const struct table *table, const struct entry *entry, uint64_t set,
			 uint64_t clear)
{
	char path[PATH_MAX];
	int top, result = -1;
	uint64_t id;

	if (unescape(entry, path))
		return -1;
	top = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (top >= 0 && !mount_id(top, &id) && id == entry->id) {
		result = remount(top, set, clear);
	} else if (is_hidden(table, *entry)) {
		result = 0;
	} else {
		ABOUT(path, " was replaced while it was mounted");
		errno = EAGAIN;
	}
	if (top >= 0)
		close(top);
	return result;
}

int legacy_attributes(int top, uint64_t set, uint64_t clear, bool recursive)
{
	struct table table;
	struct entry own, entry;
	uint64_t id;
	int result = 0;

	if (!set && !clear)
		return 0;
	if (remount(top, set, clear))
		return -1;
	if (!recursive)
		return 0;
	if (mount_id(top, &id) || read_table(&table))
		return -1;
	if (!find_entry(&table, id, &own)) {
		errno = EAGAIN;
		result = -1;
	}
	for (const char *at = NULL; !result && next_entry(&table, &at, &entry);)
		if (is_below(&entry, &own))
			result = remount_below(&table, &entry, set, clear);
	drop_table(&table);
	return result;
}
