/* stay: see stay.h. */
#include "tools/demo/stay.h"

#include "tools/demo/sandbox.h"
#include "tools/demo/view.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void show_host(const struct host *h)
{
    view_say("  %s:         nsenter -t %d %s-p -n -m -i -u    config: %s", h->name, h->pid,
             sandbox_is_users() ? "-U --preserve-credentials " : "", h->config);
}

static void show_ways_in(const struct drill *d)
{
    view_say("The guest is %s: TCP 7 counts lines, TCP 8 takes stats, rate N, region N, words N, beacon MS.",
             GUEST_ADDRESS);
    view_say("  the network:    nsenter -t %d %s-n -m", getpid(),
             sandbox_is_users() ? "-U --preserve-credentials " : "");
    for (int i = 0; i < 2; i++)
        show_host(&d->hosts[i]);
    view_say("Lines on stdin: kill HOST, cut HOST (its cables first), boot HOST, protect HOST (make it the replica's). "
             "Ctrl-C ends "
             "everything.");
}

static void lose(struct host *h, bool silently)
{
    if (silently)
        host_cut(h);
    host_kill(h);
    view_say("%s is lost", h->name);
    host_wait_gone(h);
}

static void boot(struct drill *d, struct host *h)
{
    struct errmsg e;
    if (h->pid)
        lose(h, false);
    if (host_boot(h, d->options, &e))
        view_fail("%s", e.text);
    else
        show_host(h);
}

static void protect(struct drill *d, struct host *h)
{
    struct errmsg e;
    const struct host *from = h == &d->hosts[0] ? &d->hosts[1] : &d->hosts[0];
    if (host_hikae(from, d->options, &e, (const char *const[]){"protect", "demo", "--to", h->name, NULL}))
        view_fail("%s", e.text);
    else
        view_say("protected: %s -> %s", from->name, h->name);
}

static void obey(struct drill *d, const char *verb, const char *name)
{
    struct host *h = NULL;
    for (int i = 0; i < 2; i++)
        if (!strcmp(d->hosts[i].name, name))
            h = &d->hosts[i];
    if (h && (!strcmp(verb, "kill") || !strcmp(verb, "cut")))
        lose(h, *verb == 'c');
    else if (h && !strcmp(verb, "boot"))
        boot(d, h);
    else if (h && !strcmp(verb, "protect"))
        protect(d, h);
    else
        view_say("say kill, cut, boot or protect, and host-a or host-b");
}

void stay(struct drill *d)
{
    char line[128], verb[16], name[16];
    show_ways_in(d);
    while (fgets(line, sizeof line, stdin))
        if (sscanf(line, "%15s %15s", verb, name) == 2)
            obey(d, verb, name);
    for (;;)
        pause();
}
