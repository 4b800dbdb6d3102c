/*
 * lab-client: the outside world of the Xen lab, run by `lab outside`: the demo's client, which holds its connections to
 * the guest through everything, and the campaign's witness, which sees from which host the guest's frames come.
 *
 *   lab-client ADDRESS MAC CABLE1 CABLE2 [disks]
 *
 * A line on stdin, "report", "mark" (the gap is measured anew) or "verify" (with `disks`: the guest is to read all that
 * is on them), is answered by a line of JSON. It ends with its stdin.
 */
#include "tools/demo/client.h"
#include "tests/campaign/witness.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Far above what an emulated failover takes: a connection that is silent for longer is lost. */
enum { REQUEST_MS = 200, SILENCE_MS = 180000 };

static int report(struct client *c, const struct witness *w)
{
    struct client_report r;
    struct witness_report seen = witness_report(w);
    if (client_report(c, &r))
        return -1;
    printf("{\"connected\":%s,\"replies\":%" PRIu64 ",\"client_errors\":%" PRIu64 ",\"disconnects\":%" PRIu64
           ",\"memory_errors\":%" PRIu64 ",\"output_violations\":%" PRIu64 ",\"beacons\":%" PRIu64
           ",\"beacons_lost\":%" PRIu64 ",\"gap_ms\":%.0f,\"frames_1\":%" PRIu64 ",\"frames_2\":%" PRIu64
           ",\"switches\":%" PRIu64 ",\"overlooked\":%" PRIu64 ",\"disk_flushed\":%" PRIu64
           ",\"disk_verified\":%" PRIu64 ",\"disk_errors\":%" PRIu64 ",\"database_rows\":%" PRIu64
           ",\"database_checked\":%" PRIu64 ",\"database_errors\":%" PRIu64 "}\n",
           r.connected ? "true" : "false", r.replies, client_errors(&r), r.disconnects, r.memory_errors, r.violations,
           r.beacons, r.beacons_lost, r.gap_ms, seen.frames[0], seen.frames[1], seen.switches, seen.overlooked,
           r.disk_flushed, r.disk_verified, r.disk_errors, r.database_rows, r.database_checked, r.database_errors);
    return fflush(stdout);
}

static int serve(struct client *c, const struct witness *w)
{
    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "mark\n"))
            client_mark(c);
        else if (!strcmp(line, "verify\n"))
            client_verify_disks(c);
        if (report(c, w))
            return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct errmsg e;
    bool disks = argc == 6 && !strcmp(argv[5], "disks");
    if (argc != 5 && !disks) {
        fprintf(stderr, "usage: lab-client ADDRESS MAC CABLE1 CABLE2 [disks]\n");
        return 2;
    }
    const char *cables[] = {argv[3], argv[4]};
    struct options o = {.guest_address = argv[1],
                        .request_ms = REQUEST_MS,
                        .detect_ms = SILENCE_MS,
                        .disk_mb = disks,
                        .database = disks};
    struct witness *w = witness_start(argv[2], cables, &e);
    struct client *c = w ? client_start(&o, &e) : NULL;
    int status = c ? serve(c, w) : 1;
    if (!c)
        fprintf(stderr, "lab-client: %s\n", e.text);
    client_stop(c);
    witness_stop(w);
    return status;
}
