#include "common/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A line is at most this long, so that a write to a pipe is atomic (PIPE_BUF is 4096 on Linux). */
enum { LINE_MAX_BYTES = 2048, WAIT_MS = 100 };

static char who[160] = "hikae";
static bool to_journal, show_debug;
static atomic_uint lost;
static atomic_bool stuck; /* the last line was lost: wait no more until one goes */

void log_open(const char *program, const char *vm)
{
    if (vm)
        snprintf(who, sizeof(who), "%s[vm %s]", program, vm);
    else
        snprintf(who, sizeof(who), "%s", program);
    to_journal = getenv("JOURNAL_STREAM") != NULL;
    show_debug = getenv("HIKAE_DEBUG") != NULL;
}

/* A reader of stderr that does not read must not stop an agent that holds a VM's output: such lines are counted and
 * lost. */
static bool put(const char *line, size_t n)
{
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    bool writable = poll(&p, 1, atomic_load(&stuck) ? 0 : WAIT_MS) == 1 && (p.revents & POLLOUT);
    bool gone = writable && write(STDERR_FILENO, line, n) >= 0;
    atomic_store(&stuck, !gone);
    if (!gone)
        atomic_fetch_add(&lost, 1);
    return gone;
}

static size_t prefix(char *line, size_t size, int level)
{
    int n;
    if (to_journal) {
        n = snprintf(line, size, "<%d>%s: ", level, who);
    } else {
        struct timespec now;
        struct tm tm;
        clock_gettime(CLOCK_REALTIME, &now);
        localtime_r(&now.tv_sec, &tm);
        const char *name = level == 3 ? "error: " : level == 4 ? "warning: " : level == 7 ? "debug: " : "";
        n = snprintf(line, size, "%02d:%02d:%02d.%03d %s: %s", tm.tm_hour, tm.tm_min, tm.tm_sec,
                     (int)(now.tv_nsec / 1000000), who, name);
    }
    return (size_t)n;
}

static void log_line(int level, const char *format, va_list args)
{
    char line[LINE_MAX_BYTES];
    unsigned missed = atomic_load(&lost);
    if (missed) {
        size_t head = prefix(line, sizeof(line), 4);
        int n = snprintf(line + head, sizeof(line) - head, "%u log lines were lost, stderr was not read\n", missed);
        atomic_fetch_sub(&lost, put(line, head + (size_t)n) ? missed : 1); /* this one is no event to be counted */
    }
    size_t at = prefix(line, sizeof(line) - 1, level);
    int n = vsnprintf(line + at, sizeof(line) - 1 - at, format, args);
    size_t end = at + (n < 0 ? 0 : (size_t)n);
    if (end > sizeof(line) - 2)
        end = sizeof(line) - 2;
    /* One event is one line: what a peer or a file put in may not forge another. */
    for (size_t i = at; i < end; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 127)
            line[i] = ' ';
    line[end++] = '\n';
    put(line, end);
}

#define LEVEL(function, level, condition)                                                                              \
    void function(const char *format, ...)                                                                             \
    {                                                                                                                  \
        if (!(condition))                                                                                              \
            return;                                                                                                    \
        va_list args;                                                                                                  \
        va_start(args, format);                                                                                        \
        log_line(level, format, args);                                                                                 \
        va_end(args);                                                                                                  \
    }

LEVEL(log_debug, 7, show_debug)
LEVEL(log_info, 6, true)
LEVEL(log_warn, 4, true)
LEVEL(log_error, 3, true)
