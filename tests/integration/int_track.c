/*
 * int_track METHOD: dirty tracking (vm/qemu/track.h) by METHOD, scan or softdirty, of a process of its own: is each
 * page that it has written to reported, however it was written to (stores, O_DIRECT, a socket) and whatever the kernel
 * did to the memory before the scan (moved it, wanted it for others)? Status 77: this kernel has no such method, or
 * this user may not use it.
 *
 * int_track cost: what a scan of so much memory costs by each method that there is.
 */
#include "tests/integration/vm_guest.h"
#include "vm/qemu/track.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { PAGES = 16384, ROUNDS = 30, AT_ONCE = 64 };

static const struct track_method *method;

/* ---- the process that is tracked ---- */

enum op { STORE = 1, RECEIVE, DIRECT, READ_ALL, FILL, UNLOCK, BUSY };

struct order {
    enum op op;
    unsigned seed;
};

struct writer {
    pid_t pid;
    int pidfd, memory_fd, orders, answers;
    const uint8_t *memory; /* ours, read-only */
    struct shared_map map;
    struct track track;
};

static unsigned next_random(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static uint8_t *random_page(uint8_t *memory, unsigned *seed)
{
    return memory + (size_t)(next_random(seed) % PAGES) * VM_PAGE_SIZE;
}

/* Every page gets other bytes than it has. */
static void store(uint8_t *memory, unsigned seed)
{
    for (int i = 0; i < AT_ONCE; i++) {
        uint8_t *page = random_page(memory, &seed);
        size_t at = next_random(&seed) % VM_PAGE_SIZE;
        page[at] = (uint8_t)(page[at] + 1 + next_random(&seed) % 255);
    }
}

static int receive(uint8_t *memory, unsigned seed)
{
    int pair[2], status = 0;
    uint8_t data[2 * VM_PAGE_SIZE];
    if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) < 0)
        return -1;
    for (int i = 0; i < AT_ONCE && status == 0; i++) {
        size_t at = (size_t)(next_random(&seed) % (PAGES - 2)) * VM_PAGE_SIZE + next_random(&seed) % VM_PAGE_SIZE;
        memset(data, (int)next_random(&seed), sizeof data);
        status = send(pair[0], data, sizeof data, 0) == sizeof data &&
                         recv(pair[1], memory + at, sizeof data, 0) == sizeof data
                     ? 0
                     : -1;
    }
    close(pair[0]);
    close(pair[1]);
    return status;
}

/* From a file on a real file system; 1: there is none here that can. */
static int direct(uint8_t *memory, unsigned seed)
{
    char path[] = "/var/tmp/hikae-track-XXXXXX";
    uint8_t data[VM_PAGE_SIZE];
    int made = mkstemp(path), fd, status = made < 0 ? -1 : 0;
    for (int i = 0; i < AT_ONCE && status == 0; i++) {
        memset(data, (int)next_random(&seed), sizeof data);
        status = write(made, data, sizeof data) == sizeof data ? 0 : -1;
    }
    fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    for (int i = 0; i < AT_ONCE && status == 0 && fd >= 0; i++)
        status = pread(fd, random_page(memory, &seed), VM_PAGE_SIZE, (off_t)i * VM_PAGE_SIZE) == VM_PAGE_SIZE ? 0 : -1;
    unlink(path);
    if (status == 0 && fd < 0)
        status = 1;
    if (fd >= 0)
        close(fd);
    if (made >= 0)
        close(made);
    return status;
}

static int read_all(const uint8_t *memory)
{
    unsigned sum = 0;
    for (size_t i = 0; i < PAGES; i++)
        sum += *(const volatile uint8_t *)(memory + i * VM_PAGE_SIZE);
    return sum == 1 ? 2 : 0;
}

static _Noreturn void *write_for_ever(void *arg)
{
    for (unsigned seed = 1;; seed++)
        store(arg, seed);
}

