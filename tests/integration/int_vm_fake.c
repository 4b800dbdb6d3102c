/*
 * int_vm_fake: backend fake does what vm.h promises; and its guest sees a replica that is not exact (negative control).
 */
#include "tests/integration/vm_guest.h"
#include "vm/fake/machine.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static const struct vm_ops *ops;

static struct vm *launch(const char *dir, const char *settings)
{
    struct vm *vm = NULL;
    struct json_object *s = json(settings);
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = s};
    MUST(ops->launch(&spec, &vm, &error));
    json_object_put(s);
    return vm;
}

static struct vm *make_replica(struct vm *of, const char *dir)
{
    struct vm *vm = NULL;
    struct json_object *described;
    MUST(ops->describe(of, &described, &error));
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = described};
    MUST(ops->replica_create(&spec, &vm, &error));
    json_object_put(described);
    return vm;
}

static struct vm *attach(const char *dir)
{
    struct vm *vm = NULL;
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = NULL};
    MUST(ops->attach(&spec, &vm, &error));
    return vm;
}

static struct machine *look(const char *dir)
{
    char path[256];
    snprintf(path, sizeof path, "%s/control", dir);
    int fd = open(path, O_RDONLY);
    struct machine *m = mmap(NULL, sizeof *m, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    assert_true(m != MAP_FAILED);
    return m;
}

/* 50 checkpoints, then failover. drop: at the last one a page is left out. Returns errors that the survivor saw. */
static uint64_t fail_over(bool drop)
{
    char *a = make_folder(), *b = make_folder();
    struct vm_blob initial = {0}, state = {0};
    struct vm *vm = launch(a, "{\"pages\":\"512\",\"rate\":\"50000\"}"), *replica = make_replica(vm, b);
    uint8_t *memory = ops->memory(replica);
    sleep_ms(50);
    first_sync(ops, vm, memory, &initial);
    for (int i = 0; i < 50; i++) {
        sleep_ms(5);
        bool last = i == 49;
        uint64_t different = checkpoint(ops, vm, memory, &state, true, drop && last, !last, NULL);
        assert_int_equal(different != 0, drop && last);
    }
    ops->destroy(vm);
    assert_int_equal(ops->resume(replica, &error), -1);
    MUST(ops->load(replica, &initial, &state, &error));
    assert_int_equal(ops->state(replica), VM_PAUSED);
    ops->detach(replica);
    vm = attach(b);
    struct machine *m = look(b);
    MUST(ops->resume(vm, &error));
    assert_int_equal(ops->state(vm), VM_RUNNING);
    sleep_ms(300);
    uint64_t errors = m->errors;
    assert_true(m->checked > 1000);
    munmap(m, sizeof *m);
    ops->destroy(vm);
    vm_blob_free(&initial);
    vm_blob_free(&state);
    remove_folder(a);
    remove_folder(b);
    return errors;
}

static void survives_exactly(void **arg)
{
    (void)arg;
    assert_int_equal(fail_over(false), 0);
}

static void a_lost_page_is_seen(void **arg)
{
    (void)arg;
    assert_true(fail_over(true) > 0);
}

static void state_follows_the_process(void **arg)
{
    (void)arg;
    char *dir = make_folder();
    struct vm_info info;
    struct vm *vm = launch(dir, "{\"stop_after\":\"100\",\"rate\":\"10000\"}");
    struct pollfd p = {.fd = ops->event_fd(vm), .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(ops->state(vm), VM_SHUT_DOWN);
    ops->destroy(vm);
    vm = launch(dir, "{}");
    struct vm *second = NULL;
    struct vm_spec spec = {.name = "t", .run_dir = dir, .settings = NULL};
    assert_int_equal(ops->launch(&spec, &second, &error), -1);
    assert_non_null(strstr(error.text, "already runs"));
    ops->info(vm, &info);
    kill(info.pid, SIGKILL);
    p.fd = ops->event_fd(vm);
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(ops->state(vm), VM_GONE);
    ops->destroy(vm);
    remove_folder(dir);
}

static void frames_are_numbered(void **arg)
{
    (void)arg;
    char *dir = make_folder();
    struct vm_info info;
    struct vm *vm = launch(dir, "{\"frames\":\"2\",\"bridge\":\"br7\"}");
    ops->info(vm, &info);
    assert_int_equal(info.nic_count, 1);
    assert_string_equal(info.nics[0].bridge, "br7");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, info.nics[0].stream_path, sizeof info.nics[0].stream_path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    for (unsigned i = 1; i <= 20; i++) {
        uint8_t message[4 + MACHINE_FRAME];
        assert_int_equal(recv(fd, message, sizeof message, MSG_WAITALL), sizeof message);
        assert_int_equal(message[3], MACHINE_FRAME);
        assert_int_equal(message[4 + 14 + 7], i);
    }
    close(fd);
    ops->destroy(vm);
    remove_folder(dir);
}

static void bad_settings_are_named(void **arg)
{
    (void)arg;
    static const char *const bad[][2] = {{"{\"page\":\"1\"}", "unknown key page"}, {"{\"pages\":\"2\"}", "pages = 2"}};
    for (size_t i = 0; i < 2; i++) {
        struct json_object *s = json(bad[i][0]);
        struct vm *vm = NULL;
        struct vm_spec spec = {.name = "t", .run_dir = "/tmp", .settings = s};
        assert_int_equal(ops->launch(&spec, &vm, &error), -1);
        assert_non_null(strstr(error.text, bad[i][1]));
        json_object_put(s);
    }
}

int main(void)
{
    ops = vm_backend("fake", &error);
    if (!ops) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(survives_exactly),       cmocka_unit_test(a_lost_page_is_seen),
        cmocka_unit_test(frames_are_numbered),    cmocka_unit_test(state_follows_the_process),
        cmocka_unit_test(bad_settings_are_named),
    };
    return cmocka_run_group_tests_name("int_vm_fake", tests, NULL, NULL);
}
