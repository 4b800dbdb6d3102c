/* engine: time, events, the network and the arbiter. Everything random comes from the seed. */
#include "tests/simulation/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EVENTS_MAX = 1 << 16, LINES = 80, LINE = 160 };

struct sim sim;
static struct event *heap[EVENTS_MAX];
static unsigned heap_size;
static uint64_t next_order;
static char lines[LINES][LINE];
static unsigned line_count;

/* ---- chance, words ---- */

uint64_t chance(uint64_t n)
{
    sim.random += 0x9e3779b97f4a7c15U; /* splitmix64 */
    uint64_t z = sim.random;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return (z ^ (z >> 31)) % n;
}

bool one_in(uint64_t n)
{
    return chance(n) == 0;
}

void say(const char *format, ...)
{
    char *line = lines[line_count++ % LINES];
    int n = snprintf(line, LINE, "%12.3f ms  ", (double)sim.now / MS);
    va_list args;
    va_start(args, format);
    vsnprintf(line + n, (size_t)(LINE - n), format, args);
    va_end(args);
    if (sim.trace)
        puts(line);
}

void violated(const char *format, ...)
{
    if (!sim.trace)
        for (unsigned i = line_count > LINES ? line_count - LINES : 0; i < line_count; i++)
            puts(lines[i % LINES]);
    printf("VIOLATED at step %llu, replay with --seed %llu --steps %llu --trace: ", (unsigned long long)sim.steps,
           (unsigned long long)sim.seed, (unsigned long long)sim.steps);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    exit(1);
}

/* ---- events ---- */

