/*
 * file: the register of a VM as files of a directory that both hosts share. Theory of operation:
 *
 *   DIR/VM/term.00000000000000000007   {"term":7,"owner":"host-a","mode":"protected"}
 *
 * The register is the file with the highest number. A claim of term N+1 writes a temporary file, syncs it and link(2)s
 * it to the name of N+1. link() never replaces: of all who try, the file system lets exactly one succeed, the others
 * get EEXIST. That is the compare-and-set, and it needs neither locks, which a dead client may keep or a partitioned
 * one lose, nor clocks. A name appears with its whole content, as that was synced before.
 *
 * The last KEEP terms are kept, older ones removed. A claimant who slept between reading N and linking N+1 may so link
 * a number that was taken and removed meanwhile. Hence the scan after the link: the highest number is never removed, so
 * it finds a higher one, takes its own file away and is refused.
 *
 * link() may report EEXIST for a success whose answer was lost (NFS repeats requests): a file with exactly what we
 * claim is ours. Owner names are unique, so it can be nobody else's.
 *
 * Where it holds: one machine's ext4, xfs, btrfs, tmpfs; NFSv3/v4, where link() is one operation of the server (mount
 * it hard, with actimeo=0, so that reads are fresh: a stale read only costs a refusal, since link() asks the server);
 * GFS2, OCFS2, CephFS. Not: vfat, exFAT, many FUSE file systems (no hard links: link() fails, no claim is ever
 * granted), nor two directories kept alike by copying (Syncthing, rsync, DRBD with both sides primary and a local file
 * system): there both would be granted.
 */
#include "arbiter/file.h"
#include "arbiter/register.h"
#include "common/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { KEEP = 8, NAME_BYTES = 32, CONTENT_MAX = 4096, RESCANS = 10, LITTER_SECONDS = 3600 };

int file_register_check(const char *dir, struct errmsg *e)
{
    struct stat st;
    if (stat(dir, &st) < 0)
        return errmsg_set(e, "arbiter file:%s: %s: create it, on a path that both hosts share", dir, strerror(errno));
    if (!S_ISDIR(st.st_mode))
        return errmsg_set(e, "arbiter file:%s: is no directory: create one, on a path that both hosts share", dir);
    if (access(dir, R_OK | W_OK | X_OK) < 0)
        return errmsg_set(e, "arbiter file:%s: %s: make it writable for this user, on a path that both hosts share",
                          dir, strerror(errno));
    return 0;
}

static void term_name(char out[NAME_BYTES], uint64_t term)
{
    snprintf(out, NAME_BYTES, "term.%020llu", (unsigned long long)term);
}

/* 0 if it is no name of a term. */
static uint64_t term_of(const char *name)
{
    if (strncmp(name, "term.", 5) || strlen(name) != 25 || strspn(name + 5, "0123456789") != 20)
        return 0;
    errno = 0;
    uint64_t term = strtoull(name + 5, NULL, 10);
    return errno ? 0 : term;
}

/* The directory of the VM. -1 with errno: ENOENT means that nobody ever owned it. */
static int open_vm(const char *dir, const char *vm, struct errmsg *why)
{
    int base = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (base < 0) {
        int error = errno;
        errmsg_set(why, "arbiter file:%s: %s: is the shared path mounted?", dir, strerror(error));
        errno = EIO; /* not: no such VM */
        return -1;
    }
    int fd = openat(base, vm, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    int error = errno;
    close(base);
    if (fd < 0)
        errmsg_set(why, "arbiter file:%s/%s: %s", dir, vm, strerror(error));
    errno = error;
    return fd;
}

static int make_vm(const char *dir, const char *vm, struct errmsg *why)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/%s", dir, vm) >= (int)sizeof(path))
        return errmsg_set(why, "arbiter file:%s: the path is too long", dir);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return errmsg_set(why, "arbiter file:%s: %s", path, strerror(errno));
    return dir_sync_of(path, why);
}

/* The highest term, 0 if there is none. */
static int highest(int fd, uint64_t *term, struct errmsg *why)
{
    *term = 0;
    /* A new open: one that was read keeps its position, and NFS asks the server anew only at an open. */
    int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = again < 0 ? NULL : fdopendir(again);
    if (!d) {
        int error = errno;
        if (again >= 0)
            close(again);
        return errmsg_set(why, "arbiter: the register cannot be listed: %s", strerror(error));
    }
    const struct dirent *entry;
    errno = 0;
    while ((entry = readdir(d))) {
        uint64_t found = term_of(entry->d_name);
        if (found > *term)
            *term = found;
        errno = 0;
    }
    int error = errno;
    closedir(d);
    return error ? errmsg_set(why, "arbiter: the register cannot be listed: %s", strerror(error)) : 0;
}

