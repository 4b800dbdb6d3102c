#include "secondary/cleaner.h"
#include "arbiter/arbiter.h"
#include "common/log.h"
#include "common/state.h"
#include "disk/server.h"
#include "disk/store.h"
#include "secondary/disks.h"
#include "secondary/fence.h"
#include "secondary/network.h"
#include "secondary/shared.h"
#include "vm/remains.h"
#include "vm/vm.h"

#include <errno.h>
#include <ev.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_MS = 5000 };
static const double RETRY_S = 1.;

void worker_run_dir(char out[WORKER_RUN_DIR_MAX], const struct config *config, const char *vm, int pid)
{
    snprintf(out, WORKER_RUN_DIR_MAX, "%s/vms/%s.%d", config->run_dir, vm, pid);
}

const char *cleaner_remains(const struct config *config, const char *vm, char *out)
{
    remains_path(out, config->run_dir, vm);
    return config->keep_memory_ms ? out : NULL;
}

int primary_program(char out[512], const char *program, struct errmsg *e)
{
    const char *slash = strrchr(program, '/');
    snprintf(out, 512, "%.*shikae-primary", slash ? (int)(slash + 1 - program) : 0, program);
    return access(out, X_OK) ? errmsg_set(e, "%s: %s: a replica could not be started without it", out, strerror(errno))
                             : 0;
}

void exec_primary(const char *program, const struct config *config, const char *vm, uint64_t term,
                  const struct network *net)
{
    char path[512], number[32];
    struct errmsg e;
    if (primary_program(path, program, &e))
        log_error("%s", e.text);
    snprintf(number, sizeof number, "%" PRIu64, term);
    setenv("HIKAE_TERM", number, 1);
    char *argv[] = {path, "--config", config->path, "--worker", (char *)vm, "--adopt", NULL};
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC); /* libraries open without it */
    if (net)
        network_inherit(net);
    execv(path, argv);
    log_error("%s: %s: VM %s is loaded, paused and owned by this host, but can't be resumed", path, strerror(errno),
              vm);
}

struct question {
    struct ev_loop *loop;
    const struct config *config;
    const char *program;
    const struct vm_record *record;
    const struct vm_ops *ops;
    uint64_t term; /* that this host has claimed */
    struct fence *fence;
};

/* Its disk server, unless a newer replica has the disks. What was committed and is not in them yet is in their journal.
 */
static void end_disks(const struct config *config, const char *vm)
{
    struct errmsg e;
    char dir[DISKS_DIR_MAX];
    int lock;
    if (stores_lock(config, vm, &lock))
        return;
    disks_dir(dir, config, vm);
    if (disk_server_stop(dir, &e))
        log_error("%s", e.text);
    shared_drop(config, vm);
    if (lock >= 0)
        close(lock);
}

/* The claim was not carried out: what was loaded for it never ran and never will. */
static void end_loaded(const struct question *q)
{
    struct errmsg e;
    struct vm *vm;
    struct vm_spec spec = {.name = q->record->name, .run_dir = q->record->run_dir, .settings = NULL};
    if (q->ops->attach(&spec, &vm, &e)) {
        log_error("%s", e.text);
        return;
    }
    char remains[REMAINS_PATH_MAX];
    q->ops->retire(vm, cleaner_remains(q->config, q->record->name, remains));
    end_disks(q->config, q->record->name);
    log_info("a replica whose claim was not granted is ended");
}

static void on_fence_failed(const char *why, void *arg)
{
    (void)why, (void)arg; /* it is in the log */
}

static void on_fenced(void *arg)
{
    const struct question *q = arg;
    struct errmsg e;
    while (shared_bring_now(q->config, q->record->name, q->term, &e)) {
        log_error("the VM waits for its shared disks: %s", e.text);
        ev_sleep(RETRY_S);
    }
    exec_primary(q->program, q->config, q->record->name, q->term, NULL);
    ev_break(q->loop, EVBREAK_ALL);
}

/* The worker may have died before its fencing was done: it is done again. */
static void take_over(struct question *q, uint64_t term)
{
    static const struct fence_handlers handlers = {.failed = on_fence_failed, .done = on_fenced};
    q->term = term;
    if (fence_command(q->config, q->record->name))
        q->fence = fence_begin(q->loop, q->config, q->record->name, term, q->record->peer, &handlers, q);
    else
        on_fenced(q);
}

