/*
 * inject: system calls in a process that already runs, by having its main thread make them (ptrace): a userfaultfd, for
 * a QEMU that was not started by us and so has no preload; locks on memory, which nobody can set from outside. x86-64
 * only; elsewhere it refuses.
 */
#ifndef HIKAE_VM_QEMU_INJECT_H
#define HIKAE_VM_QEMU_INJECT_H

#include "common/errmsg.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct inject_call {
    long number; /* SYS_.. */
    uint64_t args[6];
    long long result; /* set: what it returned, -errno if it failed */
};

/* Makes the calls one after the other; -1: could not. Each must return within a second. The main thread of `pid` stands
 * still meanwhile; what it was doing, a system call too, goes on as if nothing had been. */
int inject_calls(pid_t pid, struct inject_call *calls, size_t n, struct errmsg *e);
/* The descriptor's number in `pid`, which keeps it open; -1 on error. */
int inject_userfaultfd(pid_t pid, struct errmsg *e);

#endif
