/* What is fuzzed: returns whether the input is a good one, and aborts where something is wrong. */
#ifndef TARGET_H
#define TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool accepts(const uint8_t *data, size_t size);

#endif
