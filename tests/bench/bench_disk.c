/*
 * bench_disk: what protection costs a VM's disk. The same guest writes to the same store, by fio, by way of our disk
 * server unprotected, protected with an epoch each 20 ms, and protected on output; and, on QEMU alone, by way of
 * qemu-nbd. The first three take turns, so that a machine that is busy for a while is busy for all of them.
 *
 * fio counts by the guest's clock, which stands still in a pause. How long all of an order took is known by that clock
 * and by this host's; megabytes and operations per second are by the latter, as is what the processors did, but for the
 * part of the order in which fio made ready. The latency of a flush is fio's. A pause is Hikae's own figure; what disks
 * add to it is the median of the pauses while the guest writes a block each 2 ms, less that of the pauses before it.
 * Under full load a pause waits for all that the guest has given to its disk, which is as long as the store takes for
 * it (pause_loaded_ms): that is no figure of ours.
 *
 * The store here is this machine's page cache, which takes a GB per second. What is left of the rate of a store that a
 * disk is behind is seq_paced: of so much per second (seq_pace_mb_s) that the guest would write, how much it can.
 *
 * The limit of such a machine is its processors: both hosts and the guest share them. So how busy they were while the
 * guest wrote in order, and what a megabyte has cost of them, stands beside the rate (cpus_busy, cpu_ms_per_mb), and
 * what a copy elsewhere costs whoever makes it (floor.h).
 *
 * Exit status: 0 all measured (whatever the figures); 1 something did not work; 2 usage.
 */
#include "common/hist.h"
#include "common/jsonget.h"
#include "common/log.h"
#include "tests/bench/floor.h"
#include "tests/bench/stock.h"
#include "tools/demo/drill.h"
#include "tools/demo/programs.h"
#include "tools/demo/run.h"
#include "tools/demo/sandbox.h"
#include "tools/demo/view.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_BROKEN = 1, EXIT_USAGE = 2 };
enum { PORT = 11, GUEST_UP_MS = 120000, ANSWER_S = 300, POLL_MS = 100, ROUNDS_MAX = 20, MIB = 1 << 20 };
enum { ANSWER_MAX = 1 << 20, PACE = 300 /* MB/s */ };

static const char help[] =
    "bench_disk: what protection costs a VM's disk.\n\n"
    "  --rounds N       of each kind; the medians count (3)\n"
    "  --seq MB         written one after the other in a round, in pieces of 256 KiB (1024);\n"
    "                   half of that once more at no more than 300 MB/s,\n"
    "                   half in pieces of 64 KiB, a 16th in pieces of 4,\n"
    "                   and a quarter of it through the guest's page cache\n"
    "  --rand N         blocks of 4 KiB written anywhere in a round (20000)\n"
    "  --fsync N        writes with a flush in a round (300)\n"
    "  --paced N        blocks of 4 KiB in a round, one each 2 ms (1500)\n"
    "  --idle S         seconds of pauses without load, to compare with (3)\n"
    "  --disk MB        size of the disk (512)\n"
    "  --memory MB      of the guest (384)\n"
    "  --dir DIR        where the stores are: a file system on a disk (/var/tmp)\n"
    "  --json [FILE]    results; without a file, or with -, to stdout\n"
    "  --guest DIR      vmlinuz and initrd.gz of the guest that has fio: tests/guest/build DIR fio\n\n"
    "Status: 0 all measured; 1 something did not work; 2 usage.\n";

enum { UNPROTECTED, INTERVAL20, ON_OUTPUT, QEMU_NBD, SERIES };
static const char *const names[SERIES] = {"unprotected", "interval20", "on_output", "qemu_nbd"};

enum figure {
    SEQ,
    SEQ_64K,
    SEQ_4K,
    SEQ_PACED,
    SEQ_CACHED,
    CACHED_WIRE,
    RAND,
    FSYNC_50,
    FSYNC_99,
    CPUS_BUSY,
    CPU_MS_PER_MB,
    PAUSE_IDLE,
    PAUSE_BUSY,
    PAUSE_ADDED,
    PAUSE_LOADED,
    FIGURES
};

struct bench {
    struct options options;
    unsigned rounds, seq_mb, rand_count, fsync_count, paced_count, idle_s;
    char dir[64];
    struct drill drill;
    double floor; /* ms of a processor per MiB */
    double figures[SERIES][FIGURES][ROUNDS_MAX];
    unsigned done[SERIES]; /* rounds */
};

