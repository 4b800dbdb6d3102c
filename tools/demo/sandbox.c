/* sandbox: see sandbox.h. */
#include "tools/demo/sandbox.h"

#include "tools/demo/run.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static bool users;

bool sandbox_is_users(void)
{
    return users;
}

/* A chroot or container may lack the device though the kernel has it. Only in our mount namespace, so after entering.
 */
static void make_tun(void)
{
    if (access("/dev/net/tun", F_OK) == 0 || (mkdir("/dev/net", 0755) && errno != EEXIST))
        return;
    if (mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=0755") == 0)
        (void)!mknod("/dev/net/tun", S_IFCHR | 0600, makedev(10, 200));
}

static int check_tun(struct errmsg *e)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        return 0;
    }
    return errmsg_set(
        e,
        "/dev/net/tun: %s. The VM's network needs it: load the module (modprobe tun), allow it in the container "
        "(docker run --device /dev/net/tun), or run the demo as root",
        strerror(errno));
}

/* The user becomes root of a user namespace, which owns the other namespaces. */
static int enter_as_user(struct errmsg *e)
{
    uid_t uid = getuid();
    gid_t gid = getgid();

    if (unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS))
        return errmsg_set(
            e,
            "this system does not let an ordinary user make a user namespace (%s). Run the demo as root, or allow "
            "it: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000, on Ubuntu also "
            "kernel.apparmor_restrict_unprivileged_userns=0",
            strerror(errno));
    if (write_file(e, "/proc/self/setgroups", "deny") || write_file(e, "/proc/self/uid_map", "0 %u 1\n", uid) ||
        write_file(e, "/proc/self/gid_map", "0 %u 1\n", gid))
        return -1;
    return 0;
}

static int enter_as_root(struct errmsg *e)
{
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) == 0)
        return 0;
    return errmsg_set(
        e,
        "cannot make network and mount namespaces: %s. In a container the demo needs CAP_SYS_ADMIN and CAP_NET_ADMIN "
        "(docker run --privileged)",
        strerror(errno));
}

/* In a chroot "/" is a directory of some mount, not a mount. */
static int root_is_mount(void)
{
    char line[4096], point[2048];
    int found = 0;
    FILE *f = fopen("/proc/self/mountinfo", "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "%*s %*s %*s %*s %2047s", point) == 1 && !strcmp(point, "/");
    if (f)
        fclose(f);
    return found || !f;
}

/* "/" that is no mount can't be made private: what is mounted would show in the mount namespace that we came from. So
 * "/" is bound onto /proc, which is a mount, that becomes our root, and the program starts anew in it. */
int sandbox_leave_chroot(char **argv, struct errmsg *e)
{
    char program[PATH_MAX], here[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (geteuid() || root_is_mount())
        return 0;
    if (n < 0 || !getcwd(here, sizeof here) || unshare(CLONE_NEWNS) ||
        mount(NULL, "/proc", NULL, MS_REC | MS_PRIVATE, NULL) || mount("/", "/proc", NULL, MS_BIND | MS_REC, NULL) ||
        chdir("/proc") || chroot(".") || chdir(here))
        return errmsg_set(e, "cannot make a root of the sandbox's own in this chroot: %s", strerror(errno));
    program[n] = 0;
    execv(program, argv);
    return errmsg_set(e, "%s: %s", program, strerror(errno));
}

int sandbox_enter(struct errmsg *e)
{
    users = geteuid() != 0;
    if (users ? enter_as_user(e) : enter_as_root(e))
        return -1;
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return errmsg_set(e, "mount / private: %s", strerror(errno));
    make_tun();
    if (check_tun(e))
        return -1;
    if (mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"))
        return errmsg_set(e, "mount /run of the sandbox: %s", strerror(errno));
    /* A bridge without an address of its own takes that of a port: the client's would change when a host comes or goes.
     */
    return run_ip(
        e, "link set dev lo up\n"
           "link add name sw0 address 02:48:4b:00:77:00 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n"
           "link add name sw1 address 02:48:4b:00:78:00 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n"
           "link set dev sw0 up\n"
           "link set dev sw1 up\n"
           "addr add " CLIENT_ADDRESS "/24 dev sw0\n");
}
