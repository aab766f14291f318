/* Mounts by mount(2), for kernels that lack a part of the newer mount API. */
#ifndef NORTHSTAR_OLDER_H
#define NORTHSTAR_OLDER_H

#include <stdbool.h>

#include "plan.h"

/* Whether the kernel has all system calls of the newer API that we use; changes nothing. */
bool has_mount_api(void);

/* Both mount onto the descriptor `at`. They return 0, or -1 with errno. */
int older_bind(int from, int at, bool recursive);
int older_filesystem(const char *type, const char *source, struct operation *options,
		     unsigned int attributes, int at);

/* Whether the mount of `top` is the one that was mounted last on the mount of `at`; else EAGAIN. */
int older_verify(int top, int at);

/* Changes the attributes of a mount by its root, and of all that is mounted below. */
int older_attributes(int top, uint64_t set, uint64_t clear, bool recursive);

#endif
