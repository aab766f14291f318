/*
 * The program of a container: the launcher reads its first line or its ELF headers before execve.
 */
#include "../../../launcher/program.c"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "target.h"

bool accepts(const uint8_t *data, size_t size)
{
	/* On the heap, where the sanitizer detects each access out of bounds. */
	char *interpreter = malloc(INTERPRETER_MAX + 1), head[SCRIPT_LINE + 1] = "";
	static int file;
	bool found;

	if (!file)
		file = memfd_create("fuzz", MFD_CLOEXEC);
	assert(interpreter && file > 0 && !ftruncate(file, 0));
	assert(pwrite(file, data, size, 0) == (ssize_t)size);
	assert(pread(file, head, SCRIPT_LINE, 0) >= 0);
	memset(interpreter, 'x', INTERPRETER_MAX + 1);
	found = script_interpreter(head, interpreter) ||
		elf_interpreter(file, head, interpreter) > 0;
	if (found) {
		char *end = memchr(interpreter, '\0', INTERPRETER_MAX + 1);

		assert(end && end > interpreter);
	}
	free(interpreter);
	return found;
}
