/* The entry point for libFuzzer: https://llvm.org/docs/LibFuzzer.html */
#include "target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	accepts(data, size);
	return 0;
}
