/* Mounts by mount(2), for kernels without the complete new mount API (fsopen, open_tree...). */
#ifndef NORTHSTAR_LEGACY_MOUNT_H
#define NORTHSTAR_LEGACY_MOUNT_H

#include <stdbool.h>

#include "plan.h"

/* Whether the kernel has all used system calls of the new mount API. No side effects. */
bool has_mount_api(void);

/* Mount on the descriptor `at`. All functions return 0, or -1 with errno. */
int legacy_bind(int from, int at, bool recursive);
int legacy_filesystem(const char *type, const char *source, struct operation *options,
		     unsigned int attributes, int at);

/* Checks that `top` is on the mount that was mounted last on the mount of `at`; else EAGAIN. */
int legacy_verify(int top, int at);

/* Changes the attributes of the mount whose root is `top`; recursive: of all mounts below, too. */
int legacy_attributes(int top, uint64_t set, uint64_t clear, bool recursive);

#endif