static int obey(uint8_t *memory, size_t bytes, const struct order *o)
{
    pthread_t thread;
    switch (o->op) {
    case STORE:
        store(memory, o->seed);
        return 0;
    case RECEIVE:
        return receive(memory, o->seed);
    case DIRECT:
        return direct(memory, o->seed);
    case READ_ALL:
        return read_all(memory);
    case FILL:
        memset(memory, (int)o->seed, bytes);
        return 0;
    case UNLOCK:
        return munlock(memory, bytes);
    case BUSY:
        return pthread_create(&thread, NULL, write_for_ever, memory) == 0 ? 0 : -1;
    default:
        return -1;
    }
}

static _Noreturn void write_on_order(uint8_t *memory, size_t bytes, int orders, int answers)
{
    struct order o;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (read(orders, &o, sizeof o) == sizeof o) {
        int result = obey(memory, bytes, &o);
        if (write(answers, &result, sizeof result) != sizeof result)
            break;
    }
    _exit(0);
}

static int tell(struct writer *w, enum op op, unsigned seed)
{
    struct order o = {op, seed};
    int result = -1;
    assert_int_equal(write(w->orders, &o, sizeof o), sizeof o);
    assert_int_equal(read(w->answers, &result, sizeof result), sizeof result);
    assert_true(result >= 0);
    return result;
}

/* Memory of so many bytes, the first `filled` of them written to. */
static int try_start(struct writer *w, size_t bytes, size_t filled)
{
    int orders[2], answers[2];
    struct stat s;
    *w = (struct writer){.memory_fd = memfd_create("hikae-track", MFD_CLOEXEC)};
    track_init(&w->track);
    w->track.method = method;
    assert_int_equal(ftruncate(w->memory_fd, (off_t)bytes), 0);
    assert_int_equal(fstat(w->memory_fd, &s), 0);
    assert_int_equal(pipe(orders) | pipe(answers), 0);
    fflush(NULL);
    w->pid = fork();
    if (w->pid == 0) {
        uint8_t *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, w->memory_fd, 0);
        memset(memory, 1, filled);
        write_on_order(memory, bytes, orders[0], answers[1]);
    }
    w->orders = orders[1];
    w->answers = answers[0];
    close(orders[0]);
    close(answers[1]);
    w->memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, w->memory_fd, 0);
    w->pidfd = (int)syscall(SYS_pidfd_open, w->pid, 0);
    tell(w, READ_ALL, 0);
    MUST(proc_find_shared(w->pid, s.st_dev, s.st_ino, 0, &w->map, &error));
    return track_open(&w->track, w->pid, w->pidfd, &w->map, &error);
}

static void start(struct writer *w)
{
    if (try_start(w, (size_t)PAGES * VM_PAGE_SIZE, (size_t)PAGES * VM_PAGE_SIZE / 2) < 0)
        fail_msg("%s", error.text);
}

static void end(struct writer *w)
{
    track_close(&w->track);
    kill(w->pid, SIGKILL);
    waitpid(w->pid, NULL, 0);
    munmap((void *)(uintptr_t)w->memory, w->map.bytes);
    close(w->memory_fd);
    close(w->pidfd);
    close(w->orders);
    close(w->answers);
}

/* ---- what the kernel does to memory ---- */

static void write_to(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        printf("%s: not written to\n", path);
    if (fd >= 0)
        close(fd);
}

static void compact(void)
{
    write_to("/proc/sys/vm/compact_memory", "1");
}

/* What reclaim does when memory is short; it leaves pages alone that others have mapped, as we have. */
static void want_memory(const struct writer *w)
{
    (void)madvise((void *)(uintptr_t)w->memory, w->map.bytes, MADV_DONTNEED);
    for (size_t i = 0; i < w->map.n; i++) {
        struct iovec piece = {(void *)(uintptr_t)w->map.piece[i].start, w->map.piece[i].end - w->map.piece[i].start};
        (void)syscall(SYS_process_madvise, w->pidfd, &piece, 1UL, MADV_PAGEOUT, 0U);
    }
}

/* Anonymous memory, more than is free; only where this has been asked for. */
static void fill_memory(void)
{
    const char *mb = getenv("HIKAE_TEST_FILL_MB");
    size_t bytes = mb ? strtoul(mb, NULL, 10) << 20 : 0;
    if (bytes == 0)
        return;
    uint8_t *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return;
    for (size_t i = 0; i < bytes; i += VM_PAGE_SIZE)
        at[i] = (uint8_t)i;
    munmap(at, bytes);
}

