/*
 * agents: see agents.h. The hosts' folders, configurations, processes and what the agents say.
 */
#include "tests/integration/agents.h"
#include "common/control.h"
#include "common/file.h"
#include "common/jsonget.h"
#include "common/link.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { ANSWER_MS = 10000, PROCESSES_MAX = 64, LOG_MAX = 64 << 20, EXIT_PATIENCE_S = 30 };

static const char *const agent_names[] = {"primary", "secondary"};
static struct agents *current; /* of the test that runs */
static pid_t awaited;          /* whose exit code is wanted */

double agents_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* We are the init of what the agents leave; a zombie would pass for a process that lives. */
static void reap_orphans(void)
{
    siginfo_t info = {0};
    while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid && info.si_pid != awaited) {
        waitpid(info.si_pid, NULL, WNOHANG);
        info.si_pid = 0;
    }
}

void agents_sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
    reap_orphans();
}

bool agents_is_alive(pid_t pid)
{
    reap_orphans();
    return pid > 0 && kill(pid, 0) == 0;
}

/* ---- folders and configurations ---- */

static unsigned free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, n), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &n), 0);
    close(fd);
    return ntohs(at.sin_port);
}

static void make_host(struct agents *t, struct host *h, const char *name)
{
    struct errmsg e;
    char key[128], certificate[128];
    snprintf(h->name, sizeof h->name, "%s", name);
    snprintf(h->dir, sizeof h->dir, "%s/%s", t->dir, name);
    assert_int_equal(dir_make(h->dir, 0700, &e), 0);
    snprintf(key, sizeof key, "%s/key.pem", h->dir);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", h->dir);
    if (tls_identity_create(key, certificate, name, &e))
        fail_msg("%s", e.text);
    struct tls_identity *id = tls_identity_load(key, certificate, &e);
    assert_non_null(id);
    tls_identity_fingerprint(id, h->fingerprint);
    tls_identity_free(id);
    do /* none of them listens yet: the system may offer a port again */
        h->port = free_port();
    while ((h != &t->a && h->port == t->a.port) || (h != &t->b && h->port == t->b.port));
}

static int add_peer(char *out, size_t size, const struct agents *t, const struct host *h, const struct host *other,
                    const struct agents_options *o)
{
    char fingerprint[65];
    memcpy(fingerprint, other->fingerprint, sizeof fingerprint);
    if (o->swap_fingerprints || (o->wrong_at_b && h == &t->b))
        fingerprint[0] = fingerprint[0] == '0' ? '1' : '0';
    return snprintf(out, size, "[peer %s]\naddress = 127.0.0.1\nport = %u\nfingerprint = %s\naccept = %s\n\n",
                    other->name, other->port, fingerprint, o->accept ? o->accept : "*");
}

/* @DIR becomes the host's folder. */
static void expand(char *out, size_t size, const char *lines, const struct host *h)
{
    size_t n = 0;
    for (const char *at = lines, *mark; n < size; at = mark + 4) {
        mark = strstr(at, "@DIR");
        n += (size_t)snprintf(out + n, size - n, "%.*s%s", (int)(mark ? mark - at : (long)strlen(at)), at,
                              mark ? h->dir : "");
        if (!mark)
            break;
    }
}

static void write_config(const struct agents *t, const struct host *h, const struct agents_options *o)
{
    char path[128], text[4096], arbiter[96], vm[1024];
    struct errmsg e;
    const struct host *const all[] = {&t->a, &t->b, &t->c};
    const char *other_kind = h == &t->a ? o->arbiter_a : o->arbiter_b;
    snprintf(arbiter, sizeof arbiter, "file:%s/arbiter", t->dir);
    expand(vm, sizeof vm, o->vm ? o->vm : "", h);
    int n = snprintf(text, sizeof text,
                     "[host]\nname = %s\nlisten = 127.0.0.1\nport = %u\nrun_dir = %s/run\nstate_dir = %s/state\n"
                     "arbiter = %s\n%s\n"
                     "[vm web]\nbackend = fake\n%s\n",
                     h->name, h->port, h->dir, h->dir, other_kind ? other_kind : arbiter,
                     o->host ? o->host : "detect = 2s\n", vm);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] != h)
            n += add_peer(text + n, sizeof text - (size_t)n, t, h, all[i], o);
    snprintf(path, sizeof path, "%s/hikae.conf", h->dir);
    if (file_write_atomic(path, text, (size_t)n, 0600, &e))
        fail_msg("%s", e.text);
}