/* ---- the guest's part ---- */

static int connect_once(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct timeval bound = {.tv_sec = ANSWER_S};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, GUEST_ADDRESS, &a.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    close(fd);
    return -1;
}

static int connect_guest(struct errmsg *e)
{
    for (int64_t end = now_ms() + GUEST_UP_MS; now_ms() < end; sleep_ms(POLL_MS)) {
        int fd = connect_once();
        if (fd >= 0)
            return fd;
    }
    return errmsg_set(e, "the guest does not answer at port %d after %d s", PORT, GUEST_UP_MS / 1000);
}

/* Seconds for which the processors of this machine were busy so far, all together. */
static double cpu_seconds(void)
{
    unsigned long long user = 0, low = 0, system = 0, idle, waiting, hard = 0, soft = 0;
    FILE *f = fopen("/proc/stat", "re");
    if (f &&
        fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &low, &system, &idle, &waiting, &hard, &soft) < 7)
        user = low = system = hard = soft = 0;
    if (f)
        fclose(f);
    return (double)(user + low + system + hard + soft) / (double)sysconf(_SC_CLK_TCK);
}

/* What fio says of an order, which is no more than its options. */
struct outcome {
    double seconds; /* that fio wrote, by this host's clock */
    double mb, operations;
    double flush_50, flush_99; /* ms, by the guest's clock */
    double busy;               /* seconds of all processors together, in that time */
};

static int take_outcome(struct json_object *answer, double whole_s, double busy, struct outcome *out, struct errmsg *e)
{
    struct json_object *fio = json_get(answer, "fio"), *jobs = json_get_array(fio, "jobs");
    struct json_object *job = jobs ? json_object_array_get_idx(jobs, 0) : NULL;
    struct json_object *write = json_get(job, "write"), *flush = json_get(json_get(job, "sync"), "lat_ns");
    double whole_ms = json_get_double(answer, "ms", 0), ms = json_get_double(write, "runtime", 0);
    if (json_get_u64(answer, "status", 1) || json_get_u64(job, "error", 1) || whole_ms <= 0 || ms <= 0)
        return errmsg_set(e, "fio in the guest: %.300s",
                          json_object_is_type(fio, json_type_string) ? json_object_get_string(fio)
                                                                     : "it says that something did not work");
    *out = (struct outcome){.seconds = ms / whole_ms * whole_s,
                            .mb = json_get_double(write, "io_bytes", 0) / MIB,
                            .operations = json_get_double(write, "total_ios", 0),
                            .flush_50 = json_get_double(json_get(flush, "percentile"), "50.000000", 0) / 1e6,
                            .flush_99 = json_get_double(json_get(flush, "percentile"), "99.000000", 0) / 1e6,
                            .busy = ms / whole_ms * busy};
    return 0;
}

/* One line of what the guest says. The caller frees it. */
static char *read_line(int fd)
{
    char *line = malloc(ANSWER_MAX + 1);
    size_t used = 0;
    for (ssize_t got; line && used < ANSWER_MAX && !memchr(line, '\n', used); used += (size_t)got) {
        if ((got = recv(fd, line + used, ANSWER_MAX - used, 0)) <= 0) {
            free(line);
            return NULL;
        }
    }
    if (line)
        line[used] = '\0';
    return line;
}

