#include "plan.h"

#include <endian.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "syscalls.h"

enum occurrence { ONE, OPTIONAL, ANY };

static const struct kind {
	uint32_t number;
	enum occurrence occurrence;
	const char *name;
	const char *arguments;
} kinds[] = {
#define OP(name, number, occurrence, arguments, text) { number, occurrence, #name, arguments },
#include "plan.def"
};

static const uint32_t exec_plan[] = {
#define EXEC_PLAN(name) OP_##name,
#include "plan.def"
};

enum { KINDS = sizeof kinds / sizeof kinds[0] };
_Static_assert(KINDS < 64, "check_plan() needs a bit for each kind");

static uint64_t kind_bit(const struct kind *kind)
{
	return (uint64_t)1 << (kind - kinds);
}

static bool in_exec_plan(const struct kind *kind)
{
	for (size_t i = 0; i < sizeof exec_plan / sizeof exec_plan[0]; i++)
		if (exec_plan[i] == kind->number)
			return true;
	return false;
}

void text_append(struct text *text, const char *more)
{
	size_t used = strlen(text->at), length = strlen(more);

	if (length > sizeof text->at - 1 - used)
		length = sizeof text->at - 1 - used;
	memcpy(text->at + used, more, length);
	text->at[used + length] = '\0';
}

void text_set(struct text *text, ...)
{
	va_list parts;

	text->at[0] = '\0';
	va_start(parts, text);
	for (const char *part; (part = va_arg(parts, const char *));)
		text_append(text, part);
	va_end(parts);
}

const char *decimal(uint64_t number)
{
	static char buffer[24];
	char *digit = buffer + sizeof buffer - 1;

	do
		*--digit = (char)('0' + number % 10);
	while (number /= 10);
	return digit;
}

/* ---- Values ---- */

static int digit_value(char character)
{
	if (character >= '0' && character <= '9')
		return character - '0';
	if (character >= 'a' && character <= 'f')
		return character - 'a' + 10;
	return 16;
}

bool parse_number(const char *text, size_t length, uint64_t most, uint64_t *number)
{
	unsigned int base = 10;
	uint64_t value = 0;

	if (length > 2 && text[0] == '0' && text[1] == 'x') {
		base = 16;
		text += 2;
		length -= 2;
	}
	if (length == 0)
		return false;
	for (size_t i = 0; i < length; i++) {
		unsigned int digit = (unsigned int)digit_value(text[i]);

		if (digit >= base || value > (UINT64_MAX - digit) / base)
			return false;
		value = value * base + digit;
	}
	*number = value;
	return value <= most;
}

static bool parse_integer(const char *text, int64_t *number)
{
	bool negative = *text == '-';
	uint64_t size;

	if (negative)
		text++;
	if (!parse_number(text, strlen(text), INT32_MAX, &size))
		return false;
	*number = negative ? -(int64_t)size : (int64_t)size;
	return true;
}

size_t next_in_list(const char **list, const char **word)
{
	size_t length = strcspn(*list, ",");

	*word = *list;
	*list += length;
	if (**list == ',')
		++*list;
	return length;
}

int parse_bind_flags(const char *list)
{
	int flags = 0;

	while (*list) {
		const char *word;
		size_t length = next_in_list(&list, &word);

		if (length == 9 && !memcmp(word, "recursive", 9))
			flags |= BIND_RECURSIVE;
		else if (length == 8 && !memcmp(word, "optional", 8))
			flags |= BIND_OPTIONAL;
		else
			return BIND_INVALID;
	}
	return flags;
}

static bool valid_groups(const char *list)
{
	for (size_t count = 0; *list; count++) {
		const char *word;
		size_t length = next_in_list(&list, &word);
		uint64_t gid;

		if (count == GROUPS_MAX || !parse_number(word, length, UINT32_MAX - 1, &gid))
			return false;
	}
	return true;
}

