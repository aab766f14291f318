/* What the launcher passes to init, its clone, and its two forms: for one plan (main), and the one
 * that stays (serve.c). */
#ifndef NORTHSTAR_LAUNCHER_H
#define NORTHSTAR_LAUNCHER_H

#include <stdnoreturn.h>
#include <sys/types.h>

#include "plan.h"

/* The plan, and its descriptors: [descriptor_count] is the write end of the pipe that ends on the
 * payload's execve. */
extern struct plan plan;
extern int descriptors[DESCRIPTORS_MAX + 1];

/* Before Linux 5.7 a process cannot be cloned into a cgroup: init joins it after the clone. */
extern int cgroup_to_join;

/* The socket of a launcher that stays, which init closes; -1: none. */
extern int request_socket;

/* Runs init in the cloned process; `launched` is the pipe from the launcher. */
noreturn void init(int launched);

/* Receives a message: a word, bytes after it, and the plan's descriptors. Returns its length, 0 at
 * the end of the socket, or -1 with errno, EPROTO if something of it was dropped. */
ssize_t receive_message(int socket, uint32_t *word, void *bytes, size_t size);

/* Allocates the memory of a plan; release_plan (steps.h) releases it. */
char *allocate_plan(size_t size);

/* Return 0, or -1 with errno and `progress`. launch() clones init and reports that. */
int check(void);
int launch(void);

/* The launcher that stays. Exits when the runtime closes the socket. */
noreturn void serve(bool own_namespace);

#endif
