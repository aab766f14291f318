#include "report.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct progress own_progress;
struct progress *progress = &own_progress;

noreturn void exit_silently(void)
{
	_exit(1);
}

void (*stream_lost)(void) = exit_silently;

void send_report(uint32_t kind, int error, int value, int descriptor)
{
	uint32_t head[] = {
		htole32(kind), htole32(progress->index), htole32(progress->number),
		htole32((uint32_t)error), htole32((uint32_t)value),
	};
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { 0 };
	struct iovec parts[] = {
		{ head, sizeof head },
		{ progress->what.at, strlen(progress->what.at) + 1 },
	};
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	if (descriptor >= 0) {
		message.msg_control = &control;
		message.msg_controllen = sizeof control;
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
	}
	while (sendmsg(SOCKET, &message, MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		stream_lost();
		return;
	}
}

void set_progress(uint32_t index, uint32_t number)
{
	progress->index = index;
	progress->number = number;
	progress->what.at[0] = '\0';
}

noreturn void fail(void)
{
	send_report(REPORT_FAILED, errno, 0, -1);
	_exit(1);
}

noreturn void fail_step(uint32_t step, const char *what, int error)
{
	set_progress(NO_OPERATION, step);
	ABOUT(what);
	errno = error;
	fail();
}

void report_plain(uint32_t kind, int value)
{
	set_progress(NO_OPERATION, 0);
	send_report(kind, 0, value, -1);
}