static bool has_swap(void)
{
    char line[256];
    FILE *f = fopen("/proc/swaps", "re");
    bool has = f && fgets(line, sizeof line, f) && fgets(line, sizeof line, f);
    if (f)
        fclose(f);
    return has;
}

/* ---- the copy that must be the same ---- */

static uint64_t scan_and_compare(struct writer *w, uint8_t *copy, uint64_t *reported)
{
    struct page_ranges dirty = {0}, all = {0};
    MUST(track_scan(&w->track, &dirty, &error));
    copy_ranges(copy, w->memory, &dirty);
    *reported = dirty.pages;
    assert_int_equal(page_ranges_add(&all, 0, PAGES), 0);
    uint64_t lost = differing(copy, w->memory, &all);
    page_ranges_free(&dirty);
    page_ranges_free(&all);
    return lost;
}

static uint8_t *arm(struct writer *w)
{
    uint8_t *copy = malloc((size_t)PAGES * VM_PAGE_SIZE);
    assert_non_null(copy);
    MUST(track_arm(&w->track, &error));
    memcpy(copy, w->memory, (size_t)PAGES * VM_PAGE_SIZE);
    return copy;
}

/* Each way of writing, each thing that may happen between write and scan. */
static void every_write_is_reported(void **arg)
{
    static const enum op ways[] = {STORE, RECEIVE, DIRECT};
    struct writer w;
    (void)arg;
    start(&w);
    uint8_t *copy = arm(&w);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t reported, written = 0;
        for (unsigned i = 0; i < 3; i++) {
            if (round % 4 != 3 && round % 3 != i)
                continue; /* one way alone, now and then all */
            int status = tell(&w, ways[i], round * 8 + i);
            if (status == 1 && round < 3)
                printf("no O_DIRECT on /var/tmp: left out\n");
            written += status == 0;
        }
        if (round & 1)
            compact();
        if (round & 2)
            want_memory(&w);
        if (round == 6 || round == 12)
            fill_memory();
        if (round & 4)
            tell(&w, READ_ALL, 0);
        assert_int_equal(scan_and_compare(&w, copy, &reported), 0);
        if (written)
            assert_true(reported > 0);
    }
    free(copy);
    end(&w);
}

/* What nobody writes to is not reported for ever. */
static void quiet_memory_is_not_reported(void **arg)
{
    uint64_t reported;
    struct writer w;
    (void)arg;
    start(&w);
    uint8_t *copy = arm(&w);
    tell(&w, STORE, 1);
    assert_int_equal(scan_and_compare(&w, copy, &reported), 0);
    assert_in_range(reported, 1, AT_ONCE);
    tell(&w, READ_ALL, 0);
    assert_int_equal(scan_and_compare(&w, copy, &reported), 0);
    assert_int_equal(reported, 0);
    MUST(track_disarm(&w.track, &error));
    free(copy);
    end(&w);
}

static _Noreturn void compact_for_ever(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        compact();
        usleep(2000);
    }
}

/* Pages move while they are scanned and cleared; the writer is stopped for each scan, as a VM is. */
static void moving_pages_are_reported(void **arg)
{
    uint64_t reported, sum = 0;
    struct writer w;
    (void)arg;
    start(&w);
    tell(&w, BUSY, 0);
    pid_t mover = fork();
    if (mover == 0)
        compact_for_ever();
    uint8_t *copy = NULL;
    for (int round = 0; round < 3 * ROUNDS; round++) {
        int status;
        kill(w.pid, SIGSTOP);
        assert_int_equal(waitpid(w.pid, &status, WUNTRACED), w.pid);
        assert_true(WIFSTOPPED(status));
        if (!copy)
            copy = arm(&w);
        assert_int_equal(scan_and_compare(&w, copy, &reported), 0);
        sum += reported;
        kill(w.pid, SIGCONT);
        sleep_ms(5);
    }
    printf("%llu pages in %d scans\n", (unsigned long long)sum, 3 * ROUNDS);
    assert_true(sum > 0);
    kill(mover, SIGKILL);
    waitpid(mover, NULL, 0);
    free(copy);
    end(&w);
}

