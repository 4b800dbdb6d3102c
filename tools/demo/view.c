/* view: see view.h. */
#include "tools/demo/view.h"

#include "tools/demo/run.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static FILE *out;
static bool quiet, tty, drawn; /* drawn: the last line is one to draw over */

enum { PLAIN_LIVE_MS = 5000, TTY_PROGRESS_MS = 100, BAR = 40 };

void view_init(bool be_quiet, bool to_stderr)
{
    out = to_stderr ? stderr : stdout;
    quiet = be_quiet;
    tty = isatty(fileno(out));
    setvbuf(out, NULL, _IOLBF, 0);
}

static void leave_line(void)
{
    if (drawn)
        fputc('\n', out);
    drawn = false;
}

void view_say(const char *format, ...)
{
    va_list ap;
    if (quiet)
        return;
    leave_line();
    va_start(ap, format);
    vfprintf(out, format, ap);
    va_end(ap);
    fputc('\n', out);
}

void view_fail(const char *format, ...)
{
    va_list ap;
    leave_line();
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static void draw(const char *text)
{
    if (tty)
        fprintf(out, "\r\033[K%s", text);
    else
        fprintf(out, "%s\n", text);
    fflush(out);
    drawn = tty;
}

void view_progress(const char *what, uint64_t done, uint64_t total)
{
    static int64_t last;
    char bar[BAR + 1], text[160];
    if (quiet || !tty || !total || now_ms() - last < TTY_PROGRESS_MS)
        return;
    last = now_ms();
    if (done > total)
        done = total;
    int full = (int)(done * BAR / total);
    memset(bar, '#', (size_t)full);
    memset(bar + full, '.', (size_t)(BAR - full));
    bar[BAR] = '\0';
    snprintf(text, sizeof text, "%s [%s] %3d %%", what, bar, (int)(done * 100 / total));
    draw(text);
}

void view_live(const struct host *h, const struct vm_status *s)
{
    static int64_t last;
    static uint64_t last_bytes;
    char text[480], pause[64] = "pause: not known yet";
    int64_t now = now_ms();
    if (quiet || (!tty && now - last < PLAIN_LIVE_MS))
        return;
    double seconds = (double)(now - last) / 1e3;
    double rate =
        last && s->wire_bytes >= last_bytes && seconds > 0 ? (double)(s->wire_bytes - last_bytes) / seconds / 1e6 : 0;
    last = now;
    last_bytes = s->wire_bytes;
    if (s->pause_p50_ms > 0)
        snprintf(pause, sizeof pause, "pause p50 %.1f p99 %.1f ms", s->pause_p50_ms, s->pause_p99_ms);
    snprintf(text, sizeof text,
             "  %s %s%s%s  replica %.0f ms old | %s | %" PRIu64 " dirty pages | wire %.1f MB/s | %" PRIu64
             " packets held",
             h->name, s->present ? s->state : "no VM", *s->reason ? ": " : "", s->reason, s->replica_age_ms, pause,
             s->dirty_pages, rate, s->held_packets);
    draw(text);
}

struct moment {
    double at;
    const char *what;
};

static int compare(const void *a, const void *b)
{
    double x = ((const struct moment *)a)->at, y = ((const struct moment *)b)->at;
    return (x > y) - (x < y);
}

void view_timeline(unsigned number, unsigned of, const char *from, const char *to, const struct failover_times *t,
                   bool with_moments)
{
    struct moment moments[] = {
        {t->agent.last_commit, "last commit: from here the replica goes on"},
        {t->lost, t->agent.paused > 0 ? "VM paused" : "host lost"},
        {t->agent.captured, "last pages copied"},
        {t->agent.sent, "last pages acknowledged"},
        {t->agent.detected, t->agent.paused > 0 ? "handed over" : "loss detected"},
        {t->agent.claimed, "ownership claimed"},
        {t->agent.sealed, "disks durable"},
        {t->agent.loaded, "device state loaded"},
        {t->agent.running, "VM runs"},
        {t->agent.announced, "announced to the network"},
        {t->first_reply, "first reply at the client"},
    };
    const size_t n = sizeof moments / sizeof *moments;

    if (t->agent.paused > 0)
        view_say(
            "move %u of %u: %s hands over, the VM goes on at %s; it stood still for %.1f ms with %u pages to send, "
            "the client waited %.0f ms",
            number, of, from, to, t->agent.running - t->lost, t->agent.pages, t->gap_ms);
    else
        view_say("failover %u of %u: %s is lost, the VM goes on at %s; the client waited %.0f ms", number, of, from, to,
                 t->gap_ms);
    if (!with_moments)
        return;
    qsort(moments, n, sizeof *moments, compare);
    for (size_t i = 0; i < n; i++)
        if (moments[i].at > 0)
            view_say("    %+8.1f ms  %s", moments[i].at - t->lost, moments[i].what);
}
