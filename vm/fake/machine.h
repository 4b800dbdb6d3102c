/*
 * machine: what a fake VM is made of, shared between the backend (fake.c) and the process that is the VM
 * (hikae-fake-vm): three files in its folder, mapped by both.
 *
 *   ram      guest memory. The first pages hold the generation of every data page, the others are data pages, each
 * filled with a pattern of its number and generation. A replica in which one page is older than another shows it. dirty
 * a bit per page, set before the page is written control  struct machine: the switches, and the "device state"
 */
#ifndef HIKAE_VM_FAKE_MACHINE_H
#define HIKAE_VM_FAKE_MACHINE_H

#include <stdatomic.h>
#include <stdint.h>

enum {
    MACHINE_MAGIC = 0x65616b66,
    MACHINE_PAGE = 4096,
    MACHINE_PAGES_MIN = 8,
    MACHINE_PAGES_MAX = 1 << 20,
    MACHINE_ETHERTYPE = 0x88b5, /* "local experimental" */
    MACHINE_FRAME = 64,
};

struct machine {
    uint32_t magic;
    uint32_t pages;
    uint32_t rate;       /* pages written per second */
    uint32_t suspend_ms; /* it runs on for so long when it is to pause */
    uint32_t frames_ms;  /* a frame each so many ms; 0: no NIC */
    uint32_t replica;    /* 1: has no state yet, must not run */
    int32_t pid;         /* of hikae-fake-vm */
    uint64_t start_time;
    char bridge[16];
    uint8_t mac[6];

    _Atomic uint32_t run;       /* wanted: 1 run, 0 stand still (futex) */
    _Atomic uint32_t running;   /* as it is (futex) */
    _Atomic uint32_t shut_down; /* the guest has ended by itself */

    /* Device state: belongs to the guest while it runs, to the agent while it stands still. */
    uint64_t step;         /* pages written since the guest was born */
    uint64_t sequence;     /* of the last frame sent */
    uint64_t shut_down_at; /* step at which it shuts itself down; 0: never */

    /* Seen by this process, not part of the guest. */
    _Atomic uint64_t errors, checked;
};

/* A frame: broadcast, source mac, MACHINE_ETHERTYPE, then sequence and nonce (of the process), both big endian. */
struct machine_frame {
    uint8_t destination[6], source[6];
    uint8_t type[2];
    uint8_t sequence[8], nonce[8];
    uint8_t padding[MACHINE_FRAME - 30];
};
_Static_assert(sizeof(struct machine_frame) == MACHINE_FRAME, "frame");

#endif
