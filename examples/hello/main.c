/* Prints container, host name, PID and user, as the process in the container sees them. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
	const char *container = getenv("NORTHSTAR_CONTAINER");
	char host[65] = "";

	gethostname(host, sizeof host - 1);
	printf("Hello, this is %s on host %s\n", container ? container : "no container", host);
	printf("I am process %d of user %d, and my parent is process %d\n",
	       (int)getpid(), (int)getuid(), (int)getppid());
	return 0;
}
