/*
 * Backend xen on the real hypervisor: run in a dom0 (see tests/xenlab) beside a guest of tests/guest (PVH, HVM with
 * Xen's drivers or without) that it takes over: INT_VM_XEN_DOMAIN names it, INT_VM_XEN_ADDRESS its address. Both ends
 * are on this one host: the replica gets another name and UUID. Without INT_VM_XEN_DOMAIN: skipped.
 */
#include "tests/integration/page_explain.h"
#include "tests/integration/vm_guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xenctrl.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

enum { CHECKPOINTS = 20, XEN_WRITES_MAX = 8, STATS_PORT = 8, ANSWER_MS = 30000 };

static const struct vm_ops *ops;
static const char *domain, *address;
static char *folder, *replica_folder;
static uint64_t shared_info; /* gfn */
static char interface[16];   /* .0 or .0-emu */

/* ---- the guest, over the network ---- */

static int guest_connect(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct timeval timeout = {.tv_sec = ANSWER_MS / 1000};
    assert_int_equal(inet_pton(AF_INET, address, &a.sin_addr), 1);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        fail_msg("the guest does not answer at %s", address);
    return fd;
}

/* One line of the guest's answer to "stats". */
static long guest_stat(int fd, const char *key)
{
    char line[512], pattern[32];
    size_t n = 0;
    assert_int_equal(send(fd, "stats\n", 6, MSG_NOSIGNAL), 6);
    while (n == 0 || line[n - 1] != '\n') {
        ssize_t got = recv(fd, line + n, sizeof line - 1 - n, 0);
        if (got <= 0)
            fail_msg("the guest does not answer");
        n += (size_t)got;
    }
    line[n] = '\0';
    snprintf(pattern, sizeof pattern, "\"%s\":", key);
    const char *at = strstr(line, pattern);
    assert_non_null(at);
    return atol(at + strlen(pattern));
}

/* ---- both ends ---- */

static struct vm *attach(void)
{
    struct vm_spec spec = {.name = domain, .run_dir = folder};
    struct vm *vm;
    MUST(ops->attach(&spec, &vm, &error));
    return vm;
}

static struct vm *make_replica(struct vm *of)
{
    struct json_object *described;
    struct vm *vm;
    char name[80];
    snprintf(name, sizeof name, "%s-copy", domain);
    MUST(ops->describe(of, &described, &error));
    json_object_object_add(described, "uuid", json_object_new_string("aGlrYWV0ZXN0Y29weTAwMQ=="));
    struct vm_spec spec = {.name = name, .run_dir = replica_folder, .settings = described};
    MUST(ops->replica_create(&spec, &vm, &error));
    json_object_put(described);
    return vm;
}

/* Xen knows where the guest has mapped its shared info. */
static uint64_t find_shared_info(const struct vm_info *info)
{
    xc_domaininfo_t dominfo;
    unsigned domid = 0;
    xc_interface *xc = xc_interface_open(NULL, NULL, 0);
    bool known = xc && sscanf(info->nics[0].ifname, "vif%u", &domid) == 1 &&
                 xc_domain_getinfolist(xc, domid, 1, &dominfo) == 1 && dominfo.domain == domid;
    if (xc)
        xc_interface_close(xc);
    return known ? dominfo.shared_info_frame : UINT64_MAX;
}

/* The debug check: what differs, and why it may. */
static void explain(uint64_t gfn, const uint8_t *guest, const uint8_t *replica, const struct page_ranges *dirty)
{
    char line[512];
    explain_page(&(struct explain_guest){.shared_info = shared_info, .dirty = dirty}, gfn, guest, replica, line,
                 sizeof line);
    printf("%s\n", line);
}

static void say(const char *what, double ms)
{
    printf("%-16s %7.1f ms\n", what, ms);
}

