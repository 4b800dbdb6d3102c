#include "disk/gather.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1 << 20, BLOCKS = WINDOW / MEDIUM_BLOCK, LONG_BLOCKS = (256 << 10) / MEDIUM_BLOCK };

struct gather {
    const struct medium *medium;
    struct gather_file *file; /* NULL: nothing waits */
    uint64_t at;              /* of the window in it, a multiple of WINDOW */
    bool waits[BLOCKS];       /* is in the window and not written yet */
    uint8_t *window;
};

struct gather *gather_new(const struct medium *m)
{
    struct gather *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->medium = m;
    g->window = aligned_alloc(MEDIUM_BLOCK, WINDOW);
    if (g->window)
        return g;
    free(g);
    return NULL;
}

void gather_free(struct gather *g)
{
    if (!g)
        return;
    free(g->window);
    free(g);
}

static int trouble(const struct gather_file *f, struct errmsg *e)
{
    return errmsg_set(e, "disk %s can't be written: %s", f->path, strerror(errno));
}

static int write_blocks(struct gather *g, size_t first, size_t count, struct errmsg *e)
{
    struct gather_file *f = g->file;
    const uint8_t *data = g->window + first * MEDIUM_BLOCK;
    uint64_t at = g->at + first * MEDIUM_BLOCK;
    size_t n = count * MEDIUM_BLOCK;
    int result = count < LONG_BLOCKS ? g->medium->write(g->medium, f->fd, data, n, at)
                                     : medium_write_direct(g->medium, &f->direct, f->fd, data, n, at);
    return result ? trouble(f, e) : 0;
}

int gather_end(struct gather *g, struct errmsg *e)
{
    int result = 0;
    for (size_t i = 0, n; g->file && i < BLOCKS && !result; i += n) {
        bool waits = g->waits[i];
        for (n = 1; i + n < BLOCKS && g->waits[i + n] == waits; n++)
            ;
        if (waits)
            result = write_blocks(g, i, n, e);
    }
    memset(g->waits, 0, sizeof g->waits);
    g->file = NULL;
    return result;
}

/* What fits into one window. */
static int keep(struct gather *g, struct gather_file *f, const uint8_t *data, size_t n, uint64_t offset,
                struct errmsg *e)
{
    uint64_t in_window = offset % WINDOW, at = offset - in_window;
    if (g->file && (g->file != f || g->at != at) && gather_end(g, e))
        return -1;
    g->file = f;
    g->at = at;
    memcpy(g->window + in_window, data, n);
    memset(g->waits + in_window / MEDIUM_BLOCK, true, n / MEDIUM_BLOCK);
    return 0;
}

int gather_write(struct gather *g, struct gather_file *f, const uint8_t *data, size_t n, uint64_t offset,
                 struct errmsg *e)
{
    if (offset % MEDIUM_BLOCK || n % MEDIUM_BLOCK) {
        if (gather_end(g, e))
            return -1;
        return g->medium->write(g->medium, f->fd, data, n, offset) ? trouble(f, e) : 0;
    }
    for (size_t piece; n; n -= piece, data += piece, offset += piece) {
        piece = WINDOW - offset % WINDOW;
        piece = n < piece ? n : piece;
        if (keep(g, f, data, piece, offset, e))
            return -1;
    }
    return 0;
}