void agents_write_config(struct agents *t, const struct agents_options *o)
{
    write_config(t, &t->a, o);
    write_config(t, &t->b, o);
    write_config(t, &t->c, o);
}

static void on_stop(int signum)
{
    if (current) { /* the test is at its end one way or the other: leave no process behind */
        host_kill(&current->a);
        host_kill(&current->b);
        host_kill(&current->c);
    }
    signal(signum, SIG_DFL);
    raise(signum);
}

struct agents *agents_new(const struct agents_options *o)
{
    struct errmsg e;
    char arbiter[80];
    assert_null(current);
    struct agents *t = calloc(1, sizeof *t);
    assert_non_null(t);
    strcpy(t->dir, "/tmp/hikae-int-XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    current = t;
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* workers and VMs that lost their parents come to us */
    signal(SIGTERM, on_stop);
    signal(SIGINT, on_stop);
    snprintf(arbiter, sizeof arbiter, "%s/arbiter", t->dir);
    assert_int_equal(dir_make(arbiter, 0700, &e), 0);
    make_host(t, &t->a, "a");
    make_host(t, &t->b, "b");
    make_host(t, &t->c, "c");
    agents_write_config(t, o);
    return t;
}

static void log_path(const struct host *h, enum agent agent, char out[128])
{
    snprintf(out, 128, "%s/%s.log", h->dir, agent_names[agent]);
}

static char *read_log(const struct host *h, enum agent agent)
{
    char path[128];
    struct errmsg e;
    log_path(h, agent, path);
    char *text = file_read_all(path, LOG_MAX, NULL, &e);
    return text ? text : strdup("");
}

static void show_log(const struct host *h, enum agent agent)
{
    enum { TAIL = 6000 };
    char *text = read_log(h, agent);
    size_t n = strlen(text);
    fprintf(stderr, "---- hikae-%s of host %s\n%s", agent_names[agent], h->name, text + (n > TAIL ? n - TAIL : 0));
    free(text);
}

static bool has_report(const struct host *h)
{
    static const char *const marks[] = {"ERROR: AddressSanitizer", "runtime error", "LeakSanitizer",
                                        "WARNING: ThreadSanitizer"};
    bool found = false;
    for (int agent = PRIMARY; agent <= SECONDARY; agent++) {
        char *text = read_log(h, (enum agent)agent);
        for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
            found |= strstr(text, marks[i]) != NULL;
        free(text);
    }
    return found;
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *ftw)
{
    (void)s, (void)kind, (void)ftw;
    return remove(path);
}

static bool end(struct agents *t)
{
    host_kill(&t->a);
    host_kill(&t->b);
    host_kill(&t->c);
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    bool report = has_report(&t->a) || has_report(&t->b) || has_report(&t->c);
    if (report) {
        for (int agent = PRIMARY; agent <= SECONDARY; agent++) {
            show_log(&t->a, (enum agent)agent);
            show_log(&t->b, (enum agent)agent);
            show_log(&t->c, (enum agent)agent);
        }
    }
    nftw(t->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    free(t);
    current = NULL;
    return report;
}

void agents_free(struct agents *t)
{
    if (t && end(t))
        fail_msg("a sanitizer has reported, see above");
}

int agents_teardown(void **state)
{
    (void)state;
    if (!current)
        return 0;
    for (int agent = PRIMARY; agent <= SECONDARY; agent++) {
        show_log(&current->a, (enum agent)agent);
        show_log(&current->b, (enum agent)agent);
        show_log(&current->c, (enum agent)agent);
    }
    end(current);
    return 0;
}

/* ---- processes ---- */

static char own_program[400];

/* Before the sandbox: in a chroot the path is another one when the mount namespace has changed. */
__attribute__((constructor)) static void find_own_program(void)
{
    if (readlink("/proc/self/exe", own_program, sizeof own_program - 1) < 0)
        own_program[0] = 0;
}

void agents_program_dir(char *out, size_t size)
{
    snprintf(out, size, "%.*s", (int)(strrchr(own_program, '/') - own_program), own_program);
}

void agents_set_program_dir(const char *dir)
{
    snprintf(own_program, sizeof own_program, "%s/x", dir);
}

static pid_t spawn(const struct host *h, enum agent agent)
{
    char program[512], config[128], log[128];
    strcpy(program, own_program);
    assert_true(*program);
    sprintf(strrchr(program, '/') + 1, "hikae-%s", agent_names[agent]);
    snprintf(config, sizeof config, "%s/hikae.conf", h->dir);
    log_path(h, agent, log);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid)
        return pid;
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    close_range(3, ~0U, 0);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    unsetenv("JOURNAL_STREAM");
    execl(program, program, "--config", config, NULL);
    _exit(127);
}

static bool answers(const struct host *h, enum agent agent)
{
    struct json_object *j = host_ask(h, agent, "{\"cmd\":\"status\"}");
    bool ok = json_get_bool(j, "ok", false);
    json_object_put(j);
    return ok;
}

void host_start(struct host *h, enum agent agent)
{
    h->supervisors[agent] = spawn(h, agent);
    WAIT_FOR(answers(h, agent));
}

void host_start_both(struct host *h)
{
    host_start(h, SECONDARY);
    host_start(h, PRIMARY);
}

int host_run(struct host *h, enum agent agent)
{
    pid_t pid = spawn(h, agent);
    int status;
    awaited = pid;
    for (double until = agents_now() + EXIT_PATIENCE_S; waitpid(pid, &status, WNOHANG) == 0; agents_sleep_ms(10)) {
        if (agents_now() < until)
            continue;
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        fail_msg("hikae-%s has not ended by itself", agent_names[agent]);
    }
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Does process `pid` belong to the host, and does its command line contain `part`? */
static bool is_process(const struct host *h, const char *pid, const char *part)
{
    char path[64], text[2048], dir[100];
    snprintf(path, sizeof path, "/proc/%.20s/cmdline", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n <= 0)
        return false;
    for (ssize_t i = 0; i < n; i++)
        if (!text[i])
            text[i] = ' ';
    text[n] = 0;
    snprintf(dir, sizeof dir, "%s/", h->dir);
    return strstr(text, dir) && strstr(text, part);
}

size_t host_processes(const struct host *h, const char *part, pid_t *out, size_t max)
{
    size_t n = 0;
    DIR *proc = opendir("/proc");
    for (const struct dirent *entry; proc && n < max && (entry = readdir(proc));)
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && is_process(h, entry->d_name, part))
            out[n++] = (pid_t)atoi(entry->d_name);
    if (proc)
        closedir(proc);
    return n;
}

static void reap(pid_t pid)
{
    for (int i = 0; i < 2000 && waitpid(pid, NULL, WNOHANG) == 0; i++)
        agents_sleep_ms(1);
}

void host_kill(struct host *h)
{
    pid_t all[PROCESSES_MAX];
    /* Again, for what was just being started. */
    for (size_t n; (n = host_processes(h, "", all, PROCESSES_MAX)) > 0;) {
        for (size_t i = 0; i < n; i++)
            kill(all[i], SIGKILL);
        for (size_t i = 0; i < n; i++)
            reap(all[i]);
    }
    h->supervisors[PRIMARY] = h->supervisors[SECONDARY] = 0;
}

void host_kill_supervisor(struct host *h, enum agent agent)
{
    kill(h->supervisors[agent], SIGKILL);
    reap(h->supervisors[agent]);
    h->supervisors[agent] = 0;
}

pid_t host_worker(const struct host *h, enum agent agent)
{
    pid_t all[PROCESSES_MAX];
    /* A secondary's worker that has taken over goes on as a program of the other name. */
    size_t n =
        host_processes(h, agent == PRIMARY ? "hikae-primary --config" : "hikae-secondary --config", all, PROCESSES_MAX);
    for (size_t i = 0; i < n; i++) {
        char number[24];
        snprintf(number, sizeof number, "%d", (int)all[i]);
        if (is_process(h, number, "--worker"))
            return all[i];
    }
    return 0;
}

void host_kill_agent(struct host *h, enum agent agent)
{
    pid_t pid = host_worker(h, agent);
    assert_true(pid > 0);
    kill(h->supervisors[agent], SIGSTOP); /* or it would start another worker */
    kill(pid, SIGKILL);
    host_kill_supervisor(h, agent);
}

/* ---- questions ---- */

static struct json_object *ask(const struct host *h, enum agent agent, struct json_object *request)
{
    char path[160];
    struct errmsg e;
    snprintf(path, sizeof path, "%s/run/%s.sock", h->dir, agent_names[agent]);
    struct json_object *reply = control_call(path, request, ANSWER_MS, &e);
    json_object_put(request);
    return reply;
}

static struct json_object *request_of(const char *format, va_list args)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, args);
    struct json_object *j = json_tokener_parse(text);
    assert_non_null(j);
    return j;
}

