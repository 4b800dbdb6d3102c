/* options_parse: see options_parse.h. */
#include "tools/demo/options_parse.h"

#include "tools/demo/programs.h"
#include "tools/demo/report.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char help[] =
    "hikae-demo: loses the host of a VM, again and again, and checks that nobody notices.\n\n"
    "  --failovers N        hosts to lose (3)\n"
    "  --mode MODE          on-output (Kemari) or periodic (Remus); on-output\n"
    "  --interval MS        between checkpoints, mode periodic (20)\n"
    "  --rate N             pages per second that the guest writes (10000)\n"
    "  --region N           pages that it does so in (4096)\n"
    "  --words N            8-byte words that it changes per page (8)\n"
    "  --accel tcg|kvm      of the guest (tcg: it needs nothing, and is what the figures in the documents are for)\n"
    "  --memory SIZE        of the guest, in MB (512)\n"
    "  --disk SIZE          of a disk, in MB; the guest writes to it and knows what must be there (none)\n"
    "  --shared-disk SIZE   the same, but it is one disk that both hosts see, like one in a SAN\n"
    "  --database           with a second disk, of 64 MB: ext4, and a database that the client writes to\n"
    "  --disk-rate N        operations per second of each of its four writers (25)\n"
    "  --plug               the guest's NIC is a tap, its output held by the kernel (sch_plug, root), not by the "
    "agent\n"
    "  --request MS         between two lines of the client (5)\n"
    "  --detect MS          detection time of the agents (500)\n"
    "  --kill-after A-B     ms from protected to the loss (500-3000)\n"
    "  --loss KIND          kill: SIGKILL to all of the host; power: its cables go dead first; switchover, migrate: a\n"
    "                       planned move, no host is lost; migrate: of a VM that is not protected (kill)\n"
    "  --arbiter KIND       file: a folder; etcd: three members (package etcd-server) beside the hosts; none: each "
    "failover\n"
    "                       is ordered with --force (file)\n"
    "  --fresh-disk         a lost host comes back with an empty state folder\n"
    "  --baseline S         seconds measured without protection (5)\n"
    "  --patience N         waits N times as long before it gives up, and has N times fewer beacons: for an emulated\n"
    "                       machine (1)\n"
    "  --seed N             of the moments of loss\n"
    "  --json FILE          results; - is stdout\n"
    "  --fault WHAT         negative control: release-early, or drop-page=N; the run must fail, with status 3.\n"
    "                       stall=N: the VM's agent stops itself in its Nth pause\n"
    "  --dir DIR            keep configs, logs and state there\n"
    "  --guest DIR          vmlinuz and initrd.gz of the guest\n"
    "  --root FILE          image of a root file system: the guest is one of your own, its disk a copy of this (with\n"
    "                       --hosts-only)\n"
    "  --keep               stay up after the run, until Ctrl-C\n"
    "  --hosts-only         hosts and protected VM, no client, no losses: for a client of your own\n"
    "  --quiet              only failures\n\n"
    "Status: 0 well; 1 something did not work at all; 2 usage; 3 an error was seen by client or guest.\n";

enum option_id {
    FAILOVERS = 1,
    MODE,
    ACCEL,
    INTERVAL,
    RATE,
    REGION,
    WORDS,
    MEMORY,
    DISK,
    SHARED_DISK,
    DISK_RATE,
    DATABASE,
    PLUG,
    REQUEST,
    DETECT,
    KILL_AFTER,
    LOSS,
    ARBITER,
    FRESH_DISK,
    BASELINE,
    PATIENCE,
    SEED,
    JSON,
    FAULT,
    DIR_,
    GUEST,
    ROOT,
    KEEP,
    HOSTS_ONLY,
    QUIET,
    HELP
};

