/*
 * vm_guest: see vm_guest.h.
 */
#include "tests/integration/vm_guest.h"

#include <dirent.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct errmsg error;
void (*on_difference)(uint64_t gfn, const uint8_t *guest, const uint8_t *replica, const struct page_ranges *dirty);

double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

void sleep_ms(unsigned ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

char *make_folder(void)
{
    char path[] = "/tmp/hikae-test-XXXXXX";
    assert_non_null(mkdtemp(path));
    return strdup(path);
}

void remove_folder(char *path)
{
    DIR *d = opendir(path);
    assert_non_null(d);
    struct dirent *entry;
    char name[512];
    while ((entry = readdir(d))) {
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlink(name);
    }
    closedir(d);
    rmdir(path);
    free(path);
}

struct json_object *json(const char *text)
{
    struct json_object *j = json_tokener_parse(text);
    assert_non_null(j);
    return j;
}

void copy_ranges(uint8_t *to, const uint8_t *from, const struct page_ranges *r)
{
    for (size_t i = 0; i < r->n; i++)
        memcpy(to + r->at[i].first * VM_PAGE_SIZE, from + r->at[i].first * VM_PAGE_SIZE, r->at[i].count * VM_PAGE_SIZE);
}

uint64_t differing(const uint8_t *a, const uint8_t *b, const struct page_ranges *r)
{
    uint64_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        for (uint64_t page = r->at[i].first; page < r->at[i].first + r->at[i].count; page++)
            n += memcmp(a + page * VM_PAGE_SIZE, b + page * VM_PAGE_SIZE, VM_PAGE_SIZE) != 0;
    return n;
}

static void tell_differences(const uint8_t *guest, const uint8_t *replica, const struct page_ranges *r,
                             const struct page_ranges *dirty)
{
    for (size_t i = 0; i < r->n; i++)
        for (uint64_t page = r->at[i].first; page < r->at[i].first + r->at[i].count; page++) {
            const uint8_t *a = guest + page * VM_PAGE_SIZE, *b = replica + page * VM_PAGE_SIZE;
            if (memcmp(a, b, VM_PAGE_SIZE) != 0)
                on_difference(page, a, b, dirty);
        }
}

static uint64_t compare_all(const struct vm_ops *ops, struct vm *vm, const uint8_t *replica,
                            const struct page_ranges *dirty)
{
    struct page_ranges populated = {0};
    MUST(ops->populated(vm, &populated, &error));
    assert_true(populated.pages > 0);
    uint64_t n = differing(ops->memory(vm), replica, &populated);
    if (n && on_difference)
        tell_differences(ops->memory(vm), replica, &populated, dirty);
    page_ranges_free(&populated);
    return n;
}

/* Leaves out the first page whose content changed (one written with what it held already would not be missed). */
static void copy_but_one(uint8_t *to, const uint8_t *from, const struct page_ranges *r)
{
    uint8_t old[VM_PAGE_SIZE];
    for (size_t i = 0; i < r->n; i++)
        for (uint64_t page = r->at[i].first; page < r->at[i].first + r->at[i].count; page++)
            if (memcmp(to + page * VM_PAGE_SIZE, from + page * VM_PAGE_SIZE, VM_PAGE_SIZE) != 0) {
                memcpy(old, to + page * VM_PAGE_SIZE, VM_PAGE_SIZE);
                copy_ranges(to, from, r);
                memcpy(to + page * VM_PAGE_SIZE, old, VM_PAGE_SIZE);
                return;
            }
    fail_msg("no dirty page has changed");
}

uint64_t checkpoint(const struct vm_ops *ops, struct vm *vm, uint8_t *replica, struct vm_blob *state, bool compare,
                    bool drop, bool resume, struct checkpoint_times *t)
{
    struct page_ranges dirty = {0};
    uint64_t different = 0;
    double at[7];
    state->size = 0;
    at[0] = now_ms();
    MUST(ops->pause(vm, &error));
    at[1] = now_ms();
    MUST(ops->state_begin(vm, &error));
    MUST(ops->dirty(vm, &dirty, &error));
    at[2] = now_ms();
    if (drop)
        copy_but_one(replica, ops->memory(vm), &dirty);
    else
        copy_ranges(replica, ops->memory(vm), &dirty);
    at[3] = now_ms();
    MUST(ops->state_end(vm, state, &error));
    at[4] = now_ms();
    assert_int_equal(ops->state(vm), VM_PAUSED);
    if (compare)
        different = compare_all(ops, vm, replica, &dirty);
    at[5] = now_ms();
    if (resume)
        MUST(ops->resume(vm, &error));
    at[6] = now_ms();
    if (t)
        *t = (struct checkpoint_times){.stop = at[1] - at[0],
                                       .scan = at[2] - at[1],
                                       .copy = at[3] - at[2],
                                       .save = at[4] - at[3],
                                       .cont = at[6] - at[5],
                                       .pause = at[4] - at[0] + at[6] - at[5],
                                       .pages = dirty.pages};
    page_ranges_free(&dirty);
    return different;
}

void first_sync(const struct vm_ops *ops, struct vm *vm, uint8_t *replica, struct vm_blob *initial)
{
    struct page_ranges populated = {0};
    initial->size = 0;
    MUST(ops->arm(vm, initial, &error));
    assert_int_equal(ops->state(vm), VM_RUNNING);
    MUST(ops->populated(vm, &populated, &error));
    copy_ranges(replica, ops->memory(vm), &populated);
    page_ranges_free(&populated);
}
