/* Fails soon after each start, as a program does whose server cannot be reached. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	usleep(50000);
	fputs("cannot reach the server\n", stderr);
	return 1;
}
