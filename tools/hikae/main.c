/* hikae: the command line. Here: options, help, and which command it is. */
#include "tools/hikae/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_PATH "/etc/hikae/hikae.conf"

struct command {
    const char *name;
    int (*run)(struct cli *c);
    int least, most;     /* arguments */
    const char *options; /* letters of `options` below, besides c, j and h */
    const char *usage, *help;
};

static const struct command commands[] = {
    {"init", cmd_init, 0, 0, "nlF", "init [--name NAME] [--listen-address ADDRESS] [--force]",
     "Makes this host's key and certificate, and a configuration if there is none. Prints what to enter on the other\n"
     "host. --force makes a new key: all peers must then be told the new fingerprint."},
    {"fingerprint", cmd_fingerprint, 0, 0, "", "fingerprint", "Prints the fingerprint of this host's certificate."},
    {"peer", cmd_peer, 1, 4, "ap", "peer add NAME ADDRESS FINGERPRINT [--accept PATTERNS] [--port PORT]",
     "Adds the section [peer NAME] to the configuration. PATTERNS, separated by blanks, say which VMs that host may "
     "send\n"
     "here: 'web db-*', or '*' for all. Without it, none."},
    {"start", cmd_start, 1, 1, "F", "start VM [--force]",
     "Starts the VM by its section [vm NAME], if the arbiter gives it to us. With arbiter = none it is refused where\n"
     "another host may run the VM; --force says that none does."},
    {"protect", cmd_protect, 1, 1, "tsmiN",
     "protect VM --to HOST|auto [--spares HOSTS] [--mode MODE] [--interval TIME] [--no-wait]",
     "Keeps a replica of the VM on HOST, a [peer] of the configuration; on one of the spares, if HOST stays away. "
     "Waits\n"
     "until the VM is PROTECTED; --no-wait returns as soon as the agent has taken the order."},
    {"unprotect", cmd_unprotect, 1, 1, "", "unprotect VM",
     "Ends the protection; the replica is dropped, the VM runs on."},
    {"set", cmd_set, 2, 8, "",
     "set VM interval TIME | mode on-output|periodic | isolated freeze|open |\n"
     "        disk_sync_rate SIZE|none  (also interval=TIME)",
     "Changes a running protection. TIME is in ms, or like 20ms or 2s."},
    {"status", cmd_status, 0, 1, "wA", "status [VM] [--all] [--watch]",
     "One line per VM and replica on this host; --all: what all hosts last said of their VMs. --watch repeats it each "
     "second. --json prints all that is known."},
    {"failover", cmd_failover, 1, 1, "F", "failover VM [--force]",
     "On the host that holds the replica: takes the VM over now, if the arbiter agrees. What the last epoch has not\n"
     "committed is lost, and the other host ends its copy. With arbiter = none there is nobody to ask: --force says "
     "that the\n"
     "other host is off for sure."},
    {"switchover", cmd_switchover, 1, 1, "N", "switchover VM [--no-wait]",
     "On the host that runs a PROTECTED VM: hands it over to its replica. Nothing is lost, no connection ends, and "
     "the\n"
     "hosts change roles. If anything fails on the way, or Ctrl-C comes in time, the VM goes on here."},
    {"migrate", cmd_migrate, 2, 2, "N", "migrate VM HOST [--no-wait]",
     "Moves a VM that is not protected to HOST, a [peer] of the configuration, while it runs. Afterwards nothing of it "
     "is\n"
     "here. Ctrl-C, or `hikae abort`, ends the move until the VM is handed over."},
    {"abort", cmd_abort, 1, 1, "", "abort VM",
     "Ends a switchover or migration that is under way; the VM goes on here."},
    {"grow", cmd_grow, 1, 1, "", "grow VM",
     "After the stores of its disks were extended on both hosts (lvextend, truncate): the running VM gets\n"
     "the room. See hikae-disks(7)."},
    {"stop", cmd_stop, 1, 1, "", "stop VM", "Ends the VM and its protection; the replica does not take over."},
    {"upgrade", cmd_upgrade, 0, 1, "", "upgrade [VM]",
     "After the programs were replaced (a new package): lets each VM's agent process make way for one of the "
     "installed\n"
     "program. The VM runs on, its network pauses for a moment, and it is protected anew. Without VM: all that need "
     "it."},
    {"verify-disk", cmd_verify_disk, 1, 1, "R", "verify-disk VM [--repair]",
     "On the host that runs a PROTECTED VM: compares its disks with the replica's, block by block, while it runs. "
     "--repair\n"
     "sends anew what differs. Exit codes: 0 all are equal, 1 some differed, 2 wrong use, or it could not be done. "
     "Ctrl-C\n"
     "ends it."},
    {"verify-memory", cmd_verify_memory, 1, 1, "R", "verify-memory VM [--repair]",
     "The same of its memory: each page of the replica that is not what the VM's is at the end of an epoch was missed "
     "by\n"
     "the tracking of changes, or damaged. Says what is known of each. Exit codes as of verify-disk."},
    {0},
};

