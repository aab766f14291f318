#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	READS_PER_TURN = 4, /* as many as a full pipe of the default size needs */
	FLOOD_NS = 1000000, /* records at shorter intervals .. */
	FLOOD_BYTES = 4096, /* .. of fewer bytes in a turn: small writes without end */
	REST_MAX = 1 << 20, /* bytes of one pipe: the default maximum of its size, pipe(7) */
};

int step_log(struct operation *operation, const struct plan *plan, struct output *output)
{
	int64_t index = take_integer(operation);
	int ring = plan->descriptors[index], bell = take_descriptor(operation, plan);
	struct stat file;
	void *memory;

	ABOUT("the ring");
	if (fstat(ring, &file))
		return -1;
	memory = mmap(NULL, (size_t)file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
	if (memory == MAP_FAILED || madvise(memory, (size_t)file.st_size, MADV_DONTFORK) ||
	    close(ring))
		return -1;
	plan->descriptors[index] = -1; /* another descriptor may get its number */
	ring_begin(&output->ring, memory, (uint64_t)file.st_size, bell);
	ABOUT("the output pipes");
	for (int i = 0; i < STREAMS; i++) {
		output->pipes[i] = take_descriptor(operation, plan);
		if (output->pipes[i] >= 0 && fcntl(output->pipes[i], F_SETFL, O_RDONLY | O_NONBLOCK))
			return -1;
	}
	return 0;
}

static uint64_t boot_time(void)
{
	struct timespec now = { 0 };

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* Moves one read; returns its bytes, 0 if there are none (any more). */
static size_t move_read(struct output *output, int i)
{
	static char buffer[RECORD_DATA_MAX];
	ssize_t length;

	do
		length = read(output->pipes[i], buffer, sizeof buffer);
	while (length < 0 && errno == EINTR);
	if (length > 0) {
		output->moved = boot_time();
		ring_write(&output->ring, i + 1, output->moved, buffer, (size_t)length);
		return (size_t)length;
	}
	if (length == 0 || errno != EAGAIN) {
		close(output->pipes[i]);
		output->pipes[i] = -1;
	}
	return 0;
}

bool output_move(struct output *output, struct pollfd sources[STREAMS])
{
	uint64_t before = output->moved;
	size_t bytes = 0;

	for (int i = 0; i < STREAMS; i++) {
		size_t length = RECORD_DATA_MAX;

		if (output->pipes[i] < 0 || !sources[i].revents)
			continue;
		/* After less than a whole read the pipe was empty, so the next one can wait. */
		for (int n = 0; n < READS_PER_TURN && length == RECORD_DATA_MAX; n++) {
			length = move_read(output, i);
			bytes += length;
		}
		sources[i].fd = output->pipes[i];
	}
	return bytes && bytes < FLOOD_BYTES && output->moved - before < FLOOD_NS;
}

void output_end(struct output *output)
{
	if (!output->ring.page)
		return;
	for (int i = 0; i < STREAMS; i++)
		for (size_t rest = 0, length = 1; output->pipes[i] >= 0 && length && rest < REST_MAX;
		     rest += length)
			length = move_read(output, i);
	ring_end(&output->ring);
}
