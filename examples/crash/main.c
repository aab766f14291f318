/* Fails immediately: the runtime notifies its subscribers of the exit code. */
#include <stdio.h>

int main(void)
{
	fputs("something went wrong\n", stderr);
	return 42;
}
