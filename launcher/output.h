/* The payload's output: init moves it from pipes to the ring (ring.h). */
#ifndef NORTHSTAR_OUTPUT_H
#define NORTHSTAR_OUTPUT_H

#include <poll.h>

#include "ring.h"
#include "steps.h"

enum { STREAMS = 2 }; /* stdout and stderr */

struct output {
	struct ring ring; /* page is NULL without the operation LOG */
	int pipes[STREAMS]; /* read ends, not blocking; -1: discarded, or ended */
	uint64_t moved; /* time of the newest record, in ns of CLOCK_BOOTTIME */
};
#define NO_OUTPUT { .ring = { .bell = -1 }, .pipes = { -1, -1 } }

/* Maps the ring, and closes its descriptor: init has it as a mapping only, its children have
 * neither. Then readies the pipes. */
int step_log(struct operation *operation, const struct plan *plan, struct output *output);

/*
 * One turn: moves at most a few reads of each pipe that poll(2) reports. A pipe without writers is
 * closed. Returns whether the pipes should rest for a moment: the payload writes all the time, and
 * they are empty now. Otherwise each small write would wake init, which costs the payload most of
 * its processor time, and other containers theirs.
 */
bool output_move(struct output *output, struct pollfd sources[STREAMS]);

/* After the payload's end: moves the rest, and ends the ring. Another process may hold a pipe and
 * write on, so the rest is limited. */
void output_end(struct output *output);

#endif
