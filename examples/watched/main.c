/*
 * Sends READY=1 to the socket in NOTIFY_SOCKET, and WATCHDOG=1 three times. Then it hangs, as a
 * program with a bug would. See sd_notify(3).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int notify(const char *message)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	if (!path || strlen(path) >= sizeof(address.sun_path)) {
		fprintf(stderr, "NOTIFY_SOCKET is not set\n");
		return -1;
	}
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, message, strlen(message), 0, (struct sockaddr *)&address,
			     sizeof(address)) < 0) {
		perror(path);
		if (fd >= 0)
			close(fd);
		return -1;
	}
	close(fd);
	return 0;
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (notify("READY=1\nSTATUS=counting") < 0)
		return 1;
	for (int number = 1; number <= 3; number++) {
		usleep(300000);
		printf("WATCHDOG=1, number %d\n", number);
		if (notify("WATCHDOG=1") < 0)
			return 1;
	}
	puts("it hangs now");
	pause();
	return 0;
}