static int order(int fd, struct outcome *out, struct errmsg *e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The options end in those that all have. */
static int order(int fd, struct outcome *out, struct errmsg *e, const char *format, ...)
{
    char line[512];
    va_list list;
    va_start(list, format);
    int n = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    n += snprintf(line + n, sizeof line - (size_t)n, " --thread --norandommap --clocksource=clock_gettime\n");
    int64_t begin = now_ms();
    double busy = cpu_seconds();
    if (send(fd, line, (size_t)n, MSG_NOSIGNAL) != n)
        return errmsg_set(e, "the guest hung up");
    char *said = read_line(fd);
    double seconds = (double)(now_ms() - begin) / 1e3;
    struct json_object *answer = said ? json_parse_object(said, strlen(said)) : NULL;
    int bad = answer ? take_outcome(answer, seconds, cpu_seconds() - busy, out, e)
                     : errmsg_set(e, "fio %s: the guest %s", line, said ? "answers nonsense" : "does not answer");
    json_object_put(answer);
    free(said);
    return bad;
}

/* Blocks at a pace: its pauses are compared with those of before. */
static int load_lightly(struct bench *b, struct errmsg *e)
{
    struct outcome o;
    int fd = connect_guest(e);
    int bad =
        fd < 0 || order(fd, &o, e, "--rw=randwrite --bs=4k --direct=1 --rate_iops=500 --number_ios=%u", b->paced_count);
    if (fd >= 0)
        close(fd);
    return bad ? -1 : 0;
}

static unsigned part(unsigned mb, unsigned of)
{
    return mb / of ? mb / of : 1;
}

/* Sent to the replica's host so far. */
static double wire_mb(struct bench *b)
{
    struct drill *d = &b->drill;
    tracker_poll(d->tracker, &d->hosts[d->active], true, &d->status);
    return (double)tracker_totals(d->tracker)->bytes_wire / MIB;
}

/* One piece after the other, so many under way at a time as a disk takes. */
static int in_order(int fd, const char *piece, unsigned mb, struct outcome *o, struct errmsg *e)
{
    return order(fd, o, e, "--rw=write --bs=%s --direct=1 --ioengine=libaio --iodepth=8 --io_size=%um", piece, mb);
}

static int write_paced(struct bench *b, int fd, double figures[FIGURES], struct errmsg *e)
{
    struct outcome o;
    if (order(fd, &o, e, "--rw=write --bs=256k --direct=1 --ioengine=libaio --iodepth=8 --rate=%um --io_size=%um", PACE,
              part(b->seq_mb, 2)))
        return -1;
    figures[SEQ_PACED] = o.mb / o.seconds;
    return 0;
}

static int write_in_order(struct bench *b, int fd, double figures[FIGURES], struct errmsg *e)
{
    struct outcome large, middle, small;
    if (in_order(fd, "256k", b->seq_mb, &large, e) || in_order(fd, "64k", part(b->seq_mb, 2), &middle, e) ||
        in_order(fd, "4k", part(b->seq_mb, 16), &small, e))
        return -1;
    figures[SEQ] = large.mb / large.seconds;
    figures[CPU_MS_PER_MB] = large.busy * 1e3 / large.mb;
    figures[CPUS_BUSY] = large.busy / large.seconds;
    figures[SEQ_64K] = middle.mb / middle.seconds;
    figures[SEQ_4K] = small.mb / small.seconds;
    return 0;
}

static int write_cached(struct bench *b, int fd, double figures[FIGURES], struct errmsg *e)
{
    struct outcome o;
    double sent = wire_mb(b);
    if (order(fd, &o, e, "--rw=write --bs=256k --end_fsync=1 --io_size=%um", part(b->seq_mb, 4)))
        return -1;
    figures[SEQ_CACHED] = o.mb / o.seconds;
    figures[CACHED_WIRE] = (wire_mb(b) - sent) / o.mb;
    return 0;
}

static int write_anywhere(struct bench *b, int fd, double figures[FIGURES], struct errmsg *e)
{
    struct outcome o;
    if (order(fd, &o, e, "--rw=randwrite --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --number_ios=%u",
              b->rand_count))
        return -1;
    figures[RAND] = o.operations / o.seconds;
    return 0;
}

static int write_and_flush(struct bench *b, int fd, double figures[FIGURES], struct errmsg *e)
{
    struct outcome o;
    if (order(fd, &o, e, "--rw=randwrite --bs=4k --direct=1 --fsync=1 --number_ios=%u", b->fsync_count))
        return -1;
    figures[FSYNC_50] = o.flush_50;
    figures[FSYNC_99] = o.flush_99;
    return 0;
}

/* One round of all loads. */
static int load(struct bench *b, double figures[FIGURES], struct errmsg *e)
{
    int fd = connect_guest(e);
    if (fd < 0)
        return -1;
    int bad = write_in_order(b, fd, figures, e) || write_paced(b, fd, figures, e) || write_cached(b, fd, figures, e) ||
              write_anywhere(b, fd, figures, e) || write_and_flush(b, fd, figures, e);
    close(fd);
    return bad ? -1 : 0;
}

static void note(struct bench *b, int series, const double figures[FIGURES])
{
    unsigned round = b->done[series]++;
    for (int i = 0; i < FIGURES; i++)
        b->figures[series][i][round] = figures[i];
    view_say("%-11s  round %u: %4.0f MB/s in order (%.1f CPUs, %.1f ms/MB; of %d %.0f, by 64 KiB %.0f, by 4 KiB %.0f, "
             "cached "
             "%.0f and %.2f times as much sent), %5.0f blocks/s anywhere, flush %.1f / %.1f ms, pause %.2f ms, of it "
             "by disks %.2f, under full load %.2f",
             names[series], round + 1, figures[SEQ], figures[CPUS_BUSY], figures[CPU_MS_PER_MB], PACE,
             figures[SEQ_PACED], figures[SEQ_64K], figures[SEQ_4K], figures[SEQ_CACHED], figures[CACHED_WIRE],
             figures[RAND], figures[FSYNC_50], figures[FSYNC_99], figures[PAUSE_BUSY], figures[PAUSE_ADDED],
             figures[PAUSE_LOADED]);
}

/* ---- Hikae ---- */

/* All pauses so far. The caller frees it. */
static struct hist *pauses(struct bench *b)
{
    struct drill *d = &b->drill;
    struct hist *h = hist_new();
    tracker_poll(d->tracker, &d->hosts[d->active], true, &d->status);
    const struct totals *t = tracker_totals(d->tracker);
    hist_merge(h, t->stages[STAGE_PAUSE]);
    return h;
}

/* In ms, the median of those since `earlier`, which is freed. */
static double median_pause_since(struct bench *b, struct hist *earlier)
{
    struct hist *h = pauses(b);
    hist_subtract(h, earlier);
    double ms = (double)hist_percentile(h, 50) / 1e6;
    hist_free(earlier);
    hist_free(h);
    return ms;
}

static int measure_unprotected(struct bench *b, int series, struct errmsg *e)
{
    double figures[FIGURES] = {0};
    if (load(b, figures, e))
        return -1;
    note(b, series, figures);
    return 0;
}

static int measure_protected(struct bench *b, int series, struct errmsg *e)
{
    double figures[FIGURES] = {0};
    const struct drill *d = &b->drill;
    const char *mode = series == INTERVAL20 ? "mode=periodic" : "mode=on-output";
    if (host_hikae(&d->hosts[d->active], &b->options, e, (const char *const[]){"set", "demo", mode, NULL}))
        return -1;
    sleep_ms(500); /* what came before is done */
    struct hist *before = pauses(b);
    sleep_ms((int64_t)b->idle_s * 1000);
    figures[PAUSE_IDLE] = median_pause_since(b, before);
    before = pauses(b);
    int bad = load_lightly(b, e);
    figures[PAUSE_BUSY] = median_pause_since(b, before);
    figures[PAUSE_ADDED] = figures[PAUSE_BUSY] - figures[PAUSE_IDLE];
    before = pauses(b);
    bad = bad || load(b, figures, e);
    figures[PAUSE_LOADED] = median_pause_since(b, before);
    if (bad)
        return -1;
    if (!vm_is_protected(&b->drill.status))
        return errmsg_set(e, "the protection did not last: %s %s", b->drill.status.state, b->drill.status.reason);
    note(b, series, figures);
    return 0;
}

static int measure_hikae(struct bench *b, struct errmsg *e)
{
    struct drill *d = &b->drill;
    if (drill_start_vm(d, e))
        return -1;
    for (unsigned i = 0; i < b->rounds; i++)
        if (measure_unprotected(b, UNPROTECTED, e) || drill_protect(d, e) || measure_protected(b, INTERVAL20, e) ||
            measure_protected(b, ON_OUTPUT, e) || drill_unprotect(d, e))
            return -1;
    return host_hikae(&d->hosts[d->active], &b->options, e, (const char *const[]){"stop", "demo", NULL});
}

/* ---- QEMU alone, with qemu-nbd ---- */

static pid_t start_qemu_nbd(const char *store, const char *socket)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execlp("qemu-nbd", "qemu-nbd", "-k", socket, "-f", "raw", "-t", "--cache=writeback", "--discard=unmap", store,
           (char *)NULL);
    _exit(127);
}

