/* plan: see plan.h. */
#include "tests/campaign/plan.h"

#include <stdbool.h>
#include <string.h>

enum { DELAY_MIN_MS = 200, DELAY_MAX_MS = 1500 };

/* Blips stay well below a detection time of 500 ms, what must be detected well above it. */
static const struct kind_info kinds[KINDS] = {
    [KIND_HOST_KILLED] = {"host-killed", MOVES_MUST, NOTICE_CLEAN, 4, 0, 1500, 0, 0, "power lost, with a reset; boots"},
    [KIND_POWER_CUT] = {"power-cut", MOVES_MUST, NOTICE_SILENT, 4, 900, 2000, 0, 0, "cables first: silence; boots"},
    [KIND_VM_KILLED] = {"vm-killed", MOVES_MUST, NOTICE_CLEAN, 3, 0, 0, 0, 0, "QEMU of the VM"},
    [KIND_AGENTS_KILLED] = {"agents-killed", MOVES_MUST, NOTICE_CLEAN, 2, 1000, 3000, 0, 0,
                            "primary supervisor and worker, and nobody restarts them"},
    [KIND_WORKER_STOPPED] = {"worker-stopped", MOVES_MUST, NOTICE_SILENT, 2, 1500, 3000, 0, 0,
                             "primary worker: SIGSTOP, later SIGCONT"},
    [KIND_HOST_FROZEN] = {"host-frozen", MOVES_MUST, NOTICE_SILENT, 2, 1500, 3000, 0, 0,
                          "all processes of the primary's host: SIGSTOP, later SIGCONT"},
    [KIND_LINK_CUT] = {"link-cut", MOVES_MAY, NOTICE_SILENT, 2, 1000, 3000, 0, 0, "both directions"},
    [KIND_CUT_FROM_PRIMARY] = {"cut-from-primary", MOVES_MAY, NOTICE_SILENT, 2, 1000, 3000, 0, 0, "one direction"},
    [KIND_CUT_TO_PRIMARY] = {"cut-to-primary", MOVES_MAY, NOTICE_SILENT, 2, 1000, 3000, 0, 0, "one direction"},
    [KIND_WORKER_KILLED] = {"worker-killed", MOVES_TOLERATED, NOTICE_CLEAN, 2, 0, 0, 0, 0, "primary worker"},
    [KIND_HALF_OPEN_PRIMARY] = {"half-open-primary", MOVES_TOLERATED, NOTICE_CLEAN, 1, 600, 2000, 0, 0,
                                "primary worker killed, FIN and RST lost"},
    [KIND_LOSS_20] = {"loss-20", MOVES_TOLERATED, NOTICE_SILENT, 1, 2000, 4000, 20, 20, "% of packets, both ways"},
    [KIND_BLIP] = {"blip", MOVES_NOTHING, NOTICE_NONE, 3, 50, 300, 0, 0, "link cut for less than the detection time"},
    [KIND_WORKER_BLINKED] = {"worker-blinked", MOVES_NOTHING, NOTICE_NONE, 1, 50, 300, 0, 0,
                             "primary worker: SIGSTOP and SIGCONT within the detection time"},
    [KIND_HOST_BLINKED] = {"host-blinked", MOVES_NOTHING, NOTICE_NONE, 1, 50, 300, 0, 0, "primary's host, the same"},
    [KIND_REPLICA_BLINKED] = {"replica-blinked", MOVES_NOTHING, NOTICE_NONE, 1, 50, 300, 0, 0,
                              "secondary worker, the same"},
    [KIND_SUPERVISOR_KILLED] = {"supervisor-killed", MOVES_NOTHING, NOTICE_NONE, 1, 0, 0, 0, 0, "primary's"},
    [KIND_STANDBY_HOST_KILLED] = {"standby-host-killed", MOVES_NEVER, NOTICE_NONE, 1, 0, 1500, 0, 0, "boots"},
    [KIND_STANDBY_SUPERVISOR_KILLED] = {"standby-supervisor-killed", MOVES_NOTHING, NOTICE_NONE, 1, 0, 0, 0, 0, ""},
    [KIND_STANDBY_WORKER_KILLED] = {"standby-worker-killed", MOVES_NEVER, NOTICE_NONE, 1, 0, 0, 0, 0, ""},
    [KIND_REPLICA_KILLED] = {"replica-killed", MOVES_NEVER, NOTICE_NONE, 1, 0, 0, 0, 0, "QEMU of the replica"},
    [KIND_HALF_OPEN_STANDBY] = {"half-open-standby", MOVES_NEVER, NOTICE_NONE, 1, 600, 2000, 0, 0,
                                "secondary worker killed, FIN and RST lost"},
    [KIND_DISK_FULL] = {"disk-full", MOVES_NEVER, NOTICE_NONE, 1, 500, 3000, 0, 0,
                        "the standby's state_dir; its worker is killed, so that another has to start there"},
    [KIND_ETCD_KILLED] = {"etcd-killed", MOVES_NOTHING, NOTICE_NONE, 1, 500, 3000, 0, 2, "member, restarted later"},
    [KIND_ETCD_STOPPED] = {"etcd-stopped", MOVES_NOTHING, NOTICE_NONE, 1, 500, 3000, 0, 2, "member: SIGSTOP, SIGCONT"},
    [KIND_ARBITER_LOST] = {"arbiter-lost", MOVES_NOTHING, NOTICE_NONE, 1, 1000, 4000, 0, 2,
                           "all but this member stopped"},
    [KIND_SLOW_LINK] = {"slow-link", MOVES_NOTHING, NOTICE_NONE, 1, 2000, 4000, 4, 16, "Mbyte/s, each way"},
    [KIND_LOSS_1] = {"loss-1", MOVES_NOTHING, NOTICE_NONE, 1, 2000, 4000, 1, 1, "% of packets, both ways"},
    [KIND_LOSS_5] = {"loss-5", MOVES_NOTHING, NOTICE_NONE, 1, 2000, 4000, 5, 5, "% of packets, both ways"},
};

