/* Fails at once: the runtime reports the exit code to everybody who listens, and goes on. */
#include <stdio.h>

int main(void)
{
	fputs("something went wrong\n", stderr);
	return 42;
}
