/* host: see host.h. The inside of a host is in hostinit.c. */
#include "tools/demo/host.h"

#include "common/link.h"
#include "tools/demo/etcd.h"
#include "tools/demo/hostinit.h"
#include "tools/demo/run.h"
#include "tools/demo/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DATABASE "db.img"
#define DYING    "dying" /* in its folder while it is being killed */
enum { DATABASE_BYTES = 64 << 20 };

static int make_identity(struct host *h, struct errmsg *e)
{
    char key[192], certificate[192];
    snprintf(key, sizeof key, "%s/key.pem", h->dir);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", h->dir);
    if (access(key, F_OK) && tls_identity_create(key, certificate, h->name, e))
        return -1;
    struct tls_identity *id = tls_identity_load(key, certificate, e);
    if (!id)
        return -1;
    tls_identity_fingerprint(id, h->fingerprint);
    tls_identity_free(id);
    return 0;
}

void host_kernel_line(const struct options *o, char *out, size_t size)
{
    if (o->root) {
        snprintf(out, size, "console=ttyS0 root=/dev/vda ro");
        return;
    }
    snprintf(out, size,
             "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check hikae.ip=" GUEST_ADDRESS "/24 hikae.rate=%u "
             "hikae.region=%u hikae.words=%u hikae.beacon=%u hikae.beacon_to=" CLIENT_ADDRESS ":%d "
             "hikae.disk_rate=%u",
             o->rate, o->region, o->words, o->beacon_ms, BEACON_PORT, o->disk_rate);
}

/* The fencing: a host that is being killed writes to nothing any more when its last process has ended. */
static int make_fence(const char *dir, const struct options *o, struct errmsg *e)
{
    char path[192];
    if (!o->shared)
        return 0;
    snprintf(path, sizeof path, "%s/fence", dir);
    if (write_file(e, path, "#!/bin/sh\nwhile test -e %s/$HIKAE_LOST_HOST/" DYING "; do sleep 0.01; done\n", dir))
        return -1;
    return chmod(path, 0755) ? errmsg_set(e, "%s: %s", path, strerror(errno)) : 0;
}

static void disk_lines(const char *dir, const struct options *o, char out[400])
{
    const char *at = o->shared ? dir : HOST_DISK;
    *out = '\0';
    if (o->root)
        snprintf(out, 400, "disk = %s/vm.img\n", at);
    else if (o->disk_mb)
        snprintf(out, 400, "%s = %s/vm.img%s%s%s\n%s%s%s", o->shared ? "shared_disk" : "disk", at,
                 o->database ? " " : "", o->database ? at : "", o->database ? "/" DATABASE : "",
                 o->shared ? "fence = " : "", o->shared ? dir : "", o->shared ? "/fence\n" : "");
}

static int write_config(const struct host *h, const struct host *peer, const char *dir, const struct options *o,
                        struct errmsg *e)
{
    char arbiter[192] = ETCD_URL, line[KERNEL_LINE], disks[400], bounds[64] = "";
    disk_lines(dir, o, disks);
    host_kernel_line(o, line, sizeof line);
    if (o->patience > 1) /* an agent that gets no processor is not stuck */
        snprintf(bounds, sizeof bounds, "pause_bound = %us\nworker_bound = %us\n", o->patience, 5 * o->patience);
    if (o->no_arbiter)
        strcpy(arbiter, "none");
    else if (!o->etcd)
        snprintf(arbiter, sizeof arbiter, "file:%s/arbiter", dir);
    return write_file(
        e, h->config,
        "# Written by hikae-demo.\n"
        "[host]\nname = %s\nlisten = 10.78.0.%d\nport = 7702\nrun_dir = %s\nstate_dir = %s/state\n"
        "arbiter = %s\ndetect = %u\n%s\n"
        "[peer %s]\naddress = 10.78.0.%d\nfingerprint = %s\naccept = *\n\n"
        "[vm demo]\nmode = %s\ninterval = %u\nmemory = %uM\ncpus = 1\naccel = %s\nbridge = br0\nmac = " GUEST_MAC "\n"
        "options = -cpu max -kernel /run/guest/vmlinuz -initrd /run/guest/initrd.gz"
        " -serial file:" HOST_DISK "/serial.log"
        " -append \"%s\"\n"
        "%s%s%s%s%s",
        h->name, h->number, h->run_dir, h->dir, arbiter, o->detect_ms, bounds, peer->name, peer->number,
        peer->fingerprint, o->mode, o->interval_ms, o->memory_mb, o->accel, line, o->plug ? "netbuf = plug\n" : "",
        disks, o->fault ? "\n[fault]\n" : "", o->fault ? o->fault : "", o->fault ? "\n" : "");
}

/* The first host has the image, the other one nothing but the room for it. */
static int make_root(const struct host *h, const struct options *o, struct errmsg *e)
{
    char path[192];
    struct stat image;
    snprintf(path, sizeof path, "%s/vm.img", h->dir);
    if (stat(o->root, &image))
        return errmsg_set(e, "%s: %s", o->root, strerror(errno));
    if (h->number == 1)
        return run_program((const char *const[]){"cp", "--sparse=always", "--reflink=auto", o->root, path, NULL}, NULL,
                           120000, e);
    if (write_file(e, path, "%s", "") || truncate(path, image.st_size))
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    return 0;
}

