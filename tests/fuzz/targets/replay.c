/*
 * Without libFuzzer: reads inputs from stdin, each a length of 4 bytes and the data, and writes a
 * byte for each, `1` or `0`, what the target has returned.
 */
#include <stdio.h>
#include <stdlib.h>

#include "target.h"

int main(void)
{
	uint32_t size;

	while (fread(&size, sizeof size, 1, stdin) == 1) {
		/* Exactly as large as the input, so that one byte too much is seen. */
		uint8_t *data = malloc(size ? size : 1);

		if (!data || fread(data, 1, size, stdin) != size)
			return 2;
		putchar('0' + accepts(data, size));
		fflush(stdout);
		free(data);
	}
	return 0;
}