bool parse_device(const char *entry, struct device *device)
{
	const char *name = entry + 2, *rest;
	size_t length, digits;
	uint64_t major, minor;

	if ((entry[0] != 'c' && entry[0] != 'l') || entry[1] != ' ')
		return false;
	length = strcspn(name, " ");
	rest = name + length;
	if (*rest++ != ' ' || length == 0 || length >= sizeof device->name ||
	    memchr(name, '/', length) || !strncmp(name, ".. ", 3) || !strncmp(name, ". ", 2))
		return false;
	memcpy(device->name, name, length);
	device->name[length] = '\0';
	if (entry[0] == 'l') {
		device->target = rest;
		return *rest != '\0';
	}
	device->target = NULL;
	digits = strcspn(rest, " ");
	/* Twelve bits of major and twenty of minor number: include/linux/kdev_t.h. */
	if (rest[digits] != ' ' || !parse_number(rest, digits, 0xFFF, &major) ||
	    !parse_number(rest + digits + 1, strlen(rest + digits + 1), 0xFFFFF, &minor))
		return false;
	device->major = (uint32_t)major;
	device->minor = (uint32_t)minor;
	return true;
}

int parse_policy(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} policies[] = {
		{ "other", SCHED_NORMAL }, { "batch", SCHED_BATCH }, { "idle", SCHED_IDLE },
		{ "fifo", SCHED_FIFO }, { "round_robin", SCHED_RR },
	};

	for (size_t i = 0; i < sizeof policies / sizeof policies[0]; i++)
		if (!strcmp(name, policies[i].name))
			return policies[i].number;
	return -1;
}

/* ---- Reading ---- */

struct operation before_first(const struct plan *plan)
{
	const char *at = plan->start + sizeof(uint32_t);

	return (struct operation){ .index = NO_OPERATION, .next = at, .end = at };
}

static uint32_t word_at(const char *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof word);
	return le32toh(word);
}

bool next_operation(const struct plan *plan, struct operation *operation)
{
	const char *at = operation->end;

	if (at == plan->end)
		return false;
	operation->index++;
	operation->number = word_at(at);
	operation->next = at + 2 * sizeof(uint32_t);
	operation->end = operation->next + word_at(at + sizeof(uint32_t));
	return true;
}

const char *take(struct operation *operation)
{
	const char *string = operation->next;

	if (string == operation->end)
		return NULL;
	operation->next += strlen(string) + 1;
	return string;
}

uint64_t take_number(struct operation *operation)
{
	const char *string = take(operation);
	uint64_t number = 0;

	parse_number(string, strlen(string), UINT64_MAX, &number);
	return number;
}

int64_t take_integer(struct operation *operation)
{
	int64_t number = 0;

	parse_integer(take(operation), &number);
	return number;
}

int take_descriptor(struct operation *operation, const struct plan *plan)
{
	int64_t index = take_integer(operation);

	return index < 0 ? -1 : plan->descriptors[index];
}

uint64_t take_limit(struct operation *operation)
{
	if (strcmp(operation->next, "unlimited"))
		return take_number(operation);
	take(operation);
	return UINT64_MAX; /* RLIM64_INFINITY */
}

/* ---- Checking ---- */

/* State of the check: the operations up to the current one. */
struct check_state {
	uint64_t kinds; /* a bit for each of `kinds` */
	uint32_t number;
	uint64_t clone_flags;
	uint64_t entered; /* CLONE_NEW flags; not 0 in an exec plan */
	uint64_t descriptors; /* how many are passed to the payload */
};

static bool valid_descriptor(const char *text, const struct plan *plan)
{
	uint64_t index;

	return parse_number(text, strlen(text), INT32_MAX, &index) && text[0] != '0' &&
	       index < plan->descriptor_count;
}

static bool valid_argument(char kind, const char *text, const struct plan *plan)
{
	size_t length = strlen(text);
	uint64_t number;
	int64_t integer;

	switch (kind) {
	case 's':
		return true;
	case 'w':
		return length > 0;
	case 'P':
		return length == 0 || (text[0] == '/' && length < PATH_MAX);
	case 'p':
		return text[0] == '/' && length < PATH_MAX;
	case 'u':
		return parse_number(text, length, UINT64_MAX, &number);
	case 'n': /* -1 means "unchanged", setresuid(2) */
		return parse_number(text, length, UINT32_MAX - 1, &number);
	case 'i':
		return parse_integer(text, &integer);
	case 'l':
		return !strcmp(text, "unlimited") || parse_number(text, length, UINT64_MAX, &number);
	case 'D':
		return !strcmp(text, "-1") || valid_descriptor(text, plan);
	case 'd':
		return valid_descriptor(text, plan);
	}
	return false;
}

/* Compares the arguments with plan.def; if false, `problem` names the first wrong one. */
static bool valid_arguments(const char *wanted, struct operation operation, const struct plan *plan,
			    struct text *problem)
{
	const char *argument;