/* Only the first host has a file system in the database's disk: the other one gets it. */
static int make_disks(const struct host *h, const char *dir, const struct options *o, struct errmsg *e)
{
    char path[192];
    if (o->root)
        return make_root(h, o, e);
    if (!o->disk_mb || (o->shared && h->number > 1))
        return 0;
    const char *at = o->shared ? dir : h->dir;
    snprintf(path, sizeof path, "%s/vm.img", at);
    if (write_file(e, path, "%s", "") || truncate(path, (off_t)o->disk_mb << 20))
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    if (!o->database)
        return 0;
    snprintf(path, sizeof path, "%s/" DATABASE, at);
    if (write_file(e, path, "%s", "") || truncate(path, (off_t)DATABASE_BYTES))
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    return h->number == 1 ? run_program((const char *const[]){"mkfs.ext4", "-qF", path, NULL}, NULL, 20000, e) : 0;
}

int host_fsck(const struct host *h, const struct options *o, struct errmsg *e)
{
    /* The first brings the file system's own journal in, and would say what is worse; after it nothing may be left. */
    static const char script[] =
        "cp --sparse=always \"$1\" \"$1.check\" && { e2fsck -fp \"$1.check\"; [ $? -le 1 ]; } && "
        "e2fsck -fn \"$1.check\"; s=$?; rm -f \"$1.check\"; exit $s";
    char path[192];
    snprintf(path, sizeof path, "%s/" DATABASE, h->dir);
    bool can_be = o->database && !o->shared; /* of a shared one nobody has a copy that stands still */
    return can_be ? run_program((const char *const[]){"sh", "-c", script, "fsck", path, NULL}, NULL, 60000, e) : 0;
}

static int make_folders(struct host *h, const char *dir, struct errmsg *e)
{
    char state[192];
    snprintf(h->dir, sizeof h->dir, "%s/%s", dir, h->name);
    snprintf(h->run_dir, sizeof h->run_dir, "/run/%s", h->name);
    snprintf(h->config, sizeof h->config, "%s/hikae.conf", h->dir);
    snprintf(state, sizeof state, "%s/state", h->dir);
    if ((mkdir(h->dir, 0755) && errno != EEXIST) || (mkdir(state, 0700) && errno != EEXIST))
        return errmsg_set(e, "%s: %s", h->dir, strerror(errno));
    return 0;
}

static int link_guest(const struct options *o, struct errmsg *e)
{
    char *guest = realpath(o->guest, NULL);
    int bad = !guest || mkdir(HOST_DISK, 0755) || symlink(guest, "/run/guest");
    free(guest);
    if (bad || access("/run/guest/vmlinuz", R_OK) || access("/run/guest/initrd.gz", R_OK))
        return errmsg_set(e, "no guest in %s (vmlinuz, initrd.gz): make one with tests/guest/build %s", o->guest,
                          o->guest);
    return 0;
}

int hosts_prepare(struct host hosts[2], const char *dir, const struct options *o, struct errmsg *e)
{
    char arbiter[192];
    snprintf(arbiter, sizeof arbiter, "%s/arbiter", dir);
    if (mkdir(arbiter, 0755) && errno != EEXIST)
        return errmsg_set(e, "%s: %s", arbiter, strerror(errno));
    if (make_fence(dir, o, e))
        return -1;
    for (int i = 0; i < 2; i++) {
        hosts[i] = (struct host){.name = i ? "host-b" : "host-a", .number = i + 1};
        if (make_folders(&hosts[i], dir, e) || make_identity(&hosts[i], e) || make_disks(&hosts[i], dir, o, e))
            return -1;
    }
    for (int i = 0; i < 2; i++)
        if (write_config(&hosts[i], &hosts[!i], dir, o, e))
            return -1;
    return link_guest(o, e);
}

/* A cable from each switch into the new network namespace. */
static int plug_in(const struct host *h, struct errmsg *e)
{
    return run_ip(e,
                  "link add name sw0-%s type veth peer name lan0 netns %d\n"
                  "link set dev sw0-%s master sw0 up\n"
                  "link add name sw1-%s type veth peer name link0 netns %d\n"
                  "link set dev sw1-%s master sw1 up\n",
                  h->name, h->pid, h->name, h->name, h->pid, h->name);
}

static pid_t clone_init(void)
{
    const long flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | SIGCHLD;
    return (pid_t)syscall(SYS_clone, flags, NULL, NULL, NULL, 0L);
}

/* Waits for the init's "up", or for its complaint. */
static int await_up(int fd, const struct host *h, struct errmsg *e)
{
    struct hostinit_report report = {0};
    ssize_t n = read(fd, &report, sizeof report);
    if (n != sizeof report)
        return errmsg_set(e, "%s: its init died while starting", h->name);
    if (report.failed)
        return errmsg_set(e, "%s: %s", h->name, report.error.text);
    return 0;
}

