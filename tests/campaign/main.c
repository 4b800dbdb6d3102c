/*
 * campaign: two hosts with real agents and a real VM, a real arbiter of three members and a client outside, in which at
 * random moments of a seed everything fails that can.
 *
 * Exit status: 0 all was as it must be; 1 something did not work at all; 2 usage; 3 something was seen that must not
 * be: the folder with all logs is then kept.
 */
#include "common/log.h"
#include "tests/campaign/campaign.h"
#include "tests/campaign/faults.h"
#include "tests/campaign/logs.h"
#include "tools/demo/etcd.h"
#include "tools/demo/programs.h"
#include "tools/demo/run.h"
#include "tools/demo/sandbox.h"
#include "tools/demo/view.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_BROKEN = 1, EXIT_USAGE = 2, EXIT_VIOLATED = 3, MAX_CAMPAIGN = 100000 };

static const char help[] =
    "campaign: lets everything fail that can, on real processes, and checks that nobody notices.\n\n"
    "  --failovers N     failovers to be had; other events come between them (20)\n"
    "  --seed N          of kinds, moments and amounts\n"
    "  --kinds A,B,..    these kinds of events instead, once each in this order\n"
    "  --list            the kinds\n"
    "  --json FILE       results; - is stdout\n"
    "  --dir DIR         for configs and logs. Without, one in /tmp, removed if all was "
    "well\n"
    "  --guest DIR       vmlinuz and initrd.gz of the guest\n"
    "  --memory MB       of the guest (128)\n"
    "  --mode MODE       on-output or periodic (on-output)\n"
    "  --interval MS     between checkpoints, mode periodic (20)\n"
    "  --fault release-early   negative control: the campaign must fail, with status 3\n\n"
    "Status: 0 well; 1 something did not work at all; 2 usage; 3 something was seen that must not be.\n";

struct wishes {
    unsigned failovers;
    uint64_t seed;
    const char *kinds, *json, *dir;
};

static int list(void)
{
    static const char *const moves[] = {"must move", "may move", "tolerated", "must stay", "nothing may happen"};
    for (int i = 0; i < KINDS; i++) {
        const struct kind_info *k = kind_info((enum kind)i);
        printf("%-26s %-18s %4u-%u ms  %s\n", k->name, moves[k->moves], k->hold_min_ms, k->hold_max_ms, k->what);
    }
    return 1;
}

static int number(const char *text, uint64_t max, uint64_t *out, struct errmsg *e)
{
    char *end;
    *out = strtoull(text, &end, 0);
    return *text >= '0' && *text <= '9' && !*end && *out <= max
               ? 0
               : errmsg_set(e, "'%s' is not a number up to %" PRIu64, text, max);
}

static int check_kinds(const char *text, struct errmsg *e)
{
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, ",");
        if (kind_by_name(at, n) == KINDS)
            return errmsg_set(e, "--kinds: there is no '%.*s'; see --list", (int)n, at);
        at += n + (at[n] == ',');
    }
    return 0;
}

static int set_one(int id, struct wishes *w, struct options *o, struct errmsg *e)
{
    uint64_t n = 0;
    switch (id) {
    case 'f':
        if (number(optarg, MAX_CAMPAIGN, &n, e))
            return -1;
        w->failovers = (unsigned)n;
        return 0;
    case 's':
        return number(optarg, UINT64_MAX, &w->seed, e);
    case 'k':
        w->kinds = optarg;
        return check_kinds(optarg, e);
    case 'j':
        w->json = optarg;
        return 0;
    case 'd':
        w->dir = optarg;
        return 0;
    case 'g':
        o->guest = optarg;
        return 0;
    case 'm':
        if (number(optarg, 65536, &n, e) || n < 128)
            return errmsg_set(e, "--memory %s: want 128 to 65536", optarg);
        o->memory_mb = (unsigned)n;
        return 0;
    case 'o':
        o->mode = optarg;
        return strcmp(optarg, "on-output") && strcmp(optarg, "periodic")
                   ? errmsg_set(e, "--mode %s: want on-output or periodic", optarg)
                   : 0;
    case 'i':
        if (number(optarg, 10000, &n, e) || n < 1)
            return errmsg_set(e, "--interval %s: want 1 to 10000", optarg);
        o->interval_ms = (unsigned)n;
        return 0;
    case 'x':
        o->fault = "release = early";
        return strcmp(optarg, "release-early") ? errmsg_set(e, "--fault %s: want release-early", optarg) : 0;
    default:
        return errmsg_set(e, "see --help");
    }
}

