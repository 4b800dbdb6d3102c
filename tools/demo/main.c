/*
 * hikae-demo: two hosts, a VM and a client in a sandbox of namespaces on one machine. It shows what Hikae does, and is
 * the harness of the end-to-end tests.
 *
 * Exit status: 0 all went well; 1 something did not work at all; 2 usage; 3 it ran, and the client or the guest saw
 * what must not be (lost or doubled answers, output that the survivor never made, wrong memory).
 */
#include "common/log.h"
#include "tools/demo/drill.h"
#include "tools/demo/etcd.h"
#include "tools/demo/options_parse.h"
#include "tools/demo/run.h"
#include "tools/demo/sandbox.h"
#include "tools/demo/stay.h"
#include "tools/demo/view.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_BROKEN = 1, EXIT_USAGE = 2, EXIT_VIOLATED = 3 };

/* Where what outlives a host is: the user's folder, or the sandbox's memory. Absolute. */
static int make_dir(const struct options *o, char *path, size_t size, struct errmsg *e)
{
    snprintf(path, size, "/run/demo");
    if (!o->dir) {
        return mkdir(path, 0755) ? errmsg_set(e, "%s: %s", path, strerror(errno)) : 0;
    }
    if (mkdir(o->dir, 0755) && errno != EEXIST)
        return errmsg_set(e, "%s: %s", o->dir, strerror(errno));
    char *real = realpath(o->dir, NULL);
    int bad = !real || strlen(real) > 120 || !strncmp(real, "/run/", 5);
    if (!bad)
        snprintf(path, size, "%s", real);
    free(real);
    return bad ? errmsg_set(e, "--dir %s: want a folder with a path under 120 bytes, not below /run", o->dir) : 0;
}

static void give_up(struct drill *d, const struct errmsg *e)
{
    view_fail("hikae-demo: %s", e->text);
    for (int i = 0; i < 2; i++)
        host_show_logs(&d->hosts[i]);
    d->results.broken = true;
}

/* The whole run; results in d. */
static void play(struct drill *d, struct errmsg *e)
{
    const struct options *o = d->options;
    if (!o->hosts_only) {
        d->client = client_start(o, e);
        if (!d->client) {
            give_up(d, e);
            return;
        }
    }
    if (drill_boot(d, e) || drill_start_vm(d, e) || drill_protect(d, e) || (!o->hosts_only && drill_failovers(d, e))) {
        if (d->client)
            (void)client_report(d->client, &d->results.client);
        give_up(d, e);
    }
    if (d->client) {
        client_latency(d->client, CLIENT_UNPROTECTED, d->results.unprotected);
        client_latency(d->client, CLIENT_PROTECTED, d->results.protected);
    }
}

static int verdict(struct drill *d, struct errmsg *e)
{
    const struct options *o = d->options;
    const struct totals *t = tracker_totals(d->tracker);
    if (!o->quiet || !results_ok(&d->results, o))
        report_print(&d->results, t, o);
    if (o->json && report_json(&d->results, t, o, e)) {
        view_fail("hikae-demo: %s", e->text);
        return EXIT_BROKEN;
    }
    if (results_violated(&d->results))
        return EXIT_VIOLATED;
    return results_ok(&d->results, o) ? 0 : EXIT_BROKEN;
}

static void end_hosts(struct drill *d)
{
    for (int i = 0; i < 2; i++)
        host_kill(&d->hosts[i]);
    for (int i = 0; i < 2; i++)
        host_wait_gone(&d->hosts[i]);
    client_stop(d->client);
    tracker_free(d->tracker);
    results_end(&d->results);
}

int main(int argc, char **argv)
{
    struct options o;
    struct errmsg e;
    char dir[160];
    if (sandbox_leave_chroot(argv, &e)) {
        fprintf(stderr, "hikae-demo: %s\n", e.text);
        return EXIT_BROKEN;
    }
    int parsed = options_parse(argc, argv, &o, &e);

    if (parsed) {
        if (parsed < 0)
            fprintf(stderr, "hikae-demo: %s\n", e.text);
        return parsed < 0 ? EXIT_USAGE : 0;
    }
    log_open("hikae-demo", NULL);
    view_init(o.quiet, o.json && !strcmp(o.json, "-"));
    signal(SIGPIPE, SIG_IGN);
    static struct drill d;
    d = (struct drill){.options = &o, .random = o.seed * 0x9e3779b97f4a7c15U | 1, .tracker = tracker_new()};
    results_begin(&d.results, o.failovers);
    if (sandbox_enter(&e) || make_dir(&o, dir, sizeof dir, &e) || (o.etcd && etcd_start(dir, &e)) ||
        hosts_prepare(d.hosts, dir, &o, &e)) {
        view_fail("hikae-demo: %s", e.text);
        etcd_end();
        return EXIT_BROKEN;
    }
    play(&d, &e);
    if (o.hosts_only && !d.results.broken)
        stay(&d);
    int status = verdict(&d, &e);
    if (o.keep)
        stay(&d);
    end_hosts(&d);
    etcd_end();
    return status;
}
