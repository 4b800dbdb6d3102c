/*
 * watch: is a worker stuck? Pure: what it says of itself and how it was seen last in, a verdict out.
 *
 * A worker counts its signs of life on a page that it shares with its supervisor: five a second from its loop, and one
 * at each step that it takes while its VM is paused. The supervisor looks as often. No clock is shared: what counts is
 * for how long, by the supervisor's own looks, the worker has not moved. A supervisor that was itself stopped, or a
 * machine that slept, thus finds nobody guilty.
 *
 * A call of the VM's backend waits for the VM's process and has a deadline of its own: a slow QEMU is no stuck worker,
 * and ending the worker would make nothing faster. So for that long the worker is excused; not if it is stopped.
 */
#ifndef HIKAE_COMMON_WATCH_H
#define HIKAE_COMMON_WATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { WATCH_MAGIC = 0x57414b48, WATCH_LOOK_MS = 200 };

struct watch_page { /* written by the worker alone; a file that its supervisor reads */
    uint32_t magic;
    _Atomic uint32_t pid;         /* of the writer; 0 while the rest is being set */
    _Atomic uint64_t start_time;  /* of that process: with the pid it names it for good */
    _Atomic uint64_t beat;        /* signs of life so far */
    _Atomic uint32_t paused;      /* its VM stands still, or may */
    _Atomic uint32_t patience_ms; /* the step that it is at may take so long */
};

struct watch_sample { /* one look at it */
    uint64_t beat;
    bool paused;
    unsigned patience_ms;
    bool stopped; /* by a signal or a debugger: it waits for nothing */
};

struct watch_bounds { /* without a sign of life; 0: no bound */
    unsigned pause_ms, worker_ms;
};

struct watch { /* zeroes: never looked at */
    bool seen;
    uint64_t beat;
    int64_t looked_at; /* ns */
    int64_t still_ns;  /* for so long, as far as it was watched, it has not moved */
};

enum watch_verdict { WATCH_WELL, WATCH_STUCK_PAUSED, WATCH_STUCK };

/* now: ns, monotonic. */
enum watch_verdict watch_look(struct watch *w, const struct watch_sample *s, const struct watch_bounds *b, int64_t now);

#endif
