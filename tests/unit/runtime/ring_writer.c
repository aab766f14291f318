/* The writer of launcher/ring.c as a library, for tests: what one run writes, at full speed. */
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../../../launcher/ring.h"
#include "ring_pattern.h"

struct ring *test_begin(int memfd, uint64_t size, int bell);
void test_flood(struct ring *ring, uint64_t count, uint32_t least, uint32_t most, uint32_t pause,
		uint64_t seed);
uint64_t test_total(const struct ring *ring);
void test_close(struct ring *ring, uint64_t size);

static struct ring rings[16];
static unsigned int used;

struct ring *test_begin(int memfd, uint64_t size, int bell)
{
	struct ring *ring = &rings[used++ % 16];
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);

	if (memory == MAP_FAILED || !ring_capacity(size))
		return NULL;
	ring_begin(ring, memory, size, bell);
	return ring;
}

/* Writes `count` records of random sizes; after each it waits for 0 to `pause` us, mostly 0. */
void test_flood(struct ring *ring, uint64_t count, uint32_t least, uint32_t most, uint32_t pause,
		uint64_t seed)
{
	static _Thread_local char data[RECORD_DATA_MAX];

	for (uint64_t i = 0; i < count; i++) {
		size_t length = least + next_random(&seed) % (most - least + 1);
		struct timespec time = { 0 };

		pattern(ring->sum, data, length);
		ring_write(ring, 1 + (int)(next_random(&seed) & 1), i, data, length);
		if (pause && next_random(&seed) % 128 == 0) {
			time.tv_nsec = (long)(next_random(&seed) % pause) * 1000;
			nanosleep(&time, NULL);
		}
	}
}

uint64_t test_total(const struct ring *ring)
{
	return ring->sum;
}

void test_close(struct ring *ring, uint64_t size)
{
	munmap(ring->page, size);
}
