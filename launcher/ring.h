/*
 * The ring that contains the newest output of a container: a file in memory, shared by init, its
 * only writer, and the runtime. The format, and why a reader detects what is overwritten while it
 * reads: docs/decisions/logs.md. The other reader and writer of the format are
 * runtime/ring.py and the tests.
 */
#ifndef NORTHSTAR_RING_H
#define NORTHSTAR_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	RING_PAGE = 4096,
	RING_CAPACITY_MAX = 1 << 30,
	RECORD_HEAD = 24,
	RECORD_DATA_MAX = 16384, /* most bytes of one read(2) */
};

/* The first page. Each word that changes is in a cache line of its own. */
struct ring_page {
	char magic[8];
	uint64_t capacity;
	_Alignas(64) _Atomic uint64_t head; /* end of the newest record */
	_Alignas(64) _Atomic uint64_t tail; /* begin of the oldest whole record */
	_Alignas(64) _Atomic uint32_t armed; /* written by the runtime: 1 if a reader waits */
	_Alignas(64) _Atomic uint32_t ended; /* 1: there will be no more records */
};

/*
 * The writer's state. Head, tail and sum are copies: a payload with CAP_SYS_PTRACE may change the
 * page, but what init computes with stays within the ring.
 */
struct ring {
	struct ring_page *page;
	char *data;
	uint64_t capacity;
	uint64_t head, tail;
	uint64_t sum; /* bytes of data in all records so far */
	int bell; /* an eventfd, not blocking */
};

/* Returns the capacity of a ring in a file of `size` bytes; 0 if there is none of this size. */
uint64_t ring_capacity(uint64_t size);

/* Begins an empty ring in `size` bytes of zeros at `memory`, which is aligned to a page. */
void ring_begin(struct ring *ring, void *memory, uint64_t size, int bell);

/* Appends a record of 1 to RECORD_DATA_MAX bytes, in place of the oldest ones. `stream` is 1 or 2,
 * `time` in ns of CLOCK_BOOTTIME. Never blocks. */
void ring_write(struct ring *ring, int stream, uint64_t time, const void *data, size_t length);

/* Reports to readers that there will be no more records. */
void ring_end(struct ring *ring);

#endif
