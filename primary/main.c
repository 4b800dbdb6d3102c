/*
 * hikae-primary: the agent on the host where a VM runs. Without --worker it is the supervisor; with it, one VM's
 * worker.
 */
#include "common/config.h"
#include "common/log.h"
#include "common/self.h"
#include "primary/supervisor.h"
#include "primary/worker.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: hikae-primary [--config FILE]\n"
    "The primary agent: keeps replicas of this host's VMs on other hosts. Runs in the foreground; see hikae(8).\n";

static struct worker_options worker = {.vm = NULL, .begin = BEGIN_AUTO};

static const char *parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'}, {"worker", required_argument, NULL, 'w'},
        {"adopt", no_argument, NULL, 'a'},        {"force", no_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},         {0}};
    const char *config = getenv("HIKAE_CONFIG");
    for (int o; (o = getopt_long(argc, argv, "c:h", options, NULL)) != -1;) {
        if (o == 'c') {
            config = optarg;
        } else if (o == 'w') {
            worker.vm = optarg;
        } else if (o == 'a') {
            worker.begin = BEGIN_ADOPT;
        } else if (o == 'f') {
            worker.force = true;
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
    log_open("hikae-primary", worker.vm);
    struct config *config = config_load(path, &e);
    if (!config) {
        log_error("%s", e.text);
        return worker.vm ? 1 : 2; /* a worker is started again: the file may be mended by then */
    }
    char program[512];
    self_path(program, sizeof program, argv[0]);
    int result = worker.vm ? worker_main(&config, &worker) : supervisor_main(config, program);
    config_free(config);
    return result;
}
