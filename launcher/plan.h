/* The launch plan: its constants, its reader and its check. The format: plan.def. */
#ifndef NORTHSTAR_PLAN_H
#define NORTHSTAR_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
#define VALUE(name, number, text) name = number,
#define OP(name, number, occurrence, arguments, text) OP_##name = number,
#define STEP(name, number, text) STEP_##name = number,
#define REPORT(name, number, text) REPORT_##name = number,
#include "plan.def"
};

enum { LAST_SIGNAL = 64, HOST_NAME_BYTES = 64, GROUPS_MAX = 65536 };

/* A text assembled without stdio, which is larger than this whole program. */
struct text {
	char at[TEXT_MAX];
};

/* Replaces the text by the concatenation of strings, terminated by NULL; truncated if too long. */
void text_set(struct text *text, ...) __attribute__((sentinel));
void text_append(struct text *text, const char *more);

/* Formats a number, in a buffer that the next call overwrites. */
const char *decimal(uint64_t number);

struct plan {
	const char *start;
	const char *end;
	int *descriptors; /* [0] is the plan itself */
	size_t descriptor_count;
};

/* An operation, and its arguments that are not taken yet. */
struct operation {
	uint32_t index;
	uint32_t number;
	const char *next;
	const char *end;
};

struct operation before_first(const struct plan *plan);

/* Advances to the next operation; false at the end. Only for a plan that was checked. */
bool next_operation(const struct plan *plan, struct operation *operation);

/* Take the next argument; take() returns NULL at the end. The check has validated all values. */
const char *take(struct operation *operation);
uint64_t take_number(struct operation *operation);
int64_t take_integer(struct operation *operation);
int take_descriptor(struct operation *operation, const struct plan *plan); /* -1: none */
uint64_t take_limit(struct operation *operation);

/* One entry of DEV: a node, or a link if target is not NULL. */
struct device {
	char name[64];
	uint32_t major, minor;
	const char *target;
};
bool parse_device(const char *entry, struct device *device);

/* Returns the length of the next word of a comma separated list, and advances `list`. */
size_t next_in_list(const char **list, const char **word);
bool parse_number(const char *text, size_t length, uint64_t most, uint64_t *number);

enum bind_flags { BIND_RECURSIVE = 1, BIND_OPTIONAL = 2, BIND_INVALID = -1 };
int parse_bind_flags(const char *list);

/* Returns the SCHED_ number of a policy, -1 if it is unknown. */
int parse_policy(const char *name);

/* Checks a whole plan; if false, `problem` describes the first error. No side effects. */
bool check_plan(const struct plan *plan, struct text *problem);

/* Whether a plan that was checked executes a process in a running container. */
bool is_exec_plan(const struct plan *plan);

#endif
