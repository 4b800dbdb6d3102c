/*
 * plan: what fails when, from the seed alone: event number n of a seed is the same whatever came of those before it.
 * Pure.
 */
#ifndef HIKAE_CAMPAIGN_PLAN_H
#define HIKAE_CAMPAIGN_PLAN_H

#include "common/errmsg.h"

#include <stddef.h>
#include <stdint.h>

enum kind {
    /* the VM must move, once */
    KIND_HOST_KILLED,
    KIND_POWER_CUT,
    KIND_VM_KILLED,
    KIND_AGENTS_KILLED,
    KIND_WORKER_STOPPED,
    KIND_HOST_FROZEN,
    /* it may move, once: both sides claim, and either gets it */
    KIND_LINK_CUT,
    KIND_CUT_FROM_PRIMARY,
    KIND_CUT_TO_PRIMARY,
    /* it should stay; moving is legal and counted apart */
    KIND_WORKER_KILLED,
    KIND_HALF_OPEN_PRIMARY,
    KIND_LOSS_20,
    /* nothing may happen at all */
    KIND_BLIP,
    KIND_WORKER_BLINKED,
    KIND_HOST_BLINKED,
    KIND_REPLICA_BLINKED,
    KIND_SUPERVISOR_KILLED,
    KIND_STANDBY_SUPERVISOR_KILLED,
    KIND_ETCD_KILLED,
    KIND_ETCD_STOPPED,
    KIND_ARBITER_LOST,
    KIND_SLOW_LINK,
    KIND_LOSS_1,
    KIND_LOSS_5,
    /* the replica is gone: the VM must stay, and goes on alone until there is another */
    KIND_STANDBY_HOST_KILLED,
    KIND_STANDBY_WORKER_KILLED,
    KIND_REPLICA_KILLED,
    KIND_HALF_OPEN_STANDBY,
    KIND_DISK_FULL,
    KINDS
};

/* NEVER: but the primary may claim, to go on alone. NOTHING: not even that. */
enum moves { MOVES_MUST, MOVES_MAY, MOVES_TOLERATED, MOVES_NEVER, MOVES_NOTHING };

/* How the other side learns of a loss: it is told (a reset, a word of the agent), or has to notice the silence. */
enum notice { NOTICE_NONE, NOTICE_CLEAN, NOTICE_SILENT };

struct kind_info {
    const char *name;
    enum moves moves;
    enum notice notice;
    unsigned weight;
    unsigned hold_min_ms, hold_max_ms; /* how long it lasts */
    unsigned amount_min, amount_max;   /* see `what` */
    const char *what;
};

struct event {
    unsigned number; /* from 1 */
    enum kind kind;
    unsigned delay_ms; /* from "protected" to the moment */
    unsigned hold_ms, amount;
};

const struct kind_info *kind_info(enum kind kind);
/* By name; KINDS when there is none of that name. */
enum kind kind_by_name(const char *name, size_t length);
/* Of any kind, by weight; half of them are such that move the VM. */
struct event plan_event(uint64_t seed, unsigned number);
/* Of this kind; its moments and amounts from the seed. */
struct event plan_event_of(uint64_t seed, unsigned number, enum kind kind);

#endif
