/*
 * inject: makes a userfaultfd in a process that already runs, by having one of its threads make that one system call
 * (ptrace). For a QEMU that was not started by us and so has no preload. x86-64 only; elsewhere it refuses.
 */
#ifndef HIKAE_VM_QEMU_INJECT_H
#define HIKAE_VM_QEMU_INJECT_H

#include "common/errmsg.h"

#include <sys/types.h>

/* The descriptor's number in `pid`, which keeps it open; -1 on error. Stops its main thread for some milliseconds at
 * most; what that thread was doing, a system call too, goes on as if nothing had been. */
int inject_userfaultfd(pid_t pid, struct errmsg *e);

#endif
