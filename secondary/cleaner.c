#include "secondary/cleaner.h"
#include "arbiter/arbiter.h"
#include "common/log.h"
#include "common/state.h"
#include "vm/vm.h"

#include <errno.h>
#include <ev.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ANSWER_MS = 5000 };

void worker_run_dir(char out[WORKER_RUN_DIR_MAX], const struct config *config, const char *vm, int pid)
{
    snprintf(out, WORKER_RUN_DIR_MAX, "%s/vms/%s.%d", config->run_dir, vm, pid);
}

void exec_primary(const char *program, const struct config *config, const char *vm, uint64_t term)
{
    char path[512], number[32];
    const char *slash = strrchr(program, '/');
    snprintf(path, sizeof path, "%.*shikae-primary", slash ? (int)(slash + 1 - program) : 0, program);
    snprintf(number, sizeof number, "%" PRIu64, term);
    setenv("HIKAE_TERM", number, 1);
    char *argv[] = {path, "--config", config->path, "--worker", (char *)vm, "--adopt", NULL};
    execv(path, argv);
    log_error("%s: %s: VM %s is loaded, paused and owned by this host, but can't be resumed", path, strerror(errno),
              vm);
}

struct question {
    struct ev_loop *loop;
    const struct config *config;
    const char *program;
    const struct vm_record *record;
};

static void on_answer(enum arbiter_answer answer, const struct arbiter_register *now, const char *why, void *arg)
{
    const struct question *q = arg;
    ev_break(q->loop, EVBREAK_ALL);
    if (answer != ARBITER_GRANTED)
        log_error("a failover was cut short and the arbiter does not say whose the VM is: %s", why);
    else if (!strcmp(now->owner, q->config->name) && now->term > q->record->term)
        exec_primary(q->program, q->config, q->record->name, now->term);
    else
        log_warn("a loaded replica is left, but the VM is %s's: end its process by hand", now->owner);
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
    arbiter_free(a);
    ev_loop_destroy(q->loop);
    return 1;
}

static int clean(struct question *q, const char *run_dir)
{
    struct errmsg e;
    const struct vm_ops *ops = vm_backend(q->record->backend, &e);
    struct vm_spec spec = {.name = q->record->name, .run_dir = run_dir, .settings = NULL};
    int left = ops ? ops->clear(&spec, &e) : -1;
    if (left < 0) {
        log_error("%s", e.text);
        return 1;
    }
    if (left)
        return finish_failover(q);
    rmdir(run_dir);
    log_info("what the worker of %s's replica left is cleaned up", q->record->name);
    return strcmp(q->record->run_dir, run_dir) ? 0 : vm_record_remove(q->config->state_dir, q->record->name, &e);
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
    struct question q = {.config = config, .program = program, .record = &record};
    int result = clean(&q, run_dir);
    vm_record_clear(&record);
    return result;
}