static int boot_on_qemu_nbd(struct bench *b, struct stock *s, pid_t server, const char *socket, struct errmsg *e)
{
    for (int64_t end = now_ms() + 10000; access(socket, F_OK); sleep_ms(20))
        if (waitpid(server, NULL, WNOHANG) == server || now_ms() > end)
            return errmsg_set(e, "qemu-nbd does not serve: is qemu-utils installed?");
    stock_use_disk(s, socket);
    if (stock_boot(s, 0, e))
        return -1;
    for (unsigned i = 0; i < b->rounds; i++)
        if (measure_unprotected(b, QEMU_NBD, e))
            return -1;
    return 0;
}

static int measure_qemu_nbd(struct bench *b, struct errmsg *e)
{
    const struct host *h = &b->drill.hosts[0];
    char socket[128], store[192];
    snprintf(socket, sizeof socket, "%s/qemu-nbd.sock", h->run_dir);
    snprintf(store, sizeof store, "%s/vm.img", h->dir);
    struct stock *s = stock_new(b->drill.hosts, b->dir, &b->options, e);
    pid_t server = s ? start_qemu_nbd(store, socket) : -1;
    int bad = server < 0 || boot_on_qemu_nbd(b, s, server, socket, e);
    stock_free(s);
    if (server > 0) {
        kill(server, SIGKILL);
        waitpid(server, NULL, 0);
    }
    return bad ? -1 : 0;
}