/* 0, 1: it is gone meanwhile, -1. */
static int read_term(int fd, uint64_t term, struct arbiter_register *out, struct errmsg *why)
{
    char name[NAME_BYTES], text[CONTENT_MAX];
    term_name(name, term);
    int file = openat(fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = file < 0 ? -1 : read(file, text, sizeof(text));
    int error = errno;
    if (file >= 0)
        close(file);
    if (n < 0 && (error == ENOENT || error == ESTALE))
        return 1;
    if (n < 0)
        return errmsg_set(why, "arbiter: %s cannot be read: %s", name, strerror(error));
    if (register_parse(text, (size_t)n, out) || out->term != term)
        return errmsg_set(why, "arbiter: %s is damaged: find out which host runs the VM, then remove the file", name);
    return 0;
}

static int read_highest(int fd, struct arbiter_register *now, struct errmsg *why)
{
    for (int i = 0; i < RESCANS; i++) {
        uint64_t term;
        *now = (struct arbiter_register){0};
        if (highest(fd, &term, why))
            return -1;
        int r = term ? read_term(fd, term, now, why) : 0;
        if (r <= 0)
            return r;
    }
    return errmsg_set(why, "arbiter: the register changes faster than it can be read");
}

enum arbiter_answer file_register_read(const char *dir, const char *vm, struct arbiter_register *now,
                                       struct errmsg *why)
{
    *now = (struct arbiter_register){0};
    int fd = open_vm(dir, vm, why);
    if (fd < 0)
        return errno == ENOENT ? ARBITER_GRANTED : ARBITER_NO_ANSWER;
    int r = read_highest(fd, now, why);
    close(fd);
    return r ? ARBITER_NO_ANSWER : ARBITER_GRANTED;
}

static int write_claim(int fd, const char *name, const struct arbiter_register *want, struct errmsg *why)
{
    char *text = register_text(want);
    int file = openat(fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    int r = file < 0 || file_write_fd(file, text, strlen(text)) < 0 || fsync(file) < 0 ? -1 : 0;
    int error = errno;
    if (file >= 0 && close(file) < 0 && !r) {
        r = -1;
        error = errno;
    }
    free(text);
    if (r)
        errmsg_set(why, "arbiter: a claim cannot be written: %s", strerror(error));
    return r;
}

/* 0: the name of the term is ours now. 1: somebody has it. -1: nothing is known. */
static int link_claim(int fd, const struct arbiter_register *want, struct errmsg *why)
{
    static atomic_uint serial;
    char temp[128], name[NAME_BYTES];
    snprintf(temp, sizeof(temp), ".claim.%s.%d.%u", want->owner, getpid(), atomic_fetch_add(&serial, 1));
    term_name(name, want->term);
    unlinkat(fd, temp, 0); /* of an earlier process with our id */
    int r = write_claim(fd, temp, want, why);
    if (!r && linkat(fd, temp, fd, name, 0) < 0) {
        r = errno == EEXIST ? 1 : -1;
        errmsg_set(why, "arbiter: the claim cannot be linked: %s", strerror(errno));
    }
    unlinkat(fd, temp, 0);
    return r;
}

/* Old terms, and what crashed claimants left. Failing is harmless. */
static void tidy(int fd, uint64_t term)
{
    int again = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = again < 0 ? NULL : fdopendir(again);
    if (!d) {
        if (again >= 0)
            close(again);
        return;
    }
    const struct dirent *entry;
    while ((entry = readdir(d))) {
        uint64_t old = term_of(entry->d_name);
        struct stat st;
        bool litter = !strncmp(entry->d_name, ".claim.", 7) &&
                      fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
                      st.st_mtime < time(NULL) - LITTER_SECONDS;
        if (litter || (old && term > KEEP && old <= term - KEEP))
            unlinkat(fd, entry->d_name, 0);
    }
    closedir(d);
}

static enum arbiter_answer claim_in(int fd, const struct arbiter_register *want, bool local,
                                    struct arbiter_register *now, struct errmsg *why)
{
    if (read_highest(fd, now, why))
        return ARBITER_NO_ANSWER;
    bool next = local ? now->term < want->term : now->term == want->term - 1;
    if (!next && !register_same(now, want))
        return register_refuse(now, why);
    int r = register_same(now, want) ? 0 : link_claim(fd, want, why);
    bool linked = r == 0 && !register_same(now, want);
    if (r < 0 || read_highest(fd, now, why))
        return ARBITER_NO_ANSWER;
    if (!register_same(now, want)) {
        char name[NAME_BYTES];
        term_name(name, want->term);
        if (linked && now->term > want->term)
            unlinkat(fd, name, 0); /* ours, and of the past */
        return register_refuse(now, why);
    }
    if (fsync(fd) < 0 && errno != EINVAL) {
        errmsg_set(why, "arbiter: the register cannot be synced: %s", strerror(errno));
        return ARBITER_NO_ANSWER;
    }
    tidy(fd, want->term);
    return ARBITER_GRANTED;
}

enum arbiter_answer file_register_claim(const char *dir, const char *vm, const struct arbiter_register *want,
                                        bool local, struct arbiter_register *now, struct errmsg *why)
{
    *now = (struct arbiter_register){0};
    int fd = open_vm(dir, vm, why);
    if (fd < 0 && errno == ENOENT && make_vm(dir, vm, why) == 0)
        fd = open_vm(dir, vm, why);
    if (fd < 0)
        return ARBITER_NO_ANSWER;
    enum arbiter_answer answer = claim_in(fd, want, local, now, why);
    close(fd);
    return answer;
}