	while (*wanted) {
		size_t length = strcspn(wanted, " ");
		bool repeats = wanted[length - 1] == '*';

		argument = take(&operation);
		if (!argument && repeats)
			return true;
		if (!argument || !valid_argument(wanted[0], argument, plan)) {
			char name[32] = "";

			memcpy(name, wanted + 2, length - 2 - repeats);
			text_append(problem, argument ? "invalid " : "missing ");
			text_append(problem, name);
			return false;
		}
		if (!repeats)
			wanted += length + (wanted[length] == ' ');
	}
	if (operation.next == operation.end)
		return true;
	text_append(problem, "too many arguments");
	return false;
}

/* The namespaces of every container; without them init would modify the host. */
static const uint64_t namespaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;

/* Each type once, so that no operation leaves a namespace of the container again. */
static const char *check_entered(uint64_t type, struct check_state *state)
{
	if (type & (type - 1) || !(type & (namespaces | CLONE_NEWNET | CLONE_NEWCGROUP)))
		return "type is not a namespace of a container";
	if (state->entered & type)
		return "type entered before";
	state->entered |= type;
	return NULL;
}

static const char *check_policy(struct operation *operation)
{
	int policy = parse_policy(take(operation));
	int64_t value = take_integer(operation);
	bool fits = false;

	switch (policy) {
	case SCHED_NORMAL:
	case SCHED_BATCH:
		fits = value >= -20 && value <= 19;
		break;
	case SCHED_FIFO:
	case SCHED_RR:
		fits = value >= 1 && value <= 99;
		break;
	case SCHED_IDLE:
		fits = value == 0;
		break;
	default:
		return "unknown policy";
	}
	return fits ? NULL : "value out of range";
}

static const char *check_options(struct operation *operation)
{
	const char *option;

	while ((option = take(operation)))
		if (option[0] == '=')
			return "option without a key";
	return NULL;
}

static bool valid_socket_type(uint64_t type)
{
	return type == SOCK_STREAM || type == SOCK_DGRAM || type == SOCK_SEQPACKET;
}

static const char *check_filter(int descriptor)
{
	struct stat file;

	if (fstat(descriptor, &file))
		return "filter cannot be examined";
	if (file.st_size == 0 || file.st_size % (off_t)sizeof(struct sock_filter) ||
	    file.st_size > (off_t)(BPF_MAXINSNS * sizeof(struct sock_filter)))
		return "filter is not an array of 1 to 4096 instructions";
	return NULL;
}

/* Checks beyond the kinds of the arguments: returns NULL, or the error. */
static const char *check_meaning(struct operation operation, const struct plan *plan,
				 struct check_state *state)
{
	struct device device;
	const char *entry;

	switch (operation.number) {
	case OP_CLONE:
		state->clone_flags = take_number(&operation);
		if ((state->clone_flags & ~(uint64_t)CLONE_NEWNET) != namespaces)
			return "flags must be exactly the namespaces of a container";
		return NULL;
	case OP_SETNS:
		take(&operation);
		return take_number(&operation) == CLONE_NEWNET ? NULL : "type is not CLONE_NEWNET";
	case OP_HOSTNAME:
		return strlen(take(&operation)) <= HOST_NAME_BYTES ? NULL : "name too long";
	case OP_SELINUX: /* the container may have no /proc */
		return state->entered ? "must precede ENTER" : NULL;
	case OP_ENTER:
		take(&operation);
		return check_entered(take_number(&operation), state);
	case OP_TERMINAL:
		return state->entered ? NULL : "in a plan without ENTER";
	case OP_LOOPBACK: /* otherwise it would be the host's interface */
		return state->clone_flags & CLONE_NEWNET ? NULL : "no new network namespace";
	case OP_BIND:
		for (int i = 0; i < 5; i++)
			entry = take(&operation);
		return parse_bind_flags(take(&operation)) == BIND_INVALID ? "invalid flags" : NULL;
	case OP_FILESYSTEM:
		for (int i = 0; i < 4; i++)
			entry = take(&operation);
		return check_options(&operation);
	case OP_DEV:
		take(&operation);
		take(&operation);
		while ((entry = take(&operation)))
			if (!parse_device(entry, &device))
				return "invalid entry";
		return NULL;
	case OP_GROUPS:
		return valid_groups(take(&operation)) ? NULL : "invalid gids";
	case OP_SOCKET:
		take(&operation);
		return valid_socket_type(take_number(&operation)) ? NULL : "invalid type";
	case OP_FD:
		take(&operation);
		if (take_number(&operation) != state->descriptors++)
			return "numbers must count from 0";
		return NULL;
	case OP_RLIMIT:
		return take_number(&operation) < 16 ? NULL : "no such resource"; /* RLIM_NLIMITS */
	case OP_SCHED:
		return check_policy(&operation);
	case OP_SECCOMP:
		return check_filter(take_descriptor(&operation, plan));
	case OP_EXEC: {
		uint64_t count = 0;

		take(&operation);
		uint64_t argc = take_number(&operation);
		while (take(&operation))
			count++;
		/* Without argv[0] a program may read its environment as its arguments. */
		if (argc < 1 || argc > count)
			return "argc out of range";
		/* More could only be the host's: the payload's console and sockets are its own. */
		if (state->entered && state->descriptors > 3)
			return "an exec plan passes descriptors 0, 1 and 2 only";
		/* Without descriptor 2 a program's messages go into the first file it opens. */
		return state->descriptors >= 3 ? NULL : "descriptors 0, 1 and 2 are required";
	}
	}
	return NULL;
}

