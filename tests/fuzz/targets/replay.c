/*
 * Without libFuzzer: reads inputs from stdin, each a length of 4 bytes and the data, and writes the
 * result of the target for each, `1` or `0`.
 */
#include <stdio.h>
#include <stdlib.h>

#include "target.h"

int main(void)
{
	uint32_t size;

	while (fread(&size, sizeof size, 1, stdin) == 1) {
		/* Exactly as large as the input, so that any read out of bounds is detected. */
		uint8_t *data = malloc(size ? size : 1);

		if (!data || fread(data, 1, size, stdin) != size)
			return 2;
		putchar('0' + accepts(data, size));
		fflush(stdout);
		free(data);
	}
	return 0;
}