static bool earlier(const struct event *a, const struct event *b)
{
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

struct event *event_new(int64_t after, event_run *run)
{
    struct event *e = calloc(1, sizeof *e);
    if (!e)
        abort();
    *e = (struct event){
        .at = sim.now + after, .order = next_order++, .run = run, .process = -1, .timer = -1, .connection = -1};
    return e;
}

void event_add(struct event *e)
{
    if (heap_size == EVENTS_MAX)
        abort();
    unsigned i = heap_size++;
    for (; i && earlier(e, heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

static struct event *event_pop(void)
{
    struct event *top = heap[0], *last = heap[--heap_size];
    unsigned i = 0;
    for (;;) {
        unsigned child = 2 * i + 1;
        if (child >= heap_size)
            break;
        if (child + 1 < heap_size && earlier(heap[child + 1], heap[child]))
            child++;
        if (!earlier(heap[child], last))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void again_at(struct event *e, int64_t at)
{
    e->at = at;
    event_add(e);
}

/* The network's part: cuts delay, as TCP sends again; order is kept. True: the event is for its receiver now. */
static bool arrives(struct event *e)
{
    struct connection *c = &sim.connections[e->connection];
    int from = sim.processes[c->process[!e->side]].host;
    if (c->generation != e->connection_generation || !c->open[e->side])
        return free(e), false;
    if (sim.cut_until[from] > sim.now)
        return again_at(e, sim.cut_until[from] + 1), false;
    if (c->aborted[e->side] && e->message != MESSAGE_CLOSED)
        return free(e), false;
    if (!c->aborted[e->side] && e->sequence != c->taken[e->side])
        return again_at(e, sim.now + MS / 10), false;
    return true;
}

void world_reset(void)
{
    while (heap_size)
        free(heap[--heap_size]);
    for (int i = 0; i < PROCESSES; i++)
        netbuf_free(sim.processes[i].held);
    next_order = 0;
    line_count = 0;
    observer_forget();
}

bool event_next(void)
{
    if (!heap_size)
        return false;
    struct event *e = event_pop();
    sim.steps++;
    sim.now = e->at > sim.now ? e->at : sim.now;
    struct process *p = e->process < 0 ? NULL : &sim.processes[e->process];
    if (p && (!p->alive || p->generation != e->generation ||
              (e->timer >= 0 && p->timer_serial[e->timer] != e->timer_serial)))
        return free(e), true;
    if (e->connection >= 0 && !arrives(e))
        return true;
    if (p && p->stalled_until > sim.now) /* what came in is read before a timer is looked at */
        return again_at(e, p->stalled_until + (e->timer >= 0 ? 1 : 0)), true;
    if (e->connection >= 0)
        sim.connections[e->connection].taken[e->side]++;
    e->run(p, e);
    free(e);
    return true;
}

static int index_of(const struct process *p)
{
    return (int)(p - sim.processes);
}

static struct event *event_for(struct process *p, int64_t after, event_run *run)
{
    struct event *e = event_new(after, run);
    e->process = index_of(p);
    e->generation = p->generation;
    return e;
}

void timer_set(struct process *p, enum timer t, int64_t after, event_run *run)
{
    struct event *e = event_for(p, after, run);
    e->timer = (int)t;
    e->timer_serial = ++p->timer_serial[t];
    event_add(e);
}

void timer_stop(struct process *p, enum timer t)
{
    p->timer_serial[t]++;
}

/* ---- processes ---- */

struct process *process_new(enum kind kind, int host)
{
    for (int i = 0; i < PROCESSES; i++) {
        struct process *p = &sim.processes[i];
        if (p->alive)
            continue;
        unsigned generation = p->generation + 1;
        *p = (struct process){.alive = true, .kind = kind, .host = host, .generation = generation, .connection = -1};
        return p;
    }
    abort();
}

void process_end(struct process *p)
{
    hang_up(p, one_in(2));
    netbuf_free(p->held);
    p->held = NULL;
    p->alive = false;
}

void process_vanish(struct process *p)
{
    if (p->connection >= 0)
        sim.connections[p->connection].open[p->kind == KIND_SECONDARY] = false;
    p->connection = -1;
    process_end(p);
}

/* ---- network ---- */

struct process *replica_of(const struct process *primary)
{
    const struct connection *c = primary->connection < 0 ? NULL : &sim.connections[primary->connection];
    struct process *p = c && c->open[0] && c->open[1] ? &sim.processes[c->process[1]] : NULL;
    return p && p->alive && p->generation == c->process_generation[1] ? p : NULL;
}

static void on_message(struct process *p, const struct event *e)
{
    if (p->connection != e->connection)
        return;
    if (p->kind == KIND_PRIMARY)
        primary_message(p, e);
    else
        standby_message(p, e);
}

int connect_to(struct process *p, struct process *peer)
{
    for (int i = 0; i < CONNECTIONS; i++) {
        struct connection *c = &sim.connections[i];
        if (c->open[0] || c->open[1])
            continue;
        *c = (struct connection){.open = {true, true},
                                 .generation = c->generation + 1,
                                 .process = {index_of(p), index_of(peer)},
                                 .process_generation = {p->generation, peer->generation}};
        p->connection = peer->connection = i;
        return i;
    }
    abort();
}

static struct event *packet(int connection, int to)
{
    struct connection *c = &sim.connections[connection];
    struct event *e = event_new(0, on_message);
    int64_t at = sim.now + 100 + (int64_t)chance(one_in(50) ? 20 * MS : 400);
    c->last[to] = e->at = at > c->last[to] ? at : c->last[to];
    e->process = c->process[to];
    e->generation = c->process_generation[to];
    e->connection = connection;
    e->connection_generation = c->generation;
    e->side = to;
    e->sequence = c->sent[to]++;
    return e;
}

void send_to_peer(struct process *p, enum message m, uint64_t number, const struct content *content,
                  const uint8_t digest[PROTO_DIGEST_SIZE])
{
    if (p->connection < 0)
        return;
    struct event *e = packet(p->connection, p->kind == KIND_PRIMARY);
    e->message = m;
    e->number = number;
    if (content)
        e->content = *content;
    if (digest)
        memcpy(e->digest, digest, PROTO_DIGEST_SIZE);
    event_add(e);
}

void hang_up(struct process *p, bool flush)
{
    if (p->connection < 0)
        return;
    struct connection *c = &sim.connections[p->connection];
    int to = p->kind == KIND_PRIMARY;
    c->open[!to] = false;
    if (c->open[to]) {
        struct event *e = packet(p->connection, to);
        e->message = MESSAGE_CLOSED;
        c->aborted[to] |= !flush; /* a reset: what its receiver has not read is gone */
        event_add(e);
    }
    p->connection = -1;
}

/* ---- the arbiter ---- */

static void on_answer(struct process *p, const struct event *e)
{
    if (p->claim.serial != e->serial || !p->claim.under_way)
        return;
    p->claim.under_way = false;
    if (p->kind == KIND_PRIMARY)
        primary_answer(p, e);
    else
        standby_answer(p, e);
}

static enum answer compare_and_set(const struct registered *want)
{
    struct registered *r = &sim.registered;
    if (r->term + 1 == want->term) {
        *r = *want;
        say("arbiter: term %llu is host %d's%s", (unsigned long long)r->term, r->owner, r->stopped ? ", stopped" : "");
        return ANSWER_GRANTED;
    }
    bool same = r->term == want->term && r->owner == want->owner && r->stopped == want->stopped;
    return same ? ANSWER_GRANTED : ANSWER_REFUSED;
}

/* The request has come to the arbiter. `answer` is ANSWER_NONE when no answer will come back. */
static void on_arbiter(struct process *none, const struct event *e)
{
    (void)none;
    bool read = e->number;
    enum answer answer = read ? ANSWER_GRANTED : compare_and_set(&e->want);
    struct process *p = &sim.processes[e->side];
    if (e->answer == ANSWER_NONE || !p->alive || p->generation != e->connection_generation)
        return;
    struct event *back = event_for(p, 100 + (int64_t)chance(2 * MS), on_answer);
    back->serial = e->serial;
    back->answer = answer;
    back->want = sim.registered;
    event_add(back);
}

void ask_arbiter(struct process *p, bool read, uint64_t term, bool stopped)
{
    bool away = sim.hosts[p->host].arbiter_away_until > sim.now || (sim.arbiter_slow && one_in(4));
    p->claim = (struct claim){.under_way = true,
                              .is_read = read,
                              .serial = p->claim.serial + 1,
                              .want = {.term = term, .owner = p->host, .stopped = stopped}};
    struct event *e = event_new(100 + (int64_t)chance(away ? 3 * SECOND : 3 * MS), on_arbiter);
    e->side = index_of(p); /* who asks */
    e->connection_generation = p->generation;
    e->want = p->claim.want;
    e->number = read;
    e->serial = p->claim.serial;
    e->answer = away ? ANSWER_NONE : ANSWER_GRANTED;
    if (!away || one_in(2))
        event_add(e); /* it will be carried out, perhaps late and without an answer */
    else
        free(e);
    if (!away)
        return;
    struct event *silence = event_for(p, ANSWER_TIMEOUT, on_answer);
    silence->serial = p->claim.serial;
    silence->answer = ANSWER_NONE;
    event_add(silence);
}
