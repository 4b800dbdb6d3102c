#include "primary/flight.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void flight_reset(struct flight *f)
{
    *f = (struct flight){0};
}

bool flight_has_room(const struct flight *f)
{
    return f->n < FLIGHT_MAX;
}

uint64_t flight_open(struct flight *f, int64_t paused_at)
{
    f->at[f->n++] = (struct flight_epoch){.epoch = ++f->last, .paused_at = paused_at};
    return f->last;
}

void flight_sent(struct flight *f, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE])
{
    for (unsigned i = 0; i < f->n; i++) {
        if (f->at[i].epoch == epoch) {
            memcpy(f->at[i].digest, digest, PROTO_DIGEST_SIZE);
            f->at[i].sent = true;
        }
    }
}

int flight_ack(struct flight *f, uint64_t epoch, const uint8_t digest[PROTO_DIGEST_SIZE], struct flight_epoch *done,
               struct proto_error *e)
{
    const char *what = NULL;
    if (!f->n || f->at[0].epoch != epoch)
        what = "is not the oldest one in flight";
    else if (!f->at[0].sent)
        what = "was not sent yet";
    else if (memcmp(f->at[0].digest, digest, PROTO_DIGEST_SIZE))
        what = "has another digest than what was sent";
    if (what) {
        snprintf(e->text, sizeof e->text, "ACK of epoch %" PRIu64 ", which %s", epoch, what);
        return -1;
    }
    *done = f->at[0];
    f->acked = epoch;
    f->acked_age = done->paused_at;
    memmove(f->at, f->at + 1, --f->n * sizeof *f->at);
    return 0;
}
