/*
 * Checks the files that the payload's execve will load.
 *
 * Until its execve the payload's process runs the launcher, and /proc/self/exe (or
 * /proc/self/fd/N, /dev/fd/N, /proc/1/root/...) leads to the launcher or to its open files. An
 * image could name such a link as its program, as the interpreter of a script or as the loader of
 * an ELF file, and so access a file outside of it. So none of these may be behind a magic link.
 * As a second protection, the runtime's memfd is sealed and belongs to root with mode 0700.
 */
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/stat.h>

#include "resolve.h"
#include "steps.h"
#include "syscalls.h"

/*
 * The kernel's own limits: of a script's first line (BINPRM_BUF_SIZE in linux/binfmts.h) and of an
 * ELF file's program headers (64 KiB, load_elf_phdrs in fs/binfmt_elf.c).
 */
enum {
	SCRIPT_LINE = 256,
	LEVELS = 6,
	SEGMENTS_MAX = 65536 / sizeof(ElfW(Phdr)),
	INTERPRETER_MAX = 4096,
};

/* Opens a program for reading; fails with the errno of execve. `root` is the container's. */
static int open_program(int root, const char *path)
{
	struct stat file;
	int at = open_in_root(root, path, O_PATH);

	if (at < 0 || fstat(at, &file))
		return -1;
	close(at);
	if (!S_ISREG(file.st_mode)) { /* opening a pipe or a device may block or have effects */
		errno = EACCES;
		return -1;
	}
	return open_in_root(root, path, O_RDONLY | O_NONBLOCK);
}

static bool script_interpreter(const char *line, char *interpreter)
{
	size_t length;

	if (line[0] != '#' || line[1] != '!')
		return false;
	line += 2;
	line += strspn(line, " \t");
	length = strcspn(line, " \t\n");
	memcpy(interpreter, line, length);
	interpreter[length] = '\0';
	return length > 0;
}

/* Reads the loader of an ELF file of this machine's word size; only such a file can load the
 * launcher. Returns 1, 0 without a loader, or -1 if the file cannot be read and so not checked. */
static int elf_interpreter(int program, const char *head, char *interpreter)
{
	ElfW(Ehdr) header;
	ElfW(Phdr) segment;

	memcpy(&header, head, sizeof header);
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_phentsize != sizeof segment)
		return 0;
	for (int i = 0; i < header.e_phnum && i < SEGMENTS_MAX; i++) {
		off_t at = (off_t)header.e_phoff + i * (off_t)sizeof segment;
		ssize_t length;

		length = pread(program, &segment, sizeof segment, at);
		if (length != sizeof segment)
			return length < 0 && errno != EINVAL ? -1 : 0; /* EINVAL: a negative offset */
		if (segment.p_type != PT_INTERP)
			continue;
		if (segment.p_filesz > INTERPRETER_MAX) /* the kernel refuses it, PATH_MAX */
			return 0;
		length = pread(program, interpreter, segment.p_filesz, (off_t)segment.p_offset);
		if (length < 0)
			return errno != EINVAL ? -1 : 0;
		interpreter[length] = '\0';
		return *interpreter != '\0';
	}
	return 0;
}

/* Checks a program, its interpreter, the interpreter's interpreter, and so on. After a failure
 * `progress->what` is the path. */
int check_program(const char *path)
{
	static char interpreter[INTERPRETER_MAX + 1];
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	ABOUT("/");
	if (root < 0)
		return -1;
	for (int level = 0; level < LEVELS; level++) {
		char head[SCRIPT_LINE + 1] = "";
		int program, more;

		ABOUT(path);
		program = open_program(root, path);
		if (program < 0)
			return -1;
		if (pread(program, head, SCRIPT_LINE, 0) < 0)
			return -1;
		more = script_interpreter(head, interpreter) ?
			       1 :
			       elf_interpreter(program, head, interpreter);
		if (more < 0)
			return -1;
		close(program);
		if (!more)
			return close(root);
		path = interpreter;
	}
	errno = ELOOP;
	return -1;
}
