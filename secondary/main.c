/*
 * hikae-secondary: the agent on the host that holds replicas. Without --worker it is the supervisor; with it, the
 * worker of the connection on descriptor 3.
 */
#include "common/config.h"
#include "common/log.h"
#include "common/self.h"
#include "secondary/cleaner.h"
#include "secondary/supervisor.h"
#include "secondary/worker.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { WORKER_FD = 3 };

static const char usage[] =
    "usage: hikae-secondary [--config FILE]\n"
    "The secondary agent: holds replicas of other hosts' VMs and takes over. Runs in the foreground; see hikae(8).\n";

static bool is_worker, is_cleaner;

static const char *parse(int argc, char **argv)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"worker", no_argument, NULL, 'w'},
                                            {"clean", no_argument, NULL, 'k'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *config = getenv("HIKAE_CONFIG");
    for (int o; (o = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
        if (o == 'c') {
            config = optarg;
        } else if (o == 'w') {
            is_worker = true;
        } else if (o == 'k') {
            is_cleaner = true;
        } else {
            fputs(usage, o == 'h' ? stdout : stderr);
            exit(o == 'h' ? 0 : 2);
        }
    }
    return config ? config : "/etc/hikae/hikae.conf";
}

int main(int argc, char **argv)
{
    const char *path = parse(argc, argv);
    struct errmsg e;
    signal(SIGPIPE, SIG_IGN);
    log_open("hikae-secondary", NULL);
    struct config *config = config_load(path, &e);
    if (!config) {
        log_error("%s", e.text);
        return 2;
    }
    char program[512];
    self_path(program, sizeof program, argv[0]);
    if (is_worker)
        fcntl(WORKER_FD, F_SETFD, FD_CLOEXEC);
    int result = 2;
    if (is_worker)
        result = worker_main(config, program, WORKER_FD);
    else if (!is_cleaner)
        result = supervisor_main(config, program);
    else if (optind + 2 == argc)
        result = cleaner_main(config, program, argv[optind], argv[optind + 1]);
    config_free(config);
    return result;
}