/* 1: there is nothing more to do. */
static int parse(int argc, char **argv, struct wishes *w, struct options *o, struct errmsg *e)
{
    static const struct option longs[] = {
        {"failovers", 1, NULL, 'f'}, {"seed", 1, NULL, 's'},     {"kinds", 1, NULL, 'k'}, {"list", 0, NULL, 'l'},
        {"json", 1, NULL, 'j'},      {"dir", 1, NULL, 'd'},      {"guest", 1, NULL, 'g'}, {"memory", 1, NULL, 'm'},
        {"mode", 1, NULL, 'o'},      {"interval", 1, NULL, 'i'}, {"fault", 1, NULL, 'x'}, {"help", 0, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    for (int id; (id = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (id == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (id == 'l')
            return list();
        if (set_one(id, w, o, e))
            return -1;
    }
    return optind < argc ? errmsg_set(e, "%s: what is that? See --help", argv[optind]) : 0;
}

static int make_dir(struct wishes *w, char *path, size_t size, struct errmsg *e)
{
    if (w->dir) {
        char *real = mkdir(w->dir, 0755) && errno != EEXIST ? NULL : realpath(w->dir, NULL);
        int bad = !real || strlen(real) > 120 || !strncmp(real, "/run/", 5);
        if (!bad)
            snprintf(path, size, "%s", real);
        free(real);
        return bad ? errmsg_set(e, "--dir %s: want a folder with a path under 120 bytes, not below /run", w->dir) : 0;
    }
    snprintf(path, size, "/tmp/hikae-campaign-XXXXXX");
    return mkdtemp(path) ? 0 : errmsg_set(e, "%s: %s", path, strerror(errno));
}

static int open_log(struct campaign *c, struct errmsg *e)
{
    char path[200];
    snprintf(path, sizeof path, "%s/events.log", c->scene.dir);
    c->log = fopen(path, "we");
    return c->log ? 0 : errmsg_set(e, "%s: %s", path, strerror(errno));
}

static int raise_curtain(struct campaign *c, struct errmsg *e)
{
    static const char *const cables[] = {"sw0-host-a", "sw0-host-b"};
    struct scene *s = &c->scene;
    if (open_log(c, e) || sandbox_enter(e) || etcd_start(s->dir, e) || hosts_prepare(s->hosts, s->dir, s->options, e) ||
        fault_prepare_disks(s, e))
        return -1;
    logs_forget(s->hosts);
    c->client = client_start(s->options, e);
    c->witness = witness_start(GUEST_MAC, cables, e);
    return c->client && c->witness && !campaign_start(c, e) ? campaign_run(c, e) : -1;
}

static void end_all(struct campaign *c)
{
    for (int i = 0; i < 2; i++)
        host_kill(&c->scene.hosts[i]);
    for (int i = 0; i < 2; i++)
        host_wait_gone(&c->scene.hosts[i]);
    client_stop(c->client);
    witness_stop(c->witness);
    tracker_free(c->tracker);
    etcd_end();
    if (c->log)
        fclose(c->log);
}

static int finish(struct campaign *c, const struct wishes *w, bool broken, const struct errmsg *why)
{
    struct errmsg e;
    struct log_grants g = logs_grants(c->scene.hosts);
    c->ledger.terms_granted = g.granted;
    c->ledger.terms_twice = g.twice;
    bool clean = ledger_is_clean(&c->ledger);
    if (broken)
        view_fail("campaign: %s", why->text);
    if (broken || !clean)
        for (int i = 0; i < 2; i++)
            host_show_logs(&c->scene.hosts[i]);
    ledger_print(&c->ledger, broken);
    if (w->json && ledger_write(&c->ledger, w->json, &e)) {
        view_fail("campaign: %s", e.text);
        broken = true;
    }
    end_all(c);
    if (broken || !clean)
        view_fail("Everything is kept in %s; the same again: --seed %" PRIu64 "%s%s", c->scene.dir, w->seed,
                  w->kinds ? " --kinds " : "", w->kinds ? w->kinds : "");
    else if (!w->dir)
        (void)run_program((const char *const[]){"rm", "-rf", c->scene.dir, NULL}, NULL, 10000, &e);
    return !clean ? EXIT_VIOLATED : broken ? EXIT_BROKEN : 0;
}

int main(int argc, char **argv)
{
    static char dir[160];
    static struct campaign c;
    struct errmsg e;
    struct wishes w = {.failovers = 20, .seed = (uint64_t)time(NULL)};
    struct options o = {.mode = "on-output",
                        .accel = "tcg",
                        .interval_ms = 20,
                        .detect_ms = 500,
                        .rate = 2000,
                        .region = 2048,
                        .words = 8,
                        .memory_mb = 128,
                        .request_ms = 5,
                        .beacon_ms = 5,
                        .etcd = true,
                        .restart = true,
                        .bin = programs_dir()};
    if (sandbox_leave_chroot(argv, &e)) {
        fprintf(stderr, "campaign: %s\n", e.text);
        return EXIT_BROKEN;
    }
    int parsed = parse(argc, argv, &w, &o, &e);
    if (parsed || make_dir(&w, dir, sizeof dir, &e)) {
        if (parsed <= 0)
            fprintf(stderr, "campaign: %s\n", e.text);
        return parsed > 0 ? 0 : EXIT_USAGE;
    }
    programs_find_modules(o.bin);
    if (!o.guest)
        o.guest = programs_guest(o.bin);
    log_open("campaign", NULL);
    view_init(false, w.json && !strcmp(w.json, "-"));
    signal(SIGPIPE, SIG_IGN);
    c = (struct campaign){.scene = {.options = &o, .dir = dir},
                          .tracker = tracker_new(),
                          .kinds = w.kinds,
                          .ledger = {.seed = w.seed, .wanted = w.kinds ? 0 : w.failovers}};
    bool broken = raise_curtain(&c, &e) != 0;
    int status = finish(&c, &w, broken, &e);
    ledger_clear(&c.ledger);
    return status;
}
