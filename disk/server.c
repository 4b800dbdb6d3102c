#include "disk/server.h"

#include "common/file.h"
#include "common/module.h"
#include "disk/owing.h"
#include "disk/server/backing.h"
#include "disk/server_notes.h"
#include "disk/server_process.h"
#include "disk/socket.h"
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { START_MS = 15000 };

/* ---- its folder ---- */

static void path_in(const char *dir, const char *name, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/%s", dir, name);
}

/* Starting and stopping take turns. The lock is the descriptor's: closed, it is free. */
static int lock_folder(const char *dir, struct errmsg *e)
{
    char path[PATH_MAX];
    path_in(dir, "lock", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, LOCK_EX) == 0)
        return fd;
    errmsg_set(e, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

bool disk_server_exists(const char *dir)
{
    char path[PATH_MAX];
    path_in(dir, "disks.json", path);
    return access(path, F_OK) == 0;
}

/* An empty file, or none. */
static int note(const char *dir, const char *name, bool is_so, struct errmsg *e)
{
    char path[PATH_MAX];
    path_in(dir, name, path);
    int fd = is_so ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (is_so ? fd < 0 : unlink(path) < 0 && errno != ENOENT)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return 0;
}

static bool is_noted(const char *dir, const char *name)
{
    char path[PATH_MAX];
    path_in(dir, name, path);
    return access(path, F_OK) == 0;
}

int disk_server_note_taken(const char *dir, struct errmsg *e)
{
    return note(dir, "taken", true, e);
}

bool disk_server_is_taken(const char *dir)
{
    return is_noted(dir, "taken");
}

int disk_server_note_holding(const char *dir, bool holding, struct errmsg *e)
{
    return note(dir, "holding", holding, e);
}

bool disk_server_is_holding(const char *dir)
{
    return is_noted(dir, "holding");
}

bool disk_server_has_lost_writes(const char *dir)
{
    struct errmsg ignored;
    if (!disk_server_is_holding(dir))
        return false;
    int fd = disk_socket_open(dir, &ignored);
    bool gone = fd < 0 && (errno == ENOENT || errno == ECONNREFUSED);
    if (fd >= 0)
        close(fd);
    return gone;
}

static void clear_folder(const char *dir)
{
    static const char *const names[] = {"disks.json", "nbd.sock", "control.sock", "holding", "taken", OWING_NAME};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        path_in(dir, names[i], path);
        unlink(path);
    }
}

/* Has the server that runs these stores, whatever their paths? */
static bool are_served(const struct server_notes *s, const struct disk_hello *hello)
{
    for (unsigned i = 0; i < s->n; i++) {
        uint64_t device, inode;
        if (s->n != hello->count || s->shared != hello->shared || backing_identify(s->path[i], &device, &inode) < 0 ||
            device != hello->disk[i].device || inode != hello->disk[i].inode)
            return false;
    }
    return true;
}

/* ---- start ---- */

/* What the server said before it ended: its first error, else its last line. -1. */
static int explain(const char *log_path, struct errmsg *e)
{
    static const char mark[] = "error: ";
    char line[600];
    FILE *f = fopen(log_path, "re");
    errmsg_set(e, "the disk server ended as soon as it was started, without a word (%s)", log_path);
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        const char *error = strstr(line, mark);
        if (*line)
            errmsg_set(e, "the disk server ended as soon as it was started: %s", line);
        if (error) {
            errmsg_set(e, "%s", error + sizeof mark - 1);
            break;
        }
    }
    if (f)
        fclose(f);
    return -1;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* control.sock comes last of all that it makes. */