/* ---- the whole ---- */

/* Both stores have all their blocks, so that no round pays for them. */
static int fill_stores(struct bench *b, struct errmsg *e)
{
    static uint8_t data[MIB];
    char path[192];
    memset(data, 0x5a, sizeof data);
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/vm.img", b->drill.hosts[i].dir);
        int fd = open(path, O_WRONLY | O_CLOEXEC), bad = fd < 0;
        for (unsigned mb = 0; !bad && mb < b->options.disk_mb; mb++)
            bad = pwrite(fd, data, sizeof data, (off_t)mb * MIB) != MIB;
        bad = bad || fsync(fd);
        if (fd >= 0)
            close(fd);
        if (bad)
            return errmsg_set(e, "%s: %s", path, strerror(errno));
    }
    return 0;
}

static int run(struct bench *b, struct errmsg *e)
{
    if (fill_stores(b, e) || drill_boot(&b->drill, e) || measure_hikae(b, e) || measure_qemu_nbd(b, e)) {
        for (int i = 0; i < 2; i++)
            host_show_logs(&b->drill.hosts[i]);
        return -1;
    }
    return 0;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct bench *b, int series, enum figure figure)
{
    double *all = b->figures[series][figure];
    unsigned n = b->done[series];
    qsort(all, n, sizeof *all, by_size);
    return n ? (all[(n - 1) / 2] + all[n / 2]) / 2 : 0;
}

static double of_unprotected(struct bench *b, int series, enum figure figure)
{
    double whole = median(b, UNPROTECTED, figure);
    return whole > 0 ? median(b, series, figure) / whole : 0;
}

static void add(struct json_object *j, const char *key, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.3f", value);
    json_object_object_add(j, key, json_object_new_double_s(value, text));
}

static struct json_object *series_json(struct bench *b, int series)
{
    struct json_object *j = json_object_new_object(), *flush = json_object_new_object();
    add(j, "seq_write_mb_s", median(b, series, SEQ));
    add(j, "seq_paced_mb_s", median(b, series, SEQ_PACED));
    add(j, "seq_write_64k_mb_s", median(b, series, SEQ_64K));
    add(j, "seq_write_4k_mb_s", median(b, series, SEQ_4K));
    add(j, "seq_write_cached_mb_s", median(b, series, SEQ_CACHED));
    add(j, "seq_write_cached_wire_mb_per_mb", median(b, series, CACHED_WIRE));
    add(j, "rand_write_iops", median(b, series, RAND));
    add(flush, "p50", median(b, series, FSYNC_50));
    add(flush, "p99", median(b, series, FSYNC_99));
    json_object_object_add(j, "fsync_ms", flush);
    add(j, "pause_added_ms", median(b, series, PAUSE_ADDED));
    add(j, "pause_ms", median(b, series, PAUSE_BUSY));
    add(j, "pause_loaded_ms", median(b, series, PAUSE_LOADED));
    add(j, "cpus_busy", median(b, series, CPUS_BUSY));
    add(j, "cpu_ms_per_mb", median(b, series, CPU_MS_PER_MB));
    add(j, "seq_write_of_unprotected", of_unprotected(b, series, SEQ));
    add(j, "seq_paced_of_unprotected", of_unprotected(b, series, SEQ_PACED));
    add(j, "seq_write_64k_of_unprotected", of_unprotected(b, series, SEQ_64K));
    add(j, "seq_write_4k_of_unprotected", of_unprotected(b, series, SEQ_4K));
    add(j, "seq_write_cached_of_unprotected", of_unprotected(b, series, SEQ_CACHED));
    add(j, "rand_write_of_unprotected", of_unprotected(b, series, RAND));
    json_object_object_add(j, "rounds", json_object_new_int((int)b->done[series]));
    return j;
}

