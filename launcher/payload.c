#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <linux/close_range.h>

#include "steps.h"
#include "syscalls.h"

/*
 * Leaves the failure in `progress`, since a seccomp filter may refuse or kill any system call of a
 * report. If the filter answers exit_group with an errno, the trap ends the process.
 */
noreturn void fail_payload(void)
{
	progress->error = errno;
	syscall(__NR_exit_group, 1);
	__builtin_trap();
}

/* Builds argv and environment before the seccomp filter is set; `exec` is the last operation. */
char **argument_vectors(struct operation exec, char ***environment)
{
	struct operation counted = exec;
	size_t count = 0, argc;
	char **vectors, **next;

	while (take(&counted))
		count++;
	next = vectors = mmap(NULL, (count + 2) * sizeof *vectors, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vectors == MAP_FAILED)
		return NULL;
	take(&exec);
	argc = take_number(&exec);
	while (argc--)
		*next++ = (char *)(uintptr_t)take(&exec);
	*next++ = NULL;
	*environment = next;
	do
		*next = (char *)(uintptr_t)take(&exec);
	while (*next++);
	return vectors;
}

void default_signals(void)
{
	sigset_t none;

	for (int number = 1; number <= LAST_SIGNAL; number++)
		syscall_rt_sigaction_plain(number, SIG_DFL); /* refused for KILL and STOP only */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int restrict_payload(struct operation *operation, const struct plan *plan)
{
	switch (operation->number) {
	case OP_FD:
		return step_fd(operation, plan);
	case OP_LISTEN:
		return step_listen(operation, plan);
	case OP_RLIMIT:
		return step_rlimit(operation);
	case OP_SCHED:
		return step_sched(operation);
	case OP_NO_NEW_PRIVS:
		return step_no_new_privs();
	case OP_DENY_GETFD:
		return step_deny_getfd();
	case OP_CAPS:
		return step_caps(take_number(operation));
	case OP_SECCOMP:
		return step_seccomp(operation, plan);
	}
	errno = ENOSYS;
	return -1;
}

/*
 * The payload's process, between its fork and its execve. It has the write end of a close-on-exec
 * pipe: the pipe ends on its execve or its death. execve is the only system call after the seccomp
 * filter is set, so everything else is prepared before.
 */
noreturn void payload(const struct plan *plan, struct operation operation,
		      struct progress *shared)
{
	struct operation exec = operation;
	char **arguments, **environment;
	const char *program;

	progress = shared;
	while (next_operation(plan, &exec))
		continue;
	set_progress(exec.index, exec.number);
	close(SOCKET);
	umask(022);
	program = exec.next;
	/* With init's capabilities, so that a script without read permission is checked too. */
	if (restore_user() || change_descriptors(0, UINT_MAX, CLOSE_RANGE_CLOEXEC) ||
	    check_program(program))
		fail_payload();
	arguments = argument_vectors(exec, &environment);
	if (!arguments)
		fail_payload();
	default_signals();
	await_shield(shared);
	while (next_operation(plan, &operation) && operation.number != OP_EXEC) {
		set_progress(operation.index, operation.number);
		if (restrict_payload(&operation, plan))
			fail_payload();
	}
	set_progress(exec.index, exec.number);
	ABOUT(program);
	execve(program, arguments, environment);
	fail_payload();
}
