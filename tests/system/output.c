/*
 * A program that prints; a container's payload for tests and measurements. Each argument is a step,
 * `NAME` or `NAME:NUMBER...`:
 *
 *   write:STREAM:BYTES:SIZE   that many bytes, in writes of SIZE bytes; each ends with a line end
 *   until:STREAM:MS:SIZE      writes of SIZE bytes for that time
 *   every:STREAM              every byte value, in order
 *   text:STREAM:TEXT          TEXT and a line end
 *   close:STREAM              close it
 *   dup:FROM:TO               dup2(2)
 *   child                     a child that holds both streams, and pauses
 *   grandchild:BYTES          a child that writes that much, a little after this process has ended
 *   took                      the duration of the last `write` or `until`: `took US BYTES` to stderr
 *   save:PATH                 the same line, into a new file
 *   sleep:MS  pause  exit:CODE
 *   scribble:ROUNDS           with CAP_SYS_PTRACE: random words into the ring of init
 *   rings                     how many rings this process and its descriptors show, to stdout
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];
static int64_t took, moved;

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

static void write_whole(int stream, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t length = write(stream, data, size);

		if (length < 0)
			exit(98);
		data += length;
		size -= (size_t)length;
	}
}

static void prepare(size_t size)
{
	for (size_t i = 0; i < size; i++)
		buffer[i] = (char)('a' + i % 26);
	buffer[size - 1] = '\n';
}

static void write_bytes(int stream, int64_t bytes, size_t size)
{
	int64_t begun = now();

	prepare(size);
	for (moved = 0; moved < bytes; moved += (int64_t)size)
		write_whole(stream, buffer, size);
	took = now() - begun;
}

static void write_until(int stream, int64_t milliseconds, size_t size)
{
	int64_t begun = now(), end = begun + milliseconds * 1000;

	prepare(size);
	for (moved = 0; now() < end;)
		for (int i = 0; i < 16; i++, moved += (int64_t)size)
			write_whole(stream, buffer, size);
	took = now() - begun;
}

static void grandchild(int64_t bytes)
{
	if (fork())
		return;
	write_bytes(1, bytes, 4096);
	pause();
}

/* Returns the begin of the mapping of the ring in /proc/PID/maps, and its size; 0 if none. */
static uintptr_t find_ring(const char *maps, size_t *size)
{
	FILE *file = fopen(maps, "r");
	uintptr_t begin = 0, end;
	char line[512];

	while (file && fgets(line, sizeof line, file))
		if (strstr(line, "memfd:northstar-log") &&
		    sscanf(line, "%lx-%lx", (unsigned long *)&begin, (unsigned long *)&end) == 2)
			break;
		else
			begin = 0;
	if (file)
		fclose(file);
	*size = begin ? end - begin : 0;
	return begin;
}

static void scribble(int rounds)
{
	size_t size;
	uintptr_t ring = find_ring("/proc/1/maps", &size);

	if (!ring)
		exit(97);
	srandom(7);
	for (int i = 0; i < rounds; i++) {
		uint64_t word = (uint64_t)random() << 32 | (uint64_t)random();
		size_t at = i % 2 ? (size_t)(random() % 8) * 64 : (size_t)random() % (size / 8) * 8;

		if (i % 3 == 0)
			word = i % 2 ? UINT64_MAX : 0;
		struct iovec local = { &word, sizeof word };
		struct iovec remote = { (void *)(ring + at), sizeof word };

		if (process_vm_writev(1, &local, 1, &remote, 1, 0) != sizeof word)
			exit(96);
		write_whole(1, "scribbled\n", 10);
	}
}

static void rings(void)
{
	DIR *directory = opendir("/proc/self/fd");
	char path[300], target[256];
	size_t size;
	int found = find_ring("/proc/self/maps", &size) != 0;

	for (struct dirent *entry; directory && (entry = readdir(directory));) {
		ssize_t length;

		snprintf(path, sizeof path, "/proc/self/fd/%s", entry->d_name);
		length = readlink(path, target, sizeof target - 1);
		if (length < 0)
			continue;
		target[length] = '\0';
		found += strstr(target, "memfd") || strstr(target, "eventfd");
	}
	if (directory)
		closedir(directory);
	dprintf(1, "rings %d\n", found);
}

static int is(const char *step, const char *name, const char **rest)
{
	size_t length = strlen(name);

	if (strncmp(step, name, length) || (step[length] && step[length] != ':'))
		return 0;
	*rest = step[length] ? step + length + 1 : step + length;
	return 1;
}

static void perform(const char *step)
{
	const char *rest = NULL;
	long long a = 0, b = 0, c = 0;

	if (is(step, "text", &rest)) {
		dprintf(atoi(rest), "%s\n", rest + 2);
		return;
	}
	if (is(step, "save", &rest)) {
		int file = open(rest, O_WRONLY | O_CREAT | O_TRUNC, 0644);

		if (file < 0)
			exit(95);
		dprintf(file, "took %lld %lld\n", (long long)took, (long long)moved);
		close(file);
		return;
	}
	if (strchr(step, ':'))
		sscanf(strchr(step, ':'), ":%lld:%lld:%lld", &a, &b, &c);
	if (is(step, "write", &rest))
		write_bytes((int)a, b, (size_t)c);
	else if (is(step, "until", &rest))
		write_until((int)a, b, (size_t)c);
	else if (is(step, "every", &rest)) {
		for (int i = 0; i < 256; i++)
			buffer[i] = (char)i;
		write_whole((int)a, buffer, 256);
	} else if (is(step, "close", &rest))
		close((int)a);
	else if (is(step, "dup", &rest))
		dup2((int)a, (int)b);
	else if (is(step, "child", &rest)) {
		if (fork() == 0)
			for (;;)
				pause();
	} else if (is(step, "grandchild", &rest))
		grandchild(a);
	else if (is(step, "took", &rest))
		dprintf(2, "took %lld %lld\n", (long long)took, (long long)moved);
	else if (is(step, "sleep", &rest))
		usleep((useconds_t)a * 1000);
	else if (is(step, "pause", &rest))
		for (;;)
			pause();
	else if (is(step, "scribble", &rest))
		scribble((int)a);
	else if (is(step, "rings", &rest))
		rings();
	else if (is(step, "exit", &rest))
		exit((int)a);
	else
		exit(99);
}

int main(int count, char **steps)
{
	for (int i = 1; i < count; i++)
		perform(steps[i]);
	return 0;
}
