#include "secondary/watching.h"
#include "common/log.h"
#include "vm/process.h"
#include "vm/vm.h"

#include <inttypes.h>

static bool on_sample(const char *vm, int pid, bool still, struct watch_sample *s, void *arg)
{
    const struct watching *w = arg;
    (void)vm;
    *s = (struct watch_sample){.beat = roster_reports(w->roster, pid),
                               .patience_ms = VM_SETUP_MS,
                               .stopped = still && process_is_stopped(pid)};
    return s->beat; /* one that has reported nothing holds nothing */
}

static void on_stuck(const char *vm, int pid, enum watch_verdict verdict, int64_t still_ms, void *arg)
{
    const struct watching *w = arg;
    (void)verdict;
    log_error("the worker with the replica of VM %s (process %d) has not moved for %" PRId64
              " ms (worker_bound = %u ms): it is ended",
              vm, pid, still_ms, w->config->worker_bound_ms);
}

struct watchdog *watching_new(struct ev_loop *loop, struct watching *w)
{
    static const struct watchdog_handlers handlers = {.sample = on_sample, .stuck = on_stuck};
    struct watch_bounds bounds = {.worker_ms = w->config->worker_bound_ms};
    return watchdog_new(loop, w->roster, &bounds, &handlers, w);
}
