/*
 * hikae-uffd.so: loaded into a QEMU that we launch (LD_PRELOAD). All it does is to make a userfaultfd there, because
 * that descriptor stands for the address space of the process that made it. The agent takes it by pidfd_getfd(2) and
 * does everything else from outside. It must stay free of any library but libc.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

__attribute__((constructor)) static void make_userfaultfd(void)
{
    /* Not for the children of this process. */
    unsetenv("LD_PRELOAD");
    /* An unprivileged process may track user-mode faults only. That is enough: asynchronous write protection is
     * resolved in the kernel, for kernel-mode writes too, and never reaches a handler. */
    if (syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK) < 0)
        (void)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    /* Where Yama allows only descendants to be traced, an agent of the same user (restarted, so no parent of ours)
     * could not take the descriptor. Fails without Yama, which is fine. */
    (void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}
