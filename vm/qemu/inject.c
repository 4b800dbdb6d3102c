/*
 * inject: see inject.h.
 *
 * A thread stopped inside a system call shows orig_rax >= 0 and rax = -ERESTART*; the kernel acts upon these on its way
 * back from *signal handling* only. So: with orig_rax = -1 our system call runs without the kernel touching the
 * interrupted one. It is run by single-stepping, whose end is a SIGTRAP, that is signal handling: restoring the
 * registers there lets the kernel restart the interrupted call. (Stops at system call exit would not: the thread would
 * see -ERESTARTSYS.)
 */
#include "vm/qemu/inject.h"

#include "vm/qemu/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#ifdef __x86_64__

enum { STOP_WAIT_MS = 2000, SIGNALS_MAX = 16 };

/* The next stop of `pid`, polled so that a process which never stops can't hang us. */
static int wait_stop(pid_t pid, int *status, struct errmsg *e)
{
    for (int i = 0; i < STOP_WAIT_MS * 20; i++) {
        pid_t got = waitpid(pid, status, __WALL | WNOHANG);
        if (got == pid && WIFSTOPPED(*status))
            return 0;
        if (got == pid || (got < 0 && errno != EINTR))
            return errmsg_set(e, "process %d ended while it was traced", (int)pid);
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return errmsg_set(e, "process %d does not stop for ptrace", (int)pid);
}

/* The address of a `syscall` instruction (0f 05): the vDSO has some. */
static int find_syscall(pid_t pid, uint64_t *address, struct errmsg *e)
{
    uint64_t start, end;
    if (proc_named_mapping(pid, "[vdso]", &start, &end) < 0)
        return errmsg_set(e, "process %d has no vDSO to run a system call from", (int)pid);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    size_t size = end - start;
    uint8_t *code = malloc(size);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = code && fd >= 0 ? pread(fd, code, size, (off_t)start) : -1;
    int status = -1;
    for (ssize_t i = 0; i + 1 < n && status < 0; i++) {
        if (code[i] == 0x0f && code[i + 1] == 0x05) {
            *address = start + (uint64_t)i;
            status = 0;
        }
    }
    if (fd >= 0)
        close(fd);
    free(code);
    return status == 0 ? 0 : errmsg_set(e, "no system call instruction found in process %d", (int)pid);
}

struct injection {
    pid_t pid;
    struct user_regs_struct saved;
    int signals[SIGNALS_MAX]; /* that came in meanwhile; sent again at the end */
    size_t signal_count;
};

/* Makes one call in the stopped thread. */
static int step_syscall(struct injection *j, uint64_t at, struct inject_call *call, struct errmsg *e)
{
    struct user_regs_struct regs = j->saved;
    regs.rip = at;
    regs.rax = (unsigned long long)call->number;
    regs.rdi = call->args[0];
    regs.rsi = call->args[1];
    regs.rdx = call->args[2];
    regs.r10 = call->args[3];
    regs.r8 = call->args[4];
    regs.r9 = call->args[5];
    regs.orig_rax = ~0ULL;
    if (ptrace(PTRACE_SETREGS, j->pid, 0, &regs) < 0)
        return errmsg_set(e, "setting registers of process %d: %s", (int)j->pid, strerror(errno));
    for (;;) {
        int status;
        if (ptrace(PTRACE_SINGLESTEP, j->pid, 0, 0) < 0)
            return errmsg_set(e, "stepping process %d: %s", (int)j->pid, strerror(errno));
        if (wait_stop(j->pid, &status, e) < 0)
            return -1;
        struct user_regs_struct now;
        if (ptrace(PTRACE_GETREGS, j->pid, 0, &now) < 0)
            return errmsg_set(e, "reading registers of process %d: %s", (int)j->pid, strerror(errno));
        if (now.rip == at + 2) {
            call->result = (long long)now.rax;
            return 0;
        }
        /* Another stop came first: keep its signal for later and step again. */
        bool is_event = (status >> 16) != 0;
        if (!is_event && WSTOPSIG(status) != SIGTRAP && j->signal_count < SIGNALS_MAX)
            j->signals[j->signal_count++] = WSTOPSIG(status);
        else if (!is_event)
            return errmsg_set(e, "process %d stopped at an unexpected place", (int)j->pid);
    }
}

static int inject_stopped(struct injection *j, struct inject_call *calls, size_t n, struct errmsg *e)
{
    uint64_t at = 0;
    if (find_syscall(j->pid, &at, e) < 0)
        return -1;
    if (ptrace(PTRACE_GETREGS, j->pid, 0, &j->saved) < 0)
        return errmsg_set(e, "reading registers of process %d: %s", (int)j->pid, strerror(errno));
    int status = 0;
    for (size_t i = 0; status == 0 && i < n; i++)
        status = step_syscall(j, at, &calls[i], e);
    ptrace(PTRACE_SETREGS, j->pid, 0, &j->saved);
    return status;
}

int inject_calls(pid_t pid, struct inject_call *calls, size_t n, struct errmsg *e)
{
    struct injection j = {.pid = pid};
    int stop, status;
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) < 0)
        return errmsg_set(e, "tracing process %d: %s: the agent needs CAP_SYS_PTRACE, and no debugger on it", (int)pid,
                          strerror(errno));
    if (ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0 && wait_stop(pid, &stop, e) == 0) {
        if (stop >> 16 == 0) /* a signal came first */
            j.signals[j.signal_count++] = WSTOPSIG(stop);
        status = inject_stopped(&j, calls, n, e);
    } else {
        status = errmsg_set(e, "process %d could not be stopped", (int)pid);
    }
    ptrace(PTRACE_DETACH, pid, 0, 0);
    for (size_t i = 0; i < j.signal_count; i++)
        (void)syscall(SYS_tgkill, pid, pid, j.signals[i]);
    return status;
}

#else

int inject_calls(pid_t pid, struct inject_call *calls, size_t n, struct errmsg *e)
{
    (void)calls, (void)n;
    return errmsg_set(e, "preparing a QEMU (process %d) that runs for dirty tracking works on x86-64 only", (int)pid);
}

#endif

int inject_userfaultfd(pid_t pid, struct errmsg *e)
{
    struct inject_call call = {.number = SYS_userfaultfd, .args = {O_CLOEXEC | O_NONBLOCK}};
    int status = inject_calls(pid, &call, 1, e);
    if (status == 0 && call.result == -EPERM) {
        call.args[0] |= UFFD_USER_MODE_ONLY;
        status = inject_calls(pid, &call, 1, e);
    }
    if (status < 0)
        return -1;
    if (call.result < 0)
        return errmsg_set(e, "userfaultfd in process %d: %s", (int)pid, strerror((int)-call.result));
    return (int)call.result;
}
