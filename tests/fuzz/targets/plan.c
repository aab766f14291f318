/*
 * The launcher's plan. A plan that passes the check is then read as the steps read it, and must
 * contain the operations that isolate a container.
 */
#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/sched.h>

#include "../../../launcher/plan.h"
#include "target.h"

enum { DESCRIPTORS = 32 };

static const struct {
	uint32_t number;
	const char *arguments;
} kinds[] = {
#define OP(name, number, occurrence, arguments, text) { number, arguments },
#include "../../../launcher/plan.def"
};

/* Files with the size of a valid filter, except the last, which is empty. */
static int *files(void)
{
	static int descriptors[DESCRIPTORS];

	if (descriptors[DESCRIPTORS - 1])
		return descriptors;
	for (int i = 0; i < DESCRIPTORS; i++) {
		descriptors[i] = memfd_create("fuzz", MFD_CLOEXEC);
		assert(descriptors[i] >= 0);
		if (i < DESCRIPTORS - 1)
			assert(!ftruncate(descriptors[i], 8));
	}
	return descriptors;
}

static void check_list(const char *list)
{
	while (*list) {
		const char *word;
		size_t length = next_in_list(&list, &word);
		uint64_t number;

		assert(parse_number(word, length, UINT32_MAX - 1, &number));
	}
}

/* Takes one argument of the given kind; false if none is left. */
static bool take_one(char kind, struct operation *operation, const struct plan *plan)
{
	const char *string = operation->next;

	if (string == operation->end)
		return false;
	assert(string + strlen(string) < operation->end);
	switch (kind) {
	case 'u':
	case 'n':
		take_number(operation);
		break;
	case 'i':
		take_integer(operation);
		break;
	case 'l':
		take_limit(operation);
		break;
	case 'd':
		assert(take_descriptor(operation, plan) > 0);
		break;
	case 'D':
		assert(take_descriptor(operation, plan) >= -1);
		break;
	case 'p':
		assert(*string == '/');
		take(operation);
		break;
	default:
		assert(take(operation) == string);
	}
	return true;
}

static void take_all(struct operation operation, const struct plan *plan)
{
	const char *wanted = NULL;

	for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
		if (kinds[i].number == operation.number)
			wanted = kinds[i].arguments;
	assert(wanted);
	while (*wanted) {
		size_t length = strcspn(wanted, " ");
		bool repeats = wanted[length - 1] == '*';

		while (take_one(wanted[0], &operation, plan) && repeats)
			continue;
		wanted += length + (wanted[length] == ' ');
	}
	assert(!take(&operation));
}

/* Interprets the arguments as the steps do. */
static void interpret(struct operation operation)
{
	const char *entry;
	uint64_t argc, count = 0;

	switch (operation.number) {
	case OP_CLONE: {
		const uint64_t always = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;

		assert((take_number(&operation) & ~(uint64_t)CLONE_NEWNET) == always);
		break;
	}
	case OP_BIND:
		for (int i = 0; i < 5; i++)
			take(&operation);
		assert(parse_bind_flags(take(&operation)) >= 0);
		break;
	case OP_DEV:
		take(&operation);
		take(&operation);
		while ((entry = take(&operation))) {
			struct device device;

			assert(parse_device(entry, &device));
			assert(!strchr(device.name, '/') && device.name[0]);
		}
		break;
	case OP_GROUPS:
		check_list(take(&operation));
		break;
	case OP_SCHED:
		assert(parse_policy(take(&operation)) >= 0);
		break;
	case OP_EXEC:
		take(&operation);
		argc = take_number(&operation);
		while (take(&operation))
			count++;
		assert(argc >= 1 && argc <= count);
		break;
	}
}

bool accepts(const uint8_t *data, size_t size)
{
	struct plan plan = {
		.start = (const char *)data,
		.end = (const char *)data + size,
		.descriptors = files(),
		.descriptor_count = DESCRIPTORS,
	};
	static struct text problem;
	struct operation operation;
	uint32_t last = 0;
	const uint64_t always = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
	bool isolated[4] = { false }, cloned = false;
	uint64_t entered = 0;
	unsigned int passed = 0;

	memset(&problem, 0, sizeof problem);
	if (!check_plan(&plan, &problem)) {
		assert(problem.at[0] && memchr(problem.at, '\0', sizeof problem.at));
		return false;
	}
	operation = before_first(&plan);
	while (next_operation(&plan, &operation)) {
		take_all(operation, &plan);
		interpret(operation);
		assert(operation.number / 10 >= last / 10);
		last = operation.number;
		if (operation.number == OP_ENTER) {
			take(&operation);
			entered |= take_number(&operation);
		}
		passed += operation.number == OP_FD;
		cloned |= operation.number == OP_CLONE;
		isolated[0] |= operation.number == OP_PIVOT;
		isolated[1] |= operation.number == OP_UID;
		isolated[2] |= operation.number == OP_NO_NEW_PRIVS;
		isolated[3] |= operation.number == OP_CAPS;
	}
	/* A plan creates a container or enters one, never both. */
	assert(is_exec_plan(&plan) == !cloned && cloned == !entered && isolated[0] == cloned);
	assert(cloned || ((entered & always) == always && passed == 3));
	assert(isolated[1] && isolated[2] && isolated[3]);
	assert(last == OP_EXEC);
	return true;
}

#ifdef LIBFUZZER
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);

static uint32_t word_at(const uint8_t *at)
{
	uint32_t word;

	memcpy(&word, at, sizeof word);
	return word;
}

/*
 * A change of the size truncates the plan, so half of the mutations change the arguments of one
 * operation and then correct its length.
 */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed)
{
	static uint8_t rest[1 << 20];
	size_t at = 4, chosen = 0, operations = 0, length, after, changed;

	while (at + 8 <= size && word_at(data + at + 4) <= size - at - 8) {
		if (seed / 2 % ++operations == 0)
			chosen = at;
		at += 8 + word_at(data + at + 4);
	}
	if (seed % 2 || !chosen || size > sizeof rest)
		return LLVMFuzzerMutate(data, size, most);
	length = word_at(data + chosen + 4);
	after = size - chosen - 8 - length;
	memcpy(rest, data + chosen + 8 + length, after);
	changed = LLVMFuzzerMutate(data + chosen + 8, length, most - chosen - 8 - after);
	if (changed && seed % 3)
		data[chosen + 8 + changed - 1] = '\0';
	memcpy(data + chosen + 8 + changed, rest, after);
	memcpy(data + chosen + 4, &(uint32_t){ (uint32_t)changed }, 4);
	return chosen + 8 + changed + after;
}
#endif