static bool check_operation(const struct plan *plan, struct operation operation,
			    struct check_state *state, struct text *problem)
{
	const struct kind *kind = kinds;
	const char *wrong = NULL;

	text_set(problem, "operation ", decimal(operation.index), NULL);
	while (kind < kinds + KINDS && kind->number != operation.number)
		kind++;
	if (kind == kinds + KINDS) {
		text_append(problem, ": unknown number ");
		text_append(problem, decimal(operation.number));
		return false;
	}
	text_append(problem, " (");
	text_append(problem, kind->name);
	text_append(problem, "): ");
	if (operation.number / 10 < state->number / 10)
		wrong = "out of order";
	else if (kind->occurrence != ANY && state->kinds & kind_bit(kind))
		wrong = "more than once";
	state->kinds |= kind_bit(kind);
	state->number = operation.number;
	if (!wrong) {
		if (!valid_arguments(kind->arguments, operation, plan, problem))
			return false;
		wrong = check_meaning(operation, plan, state);
	}
	if (wrong)
		text_append(problem, wrong);
	return !wrong;
}

bool is_exec_plan(const struct plan *plan)
{
	struct operation operation = before_first(plan);

	while (next_operation(plan, &operation))
		if (operation.number == OP_ENTER)
			return true;
	return false;
}

/* Checks which operations the plan has, and which it lacks. */
static bool check_kinds(const struct check_state *state, struct text *problem)
{
	for (const struct kind *kind = kinds; kind < kinds + KINDS; kind++) {
		bool present = state->kinds & kind_bit(kind);

		if (state->entered && present && !in_exec_plan(kind)) {
			text_set(problem, "a plan with ENTER cannot contain ", kind->name, NULL);
			return false;
		}
		if (kind->occurrence == ONE && !present &&
		    (!state->entered || in_exec_plan(kind))) {
			text_set(problem, "missing operation ", kind->name, NULL);
			return false;
		}
	}
	if (state->entered && (state->entered & namespaces) != namespaces) {
		text_set(problem, "ENTER is missing for a namespace of every container", NULL);
		return false;
	}
	return true;
}

bool check_plan(const struct plan *plan, struct text *problem)
{
	struct operation operation;
	struct check_state state = { 0 };

	if (plan->end - plan->start < (ptrdiff_t)sizeof(uint32_t) ||
	    word_at(plan->start) != PLAN_VERSION) {
		text_set(problem, "not a plan of this version", NULL);
		return false;
	}
	operation = before_first(plan);
	while (operation.end < plan->end) {
		size_t left = (size_t)(plan->end - operation.end), head = 2 * sizeof(uint32_t);

		if (left < head || left - head < word_at(operation.end + sizeof(uint32_t))) {
			text_set(problem, "truncated in operation ", decimal(operation.index + 1),
				 NULL);
			return false;
		}
		next_operation(plan, &operation);
		if (operation.next < operation.end && operation.end[-1] != '\0') {
			text_set(problem, "operation ", decimal(operation.index),
				 ": its last argument is not terminated", NULL);
			return false;
		}
		if (!check_operation(plan, operation, &state, problem))
			return false;
	}
	return check_kinds(&state, problem);
}