/* Several checkpoints, each compared page by page; Xen itself writes to a few pages of a guest that stands still. */
static void many_checkpoints(struct vm *vm, struct vm *replica, struct vm_blob *state)
{
    struct checkpoint_times t, sum = {0};
    uint64_t worst = 0;
    for (int i = 0; i < CHECKPOINTS; i++) {
        sleep_ms(100);
        uint64_t different = checkpoint(ops, vm, ops->memory(replica), state, i % 4 == 0, false, true, &t);
        worst = different > worst ? different : worst;
        sum.stop += t.stop;
        sum.scan += t.scan;
        sum.copy += t.copy;
        sum.save += t.save;
        sum.cont += t.cont;
        sum.pause += t.pause;
        sum.pages += t.pages;
    }
    say("pause", sum.pause / CHECKPOINTS);
    say("suspend", sum.stop / CHECKPOINTS);
    say("clean", sum.scan / CHECKPOINTS);
    say("copy", sum.copy / CHECKPOINTS);
    say("state", sum.save / CHECKPOINTS);
    say("resume", sum.cont / CHECKPOINTS);
    printf("%llu pages each, state %zu bytes, at most %llu pages differ\n",
           (unsigned long long)(sum.pages / CHECKPOINTS), state->size, (unsigned long long)worst);
    assert_true(sum.pages > 0);
    assert_true(worst <= XEN_WRITES_MAX);
}

/* Frames that the VM has sent on its first network interface. */
static long frames_sent(const struct vm_info *info)
{
    char path[128], text[32] = "";
    snprintf(path, sizeof path, "/sys/class/net/%s/statistics/rx_packets", info->nics[0].ifname);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    fclose(f);
    return atol(text);
}

/* After load nobody knows yet whether it may run: nothing at all is sent, not even by the device model. */
static void check_silent(struct vm *replica)
{
    enum { ANNOUNCEMENTS_MS = 1000 };
    struct vm_info info;
    ops->info(replica, &info);
    sleep_ms(ANNOUNCEMENTS_MS);
    assert_int_equal(ops->state(replica), VM_PAUSED);
    assert_int_equal(frames_sent(&info), 0);
}

static void test_failover(void **unused)
{
    (void)unused;
    struct vm_blob initial = {0}, state = {0};
    double at = now_ms();
    struct vm *vm = attach();
    say("attach", now_ms() - at);
    at = now_ms();
    struct vm *replica = make_replica(vm);
    say("replica", now_ms() - at);
    struct vm_info info, replica_info;
    ops->info(vm, &info);
    ops->info(replica, &replica_info);
    shared_info = find_shared_info(&info);
    on_difference = explain;
    printf("%s; %s; shared info at gfn 0x%llx\n", info.note, info.nics[0].ifname, (unsigned long long)shared_info);
    snprintf(interface, sizeof interface, "%s", strchr(info.nics[0].ifname, '.'));
    assert_int_equal(info.pages, replica_info.pages);
    assert_int_equal(ops->state(replica), VM_PAUSED);
    assert_int_equal(ops->resume(replica, &error), -1); /* it has no state yet */

    int connection = guest_connect(STATS_PORT);
    long before = guest_stat(connection, "dirtied");
    at = now_ms();
    first_sync(ops, vm, ops->memory(replica), &initial);
    say("first sync", now_ms() - at);
    many_checkpoints(vm, replica, &state);
    assert_true(guest_stat(connection, "dirtied") > before);

    /* A page that is left out must be seen: the comparison can fail. */
    assert_true(checkpoint(ops, vm, ops->memory(replica), &state, true, true, true, NULL) > 0);
    first_sync(ops, vm, ops->memory(replica), &initial);
    (void)checkpoint(ops, vm, ops->memory(replica), &state, false, false, false, NULL);
    at = now_ms();
    ops->destroy(vm);
    say("destroy", now_ms() - at);
    at = now_ms();
    MUST(ops->load(replica, &initial, &state, &error));
    say("load", now_ms() - at);
    check_silent(replica);
    at = now_ms();
    MUST(ops->resume(replica, &error));
    say("resume", now_ms() - at);
    assert_int_equal(ops->state(replica), VM_RUNNING);
    /* The same TCP connection, to a guest that is elsewhere. */
    assert_true(guest_stat(connection, "dirtied") >= before);
    say("first answer", now_ms() - at);
    assert_int_equal(guest_stat(connection, "errors"), 0);
    sleep_ms(3000);
    assert_int_equal(guest_stat(connection, "errors"), 0);
    assert_true(guest_stat(connection, "checked") > 0);
    close(connection);
    at = now_ms();
    ops->detach(replica);
    say("detach", now_ms() - at);
    vm_blob_free(&initial);
    vm_blob_free(&state);
}

/* An agent that dies in a checkpoint: between suspend and resume, or after it but before it has the device state. */
static void agent_dies(const struct vm_spec *spec, bool resumes)
{
    pid_t agent = fork();
    assert_true(agent >= 0);
    if (agent == 0) {
        struct vm *vm;
        if (ops->attach(spec, &vm, &error) == 0 && ops->pause(vm, &error) == 0 && ops->state_begin(vm, &error) == 0 &&
            (!resumes || ops->resume(vm, &error) == 0))
            _exit(0);
        fprintf(stderr, "%s\n", error.text);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(agent, &status, 0), agent);
    assert_int_equal(status, 0);
}

