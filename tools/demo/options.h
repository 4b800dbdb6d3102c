/*
 * options: what the user of hikae-demo asked for.
 */
#ifndef HIKAE_DEMO_OPTIONS_H
#define HIKAE_DEMO_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
    unsigned failovers;
    const char *mode;  /* "on-output" or "periodic" */
    const char *accel; /* QEMU's: "tcg", which every machine has, or "kvm" */
    unsigned interval_ms;
    unsigned detect_ms;
    unsigned rate, region, words; /* of the guest's writing: pages/s, pages, words per page */
    unsigned memory_mb;
    unsigned disk_mb;          /* 0: the VM has none */
    bool shared;               /* both hosts see the same disks */
    bool database;             /* a second disk, with a file system and a database */
    unsigned disk_rate;        /* operations per second of each of its four writers */
    const char *guest_address; /* of the client's connections; NULL: the sandbox's guest */
    unsigned request_ms;       /* between two lines of the client */
    unsigned beacon_ms;
    unsigned kill_min_ms, kill_max_ms; /* from PROTECTED to the loss of the host */
    unsigned baseline_s;
    unsigned patience; /* how many times as long as usual things are waited for; 0 is 1 */
    uint64_t seed;
    bool power_cut; /* loss by silence: the cables go first, so that no RST tells the others */
    bool planned;   /* nothing is lost: the VM is switched over, or migrated (never protected) */
    bool migrate;
    bool etcd;       /* the arbiter is a cluster of three, else a folder */
    bool no_arbiter; /* there is none: an admin orders each failover */
    bool fresh_disk; /* a host that comes back has lost its state folder */
    bool plug;       /* netbuf = plug */
    bool restart;    /* a host's init starts an agent again that ended, as systemd does with Restart=always */
    bool keep, hosts_only, quiet;
    bool brief;        /* one line for a failover, without its timeline */
    const char *json;  /* file, "-" for stdout, NULL for none */
    const char *dir;   /* NULL: in memory, gone afterwards */
    const char *guest; /* folder with vmlinuz and initrd.gz */
    const char *root;  /* NULL, or an image of a guest of one's own: its disk is a copy of that, with its root */
    const char *bin;   /* folder of hikae, hikae-primary, hikae-secondary */
    const char *fault; /* NULL, or the line for the [fault] section */
};

#endif
