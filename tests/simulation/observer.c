/*
 * observer: what the outside world has seen of the VM, and what must never be.
 *
 * Each start of a VM opens a branch of its history: it continues its parent's from the number of frames that the
 * replica knew. A frame says its branch and number. Once the outside has seen frame n of a branch, every VM that
 * starts later must come from a history that has it.
 */
#include "tests/simulation/sim.h"

#include <string.h>

struct branch {
    uint32_t parent;
    uint64_t start;     /* frames inherited */
    uint64_t committed; /* most frames that a committed epoch of it has */
    uint64_t out;       /* number of the last frame of it that came out */
};

static struct branch branches[BRANCHES]; /* 0: none */
static uint32_t branch_count = 1;
static uint32_t seen_branch; /* the branch of the newest frame */
static uint64_t seen;        /* and its number */

uint32_t branch_new(const struct content *parent)
{
    if (branch_count == BRANCHES)
        violated("the simulation is too long for its tables: more than %d VM starts", BRANCHES);
    branches[branch_count] =
        (struct branch){.parent = parent ? parent->branch : 0, .start = parent ? parent->frames : 0};
    return branch_count++;
}

void observer_forget(void)
{
    branch_count = 1;
}

void observer_reset(uint32_t branch)
{
    seen_branch = branch;
    seen = branches[branch].start;
}

/* Which branch the n-th frame of this branch's history was sent in. */
static uint32_t branch_of(uint32_t branch, uint64_t n)
{
    while (branch && n <= branches[branch].start)
        branch = branches[branch].parent;
    return branch;
}

void frame_write(uint8_t frame[16], const struct content *c)
{
    uint64_t branch = c->branch;
    memcpy(frame, &branch, 8);
    memcpy(frame + 8, &c->frames, 8);
}

void observe(const uint8_t *frame, size_t n, void *arg)
{
    (void)n, (void)arg;
    uint64_t branch, number;
    memcpy(&branch, frame, 8);
    memcpy(&number, frame + 8, 8);
    if (number <= branches[branch].out)
        violated("frame %llu of VM %llu came out twice", (unsigned long long)number, (unsigned long long)branch);
    branches[branch].out = number;
    if (sim.at_risk) { /* given up; from the next calm on it counts again, from what was seen last */
        seen_branch = (uint32_t)branch;
        seen = number;
        return;
    }
    if (branch_of(seen_branch, number) == branch && (branch != seen_branch || number <= seen))
        return; /* late, but known */
    if (branch_of((uint32_t)branch, seen) != branch_of(seen_branch, seen) || number <= seen)
        violated("history: frame %llu of VM %llu came out after frame %llu of VM %u", (unsigned long long)number,
                 (unsigned long long)branch, (unsigned long long)seen, seen_branch);
    seen_branch = (uint32_t)branch;
    seen = number;
}

void note_committed(const struct content *c)
{
    if (c->frames > branches[c->branch].committed)
        branches[c->branch].committed = c->frames;
}

/* A frame that an ack lets out. */
void check_release(const struct content *c)
{
    if (c->frames > branches[c->branch].committed)
        violated("output commit: frame %llu of VM %u was released, committed is %llu", (unsigned long long)c->frames,
                 c->branch, (unsigned long long)branches[c->branch].committed);
}

void check_gates(void)
{
    int open = 0;
    for (int i = 0; i < PROCESSES; i++)
        open += sim.processes[i].alive && sim.processes[i].kind == KIND_PRIMARY && sim.processes[i].gate == GATE_OPEN &&
                sim.processes[i].state != PROTECTION_AT_RISK;
    if (open > 1)
        violated("two VMs with an open gate");
}

/* Promise 4: a VM that stands still does so while it is handed over, for the limit at most, or since another one has
 * it, or since it is to end. */
void check_move(const struct process *p)
{
    const struct move *m = &p->move;
    if (m->kind != MOVE_NONE && p->state == PROTECTION_OPEN && !p->wants)
        violated("host %d: a move is under way that nobody waits for", p->host);
    if (!sim.hosts[p->host].still)
        return;
    if (p->state == PROTECTION_HANDING && sim.now > m->paused_at + MOVE_LIMIT + 2 * SECOND)
        violated("host %d: the VM stands still for longer than the limit", p->host);
    if (p->state != PROTECTION_HANDING && p->state != PROTECTION_STOPPING && sim.registered.owner == p->host)
        violated("host %d: the VM stands still in state %s, and nobody else has it", p->host,
                 protection_state_name(p->state));
}

/* A planned move loses nothing: what starts here is what was left standing there. */
void check_handed(const struct process *p)
{
    const struct host *from = &sim.hosts[1 - p->host];
    if (!p->handed || !from->vm || !from->still)
        return;
    if (p->loaded.branch != from->content.branch || p->loaded.frames != from->content.frames)
        violated("host %d: was handed frame %llu of VM %u, starts from %llu of VM %u", p->host,
                 (unsigned long long)from->content.frames, from->content.branch, (unsigned long long)p->loaded.frames,
                 p->loaded.branch);
}