static struct json_object *limits_json(const struct bench *b)
{
    struct json_object *j = json_object_new_object();
    add(j, "copy_cpu_ms_per_mb", b->floor);
    add(j, "seq_pace_mb_s", PACE);
    json_object_object_add(j, "cpus", json_object_new_int((int)sysconf(_SC_NPROCESSORS_ONLN)));
    return j;
}

static int conclude(struct bench *b, struct errmsg *e)
{
    struct json_object *all = json_object_new_object();
    for (int i = 0; i < SERIES; i++) {
        struct json_object *j = series_json(b, i);
        json_object_object_add(all, names[i], j);
        view_say(
            "%-11s  %4.0f MB/s in order (%3.0f %%; %.1f CPUs busy, %.1f ms/MB)  of %d MB/s %.0f (%.0f %%)  by 64 KiB "
            "%4.0f (%3.0f %%)  by 4 KiB "
            "%3.0f (%3.0f %%)  cached %3.0f (%3.0f %%)  %5.0f blocks/s anywhere (%3.0f %%)  flush %5.1f / %5.1f ms  "
            "added to the pause %.2f ms",
            names[i], median(b, i, SEQ), 100 * of_unprotected(b, i, SEQ), median(b, i, CPUS_BUSY),
            median(b, i, CPU_MS_PER_MB), PACE, median(b, i, SEQ_PACED), 100 * of_unprotected(b, i, SEQ_PACED),
            median(b, i, SEQ_64K), 100 * of_unprotected(b, i, SEQ_64K), median(b, i, SEQ_4K),
            100 * of_unprotected(b, i, SEQ_4K), median(b, i, SEQ_CACHED), 100 * of_unprotected(b, i, SEQ_CACHED),
            median(b, i, RAND), 100 * of_unprotected(b, i, RAND), median(b, i, FSYNC_50), median(b, i, FSYNC_99),
            median(b, i, PAUSE_ADDED));
    }
    json_object_object_add(all, "limits", limits_json(b));
    view_say("limit: a copy elsewhere takes %.2f ms/MB of this machine's %ld processors, whoever makes it", b->floor,
             sysconf(_SC_NPROCESSORS_ONLN));
    int status = b->options.json ? report_write(all, b->options.json, e) : 0;
    json_object_put(all);
    return status;
}

static int number(const char *text, unsigned min, unsigned max, unsigned *out, struct errmsg *e)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || n < min || n > max)
        return errmsg_set(e, "'%s' is not a number from %u to %u", text, min, max);
    *out = (unsigned)n;
    return 0;
}

static int set_one(struct bench *b, int id, struct errmsg *e)
{
    struct options *o = &b->options;
    switch (id) {
    case 'n':
        return number(optarg, 1, ROUNDS_MAX, &b->rounds, e);
    case 's':
        return number(optarg, 1, 1 << 20, &b->seq_mb, e);
    case 'r':
        return number(optarg, 1, 100000000, &b->rand_count, e);
    case 'f':
        return number(optarg, 1, 100000, &b->fsync_count, e);
    case 'p':
        return number(optarg, 1, 1000000, &b->paced_count, e);
    case 'i':
        return number(optarg, 1, 600, &b->idle_s, e);
    case 'k':
        return number(optarg, 64, 1 << 20, &o->disk_mb, e);
    case 'm':
        return number(optarg, 128, 65536, &o->memory_mb, e);
    case 'd':
        o->dir = optarg;
        return 0;
    case 'j':
        o->json = optarg;
        return 0;
    case 'g':
        o->guest = optarg;
        return 0;
    default:
        return errmsg_set(e, "see --help");
    }
}

