#include "primary/watching.h"
#include "common/log.h"
#include "primary/watched.h"
#include "vm/process.h"

#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

/* Reads the page of the worker `pid` of `vm` (0: of whichever). Its pid, or 0: there is none, or it is another one's.
 */
static int read_page(const struct config *c, const char *vm, int pid, struct watch_page *p)
{
    char path[400];
    watched_path(path, sizeof path, c->run_dir, vm);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, p, sizeof *p, 0);
    if (fd >= 0)
        close(fd);
    if (n != sizeof *p || p->magic != WATCH_MAGIC || !p->pid || (pid && (int)p->pid != pid))
        return 0;
    return (int)p->pid;
}

static bool on_sample(const char *vm, int pid, bool still, struct watch_sample *s, void *arg)
{
    const struct config *config = arg;
    struct watch_page p;
    if (!read_page(config, vm, pid, &p))
        return false;
    *s = (struct watch_sample){
        .beat = p.beat, .paused = p.paused, .patience_ms = p.patience_ms, .stopped = still && process_is_stopped(pid)};
    return true;
}

static void on_stuck(const char *vm, int pid, enum watch_verdict verdict, int64_t still_ms, void *arg)
{
    const struct config *config = arg;
    bool paused = verdict == WATCH_STUCK_PAUSED;
    log_error("the worker of VM %s (process %d) has not moved for %" PRId64 " ms%s (%s = %u ms): it is ended, another "
              "one takes its place",
              vm, pid, still_ms, paused ? " with the VM paused" : "", paused ? "pause_bound" : "worker_bound",
              paused ? config->pause_bound_ms : config->worker_bound_ms);
}

struct watchdog *watching_new(struct ev_loop *loop, const struct config *config, struct roster *roster)
{
    static const struct watchdog_handlers handlers = {.sample = on_sample, .stuck = on_stuck};
    struct watch_bounds bounds = {.pause_ms = config->pause_bound_ms, .worker_ms = config->worker_bound_ms};
    return watchdog_new(loop, roster, &bounds, &handlers, (void *)config);
}

int watching_find(const struct config *config, const char *vm)
{
    struct watch_page p;
    int pid = read_page(config, vm, 0, &p);
    return pid && process_start_time(pid) == p.start_time ? pid : 0;
}
