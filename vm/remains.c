#include "vm/remains.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SUFFIX ".remains"

enum { KEEP_TRIES = 4 };

void remains_path(char out[REMAINS_PATH_MAX], const char *run_dir, const char *vm)
{
    snprintf(out, REMAINS_PATH_MAX, "%s/vms/%s" SUFFIX, run_dir, vm);
}

bool remains_exist(const char *remains)
{
    struct stat s;
    return lstat(remains, &s) == 0;
}

static bool read_link(const char *path, char target[PATH_MAX])
{
    ssize_t n = readlink(path, target, PATH_MAX - 1);
    target[n > 0 ? n : 0] = '\0';
    return n > 0;
}

/* Names beside the remains that only this process uses: for the link that it claims, and for one that it makes. */
enum own { CLAIMED, MADE };
static bool own_name(char out[PATH_MAX], const char *remains, enum own what)
{
    return snprintf(out, PATH_MAX, "%s.%s%d", remains, what == MADE ? "0" : "", (int)getpid()) < PATH_MAX;
}

/* Makes the link ours and removes it: of all who try, one gets the target. */
static bool claim(const char *remains, char target[PATH_MAX])
{
    char own[PATH_MAX];
    if (!own_name(own, remains, CLAIMED) || rename(remains, own) < 0)
        return false;
    bool known = read_link(own, target);
    unlink(own);
    return known;
}

void remains_discard(const char *remains)
{
    char target[PATH_MAX];
    if (claim(remains, target))
        unlink(target);
}

int remains_keep(const char *remains, const char *file, const char *kept, struct errmsg *e)
{
    char own[PATH_MAX];
    if (!own_name(own, remains, MADE))
        return errmsg_set(e, "%s: too long a name", remains);
    if (rename(file, kept) < 0)
        return errmsg_set(e, "keeping %s: %s", file, strerror(errno));
    remains_discard(own); /* of a process of this number that died in the middle of it */
    int status = symlink(kept, own);
    for (int i = 0; status == 0 && i < KEEP_TRIES; i++) {
        remains_discard(remains);
        if (renameat2(AT_FDCWD, own, AT_FDCWD, remains, RENAME_NOREPLACE) == 0)
            return 0;
        status = errno == EEXIST ? 0 : -1;
    }
    errmsg_set(e, "keeping %s: %s: %s", file, own, strerror(errno));
    unlink(own);
    unlink(kept);
    return -1;
}

bool remains_take(const char *remains, const char *file, uint64_t bytes)
{
    char target[PATH_MAX];
    struct stat s;
    if (!claim(remains, target))
        return false;
    if (lstat(target, &s) == 0 && S_ISREG(s.st_mode) && (uint64_t)s.st_size == bytes && s.st_uid == geteuid() &&
        s.st_nlink == 1 && rename(target, file) == 0)
        return true;
    unlink(target);
    return false;
}

/* NAME.remains, or what a process that died while it made or claimed it has left: NAME.remains.PID. */
static bool is_remains(const char *name)
{
    const char *at = NULL;
    for (const char *next = name; (next = strstr(next, SUFFIX));)
        at = next += strlen(SUFFIX);
    return at && (!*at || (*at == '.' && at[1] && at[1 + strspn(at + 1, "0123456789.")] == '\0'));
}

double remains_expire(const char *run_dir, unsigned age_ms)
{
    char path[PATH_MAX];
    struct stat s;
    snprintf(path, sizeof path, "%s/vms", run_dir);
    DIR *d = opendir(path);
    for (const struct dirent *entry; d && (entry = readdir(d));) {
        if (!is_remains(entry->d_name) ||
            snprintf(path, sizeof path, "%s/vms/%s", run_dir, entry->d_name) >= (int)sizeof path)
            continue;
        if (lstat(path, &s) == 0 && S_ISLNK(s.st_mode) && time(NULL) - s.st_mtime >= (time_t)(age_ms / 1000))
            remains_discard(path);
    }
    if (d)
        closedir(d);
    double again_s = age_ms / 10000.;
    return again_s < 1. ? 1. : again_s > 60. ? 60. : again_s;
}

void remains_make_room(const char *vm_run_dir)
{
    char vms[PATH_MAX], all[PATH_MAX];
    strncpy(vms, vm_run_dir, sizeof vms - 1);
    vms[sizeof vms - 1] = '\0';
    snprintf(all, sizeof all, "%s/..", dirname(vms));
    remains_expire(all, 0);
}
