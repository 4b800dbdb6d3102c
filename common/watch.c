#include "common/watch.h"

static const int64_t MS = 1000000;

/* A gap between two looks counts for two at most: beyond that it was we who did not look. */
static int64_t since(int64_t before, int64_t now)
{
    int64_t gap = now - before, most = 2 * WATCH_LOOK_MS * MS;
    return gap < 0 ? 0 : gap > most ? most : gap;
}

enum watch_verdict watch_look(struct watch *w, const struct watch_sample *s, const struct watch_bounds *b, int64_t now)
{
    bool moved = !w->seen || s->beat != w->beat;
    int64_t still = moved ? 0 : w->still_ns + since(w->looked_at, now);
    *w = (struct watch){.seen = true, .beat = s->beat, .looked_at = now, .still_ns = still};
    int64_t bound = s->paused ? b->pause_ms : b->worker_ms;
    if (!bound)
        return WATCH_WELL;
    if (!s->stopped)
        bound += s->patience_ms;
    if (still <= bound * MS)
        return WATCH_WELL;
    return s->paused ? WATCH_STUCK_PAUSED : WATCH_STUCK;
}
