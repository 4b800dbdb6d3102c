/*
 * report: what this worker tells its supervisor. Promise 5: "committed N ms ago" is the age of what it would start
 * from.
 */
#include "common/self.h"
#include "secondary/worker.h"

#include <json-c/json.h>
#include <unistd.h>

static const double REPORT_S = 0.1;

static struct json_object *status(const struct worker *w)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "vm", json_object_new_string(w->vm_name));
    json_object_object_add(j, "state", json_object_new_string(w->fence ? "FENCING" : standby_state_name(w->state)));
    json_object_object_add(j, "reason", json_object_new_string(w->reason));
    json_object_object_add(j, "from", json_object_new_string(w->peer ? w->peer->name : ""));
    json_object_object_add(j, "failover",
                           json_object_new_string(config_has_arbiter(w->config) ? "automatic" : "by hand"));
    json_object_object_add(j, "term", json_object_new_uint64(w->term));
    json_object_object_add(j, "epoch", json_object_new_uint64(w->epoch));
    json_object_object_add(j, "note", json_object_new_string(w->info.note));
    json_object_object_add(j, "vm_pid", json_object_new_int(w->info.pid));
    if (w->epoch)
        json_object_object_add(j, "replica_age_ms",
                               json_object_new_double((double)(worker_now() - w->committed_at) / 1e6));
    json_object_object_add(j, "staged_bytes",
                           json_object_new_uint64(w->replica ? replica_staged_bytes(w->replica) : 0));
    json_object_object_add(j, "from_remains", json_object_new_boolean(w->info.from_remains));
    if (w->info.from_remains && w->teller)
        json_object_object_add(j, "told_pages", json_object_new_uint64(teller_pages(w->teller)));
    disks_report(w, j);
    self_add_memory(j);
    json_object_object_add(j, "outdated", json_object_new_boolean(self_is_outdated()));
    if (w->timeline)
        json_object_object_add(j, "timeline", json_object_get(w->timeline));
    return j;
}

void report_now(struct worker *w)
{
    if (!w->supervisor || !w->admitted)
        return;
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "status", status(w));
    control_send(w->supervisor, j);
    json_object_put(j);
}

static void on_report(struct ev_loop *loop, ev_timer *t, int events)
{
    (void)loop, (void)events;
    report_now(t->data);
}

void report_init(struct worker *w)
{
    ev_timer_init(&w->report, on_report, REPORT_S, REPORT_S);
    w->report.data = w;
    ev_timer_start(w->loop, &w->report);
}