/* An agent that died: its successor finds the process prepared, and tracks as exactly. */
static void another_agent_goes_on(void **arg)
{
    struct rlimit before, after;
    uint64_t reported;
    struct writer w;
    (void)arg;
    getrlimit(RLIMIT_MEMLOCK, &before);
    start(&w);
    assert_int_equal(prlimit(w.pid, RLIMIT_MEMLOCK, NULL, &after), 0);
    assert_int_equal(before.rlim_cur, after.rlim_cur);
    MUST(track_arm(&w.track, &error));
    tell(&w, STORE, 1);
    track_close(&w.track);
    w.track.method = method;
    MUST(track_open(&w.track, w.pid, w.pidfd, &w.map, &error));
    uint8_t *copy = arm(&w);
    tell(&w, STORE, 2);
    want_memory(&w);
    assert_int_equal(scan_and_compare(&w, copy, &reported), 0);
    assert_true(reported > 0);
    free(copy);
    end(&w);
}

/* Why soft-dirty bits need locked memory, and that these tests see a loss: unlocked memory that went to the swap and
 * came back has lost them. */
static void lock_is_needed(void **arg)
{
    uint64_t reported, lost = 0;
    struct writer w;
    (void)arg;
    if (method != &track_method_softdirty || !has_swap()) {
        printf("left out: %s\n", has_swap() ? "of method softdirty only" : "there is no swap");
        return;
    }
    start(&w);
    uint8_t *copy = arm(&w);
    tell(&w, UNLOCK, 0);
    for (unsigned i = 0; i < ROUNDS && lost == 0; i++) {
        tell(&w, STORE, i);
        want_memory(&w);
        tell(&w, READ_ALL, 0);
        lost = scan_and_compare(&w, copy, &reported);
    }
    printf("%llu pages lost without the lock\n", (unsigned long long)lost);
    assert_true(lost > 0);
    free(copy);
    end(&w);
}

/* ---- figures ---- */

static void measure_one(size_t mb)
{
    enum { TIMES = 10 };
    struct writer w;
    struct page_ranges dirty = {0};
    double before, sum = 0;
    if (try_start(&w, mb << 20, mb << 20) < 0)
        fail_msg("%s", error.text);
    tell(&w, FILL, 0);
    MUST(track_arm(&w.track, &error));
    for (unsigned i = 0; i < TIMES; i++) {
        tell(&w, STORE, i);
        page_ranges_clear(&dirty);
        before = now_ms();
        MUST(track_scan(&w.track, &dirty, &error));
        sum += now_ms() - before;
    }
    printf("%s: %zu MiB, %d pages written: %.2f ms a scan\n", method->name, mb, AT_ONCE, sum / TIMES);
    page_ranges_free(&dirty);
    end(&w);
}

static void measure(void **arg)
{
    (void)arg;
    for (size_t mb = 64; mb <= 256; mb *= 2)
        measure_one(mb);
}

int main(int argc, char **argv)
{
    static const struct track_method *const methods[] = {&track_method_scan, &track_method_softdirty};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_write_is_reported),
        cmocka_unit_test(quiet_memory_is_not_reported),
        cmocka_unit_test(moving_pages_are_reported),
        cmocka_unit_test(another_agent_goes_on),
        cmocka_unit_test(lock_is_needed),
    };
    const struct CMUnitTest figures[] = {cmocka_unit_test(measure)};
    bool cost = argc == 2 && strcmp(argv[1], "cost") == 0;
    int status = argc == 2 ? 77 : 2;
    for (size_t i = 0; i < 2 && argc == 2; i++) {
        if (!cost && strcmp(argv[1], methods[i]->name) != 0)
            continue;
        method = methods[i];
        struct writer w;
        if (method->check_kernel(&error) < 0) {
            printf("%s: this kernel has %s\n", method->name, error.text);
            continue;
        }
        if (try_start(&w, (size_t)PAGES * VM_PAGE_SIZE, 0) < 0) { /* what rights it takes is the backend's to say */
            printf("%s: %s\n", method->name, error.text);
            end(&w);
            continue;
        }
        end(&w);
        status = cost ? cmocka_run_group_tests_name("cost", figures, NULL, NULL)
                      : cmocka_run_group_tests_name("int_track", tests, NULL, NULL);
    }
    return status;
}
