/* procs: see procs.h. */
#include "tests/campaign/procs.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool read_namespace(pid_t pid, char out[64])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ns/pid", pid);
    ssize_t n = readlink(path, out, 63);
    out[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* A process that has ended and is not reaped yet has no command line. */
static enum role role_of(pid_t pid)
{
    char path[64], line[4096];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, line, sizeof line - 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return ROLE_OTHER;
    line[n] = '\0';
    const char *slash = strrchr(line, '/'), *name = slash ? slash + 1 : line;
    bool worker = false;
    for (const char *word = line; word < line + n; word += strlen(word) + 1) {
        worker = worker || !strcmp(word, "--worker");
        if (!strcmp(word, "--clean"))
            return ROLE_OTHER;
    }
    if (!strcmp(name, "hikae-primary"))
        return worker ? ROLE_PRIMARY_WORKER : ROLE_PRIMARY;
    if (!strcmp(name, "hikae-secondary"))
        return worker ? ROLE_SECONDARY_WORKER : ROLE_SECONDARY;
    return strncmp(name, "qemu-system", 11) ? ROLE_OTHER : ROLE_QEMU;
}

int procs_signal(const struct host *h, enum role role, int signum)
{
    char ours[64], its[64];
    int hit = 0;
    if (h->pid <= 0 || !read_namespace(h->pid, ours))
        return 0;
    DIR *all = opendir("/proc");
    for (struct dirent *d; all && (d = readdir(all));) {
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid <= 0 || !read_namespace(pid, its) || strcmp(ours, its) || (role != ROLE_ANY && role_of(pid) != role))
            continue;
        hit += kill(pid, signum) == 0;
    }
    if (all)
        closedir(all);
    return hit;
}

int procs_count(const struct host *h, enum role role)
{
    return procs_signal(h, role, 0);
}

int procs_run_dirs(const struct host *h)
{
    char path[96];
    int n = 0;
    snprintf(path, sizeof path, "%s/vms", h->run_dir);
    DIR *all = opendir(path);
    for (struct dirent *d; all && (d = readdir(all));)
        n += *d->d_name != '.' && d->d_type == DT_DIR;
    if (all)
        closedir(all);
    return n;
}
