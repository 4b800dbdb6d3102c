/*
 * agents: two hosts for the integration tests of the agents. Each has its own folder, configuration, key and port, and
 * runs the real programs on `backend = fake`; they share a file arbiter. All processes of a host name its folder in
 * their command line: so they are found, by pid, and ended, also after a test that failed.
 */
#ifndef HIKAE_TESTS_AGENTS_H
#define HIKAE_TESTS_AGENTS_H

#include "vm/fake/machine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct json_object;

enum agent { PRIMARY, SECONDARY };

struct host {
    char name[8]; /* "a", "b" */
    char dir[96];
    char fingerprint[65];
    unsigned port;
    pid_t supervisors[2]; /* by enum agent; 0: not started */
};

struct agents {
    char dir[64];
    struct host a, b, c; /* c is there for those who start it */
};

struct agents_options {
    const char *host;       /* lines added to [host], both; NULL: a detection time for machines under load */
    const char *vm;         /* lines added to [vm web], both, @DIR is the host's folder; backend = fake is there
                             * already */
    const char *accept;     /* NULL: "*" */
    bool swap_fingerprints; /* each host knows the other one by a wrong fingerprint */
    const char *arbiter_a, *arbiter_b; /* NULL: a shared folder, by the kind file */
    bool wrong_at_b;                   /* only b knows a by a wrong one */
};

/* Puts this process into network and mount namespaces of its own, with a bridge "br0", when the system lets it. For
 * main, before any test. */
void agents_enter_sandbox(void);
bool agents_have_sandbox(void);

/* Makes folders, keys and configurations; starts nothing. Fails the test on error. */
struct agents *agents_new(const struct agents_options *o);
/* Ends everything, checks the logs for reports of sanitizers (a failure of the test), removes the folder. NULL is
 * fine. */
void agents_free(struct agents *t);
/* cmocka teardown: ends what the test that failed left, and shows its logs. */
int agents_teardown(void **state);
void agents_write_config(struct agents *t, const struct agents_options *o);

/* Where the agents' programs are: beside the test's, unless set. */
void agents_program_dir(char *out, size_t size);
void agents_set_program_dir(const char *dir);

void host_start(struct host *h, enum agent agent); /* waits until it answers */
void host_start_both(struct host *h);
/* Runs the agent until it exits by itself; returns its exit code. */
int host_run(struct host *h, enum agent agent);
/* SIGKILL to all processes of the host at once, VMs included, as a power cut would. */
void host_kill(struct host *h);
/* SIGKILL to an agent's supervisor, and wait for its end. */
void host_kill_supervisor(struct host *h, enum agent agent);
/* The same, and first to the worker of "web". */
void host_kill_agent(struct host *h, enum agent agent);

/* A request to an agent; NULL if it doesn't answer. */
struct json_object *host_ask(const struct host *h, enum agent agent, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same; the reply must be ok or the test fails. */
void host_order(const struct host *h, enum agent agent, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same; the reply must be an error that contains `part`. */
void host_refuses(const struct host *h, enum agent agent, const char *part, const char *request);
/* The status of VM or replica "web"; NULL: none. Owned by the caller. */
struct json_object *host_status(const struct host *h, enum agent agent);
bool host_state_is(const struct host *h, enum agent agent, const char *state);
void host_wait_state(const struct host *h, enum agent agent, const char *state);
uint64_t host_number(const struct host *h, enum agent agent, const char *key); /* 0 if there is none */
/* The status' "reason" must come to contain `part`. */
void host_wait_reason(const struct host *h, enum agent agent, const char *part);
void host_wait_log(const struct host *h, enum agent agent, const char *part);
bool host_log_has(const struct host *h, enum agent agent, const char *part);
unsigned host_log_count(const struct host *h, enum agent agent, const char *part); /* how often it has it */

/* Processes of the host whose command line contains `part`; at most max pids. */
size_t host_processes(const struct host *h, const char *part, pid_t *out, size_t max);
/* The worker of "web": 0 if there is none. */
pid_t host_worker(const struct host *h, enum agent agent);

/* Fake VMs that live on this host. replica: those that hold a replica, else those that are VMs. */
size_t host_machines(const struct host *h, bool replica, struct machine **out, char (*dirs)[160], size_t max);
void machine_unmap(struct machine *m);
/* The one VM of that host: fails the test if there is none or more than one. */
struct machine *host_vm(const struct host *h);
pid_t host_vm_pid(const struct host *h); /* 0: none */
pid_t host_replica_pid(const struct host *h);
/* Waits until the host's one VM executes: its steps advance. */
void host_wait_running(const struct host *h);
/* How many VMs execute just now, on both hosts. */
unsigned agents_running(const struct agents *t);
/* Both hosts' agents run, VM web runs on a and is PROTECTED by b. */
void agents_protect(struct agents *t);
void host_check_memory(const struct host *h); /* the guest has seen no error, and has looked */

/* Polls `condition` until it is true; fails the test, naming it, after a generous while. */
#define WAIT_FOR(condition)                                                                                            \
    for (double until_ = agents_now() + AGENTS_PATIENCE_S; !(condition);) {                                            \
        if (agents_now() > until_)                                                                                     \
            fail_msg("waited in vain for: %s", #condition);                                                            \
        agents_sleep_ms(5);                                                                                            \
    }
#define AGENTS_PATIENCE_S 20.
double agents_now(void); /* s, monotonic */
void agents_sleep_ms(unsigned ms);
bool agents_is_alive(pid_t pid);

/* Frames that reached the bridge, seen from outside. Needs the sandbox. */
struct observer;
struct observer *observer_new(void);
void observer_free(struct observer *o);
/* Reads what came. `frames`: all so far; `backwards`: those whose sequence was not greater than all before;
 * `changes`: how often a frame came from another process than the one before. */
struct observer_counts {
    uint64_t frames, backwards, changes, last;
    uint64_t nonce; /* of the process that sent the last one */
} observer_read(struct observer *o);

#endif
