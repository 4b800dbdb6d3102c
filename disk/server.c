#include "disk/server.h"

#include "common/file.h"
#include "common/jsonget.h"
#include "common/module.h"
#include "disk/server/backing.h"
#include "disk/server_process.h"
#include "disk/socket.h"
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
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

enum { START_MS = 15000, NOTES_MAX = DISK_MAX * PATH_MAX * 2 };

struct stores {
    char *path[DISK_MAX]; /* absolute: nbdkit runs elsewhere */
    unsigned n, shared;   /* the last ones are shared */
    bool holding;         /* writes to those, from the start */
};

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

int disk_server_note_holding(const char *dir, bool holding, struct errmsg *e)
{
    char path[PATH_MAX];
    path_in(dir, "holding", path);
    int fd = holding ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (holding ? fd < 0 : unlink(path) < 0 && errno != ENOENT)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return 0;
}

bool disk_server_is_holding(const char *dir)
{
    char path[PATH_MAX];
    path_in(dir, "holding", path);
    return access(path, F_OK) == 0;
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
    static const char *const names[] = {"disks.json", "nbd.sock", "control.sock", "holding"};
    char path[PATH_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        path_in(dir, names[i], path);
        unlink(path);
    }
}

/* ---- which stores ---- */

static void free_stores(struct stores *s)
{
    for (unsigned i = 0; i < s->n; i++)
        free(s->path[i]);
    s->n = 0;
}

static int add_store(struct stores *s, const char *path, struct errmsg *e)
{
    if (s->n == DISK_MAX)
        return errmsg_set(e, "a VM has at most %d disks", DISK_MAX);
    char *whole = realpath(path, NULL);
    if (!whole && errno == ENOENT)
        return errmsg_set(e, "disk %s does not exist: make it (truncate -s SIZE %s; lvcreate) or correct `disk`", path,
                          path);
    if (!whole)
        return errmsg_set(e, "disk %s: %s", path, strerror(errno));
    for (unsigned i = 0; i < s->n; i++)
        if (strcmp(s->path[i], whole) == 0) {
            free(whole);
            return errmsg_set(e, "disk %s is named twice", path);
        }
    s->path[s->n++] = whole;
    return 0;
}

static int note_stores(const char *dir, const struct stores *s, struct errmsg *e)
{
    char path[PATH_MAX];
    struct json_object *j = json_object_new_object(), *list = json_object_new_array();
    for (unsigned i = 0; i < s->n; i++)
        json_object_array_add(list, json_object_new_string(s->path[i]));
    json_object_object_add(j, "disks", list);
    json_object_object_add(j, "shared", json_object_new_int((int)s->shared));
    const char *text = json_object_to_json_string(j);
    path_in(dir, "disks.json", path);
    int status = file_write_atomic(path, text, strlen(text), 0600, e);
    json_object_put(j);
    return status;
}

static int noted_stores(const char *dir, struct stores *s, struct errmsg *e)
{
    char path[PATH_MAX];
    size_t n;
    path_in(dir, "disks.json", path);
    char *text = file_read_all(path, NOTES_MAX, &n, e);
    if (!text)
        return -1;
    struct json_object *j = json_parse_object(text, n), *list = json_get_array(j, "disks");
    int status = list && json_object_array_length(list) > 0
                     ? 0
                     : errmsg_set(e, "%s does not name the VM's disks: stop the VM and start it again", path);
    for (size_t i = 0; status == 0 && i < json_object_array_length(list); i++)
        status = add_store(s, json_object_get_string(json_object_array_get_idx(list, i)), e);
    s->shared = (unsigned)json_get_u64(j, "shared", 0);
    if (status == 0 && s->shared > s->n)
        status = errmsg_set(e, "%s names more shared disks than disks: stop the VM and start it again", path);
    json_object_put(j);
    free(text);
    return status;
}

/* Has the server that runs these stores, whatever their paths? */
static bool are_served(const struct stores *s, const struct disk_hello *hello)
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

static int spawn(const char *dir, const struct stores *s, int listener, struct errmsg *e)
{
    char module[PATH_MAX], log[PATH_MAX], dir_word[PATH_MAX + 8], disk_words[DISK_MAX][PATH_MAX + 16];
    char *command[6 + DISK_MAX] = {(char *)"nbdkit", (char *)"-f", module, dir_word};
    if (module_path("hikae-disk.so", module, sizeof module) < 0 || access(module, R_OK) < 0)
        return errmsg_set(e, "%s: %s; is it installed, or HIKAE_MODULE_DIR right?", module, strerror(errno));
    snprintf(dir_word, sizeof dir_word, "dir=%s", dir);
    for (unsigned i = 0; i < s->n; i++) {
        snprintf(disk_words[i], sizeof disk_words[i], "%s=%s", i < s->n - s->shared ? "disk" : "shared", s->path[i]);
        command[4 + i] = disk_words[i];
    }
    if (s->holding)
        command[4 + s->n] = (char *)"holding=1";
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

static int start_unless_running(const char *dir, const struct stores *s, bool anew, int listener, struct errmsg *e)
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
    if (anew && (note_stores(dir, s, e) < 0 || disk_server_note_holding(dir, false, e) < 0))
        return -1;
    int status = spawn(dir, s, listener, e);
    if (status < 0 && anew)
        clear_folder(dir);
    return status;
}

static int start(const char *dir, const char *const *paths, unsigned n, unsigned shared, bool holding, int listener,
                 struct errmsg *e)
{
    struct stores stores = {.n = 0, .shared = shared, .holding = holding};
    int status = dir_make(dir, 0700, e), lock = status == 0 ? lock_folder(dir, e) : -1;
    if (lock < 0)
        return -1;
    if (!paths)
        status = noted_stores(dir, &stores, e);
    for (unsigned i = 0; paths && status == 0 && i < n; i++)
        status = add_store(&stores, paths[i], e);
    if (status == 0)
        status = start_unless_running(dir, &stores, paths != NULL, listener, e);
    free_stores(&stores);
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
