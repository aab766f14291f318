/*
 * The writer of launcher/ring.c beside a reader in another thread, as docs/decisions/logs.md
 * describes it; for the thread sanitizer. Records are read by pread(2), as the runtime does. Prints
 * how many bytes were read and lost; exits with 1 if one of them is wrong.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

#include "../../../launcher/ring.h"
#include "ring_pattern.h"

enum { CAPACITY = 65536 };

static struct ring ring;
static int file;
static uint64_t records;

static void *write_records(void *unused)
{
	static char data[RECORD_DATA_MAX];
	uint64_t seed = 1;

	(void)unused;
	for (uint64_t i = 0; i < records; i++) {
		size_t length = 1 + next_random(&seed) % (i % 8 ? 300 : RECORD_DATA_MAX);

		pattern(ring.sum, data, length);
		ring_write(&ring, 1, i, data, length);
	}
	ring_end(&ring);
	return NULL;
}

static void read_at(uint64_t position, char *data, size_t length)
{
	size_t at = position % CAPACITY, first = length;

	if (first > CAPACITY - at)
		first = CAPACITY - at;
	if (pread(file, data, first, (off_t)(RING_PAGE + at)) != (ssize_t)first ||
	    pread(file, data + first, length - first, RING_PAGE) != (ssize_t)(length - first))
		abort();
}

static void fail_at(const char *what, uint64_t position)
{
	printf("%s at %llu\n", what, (unsigned long long)position);
	exit(1);
}

int main(int count, char **arguments)
{
	static char data[CAPACITY];
	uint64_t position = 0, seen = 0, lost = 0;
	pthread_t writer;
	void *memory;
	bool ended;

	records = count > 1 ? strtoull(arguments[1], NULL, 10) : 1000;
	file = memfd_create("ring", 0);
	if (file < 0 || ftruncate(file, RING_PAGE + CAPACITY))
		return 2;
	memory = mmap(NULL, RING_PAGE + CAPACITY, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (memory == MAP_FAILED)
		return 2;
	ring_begin(&ring, memory, RING_PAGE + CAPACITY, eventfd(0, EFD_NONBLOCK));
	if (pthread_create(&writer, NULL, write_records, NULL))
		return 2;
	do {
		struct ring_page *page = memory;
		uint64_t head, tail, start;

		ended = atomic_load_explicit(&page->ended, memory_order_acquire);
		atomic_store(&page->armed, 1);
		head = atomic_load_explicit(&page->head, memory_order_acquire);
		tail = atomic_load_explicit(&page->tail, memory_order_acquire);
		start = position > tail ? position : tail;
		if (start >= head)
			continue;
		read_at(start, data, head - start);
		atomic_thread_fence(memory_order_acquire);
		tail = atomic_load_explicit(&page->tail, memory_order_relaxed);
		for (position = start > tail ? start : tail; position < head;) {
			const char *record = data + (position - start);
			uint32_t length;
			uint64_t sum;

			memcpy(&length, record, sizeof length);
			memcpy(&sum, record + 16, sizeof sum);
			if (!length || length > RECORD_DATA_MAX || sum < seen + lost)
				fail_at("an invalid record", position);
			lost = sum - seen;
			for (size_t i = 0; i < length; i++)
				if (record[RECORD_HEAD + i] != pattern_at(sum + i))
					fail_at("a torn record", position);
			seen += length;
			position += (RECORD_HEAD + length + 7) & ~7ULL;
		}
	} while (!ended);
	pthread_join(writer, NULL);
	if (seen + lost != ring.sum)
		fail_at("a wrong sum", position);
	printf("%llu read, %llu lost\n", (unsigned long long)seen, (unsigned long long)lost);
	return 0;
}