struct json_object *host_ask(const struct host *h, enum agent agent, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct json_object *request = request_of(format, args);
    va_end(args);
    return ask(h, agent, request);
}

void host_order(const struct host *h, enum agent agent, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    struct json_object *request = request_of(format, args);
    va_end(args);
    struct json_object *reply = ask(h, agent, request);
    if (!json_get_bool(reply, "ok", false))
        fail_msg("host %s: %s: %s", h->name, format, json_get_text(reply, "error", "no answer"));
    json_object_put(reply);
}

void host_refuses(const struct host *h, enum agent agent, const char *part, const char *request)
{
    struct json_object *reply = host_ask(h, agent, "%s", request);
    const char *error = json_get_text(reply, "error", "");
    if (!reply || json_get_bool(reply, "ok", true) || !strstr(error, part))
        fail_msg("%s: the answer is \"%s\", not an error with \"%s\"", request, error, part);
    json_object_put(reply);
}

struct json_object *host_status(const struct host *h, enum agent agent)
{
    struct json_object *j = host_ask(h, agent, "{\"cmd\":\"status\"}"), *found = NULL;
    struct json_object *all = json_get_array(j, agent == PRIMARY ? "vms" : "replicas");
    /* Of a worker that is leaving and of one that replaces it, the later one counts. */
    for (size_t i = 0; all && i < json_object_array_length(all); i++)
        if (!strcmp(json_get_text(json_object_array_get_idx(all, i), "vm", ""), "web") && !found)
            found = json_object_get(json_object_array_get_idx(all, i));
    json_object_put(j);
    return found;
}