static const struct option longs[] = {{"failovers", 1, NULL, FAILOVERS},
                                      {"mode", 1, NULL, MODE},
                                      {"accel", 1, NULL, ACCEL},
                                      {"interval", 1, NULL, INTERVAL},
                                      {"rate", 1, NULL, RATE},
                                      {"region", 1, NULL, REGION},
                                      {"words", 1, NULL, WORDS},
                                      {"memory", 1, NULL, MEMORY},
                                      {"disk", 1, NULL, DISK},
                                      {"shared-disk", 1, NULL, SHARED_DISK},
                                      {"disk-rate", 1, NULL, DISK_RATE},
                                      {"database", 0, NULL, DATABASE},
                                      {"plug", 0, NULL, PLUG},
                                      {"request", 1, NULL, REQUEST},
                                      {"detect", 1, NULL, DETECT},
                                      {"kill-after", 1, NULL, KILL_AFTER},
                                      {"loss", 1, NULL, LOSS},
                                      {"arbiter", 1, NULL, ARBITER},
                                      {"fresh-disk", 0, NULL, FRESH_DISK},
                                      {"baseline", 1, NULL, BASELINE},
                                      {"patience", 1, NULL, PATIENCE},
                                      {"seed", 1, NULL, SEED},
                                      {"json", 1, NULL, JSON},
                                      {"fault", 1, NULL, FAULT},
                                      {"dir", 1, NULL, DIR_},
                                      {"guest", 1, NULL, GUEST},
                                      {"root", 1, NULL, ROOT},
                                      {"keep", 0, NULL, KEEP},
                                      {"hosts-only", 0, NULL, HOSTS_ONLY},
                                      {"quiet", 0, NULL, QUIET},
                                      {"help", 0, NULL, HELP},
                                      {NULL, 0, NULL, 0}};

static int number(const char *text, unsigned min, unsigned max, unsigned *out, struct errmsg *e)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || n < min || n > max)
        return errmsg_set(e, "'%s' is not a number from %u to %u", text, min, max);
    *out = (unsigned)n;
    return 0;
}

static int parse_memory(char *text, struct options *o, struct errmsg *e)
{
    size_t n = strlen(text);
    unsigned scale = 1;
    if (n && (text[n - 1] == 'M' || text[n - 1] == 'G')) {
        scale = text[n - 1] == 'G' ? 1024 : 1;
        text[n - 1] = '\0';
    }
    if (number(text, 1, 65536 / scale, &o->memory_mb, e))
        return -1;
    o->memory_mb *= scale;
    return o->memory_mb < 128 ? errmsg_set(e, "the guest needs 128M") : 0;
}

static int parse_fault(const char *text, struct options *o, struct errmsg *e)
{
    static char line[64];
    unsigned n = 0;
    if (!strcmp(text, "release-early"))
        snprintf(line, sizeof line, "release = early");
    else if (!strncmp(text, "drop-page=", 10) && !number(text + 10, 1, 1000000, &n, e))
        snprintf(line, sizeof line, "drop_page = %u", n);
    else if (!strncmp(text, "stall=", 6) && !number(text + 6, 1, 1000000, &n, e))
        snprintf(line, sizeof line, "stall = %u", n);
    else
        return errmsg_set(e, "--fault %s: want release-early, drop-page=N or stall=N", text);
    o->fault = line;
    return 0;
}

static int parse_kill_after(const char *text, struct options *o, struct errmsg *e)
{
    char more;
    if (sscanf(text, "%u-%u%c", &o->kill_min_ms, &o->kill_max_ms, &more) == 2 && o->kill_min_ms <= o->kill_max_ms)
        return 0;
    return errmsg_set(e, "--kill-after %s: want MIN-MAX, in ms", text);
}

static int choose(const char *what, const char *text, const char *a, const char *b, const char **out, struct errmsg *e)
{
    if (strcmp(text, a) && strcmp(text, b))
        return errmsg_set(e, "--%s %s: want %s or %s", what, text, a, b);
    *out = text;
    return 0;
}

static int parse_loss(const char *text, struct options *o, struct errmsg *e)
{
    static const char *const kinds[] = {"kill", "power", "switchover", "migrate"};
    size_t i = 0;
    while (i < sizeof kinds / sizeof *kinds && strcmp(text, kinds[i]))
        i++;
    if (i == sizeof kinds / sizeof *kinds)
        return errmsg_set(e, "--loss %s: want kill, power, switchover or migrate", text);
    o->power_cut = i == 1;
    o->planned = i >= 2;
    o->migrate = i == 3;
    return 0;
}

