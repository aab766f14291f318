/* Output whose bytes depend on their offset, so that a reader can check each one. */
#ifndef RING_PATTERN_H
#define RING_PATTERN_H

#include <stddef.h>
#include <stdint.h>

static inline char pattern_at(uint64_t offset)
{
	return (char)(offset * 131 + (offset >> 8) * 7 + (offset >> 20));
}

static inline void pattern(uint64_t offset, char *data, size_t length)
{
	for (size_t i = 0; i < length; i++)
		data[i] = pattern_at(offset + i);
}

static inline uint32_t next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005U + 1442695040888963407U;
	return (uint32_t)(*seed >> 33);
}

#endif
