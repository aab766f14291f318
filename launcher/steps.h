/*
 * The steps of init and of the payload's process: one function for each operation of a plan, and
 * for each other step. They return 0, or -1 with errno and with the object in `progress->what`.
 */
#ifndef NORTHSTAR_STEPS_H
#define NORTHSTAR_STEPS_H

#include "report.h"

/* mounts.c. step_bind returns 1 if its optional source does not exist. */
int step_attach(struct operation *operation, const struct plan *plan);
int step_root(struct operation *operation);
int step_bind(struct operation *operation);
int step_filesystem(struct operation *operation);
int step_dev(struct operation *operation);
int step_pivot(void);

/* steps.c */
int step_setns(struct operation *operation, const struct plan *plan);
int step_join(struct operation *operation, const struct plan *plan);
int step_keyring(void);
int step_session(void);
int step_hostname(struct operation *operation);
int step_loopback(void);
int step_selinux(struct operation *operation);
int step_groups(struct operation *operation);
int step_gid(struct operation *operation);
int step_uid(struct operation *operation);
int step_cgroupns(void);

/* Both return the runtime's descriptor, which the caller closes; or -1. */
int step_console(struct operation *operation, const struct plan *plan);
int step_socket(struct operation *operation, const struct plan *plan);
int step_fd(struct operation *operation, const struct plan *plan);
int step_listen(struct operation *operation, const struct plan *plan);
int step_deny_getfd(void);
int step_rlimit(struct operation *operation);
int step_sched(struct operation *operation);
int step_no_new_privs(void);
int step_caps(uint64_t mask);
int step_seccomp(struct operation *operation, const struct plan *plan);

/* The two halves of step_seccomp: a filter is read while its descriptor is open, and installed when
 * it is closed. */
int read_filter(struct operation *operation, const struct plan *plan);
int install_filter(void);

/* close_range(2) for any kernel: closes a range of descriptors, or with CLOSE_RANGE_CLOEXEC sets
 * their close-on-exec flag. */
int change_descriptors(unsigned int first, unsigned int last, unsigned int flags);

/*
 * A payload with CAP_SYS_PTRACE can control init, so its execve must come after init has dropped
 * its last privilege. init announces that in shared memory; the payload's process waits for it.
 */
void await_shield(struct progress *shared);
void announce_shield(struct progress *shared);

/* Give init another user than the payload's, and restore the payload's user in its process. */
int assume_init_user(void);
int restore_user(void);

/* program.c. Refuses a program that execve would reach through a magic link. */
int check_program(const char *path);

/* payload.c: the child of init that executes the container's program */
noreturn void payload(const struct plan *plan, struct operation operation, struct progress *shared);

/* Sets all signal dispositions and the mask to the default. */
void default_signals(void);

/* Builds argv and environment of EXEC; NULL if there is no memory. */
char **argument_vectors(struct operation exec, char ***environment);

/* Exits with the errno in `progress`, for the report of the process that watches this one. */
noreturn void fail_payload(void);

/* enter.c: the launcher of a process in a running container */
noreturn void enter(struct plan *plan);

/* init.c. The runtime sends nothing that these processes still expect: messages are dropped. */
bool stream_has_ended(void);

/* launcher.c: releases the memory of the plan. */
void release_plan(void);

/* supervise.c: the parent of a debug command */
noreturn void supervise(char **command);

/* Kills and reaps all children, again and again, and exits. */
noreturn void kill_children(void);

#endif