const struct kind_info *kind_info(enum kind kind)
{
    return &kinds[kind];
}

enum kind kind_by_name(const char *name, size_t length)
{
    for (int i = 0; i < KINDS; i++)
        if (strlen(kinds[i].name) == length && !strncmp(kinds[i].name, name, length))
            return (enum kind)i;
    return KINDS;
}

/* splitmix64 */
static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
}

static unsigned between(uint64_t *state, unsigned min, unsigned max)
{
    return min + (unsigned)(next(state) % (max - min + 1));
}

static uint64_t state_of(uint64_t seed, unsigned number)
{
    uint64_t state = seed;
    return next(&state) ^ (uint64_t)number << 32;
}

static struct event fill(uint64_t *state, unsigned number, enum kind kind)
{
    const struct kind_info *k = &kinds[kind];
    struct event v = {.number = number, .kind = kind};
    v.delay_ms = between(state, DELAY_MIN_MS, DELAY_MAX_MS);
    v.hold_ms = between(state, k->hold_min_ms, k->hold_max_ms);
    v.amount = between(state, k->amount_min, k->amount_max);
    return v;
}

static enum kind pick(uint64_t *state, bool moving)
{
    unsigned total = 0;
    for (int i = 0; i < KINDS; i++)
        if ((kinds[i].moves <= MOVES_MAY) == moving)
            total += kinds[i].weight;
    unsigned at = between(state, 0, total - 1);
    for (int i = 0;; i++) {
        if ((kinds[i].moves <= MOVES_MAY) != moving)
            continue;
        if (at < kinds[i].weight)
            return (enum kind)i;
        at -= kinds[i].weight;
    }
}

struct event plan_event(uint64_t seed, unsigned number)
{
    uint64_t state = state_of(seed, number);
    bool moving = between(&state, 0, 1);
    return fill(&state, number, pick(&state, moving));
}

struct event plan_event_of(uint64_t seed, unsigned number, enum kind kind)
{
    uint64_t state = state_of(seed, number);
    return fill(&state, number, kind);
}