/* SIGKILL to a domain's device model. */
static void kill_model(unsigned domid)
{
    char wanted[32], path[300], line[4096];
    int n = snprintf(wanted, sizeof wanted, "-xen-domid%c%u", '\0', domid) + 1;
    DIR *all = opendir("/proc");
    assert_non_null(all);
    pid_t found = 0;
    for (struct dirent *d; !found && (d = readdir(all));) {
        snprintf(path, sizeof path, "/proc/%s/cmdline", d->d_name);
        FILE *f = atoi(d->d_name) > 0 ? fopen(path, "re") : NULL;
        size_t got = f ? fread(line, 1, sizeof line, f) : 0;
        if (f)
            fclose(f);
        if (memmem(line, got, wanted, (size_t)n))
            found = atoi(d->d_name);
    }
    closedir(all);
    assert_true(found > 0);
    assert_int_equal(kill(found, SIGKILL), 0);
}

/* What a worker that died leaves: found again by its run directory, a replica ended, a running domain spared. */
static void test_agent_dies(void **unused)
{
    (void)unused;
    struct vm_spec spec = {.name = "copy", .run_dir = replica_folder};
    assert_int_equal(ops->clear(&spec, &error), 1); /* it runs since the failover */
    struct vm_info info;
    struct vm *vm = NULL;
    for (int resumes = 0; resumes < 2; resumes++) {
        if (vm)
            ops->detach(vm);
        agent_dies(&spec, resumes);
        MUST(ops->attach(&spec, &vm, &error));
        assert_int_equal(ops->state(vm), VM_RUNNING); /* it was resumed by its successor */
        ops->info(vm, &info);
        assert_string_equal(strchr(info.nics[0].ifname, '.'), interface); /* the guest uses the same as ever */
        int connection = guest_connect(STATS_PORT);
        assert_true(guest_stat(connection, "checked") > 0);
        close(connection);
    }

    char *second = make_folder();
    struct json_object *described;
    MUST(ops->describe(vm, &described, &error));
    json_object_object_add(described, "uuid", json_object_new_string("aGlrYWV0ZXN0Y29weTAwMg=="));
    struct vm_spec other = {.name = "other", .run_dir = second, .settings = described};
    struct vm *replica;
    MUST(ops->replica_create(&other, &replica, &error));
    ops->detach(replica);
    assert_int_equal(ops->clear(&other, &error), 0);
    assert_int_equal(ops->attach(&other, &replica, &error), -1); /* it is gone */
    json_object_put(described);
    remove_folder(second);
    unsigned domid;
    if (strstr(info.note, "HVM") && sscanf(info.note, "Xen %*[0-9.], domain %u", &domid) == 1) {
        kill_model(domid);
        for (int i = 0; i < 50 && ops->state(vm) == VM_RUNNING; i++)
            sleep_ms(100);
        assert_int_equal(ops->state(vm), VM_GONE);
    }
    ops->destroy(vm);
    assert_int_equal(ops->clear(&spec, &error), 0);
}

static void test_refused(void **unused)
{
    (void)unused;
    struct vm_spec spec = {.name = "Domain-0", .run_dir = folder};
    struct vm *vm;
    assert_int_equal(ops->attach(&spec, &vm, &error), -1);
    assert_non_null(strstr(error.text, "dom0"));
    spec.name = "nobody";
    assert_int_equal(ops->attach(&spec, &vm, &error), -1);
    assert_non_null(strstr(error.text, "xl create"));
}

static int set_up(void **unused)
{
    (void)unused;
    folder = make_folder();
    replica_folder = make_folder();
    return 0;
}

static int tear_down(void **unused)
{
    (void)unused;
    remove_folder(folder);
    remove_folder(replica_folder);
    return 0;
}

int main(void)
{
    enum { SKIPPED = 77 };
    domain = getenv("INT_VM_XEN_DOMAIN");
    address = getenv("INT_VM_XEN_ADDRESS");
    if (!domain || !address)
        return SKIPPED;
    setvbuf(stdout, NULL, _IOLBF, 0);
    ops = vm_backend("xen", &error);
    if (!ops) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_failover),
        cmocka_unit_test(test_agent_dies),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
