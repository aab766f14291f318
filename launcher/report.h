/* What the launcher and init tell the runtime, over descriptor 3; the format: plan.def. */
#ifndef NORTHSTAR_REPORT_H
#define NORTHSTAR_REPORT_H

#include <stdnoreturn.h>

#include "plan.h"

enum { SOCKET = 3 };

/*
 * What this process is doing, so that a failure can be told in full. The one of the payload's
 * process lies in memory shared with init: it may be ended at any moment, by the very filter that
 * it has installed, so it cannot report by system calls. It leaves its words; init reports them.
 */
struct progress {
	uint32_t index;
	uint32_t number;
	int error; /* of the payload; 0 until it fails */
	uint32_t shielded; /* by init: whether `shield` is done; a futex */
	struct text what;
};
extern struct progress *progress;

#define ABOUT(...) text_set(&progress->what, __VA_ARGS__, NULL)

/* What is being done from here on. */
void set_progress(uint32_t index, uint32_t number);

/* Sends what is being done as a report; `descriptor` goes along unless it is -1. */
void send_report(uint32_t kind, int error, int value, int descriptor);

/* Sends a report that is about no operation. */
void report_plain(uint32_t kind, int value);

/* The end of this process: with a FAILED report of errno, of a step, or with none, when the
 * stream has ended and nobody wants this container any more. */
noreturn void fail(void);
noreturn void fail_step(uint32_t step, const char *what, int error);
noreturn void give_up(void);

#endif