static int wait_until_it_serves(const char *dir, const char *log_path, pid_t pid, struct errmsg *e)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0), status = 1;
    if (pidfd < 0)
        return explain(log_path, e);
    for (int64_t end = now_ms() + START_MS; status == 1;) {
        struct disk_hello hello;
        int fd = disk_socket_connect(dir, &hello, e);
        if (fd >= 0) {
            close(fd);
            status = 0;
        } else if (errno != ENOENT && errno != ECONNREFUSED) {
            status = -1;
        } else if (server_process_has_ended(pidfd, 5)) {
            status = explain(log_path, e);
        } else if (now_ms() > end) {
            status = errmsg_set(e, "the disk server does not serve after %d s (its messages: %s)", START_MS / 1000,
                                log_path);
        }
    }
    if (status < 0)
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
    close(pidfd);
    return status;
}

static int listen_for_nbd(const char *dir, struct errmsg *e)
{
    struct sockaddr_un at;
    if (disk_socket_address(dir, "nbd.sock", &at, e) < 0)
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(at.sun_path);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    errmsg_set(e, "%s: %s", at.sun_path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static int spawn(const char *dir, const struct server_notes *s, int listener, struct errmsg *e)
{
    char module[PATH_MAX], log[PATH_MAX], dir_word[PATH_MAX + 8], disk_words[DISK_MAX][PATH_MAX + 16],
        size_words[DISK_MAX][40];
    char *command[6 + 2 * DISK_MAX] = {(char *)"nbdkit", (char *)"-f", module, dir_word};
    if (module_path("hikae-disk.so", module, sizeof module) < 0 || access(module, R_OK) < 0)
        return errmsg_set(e, "%s: %s; is it installed, or HIKAE_MODULE_DIR right?", module, strerror(errno));
    snprintf(dir_word, sizeof dir_word, "dir=%s", dir);
    for (unsigned i = 0; i < s->n; i++) {
        snprintf(disk_words[i], sizeof disk_words[i], "%s=%s", i < s->n - s->shared ? "disk" : "shared", s->path[i]);
        snprintf(size_words[i], sizeof size_words[i], "bytes=%" PRIu64, s->bytes[i]);
        command[4 + 2 * i] = disk_words[i];
        command[5 + 2 * i] = size_words[i];
    }
    if (s->holding)
        command[4 + 2 * s->n] = (char *)"holding=1";
    path_in(dir, "server.log", log);
    int socket = listener < 0 ? listen_for_nbd(dir, e) : listener;
    pid_t pid = socket < 0 ? -1 : process_spawn_listening(command, socket, log, e);
    if (socket >= 0 && socket != listener)
        close(socket);
    return pid < 0 ? -1 : wait_until_it_serves(dir, log, pid, e);
}

/* The one that listens in `dir`, if there is one. */
static int end_running(const char *dir, bool politely, struct errmsg *e)
{
    int fd = disk_socket_open(dir, e), status = 0;
    pid_t pid = 0;
    if (fd < 0)
        return errno == ENOENT || errno == ECONNREFUSED ? 0 : -1;
    int pidfd = server_process_open(fd, &pid);
    if (pidfd >= 0) {
        status = server_process_end(pidfd, pid, politely, e);
        close(pidfd);
    } else if (errno != ESRCH) {
        status = errmsg_set(e, "the disk server in %s: %s", dir, strerror(errno));
    }
    close(fd);
    return status;
}

/* -1: it can't be told whether one runs. */
static int find_running(const char *dir, struct disk_hello *hello, struct errmsg *e)
{
    int fd = disk_socket_connect(dir, hello, e);
    if (fd >= 0) {
        close(fd);
        return 1;
    }
    if (errno == ENOENT || errno == ECONNREFUSED)
        return 0;
    return errno == EAGAIN ? end_running(dir, false, e) : -1; /* it hangs */
}

static int start_unless_running(const char *dir, const struct server_notes *s, bool anew, int listener,
                                struct errmsg *e)
{
    struct disk_hello hello;
    int found = find_running(dir, &hello, e);
    if (found < 0)
        return -1;
    if (found)
        return are_served(s, &hello)
                   ? 0
                   : errmsg_set(e, "a disk server with other disks than %s%s runs in %s: stop the VM first", s->path[0],
                                s->n > 1 ? " .." : "", dir);
    if (!anew && disk_server_is_holding(dir))
        return errmsg_set(e, "the VM's disk server has ended with writes to shared disks that were not let out yet: "
                             "the VM can't go on");
    if (anew && (server_notes_write(dir, s, e) < 0 || disk_server_note_holding(dir, false, e) < 0))
        return -1;
    int status = spawn(dir, s, listener, e);
    if (status < 0 && anew)
        clear_folder(dir);
    return status;
}

static int start(const char *dir, const char *const *paths, unsigned n, unsigned shared, bool holding, int listener,
                 struct errmsg *e)
{
    struct server_notes stores = {.n = 0, .shared = shared, .holding = holding};
    int status = dir_make(dir, 0700, e), lock = status == 0 ? lock_folder(dir, e) : -1;
    if (lock < 0)
        return -1;
    if (!paths)
        status = server_notes_read(dir, &stores, e);
    for (unsigned i = 0; paths && status == 0 && i < n; i++)
        status = server_notes_add(&stores, paths[i], e);
    if (status == 0)
        status = start_unless_running(dir, &stores, paths != NULL, listener, e);
    server_notes_clear(&stores);
    close(lock);
    return status;
}

int disk_server_start_shared(const char *dir, const char *const *paths, unsigned n, unsigned shared, bool holding,
                             struct errmsg *e)
{
    return start(dir, paths, n, shared, holding, -1, e);
}

int disk_server_start(const char *dir, const char *const *paths, unsigned n, struct errmsg *e)
{
    return start(dir, paths, n, 0, false, -1, e);
}

/* What every store is now is what its disk will be; -1: it can't be, or none has grown. */
static int note_growth(struct server_notes *s, struct errmsg *e)
{
    bool grown = false;
    for (unsigned i = 0; i < s->n; i++) {
        uint64_t bytes;
        if (backing_size_of(s->path[i], &bytes) < 0)
            return errmsg_set(e, "the size of disk %s: %s", s->path[i], strerror(errno));
        if (bytes % DISK_BLOCK || bytes < s->bytes[i])
            return errmsg_set(e,
                              "disk %s has %" PRIu64 " bytes now, and %" PRIu64
                              " in the VM: make it a multiple of %d, and no less than that",
                              s->path[i], bytes, s->bytes[i], DISK_BLOCK);
        grown |= s->bytes[i] && bytes > s->bytes[i];
        s->bytes[i] = bytes;
    }
    return grown ? 0 : errmsg_set(e, "no disk of the VM has grown: lvextend or truncate it first, on both hosts");
}

int disk_server_grow(const char *dir, struct errmsg *e)
{
    struct server_notes stores = {.n = 0};
    int lock = lock_folder(dir, e);
    if (lock < 0)
        return -1;
    int status = disk_server_is_holding(dir)
                     ? errmsg_set(e, "the disk server holds what the VM writes to its shared disks: unprotect the VM, "
                                     "grow it, then protect it again")
                     : server_notes_read(dir, &stores, e);
    if (status == 0)
        status = note_growth(&stores, e);
    if (status == 0)
        status = server_notes_write(dir, &stores, e);
    if (status == 0)
        status = end_running(dir, false, e);
    server_notes_clear(&stores);
    close(lock);
    return status;
}

int disk_server_restart(const char *dir, int listener, struct errmsg *e)
{
    return start(dir, NULL, 0, 0, false, listener, e);
}

/* ---- stop ---- */

int disk_server_stop(const char *dir, struct errmsg *e)
{
    if (access(dir, F_OK) < 0)
        return 0;
    int lock = lock_folder(dir, e);
    if (lock < 0)
        return -1;
    int status = end_running(dir, true, e);
    if (status == 0)
        clear_folder(dir);
    close(lock);
    return status;
}
