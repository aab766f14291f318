/* Reports of the launcher and of init to the runtime, over descriptor 3; the format: plan.def. */
#ifndef NORTHSTAR_REPORT_H
#define NORTHSTAR_REPORT_H

#include <stdnoreturn.h>

#include "plan.h"

enum { SOCKET = 3 };

/*
 * The current operation of this process, for the report of a failure. For the payload's process it
 * is in memory shared with init, which sends the report: the payload's seccomp filter may kill it
 * at any system call.
 */
struct progress {
	uint32_t index;
	uint32_t number;
	int error; /* set by the payload's process; 0 until it fails */
	uint32_t shielded; /* set by init when shield() is done; a futex */
	struct text what;
};
extern struct progress *progress;

#define ABOUT(...) text_set(&progress->what, __VA_ARGS__, NULL)

/* Sets the current operation, and clears its object. */
void set_progress(uint32_t index, uint32_t number);

/* Sends a report on the current operation; `descriptor` is attached unless it is -1. If that fails,
 * the runtime has closed the stream: calls stream_lost() with errno, and returns if that does. */
void send_report(uint32_t kind, int error, int value, int descriptor);

/* Sends a report that refers to no operation. */
void report_plain(uint32_t kind, int value);

/* All three exit: after a FAILED report with errno, after one on a step, or without a report,
 * when the stream has ended. */
noreturn void fail(void);
noreturn void fail_step(uint32_t step, const char *what, int error);
noreturn void exit_silently(void);

/* What a process does without its stream: exit_silently, unless it has more to do. */
extern void (*stream_lost)(void);

#endif