static int set_text(struct options *o, int id, struct errmsg *e)
{
    const char *arbiter = "file";
    switch (id) {
    case MODE:
        return choose("mode", optarg, "on-output", "periodic", &o->mode, e);
    case ACCEL:
        return choose("accel", optarg, "tcg", "kvm", &o->accel, e);
    case LOSS:
        return parse_loss(optarg, o, e);
    case ARBITER:
        if (choose("arbiter", strcmp(optarg, "none") ? optarg : "file", "file", "etcd", &arbiter, e))
            return -1;
        o->etcd = !strcmp(optarg, "etcd");
        o->no_arbiter = !strcmp(optarg, "none");
        return 0;
    case MEMORY:
        return parse_memory(optarg, o, e);
    case KILL_AFTER:
        return parse_kill_after(optarg, o, e);
    case FAULT:
        return parse_fault(optarg, o, e);
    case SEED:
        o->seed = strtoull(optarg, NULL, 0);
        return 0;
    case JSON:
        o->json = optarg;
        return 0;
    case DIR_:
        o->dir = optarg;
        return 0;
    case ROOT:
        o->root = optarg;
        return 0;
    default:
        o->guest = optarg;
        return 0;
    }
}

static int set_one(struct options *o, int id, struct errmsg *e)
{
    switch (id) {
    case FAILOVERS:
        return number(optarg, 0, MAX_FAILOVERS, &o->failovers, e);
    case INTERVAL:
        return number(optarg, 1, 10000, &o->interval_ms, e);
    case RATE:
        return number(optarg, 0, 10000000, &o->rate, e);
    case REGION:
        return number(optarg, 1, 1 << 24, &o->region, e);
    case WORDS:
        return number(optarg, 1, 512, &o->words, e);
    case DISK:
        return number(optarg, 1, 1 << 20, &o->disk_mb, e);
    case SHARED_DISK:
        o->shared = true;
        return number(optarg, 1, 1 << 20, &o->disk_mb, e);
    case DISK_RATE:
        return number(optarg, 0, 100000, &o->disk_rate, e);
    case REQUEST:
        return number(optarg, 1, 10000, &o->request_ms, e);
    case DETECT:
        return number(optarg, 50, 60000, &o->detect_ms, e);
    case BASELINE:
        return number(optarg, 0, 3600, &o->baseline_s, e);
    case PATIENCE:
        if (number(optarg, 1, 100, &o->patience, e))
            return -1;
        o->beacon_ms *= o->patience;
        return 0;
    case DATABASE:
        o->database = true;
        return 0;
    case PLUG:
        o->plug = true;
        return 0;
    case FRESH_DISK:
        o->fresh_disk = true;
        return 0;
    case KEEP:
        o->keep = true;
        return 0;
    case HOSTS_ONLY:
        o->hosts_only = true;
        return 0;
    case QUIET:
        o->quiet = true;
        return 0;
    default:
        return set_text(o, id, e);
    }
}

int options_parse(int argc, char **argv, struct options *o, struct errmsg *e)
{
    *o = (struct options){.failovers = 3,
                          .mode = "on-output",
                          .accel = "tcg",
                          .interval_ms = 20,
                          .detect_ms = 500,
                          .rate = 10000,
                          .region = 4096,
                          .words = 8,
                          .memory_mb = 512,
                          .disk_rate = 25,
                          .request_ms = 5,
                          .beacon_ms = 5,
                          .kill_min_ms = 500,
                          .kill_max_ms = 3000,
                          .baseline_s = 5,
                          .seed = (uint64_t)time(NULL),
                          .bin = programs_dir()};
    for (int id; (id = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (id == HELP || id == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (id == '?')
            return errmsg_set(e, "see hikae-demo --help");
        if (set_one(o, id, e))
            return -1;
    }
    if (optind < argc)
        return errmsg_set(e, "%s: what is that? See hikae-demo --help", argv[optind]);
    if (o->database && !o->disk_mb)
        return errmsg_set(e, "--database is the second disk: want --disk or --shared-disk, too");
    if (o->root && (!o->hosts_only || o->disk_mb))
        return errmsg_set(
            e, "--root is a guest's that no client of ours knows, and its disk: want --hosts-only, no --disk");
    programs_find_modules(o->bin);
    if (!o->guest)
        o->guest = programs_guest(o->bin);
    return 0;
}
