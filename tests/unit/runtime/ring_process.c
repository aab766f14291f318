/*
 * The writer of launcher/ring.c as a program, for a writer of another architecture:
 *     ring_process MEMFD SIZE BELL COUNT LEAST MOST PAUSE SEED
 * It begins the ring, prints a line, writes, ends the ring, and prints the number of bytes.
 */
#include <stdio.h>
#include <stdlib.h>

#include "ring_writer.c"

int main(int count, char **arguments)
{
	uint64_t given[9] = { 0 };
	struct ring *ring;

	if (count != 9)
		return 2;
	for (int i = 1; i < 9; i++)
		given[i] = strtoull(arguments[i], NULL, 10);
	ring = test_begin((int)given[1], given[2], (int)given[3]);
	if (!ring)
		return 2;
	puts("begun");
	fflush(stdout);
	test_flood(ring, given[4], (uint32_t)given[5], (uint32_t)given[6], (uint32_t)given[7],
		   given[8]);
	ring_end(ring);
	printf("%llu\n", (unsigned long long)test_total(ring));
	return 0;
}
