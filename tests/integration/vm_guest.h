/*
 * vm_guest: what the integration tests of backends share: a work folder, a checkpoint made by hand with only vm.h, and
 * the comparison of two memories.
 */
#ifndef HIKAE_TESTS_VM_GUEST_H
#define HIKAE_TESTS_VM_GUEST_H

#include "vm/vm.h"

struct json_object;

/* Calls a vm_ops slot that returns 0 or -1; a failure fails the test with the slot's own message. */
#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail_msg("%s: %s", #call, error.text);                                                                     \
    } while (0)

extern struct errmsg error; /* for MUST and the slots within it */

double now_ms(void);
void sleep_ms(unsigned ms);
/* A new folder; removed with all its files by remove_folder. Both fail the test on error. */
char *make_folder(void);
void remove_folder(char *path);
struct json_object *json(const char *text); /* fails the test if malformed */

/* Copies ranges from one memory to the other. */
void copy_ranges(uint8_t *to, const uint8_t *from, const struct page_ranges *r);
/* How many of the pages in `r` differ. */
uint64_t differing(const uint8_t *a, const uint8_t *b, const struct page_ranges *r);

struct checkpoint_times {
    double stop, scan, copy, save, cont, pause; /* ms */
    uint64_t pages;
};
/* If set: called by `checkpoint` for each page that differs; `dirty`: those that it has copied. */
extern void (*on_difference)(uint64_t gfn, const uint8_t *guest, const uint8_t *replica,
                             const struct page_ranges *dirty);
/* pause, state_begin, dirty, copy, state_end [, resume]; state_end last if the backend has it so. Returns the pages
 * that differ afterwards (over all that is populated), counted only if `compare`. drop: one changed page is not copied.
 */
uint64_t checkpoint(const struct vm_ops *ops, struct vm *vm, uint8_t *replica, struct vm_blob *state, bool compare,
                    bool drop, bool resume, struct checkpoint_times *t);
/* arm, and copies all that is populated. */
void first_sync(const struct vm_ops *ops, struct vm *vm, uint8_t *replica, struct vm_blob *initial);

#endif
