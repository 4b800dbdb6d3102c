/*
 * link_io: the bytes of a link: handshake, reading, writing, flushing. Internal to link.c, which has the connection's
 * life.
 */
#ifndef HIKAE_COMMON_LINK_IO_H
#define HIKAE_COMMON_LINK_IO_H

#include "common/link.h"
#include "common/link_queue.h"
#include "common/link_tls.h"
#include "common/resolve.h"

#include <ev.h>
#include <netdb.h>

enum { INPUT_BYTES = 64 << 10, WRITE_PER_TURN = 2 << 20 };

enum link_state { LINK_CONNECTING, LINK_HANDSHAKE, LINK_UP, LINK_CLOSED };

struct link {
    struct ev_loop *loop;
    const struct tls_identity *id;
    struct link_handlers h;
    void *arg;
    enum link_state state;
    bool server, paused, write_failed, was_up;
    bool busy, freed;
    bool read_again, drained_due, closed_due, closed_told;
    bool reset; /* with `reason`: for `closed` */
    struct errmsg reason;
    int fd;
    SSL *ssl;
    struct tls_judge judge;
    char expected[65]; /* client: whom we want */
    char address[80];
    struct resolve *resolve;       /* client: the name is being looked up */
    struct addrinfo *found, *next; /* client: where else to try */
    ev_io in, out;
    ev_timer limit, again;
    unsigned timeout_ms;
    struct link_queue queue;
    unsigned records; /* written with the present key */
    uint64_t sent;    /* by an SSL that is gone */
    uint8_t input[INPUT_BYTES];
};

/* From link.c: has on_again called from the loop; ends the link with l->reason, told from the loop. */
void link_turn_later(struct link *l);
void link_fail(struct link *l, bool reset);

/* Goes on with the handshake; calls `up`. */
void link_io_handshake(struct link *l);
/* Delivers input, several pieces but not without end. */
void link_io_read(struct link *l);
/* Writes `data` with nothing queued before it, and returns how much the kernel took. The rest is to be queued. */
size_t link_io_write_through(struct link *l, const uint8_t *data, size_t n);
/* Writes about `most` bytes of the queue, or until the kernel takes no more. */
void link_io_write(struct link *l, size_t most);
/* Blocks for at most flush_ms. */
void link_io_flush(struct link *l, unsigned flush_ms);

#endif
