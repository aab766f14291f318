/*
 * Commands of payload.c that send to a notify socket, sd_notify(3). It includes this file.
 */

static int notifier = -1;

/* notify-open PATH: connect the sender to the socket at PATH; `-` is $NOTIFY_SOCKET. */
static void do_notify_open(char **arguments)
{
	const char *path = strcmp(arguments[0], "-") ? arguments[0] : getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t size = sizeof address;

	notifier = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	strncpy(address.sun_path, path ? path : "/missing", sizeof address.sun_path - 1);
	if (*address.sun_path == '@') {
		size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
				   strlen(address.sun_path));
		*address.sun_path = '\0';
	}
	if (connect(notifier, (struct sockaddr *)&address, size))
		return result("notify-open", arguments[0], -1);
	result("notify-open", arguments[0], notifier);
}

/* notify LINE...: send one message; waits while the queue is full. */
static void do_notify(char **arguments)
{
	char message[8192] = "";

	for (int i = 0; arguments[i]; i++)
		snprintf(message + strlen(message), sizeof message - strlen(message), "%s%s",
			 i ? "\n" : "", arguments[i]);
	result("notify", arguments[0], send(notifier, message, strlen(message), MSG_NOSIGNAL));
}

/* notify-every SECONDS LINE: send this message again and again; does not return. */
static void do_notify_every(char **arguments)
{
	for (;;) {
		send(notifier, arguments[1], strlen(arguments[1]), MSG_NOSIGNAL);
		do_sleep(arguments);
	}
}

/* notify-size LINE BYTES: send one message with this line, which is filled up to BYTES. */
static void do_notify_size(char **arguments)
{
	static char message[1 << 20];
	size_t size = strtoul(arguments[1], NULL, 0);

	memset(message, 'x', sizeof message);
	snprintf(message, sizeof message, "%s", arguments[0]);
	message[strlen(message)] = '\n';
	result("notify-size", arguments[1], send(notifier, message, size, MSG_NOSIGNAL));
}

/* notify-flood TIMES LINE: send as fast as possible, without waiting; 0: without end. The result is
 * how many messages were accepted. */
static void do_notify_flood(char **arguments)
{
	long times = atol(arguments[0]), sent = 0;

	for (long i = 0; !times || i < times; i++)
		if (send(notifier, arguments[1], strlen(arguments[1]),
			 MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
			sent++;
		else if (errno != EAGAIN)
			return result("notify-flood", arguments[1], -1);
	result("notify-flood", arguments[1], sent);
}

/* notify-rubbish TIMES: send messages of random bytes and sizes; waits while the queue is full. */
static void do_notify_rubbish(char **arguments)
{
	static unsigned char message[6000];
	uint32_t state = 1;
	long last = 0;

	for (int times = atoi(arguments[0]); times > 0 && last >= 0; times--) {
		size_t size = (state >> 8) % sizeof message;

		for (size_t i = 0; i < sizeof message; i++) {
			state = state * 1664525 + 1013904223;
			message[i] = (unsigned char)(state >> 24);
		}
		last = send(notifier, message, size, MSG_NOSIGNAL);
	}
	result("notify-rubbish", arguments[0], last);
}