static void on_answer(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    struct question *q = arg;
    if (answer == ARBITER_GRANTED && !strcmp(now->owner, q->config->name) && now->term > q->record->term) {
        take_over(q, now->term);
        return;
    }
    ev_break(q->loop, EVBREAK_ALL);
    if (answer != ARBITER_GRANTED)
        log_error("a failover was cut short and the arbiter does not say whose the VM is: %s", why);
    else
        end_loaded(q);
}

static int finish_failover(struct question *q)
{
    struct errmsg e;
    q->loop = ev_loop_new(EVFLAG_AUTO);
    struct arbiter *a = arbiter_open_config(q->loop, q->config, &e);
    if (!a) {
        log_error("%s", e.text);
        return 1;
    }
    arbiter_read(a, q->record->name, ANSWER_MS, on_answer, q);
    ev_run(q->loop, 0);
    fence_free(q->fence);
    arbiter_free(a);
    ev_loop_destroy(q->loop);
    return 1;
}

/* Workers name their directory by their pid. One that is only slow (its supervisor has just restarted) is left alone.
 */
static bool worker_lives(const char *run_dir)
{
    char path[64], name[32] = "";
    const char *pid = strrchr(run_dir, '.');
    snprintf(path, sizeof path, "/proc/%d/comm", pid ? atoi(pid + 1) : 0);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool ours = fgets(name, sizeof name, f) && !strncmp(name, "hikae-", 6);
    fclose(f);
    return ours;
}

/* Nothing is left of it but its record, which is not that of a newer replica. */
static int forget(const struct question *q, const char *run_dir)
{
    struct errmsg e;
    rmdir(run_dir);
    log_info("what the worker of %s's replica left is cleaned up", q->record->name);
    if (strcmp(q->record->run_dir, run_dir))
        return 0;
    end_disks(q->config, q->record->name);
    return vm_record_remove(q->config->state_dir, q->record->name, &e);
}

/* The backend keeps the replica itself. It stays for as long as memory is kept, unless a new one has begun with it:
 * that one's record names another folder. The record is what an agent that is started meanwhile finds it by. */
static int end_kept(struct question *q, const char *run_dir)
{
    struct errmsg e;
    struct vm_record now;
    struct vm_spec spec = {.name = q->record->name, .run_dir = run_dir};
    log_info("the replica is kept for %u s: the next one of this VM begins with it", q->config->keep_memory_ms / 1000);
    ev_sleep(q->config->keep_memory_ms / 1e3);
    bool waits = !vm_record_load(q->config->state_dir, q->record->name, &now, &e) && !strcmp(now.role, "standby") &&
                 !strcmp(now.run_dir, run_dir);
    vm_record_clear(&now);
    if (!waits)
        return 0;
    if (q->ops->clear(&spec, &e) < 0) {
        log_error("%s", e.text);
        return 1;
    }
    return forget(q, run_dir);
}

static int clean(struct question *q, const char *run_dir)
{
    struct errmsg e;
    const struct vm_ops *ops = q->ops = vm_backend(q->record->backend, &e);
    char remains[REMAINS_PATH_MAX];
    struct vm_spec spec = {.name = q->record->name, .run_dir = run_dir, .settings = NULL};
    spec.remains = cleaner_remains(q->config, q->record->name, remains);
    int left = ops ? ops->clear(&spec, &e) : -1;
    if (left < 0) {
        log_error("%s", e.text);
        return 1;
    }
    if (left == 2)
        return end_kept(q, run_dir);
    return left ? finish_failover(q) : forget(q, run_dir);
}

int cleaner_main(struct config *config, const char *program, const char *vm, const char *run_dir)
{
    struct vm_record record;
    struct errmsg e;
    log_open("hikae-secondary", vm);
    int got = vm_record_load(config->state_dir, vm, &record, &e);
    if (got) {
        if (got < 0)
            log_error("%s", e.text);
        return got < 0; /* without a record no replica was made */
    }
    if (worker_lives(run_dir) && !vm_record_is_of_other_boot(&record)) {
        vm_record_clear(&record);
        return 0;
    }
    struct question q = {.config = config, .program = program, .record = &record};
    int result = clean(&q, run_dir);
    vm_record_clear(&record);
    return result;
}