int host_boot(struct host *h, const struct options *o, struct errmsg *e)
{
    int go[2], up[2];
    const char *clean[] = {"rm", "-rf", h->run_dir, NULL, NULL};
    char state[192];

    snprintf(state, sizeof state, "%s/state", h->dir);
    if (o->fresh_disk && h->boots)
        clean[3] = state;
    if (run_program(clean, NULL, 10000, e))
        return -1;
    if (mkdir(h->run_dir, 0755) || (mkdir(state, 0700) && errno != EEXIST))
        return errmsg_set(e, "%s: %s", h->run_dir, strerror(errno));
    if (pipe2(go, O_CLOEXEC) || pipe2(up, O_CLOEXEC))
        return errmsg_set(e, "pipe: %s", strerror(errno));
    h->pid = clone_init();
    if (h->pid == 0) {
        close(go[1]);
        close(up[0]);
        hostinit(h, o, go[0], up[1]);
    }
    close(go[0]);
    close(up[1]);
    int bad = h->pid < 0 ? errmsg_set(e, "clone: %s", strerror(errno)) : plug_in(h, e);
    if (!bad) {
        (void)!write(go[1], "g", 1);
        bad = await_up(up[0], h, e);
    }
    close(go[1]);
    close(up[0]);
    if (bad && h->pid > 0) {
        host_kill(h);
        host_wait_gone(h);
    }
    h->boots++;
    return bad;
}

void host_cut(const struct host *h)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    for (int i = 0; fd >= 0 && i < 2; i++) {
        struct ifreq r = {0};
        snprintf(r.ifr_name, sizeof r.ifr_name, "sw%d-%s", i, h->name);
        if (ioctl(fd, SIOCGIFFLAGS, &r) == 0) {
            r.ifr_flags = (short)(r.ifr_flags & ~IFF_UP);
            (void)ioctl(fd, SIOCSIFFLAGS, &r);
        }
    }
    if (fd >= 0)
        close(fd);
}

static void dying_path(const struct host *h, char out[192])
{
    snprintf(out, 192, "%s/" DYING, h->dir);
}

void host_kill(const struct host *h)
{
    char path[192];
    struct errmsg ignored;
    dying_path(h, path);
    if (h->pid <= 0)
        return;
    (void)write_file(&ignored, path, "%s", "");
    kill(h->pid, SIGKILL);
}

/* The init is the last one of its namespace to end. */
void host_look_for_end(const struct host *h)
{
    siginfo_t info = {0};
    char path[192];
    dying_path(h, path);
    if (h->pid > 0 && !waitid(P_PID, (id_t)h->pid, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid)
        unlink(path);
}

void host_wait_gone(struct host *h)
{
    struct errmsg ignored;
    char path[192];
    if (h->pid > 0)
        waitpid(h->pid, NULL, 0);
    h->pid = 0;
    dying_path(h, path);
    unlink(path);
    /* The kernel takes its network namespace down in its own time; the names are wanted now. */
    (void)run_ip(&ignored, "link del dev sw0-%s\n", h->name);
    (void)run_ip(&ignored, "link del dev sw1-%s\n", h->name);
}

bool host_is_alive(struct host *h)
{
    return h->pid > 0 && waitpid(h->pid, NULL, WNOHANG) == 0;
}

void host_hold_agents(const struct host *h, bool hold)
{
    char path[256];
    struct errmsg ignored;
    snprintf(path, sizeof path, "%s/" HOST_HOLD, h->dir);
    if (hold)
        (void)write_file(&ignored, path, "agents stay down while this is here\n");
    else
        unlink(path);
}

int host_hikae(const struct host *h, const struct options *o, struct errmsg *e, const char *const words[])
{
    char program[192];
    const char *argv[12] = {program, "--config", h->config};
    size_t n = 3;
    snprintf(program, sizeof program, "%s/hikae", o->bin);
    while (*words && n < 11)
        argv[n++] = *words++;
    return run_program(argv, NULL, 60000, e);
}

static void show_log(const char *path)
{
    char line[1024];
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    fprintf(stderr, "---- the end of %s\n", path);
    if (fseek(f, -3000, SEEK_END) == 0)
        (void)!fgets(line, sizeof line, f); /* the rest of a line */
    else
        rewind(f);
    while (fgets(line, sizeof line, f))
        fprintf(stderr, "  %s", line);
    fclose(f);
}

void host_show_logs(const struct host *h)
{
    static const char *const logs[] = {"primary", "secondary", "init", "serial", "stock", "stock-serial"};
    static const char *const of_vms[] = {"qemu", "serial0"}; /* a replica's */
    char path[256];
    for (size_t i = 0; i < sizeof logs / sizeof *logs; i++) {
        snprintf(path, sizeof path, "%s/%s.log", h->dir, logs[i]);
        show_log(path);
    }
    for (size_t i = 0; i < sizeof of_vms / sizeof *of_vms; i++) {
        glob_t found;
        snprintf(path, sizeof path, "%s/vms/*/%s.log", h->run_dir, of_vms[i]);
        if (!glob(path, 0, NULL, &found))
            for (size_t k = 0; k < found.gl_pathc; k++)
                show_log(found.gl_pathv[k]);
        globfree(&found);
    }
}
