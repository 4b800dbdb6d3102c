/*
 * disk_harness: a real disk server and a guest made of qemu-io, for the tests of disk/.
 */
#ifndef HIKAE_TESTS_DISK_HARNESS_H
#define HIKAE_TESTS_DISK_HARNESS_H

#include "disk/client.h"
#include "disk/server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            fail_msg("%s: %s", #call, error.text);                                                                     \
    } while (0)

extern struct errmsg error;

struct lab {
    char dir[64]; /* of everything */
    char run[80]; /* the server's */
    char disk[DISK_MAX][96];
    unsigned disks;
};

/* A folder with sparse files as disks. No server yet. */
void lab_make(struct lab *l, unsigned disks, uint64_t bytes);
void lab_start(struct lab *l);
/* What was killed a moment ago. */
void lab_start_again(const struct lab *l);
/* Ends the server, removes the folder. */
void lab_remove(struct lab *l);
/* The server's process. */
pid_t lab_server(const struct lab *l);
struct disk_client *lab_connect(const struct lab *l);
/* A whole store, malloc'd. */
uint8_t *lab_store(const struct lab *l, unsigned disk, uint64_t bytes);

/* A program; what it says goes to `said` (NULL: nowhere), its input is `in` (NULL: nothing). */
pid_t run_begin(const char *in, const char *said, const char *const *command);
int run_wait(pid_t pid);                 /* its exit status; -1: a signal */
bool run_ends_within(pid_t pid, int ms); /* it is not waited for: run_wait */

/* qemu-io's commands, one per line, on a disk. */
pid_t guest_begin(const struct lab *l, unsigned disk, const char *script);
int guest(const struct lab *l, unsigned disk, const char *script);
/* What the last one said. */
const char *guest_said(const struct lab *l, unsigned disk);

/* What a secondary does with what is in the log before `mark`: applied to `disks` (each `bytes` long). Returns the
 * number of entries. */
unsigned replay(struct disk_client *c, uint64_t mark, uint8_t *const *disks, uint64_t bytes);

#endif
