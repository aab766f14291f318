/* A fuzz target: returns whether the input is accepted, and aborts on a violated property. */
#ifndef TARGET_H
#define TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

bool accepts(const uint8_t *data, size_t size);

#endif
