/*
 * watch_domain: what can be seen of a checkpointer from outside it, in dom0: for how long a domain stands still, and
 * how long a replica takes to run after its stream has ended. The same for whoever makes the checkpoints. Each prints a
 * line of JSON.
 *
 *   watch_domain first DOMID MAX               s until the end of the first suspension: the first sync
 *   watch_domain pauses DOMID SECONDS DEVICE   suspensions, and the bytes that went over DEVICE meanwhile
 *   watch_domain takeover DOMID PORT MAX       ms from the end of the TCP connection to PORT until the domain runs
 *   watch_domain copy PAGES..                  ms that memcpy takes for so many scattered pages: a limit
 *
 * A suspension is seen by looking every millisecond: on a host with one processor who looks without end takes the time
 * from those whom it measures. When it was asked for is told by xenstore's watch: a guest that suspends itself works on
 * that for a while before it stands still.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <xenctrl.h>
#include <xenstore.h>

enum { SAMPLES_MAX = 100000, LOOK_MS = 1, PAGE = 4096, TCP_ESTABLISHED_STATE = 1 };
enum look { RUNS, STANDS, GONE };

struct monitor {
    xc_interface *xc;
    struct xs_handle *xs;
    uint32_t domid;
    double asked; /* when the suspension under way was asked for; 0: it was not */
};