bool host_state_is(const struct host *h, enum agent agent, const char *state)
{
    struct json_object *j = host_status(h, agent);
    bool is = !strcmp(json_get_text(j, "state", "none"), state);
    json_object_put(j);
    return is;
}

uint64_t host_number(const struct host *h, enum agent agent, const char *key)
{
    struct json_object *j = host_status(h, agent);
    uint64_t n = json_get_u64(j, key, 0);
    json_object_put(j);
    return n;
}

void host_wait_state(const struct host *h, enum agent agent, const char *state)
{
    for (double until = agents_now() + AGENTS_PATIENCE_S; !host_state_is(h, agent, state); agents_sleep_ms(5)) {
        if (agents_now() < until)
            continue;
        struct json_object *j = host_status(h, agent);
        fail_msg("%s of host %s is not %s but %s", agent_names[agent], h->name, state,
                 j ? json_object_to_json_string(j) : "silent");
    }
}

void host_wait_reason(const struct host *h, enum agent agent, const char *part)
{
    for (double until = agents_now() + AGENTS_PATIENCE_S;; agents_sleep_ms(5)) {
        struct json_object *j = host_status(h, agent);
        const char *reason = json_get_text(j, "reason", "");
        bool has = strstr(reason, part) != NULL;
        if (!has && agents_now() > until)
            fail_msg("%s of host %s says \"%s\", not \"%s\"", agent_names[agent], h->name, reason, part);
        json_object_put(j);
        if (has)
            return;
    }
}

bool host_log_has(const struct host *h, enum agent agent, const char *part)
{
    char *text = read_log(h, agent);
    bool has = strstr(text, part) != NULL;
    free(text);
    return has;
}

unsigned host_log_count(const struct host *h, enum agent agent, const char *part)
{
    char *text = read_log(h, agent);
    unsigned n = 0;
    for (const char *at = text; (at = strstr(at, part)); at += strlen(part))
        n++;
    free(text);
    return n;
}

void host_wait_log(const struct host *h, enum agent agent, const char *part)
{
    for (double until = agents_now() + AGENTS_PATIENCE_S; !host_log_has(h, agent, part); agents_sleep_ms(5))
        if (agents_now() > until)
            fail_msg("the log of %s of host %s has no \"%s\"", agent_names[agent], h->name, part);
}
