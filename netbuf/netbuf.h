/*
 * netbuf: the output buffer's accounting. Frames that the guest sends are held, in order, behind barriers; a barrier
 * closes an epoch; a release lets out everything up to an epoch's barrier and nothing behind it. Serves promise 1
 * (output commit). Pure: it moves no frame itself.
 */
#ifndef HIKAE_NETBUF_NETBUF_H
#define HIKAE_NETBUF_NETBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NETBUF_BARRIERS_MAX = 16 }; /* epochs closed and not released that are told apart */

struct netbuf;

struct netbuf_counts {
    uint64_t frames, bytes;     /* held now */
    uint64_t released, dropped; /* frames, ever */
};

struct netbuf *netbuf_new(uint64_t limit_bytes); /* NULL: no memory */
void netbuf_free(struct netbuf *b);

/* Is there no room for another frame of any size? Ask before taking a frame from its source (back-pressure). */
bool netbuf_full(const struct netbuf *b);
/* Holds a copy, in the running epoch. -1: no memory; nothing is held then, the caller must say so. A frame taken when
 * the buffer was not full always fits: the limit may be exceeded by one frame. */
int netbuf_hold(struct netbuf *b, const uint8_t *frame, size_t n);
/* Closes `epoch` (greater than the last one): what is held and behind no barrier belongs to it. If there are too many
 * barriers the last one moves: what it closed is released with this epoch, later than it might be, and never earlier.
 * (Epochs pile up while a guest's flush holds back their output, which takes as long as the disk does.) */
void netbuf_barrier(struct netbuf *b, uint64_t epoch);
/* Frames of the running epoch, i.e. behind the last barrier. */
uint64_t netbuf_running_frames(const struct netbuf *b);

typedef void netbuf_emit(const uint8_t *frame, size_t n, void *arg);
/* ack(epoch) is back: hands all frames up to that barrier to `emit`, in order. An epoch without a barrier releases
 * nothing. */
void netbuf_release(struct netbuf *b, uint64_t epoch, netbuf_emit *emit, void *arg);
/* We own the VM alone (granted by the arbiter): hands out everything and removes all barriers. */
void netbuf_release_all(struct netbuf *b, netbuf_emit *emit, void *arg);
/* The VM runs elsewhere: forgets everything. */
void netbuf_drop_all(struct netbuf *b);
struct netbuf_counts netbuf_counts(const struct netbuf *b);

#endif