struct sample {
    double still, asked; /* ms; asked: from the request on */
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static _Noreturn void fail(const char *what)
{
    fprintf(stderr, "watch_domain: %s%s%s\n", what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static enum look look(const struct monitor *m)
{
    xc_domaininfo_t info;
    if (xc_domain_getinfolist(m->xc, m->domid, 1, &info) != 1 || info.domain != m->domid ||
        info.flags & XEN_DOMINF_dying)
        return GONE;
    return info.flags & (XEN_DOMINF_shutdown | XEN_DOMINF_paused) ? STANDS : RUNS;
}

static void wait_a_little(struct monitor *m)
{
    struct pollfd fd = {.fd = xs_fileno(m->xs), .events = POLLIN};
    char **event;
    if (poll(&fd, 1, LOOK_MS) <= 0)
        return;
    double at = now_ms();
    while ((event = xs_check_watch(m->xs))) {
        m->asked = m->asked > 0 ? m->asked : at; /* the guest's own answer is the next one */
        free(event);
    }
}

/* What is seen instead of `is`, or `is` if it is still so at `until`. */
static enum look wait_while(struct monitor *m, enum look is, double until)
{
    enum look s;
    while ((s = look(m)) == is && now_ms() < until)
        wait_a_little(m);
    return s;
}

static void open_monitor(struct monitor *m, const char *domid)
{
    char path[64];
    *m = (struct monitor){.domid = (uint32_t)strtoul(domid, NULL, 10)};
    m->xc = xc_interface_open(NULL, NULL, 0);
    m->xs = m->xc ? xs_open(0) : NULL;
    snprintf(path, sizeof path, "/local/domain/%u/control/shutdown", m->domid);
    if (!m->xs || !xs_watch(m->xs, path, "asked"))
        fail("no Xen, or not root");
    wait_a_little(m); /* a watch fires once when it is set */
    m->asked = 0;
}

/* ---- first ---- */

static void first(const char *domid, double max_s)
{
    struct monitor m;
    double start = now_ms();
    open_monitor(&m, domid);
    if (wait_while(&m, RUNS, start + max_s * 1e3) != STANDS || wait_while(&m, STANDS, start + max_s * 1e3) != RUNS) {
        errno = 0;
        fail("no suspension was seen");
    }
    printf("{\"s\":%.2f}\n", (now_ms() - start) / 1e3);
}

/* ---- pauses ---- */

static uint64_t device_bytes(const char *device)
{
    static const char *const counters[] = {"rx_bytes", "tx_bytes"};
    uint64_t sum = 0;
    for (int i = 0; i < 2; i++) {
        char path[128];
        unsigned long long n = 0;
        snprintf(path, sizeof path, "/sys/class/net/%s/statistics/%s", device, counters[i]);
        FILE *f = fopen(path, "re");
        if (!f || fscanf(f, "%llu", &n) != 1)
            fail(path);
        fclose(f);
        sum += n;
    }
    return sum;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Nearest rank, of sorted values. */
static double percentile(const double *v, size_t n, size_t percent)
{
    return v[(n * percent + 99) / 100 - 1];
}

static void print_spread(const char *name, double *v, size_t n)
{
    qsort(v, n, sizeof *v, ascending);
    printf("\"%s\":{\"p50\":%.1f,\"p99\":%.1f,\"min\":%.1f,\"max\":%.1f}", name, percentile(v, n, 50),
           percentile(v, n, 99), v[0], v[n - 1]);
}

static double own_cpu_ms(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e3 +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e3;
}

/* Begins and ends with the end of a suspension, so that what is counted belongs to whole checkpoints. */
static void pauses(const char *domid, double seconds, const char *device)
{
    static double still[SAMPLES_MAX], asked[SAMPLES_MAX];
    struct monitor m;
    size_t n = 0;
    open_monitor(&m, domid);
    double limit = now_ms() + seconds * 1e3;
    wait_while(&m, RUNS, limit);
    wait_while(&m, STANDS, limit);
    m.asked = 0;
    double start = now_ms(), end = start;
    uint64_t before = device_bytes(device), after = before;
    limit = start + seconds * 1e3;
    while (n < SAMPLES_MAX && wait_while(&m, RUNS, limit) == STANDS) {
        double from = now_ms();
        if (wait_while(&m, STANDS, limit + seconds * 1e3) != RUNS)
            break;
        end = now_ms();
        after = device_bytes(device);
        still[n] = end - from;
        asked[n++] = end - (m.asked > 0 ? m.asked : from);
        m.asked = 0;
    }
    errno = 0;
    if (n == 0)
        fail("the domain was never suspended");
    printf("{\"seconds\":%.2f,\"checkpoints\":%zu,\"checkpoints_per_s\":%.2f,\"wire_bytes_per_checkpoint\":%.0f,",
           (end - start) / 1e3, n, (double)n / (end - start) * 1e3, (double)(after - before) / (double)n);
    print_spread("pause_ms", still, n);
    printf(",");
    print_spread("asked_ms", asked, n);
    printf(",\"watching_cpu\":%.3f}\n", own_cpu_ms() / (now_ms() - start));
}

/* ---- takeover ---- */

static unsigned connections(const char *file, unsigned port)
{
    char line[512];
    unsigned n = 0;
    FILE *f = fopen(file, "re");
    while (f && fgets(line, sizeof line, f)) {
        unsigned local, state;
        if (sscanf(line, " %*u: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x", &local, &state) == 2)
            n += local == port && state == TCP_ESTABLISHED_STATE;
    }
    if (f)
        fclose(f);
    return n;
}

static void wait_connected(struct monitor *m, unsigned port, bool connected, double until)
{
    while ((connections("/proc/net/tcp", port) + connections("/proc/net/tcp6", port) > 0) != connected) {
        errno = 0;
        if (now_ms() > until)
            fail(connected ? "nobody is connected to the port" : "the stream does not end");
        wait_a_little(m);
    }
}

static void takeover(const char *domid, unsigned port, double max_s)
{
    struct monitor m;
    double limit = now_ms() + max_s * 1e3;
    open_monitor(&m, domid);
    wait_connected(&m, port, true, limit);
    if (look(&m) != STANDS)
        fail("the replica does not stand still");
    printf("watching\n");
    wait_connected(&m, port, false, limit);
    double ended = now_ms();
    enum look s = wait_while(&m, STANDS, limit);
    errno = 0;
    if (s != RUNS)
        fail(s == GONE ? "the replica is gone" : "the replica does not run");
    printf("{\"ms\":%.1f}\n", now_ms() - ended);
}

/* ---- copy ---- */

static void copy(int count, char **pages)
{
    enum { ROUNDS = 9, SPREAD = 4 }; /* a page in four, so that they do not follow one another */
    for (int i = 0; i < count; i++) {
        size_t n = strtoul(pages[i], NULL, 10);
        uint8_t *from = malloc(n * SPREAD * PAGE), *to = malloc(n * PAGE);
        double best = 1e9;
        if (!from || !to)
            fail("memory");
        memset(from, 1, n * SPREAD * PAGE);
        memset(to, 2, n * PAGE);
        for (int round = 0; round < ROUNDS; round++) {
            double start = now_ms();
            for (size_t p = 0; p < n; p++)
                memcpy(to + p * PAGE, from + p * SPREAD * PAGE, PAGE);
            double took = now_ms() - start;
            best = took < best ? took : best;
        }
        printf("%s\"%zu\":%.2f%s", i ? "," : "{", n, best, i == count - 1 ? "}\n" : "");
        free(from);
        free(to);
    }
}

int main(int argc, char **argv)
{
    const char *command = argc > 2 ? argv[1] : "";
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc == 4 && !strcmp(command, "first"))
        first(argv[2], atof(argv[3]));
    else if (argc == 5 && !strcmp(command, "pauses"))
        pauses(argv[2], atof(argv[3]), argv[4]);
    else if (argc == 5 && !strcmp(command, "takeover"))
        takeover(argv[2], (unsigned)atoi(argv[3]), atof(argv[4]));
    else if (argc > 2 && !strcmp(command, "copy"))
        copy(argc - 2, argv + 2);
    else {
        fprintf(stderr, "watch_domain first DOMID MAX | pauses DOMID SECONDS DEVICE | takeover DOMID PORT MAX | "
                        "copy PAGES..\n");
        return 2;
    }
    return 0;
}
