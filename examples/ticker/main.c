/*
 * usage: ticker MILLISECONDS
 * Counts in the persistent file /data/count until it receives SIGTERM.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static int count(void)
{
	int number = 0;
	FILE *file = fopen("/data/count", "r");

	if (file) {
		if (fscanf(file, "%d", &number) != 1)
			number = 0;
		fclose(file);
	}
	number++;
	file = fopen("/data/count", "w");
	if (!file) {
		perror("/data/count");
		exit(1);
	}
	fprintf(file, "%d\n", number);
	fclose(file);
	return number;
}

int main(int argc, char **argv)
{
	long milliseconds = argc > 1 ? atol(argv[1]) : 1000;
	struct timespec pause = { milliseconds / 1000, milliseconds % 1000 * 1000000 };

	signal(SIGTERM, stop);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (!stopped) {
		printf("tick %d\n", count());
		nanosleep(&pause, NULL);
	}
	puts("SIGTERM: good bye");
	return 0;
}