/* 1: there is nothing more to do. */
static int parse(int argc, char **argv, struct bench *b, struct errmsg *e)
{
    struct options *o = &b->options;
    static const struct option longs[] = {{"rounds", 1, NULL, 'n'}, {"seq", 1, NULL, 's'},    {"rand", 1, NULL, 'r'},
                                          {"fsync", 1, NULL, 'f'},  {"paced", 1, NULL, 'p'},  {"idle", 1, NULL, 'i'},
                                          {"disk", 1, NULL, 'k'},   {"memory", 1, NULL, 'm'}, {"dir", 1, NULL, 'd'},
                                          {"json", 2, NULL, 'j'},   {"guest", 1, NULL, 'g'},  {"help", 0, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    *b = (struct bench){
        .rounds = 3, .seq_mb = 1024, .rand_count = 20000, .fsync_count = 300, .paced_count = 1500, .idle_s = 3};
    *o = (struct options){.mode = "periodic",
                          .accel = "tcg",
                          .interval_ms = 20,
                          .detect_ms = 2000, /* nothing is lost here */
                          .rate = 1000,
                          .region = 1000,
                          .words = 8,
                          .memory_mb = 384,
                          .disk_mb = 512,
                          .request_ms = 5,
                          .beacon_ms = 5,
                          .brief = true,
                          .dir = "/var/tmp",
                          .bin = programs_dir()};
    for (int id; (id = getopt_long(argc, argv, "h", longs, NULL)) != -1;) {
        if (id == 'h') {
            fputs(help, stdout);
            return 1;
        }
        if (id == 'j' && !optarg) /* the file may be the next word */
            optarg = optind < argc && strncmp(argv[optind], "--", 2) != 0 ? argv[optind++] : (char *)"-";
        if (set_one(b, id, e))
            return -1;
    }
    if (optind < argc)
        return errmsg_set(e, "%s: what is that? See --help", argv[optind]);
    programs_find_modules(o->bin);
    return o->guest ? 0 : errmsg_set(e, "--guest DIR is needed: see --help");
}

static int set_up(struct bench *b, struct errmsg *e)
{
    b->floor = floor_ms_per_mb(b->options.dir, e); /* over this machine's loopback: the sandbox has none */
    if (b->floor < 0 || sandbox_enter(e))
        return -1;
    if (snprintf(b->dir, sizeof b->dir, "%s/hikae-bench-XXXXXX", b->options.dir) >= (int)sizeof b->dir ||
        !mkdtemp(b->dir))
        return errmsg_set(e, "a folder in %s: %s", b->options.dir, strerror(errno));
    return hosts_prepare(b->drill.hosts, b->dir, &b->options, e);
}

static void tear_down(struct bench *b)
{
    struct errmsg ignored;
    for (int i = 0; i < 2; i++)
        host_kill(&b->drill.hosts[i]);
    for (int i = 0; i < 2; i++)
        host_wait_gone(&b->drill.hosts[i]);
    tracker_free(b->drill.tracker);
    if (*b->dir)
        (void)run_program((const char *const[]){"rm", "-rf", b->dir, NULL}, NULL, 30000, &ignored);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct errmsg e;
    int parsed = sandbox_leave_chroot(argv, &e) ? -1 : parse(argc, argv, &b, &e);
    if (parsed) {
        if (parsed < 0)
            fprintf(stderr, "bench_disk: %s\n", e.text);
        return parsed < 0 ? EXIT_USAGE : 0;
    }
    log_open("bench_disk", NULL);
    view_init(false, b.options.json && !strcmp(b.options.json, "-"));
    signal(SIGPIPE, SIG_IGN);
    b.drill = (struct drill){.options = &b.options, .random = 1, .tracker = tracker_new()};
    int bad = set_up(&b, &e) || run(&b, &e) || conclude(&b, &e);
    if (bad)
        fprintf(stderr, "bench_disk: %s\n", e.text);
    tear_down(&b);
    return bad ? EXIT_BROKEN : 0;
}
