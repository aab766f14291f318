#include "ring.h"

#include <string.h>
#include <unistd.h>

_Static_assert(offsetof(struct ring_page, capacity) == 8, "the format");
_Static_assert(offsetof(struct ring_page, head) == 64, "the format");
_Static_assert(offsetof(struct ring_page, tail) == 128, "the format");
_Static_assert(offsetof(struct ring_page, armed) == 192, "the format");
_Static_assert(offsetof(struct ring_page, ended) == 256, "the format");
_Static_assert(sizeof(struct ring_page) <= RING_PAGE, "the format");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "a lock in this process would not bind the reader");

struct record_head {
	uint32_t length;
	uint8_t stream;
	uint8_t zero[3];
	uint64_t time;
	uint64_t sum;
};
_Static_assert(sizeof(struct record_head) == RECORD_HEAD, "the format");

static uint64_t record_size(uint64_t length)
{
	return (RECORD_HEAD + length + 7) & ~(uint64_t)7;
}

uint64_t ring_capacity(uint64_t size)
{
	uint64_t capacity = size - RING_PAGE;

	/* Whole pages, so that no word of a record's head wraps; room for the largest record. */
	if (size < 2 * RING_PAGE || capacity % RING_PAGE || capacity > RING_CAPACITY_MAX ||
	    capacity < record_size(RECORD_DATA_MAX))
		return 0;
	return capacity;
}

void ring_begin(struct ring *ring, void *memory, uint64_t size, int bell)
{
	*ring = (struct ring){ .page = memory, .data = (char *)memory + RING_PAGE, .bell = bell };
	ring->capacity = size - RING_PAGE;
	memcpy(ring->page->magic, "NSLOG001", sizeof ring->page->magic);
	ring->page->capacity = ring->capacity;
}

static void copy_in(struct ring *ring, uint64_t position, const void *data, size_t length)
{
	uint64_t at = position % ring->capacity;
	size_t first = length;

	if (first > ring->capacity - at)
		first = (size_t)(ring->capacity - at);
	memcpy(ring->data + at, data, first);
	memcpy(ring->data, (const char *)data + first, length - first);
}

/* Drops the oldest records until `size` bytes fit. */
static void make_room(struct ring *ring, uint64_t size)
{
	uint64_t tail = ring->tail;
	uint32_t length;

	while (ring->head + size - tail > ring->capacity) {
		memcpy(&length, ring->data + tail % ring->capacity, sizeof length);
		tail += record_size(length);
		/* Not what this process has written there: the payload has CAP_SYS_PTRACE. */
		if (length > RECORD_DATA_MAX || tail > ring->head)
			tail = ring->head;
		/* Each one, so that a reader never finds a tail inside a record. */
		atomic_store_explicit(&ring->page->tail, tail, memory_order_relaxed);
	}
	ring->tail = tail;
}

static void ring_bell(struct ring *ring)
{
	const uint64_t one = 1;

	/* EAGAIN: it is rung already. Any other error has no remedy, and must not end init. */
	if (write(ring->bell, &one, sizeof one) < 0)
		return;
}

void ring_write(struct ring *ring, int stream, uint64_t time, const void *data, size_t length)
{
	struct record_head head = {
		.length = (uint32_t)length,
		.stream = (uint8_t)stream,
		.time = time,
		.sum = ring->sum,
	};

	make_room(ring, record_size(length));
	/* A reader that finds a byte of this record in the place of an older one then also finds
	 * the new tail, after which it drops what it has read there. */
	atomic_thread_fence(memory_order_release);
	copy_in(ring, ring->head, &head, sizeof head);
	copy_in(ring, ring->head + RECORD_HEAD, data, length);
	ring->head += record_size(length);
	ring->sum += length;
	atomic_store_explicit(&ring->page->head, ring->head, memory_order_release);
	/* Sequentially consistent: the load must not come before the store of head. Otherwise a
	 * reader that arms and then finds the old head could wait without being rung. */
	if (atomic_exchange(&ring->page->armed, 0))
		ring_bell(ring);
}

void ring_end(struct ring *ring)
{
	atomic_store_explicit(&ring->page->ended, 1, memory_order_release);
	ring_bell(ring);
}