static const struct option options[] = {
    {"config", required_argument, NULL, 'c'}, {"json", no_argument, NULL, 'j'},
    {"help", no_argument, NULL, 'h'},         {"version", no_argument, NULL, 'V'},
    {"name", required_argument, NULL, 'n'},   {"listen-address", required_argument, NULL, 'l'},
    {"force", no_argument, NULL, 'F'},        {"accept", required_argument, NULL, 'a'},
    {"port", required_argument, NULL, 'p'},   {"to", required_argument, NULL, 't'},
    {"mode", required_argument, NULL, 'm'},   {"interval", required_argument, NULL, 'i'},
    {"spares", required_argument, NULL, 's'}, {"no-wait", no_argument, NULL, 'N'},
    {"watch", no_argument, NULL, 'w'},        {"all", no_argument, NULL, 'A'},
    {"repair", no_argument, NULL, 'R'},       {0},
};

int cli_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("hikae: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_FAILED;
}

int cli_usage(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("hikae: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see `hikae%s%s --help`\n", command ? " " : "", command ? command : "");
    va_end(args);
    return EXIT_USAGE;
}

bool cli_config(struct cli *c)
{
    struct errmsg e;
    if (!c->config && !(c->config = config_load(c->config_path, &e)))
        cli_fail("%s", e.text);
    return c->config != NULL;
}

static void help_all(void)
{
    puts("usage: hikae [--config FILE] [--json] COMMAND ...\n\nKeeps warm replicas of running VMs on a second host.\n");
    for (const struct command *k = commands; k->name; k++)
        printf("  %s\n", k->usage);
    puts("  demo ...\n\n`hikae COMMAND --help` explains each. FILE: default $HIKAE_CONFIG or " CONFIG_PATH
         ".\nExit codes: 0 done, 1 failed, 2 wrong use. Manual: hikae(8), hikae.conf(5).");
}

static int help_one(const struct command *k)
{
    printf("usage: hikae %s\n\n%s\n", k->usage, k->help);
    return EXIT_OK;
}

static const struct command *find(const char *name)
{
    for (const struct command *k = commands; k->name; k++)
        if (!strcmp(k->name, name))
            return k;
    return NULL;
}

/* The demo is a program of its own: beside this one, or in the path. */
static int run_demo(char **argv)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - sizeof("-demo"));
    if (n > 0) {
        strcpy(path + n, "-demo");
        execv(path, argv);
    }
    execvp("hikae-demo", argv);
    return cli_fail("hikae-demo cannot be run: %s: it belongs beside the program hikae", strerror(errno));
}

/* Puts one option into `c`. */
static void take(struct cli *c, int letter)
{
    switch (letter) {
    case 'c':
        c->config_path = optarg;
        break;
    case 'j':
        c->json = true;
        break;
    case 'n':
        c->name = optarg;
        break;
    case 'l':
        c->listen = optarg;
        break;
    case 'F':
        c->force = true;
        break;
    case 'a':
        c->accept = optarg;
        break;
    case 'p':
        c->port = optarg;
        break;
    case 't':
        c->to = optarg;
        break;
    case 'm':
        c->mode = optarg;
        break;
    case 'i':
        c->interval = optarg;
        break;
    case 's':
        c->spares = optarg;
        break;
    case 'N':
        c->no_wait = true;
        break;
    case 'w':
        c->watch = true;
        break;
    case 'A':
        c->all = true;
        break;
    case 'R':
        c->repair = true;
        break;
    }
}

static int run(struct cli *c, const char *given, bool help, int argc, char **argv)
{
    if (!argc) {
        help_all();
        return help ? EXIT_OK : EXIT_USAGE;
    }
    const struct command *k = find(argv[0]);
    if (!k)
        return cli_usage(NULL, "unknown command '%s'", argv[0]);
    if (help)
        return help_one(k);
    for (; *given; given++)
        if (!strchr("cj", *given) && !strchr(k->options, *given))
            return cli_usage(k->name, "`hikae %s` has no option --%s", k->name,
                             options[strcspn("cjhVnlFaptmisNwAR", (char[]){*given, 0})].name);
    c->argc = argc - 1;
    c->argv = argv + 1;
    if (c->argc < k->least || c->argc > k->most)
        return cli_usage(k->name, "usage: hikae %s", k->usage);
    return k->run(c);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "demo"))
        return run_demo(argv + 1);
    const char *from_environment = getenv("HIKAE_CONFIG");
    struct cli c = {.config_path = from_environment && *from_environment ? from_environment : CONFIG_PATH};
    char given[32] = "";
    bool help = false;
    int letter;
    while ((letter = getopt_long(argc, argv, "c:h", options, NULL)) != -1) {
        if (letter == '?')
            return EXIT_USAGE;
        if (letter == 'V') {
            puts("hikae " HIKAE_VERSION);
            return EXIT_OK;
        }
        if (letter == 'h')
            help = true;
        else if (!strchr(given, letter))
            given[strlen(given)] = (char)letter;
        take(&c, letter);
    }
    int code = run(&c, given, help, argc - optind, argv + optind);
    config_free(c.config);
    return code;
}
