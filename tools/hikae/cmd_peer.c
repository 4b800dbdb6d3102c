/* peer add: a section at the end of the configuration, which stays valid or stays as it was. */
#include "common/config_parse.h"
#include "common/file.h"
#include "tools/hikae/cli.h"
#include "tools/hikae/identity.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CONFIG_MAX = 1 << 20 };

static int check(const struct cli *c, const char *fingerprint)
{
    const char *name = c->argv[1], *address = c->argv[2];
    const struct config_peer *same = config_peer_by_fingerprint(c->config, fingerprint);
    char own[65];
    if (!config_name_is_valid(name))
        return cli_usage("peer", "'%s' is no host name for hikae: 1 to 63 of A-Z a-z 0-9 . _ -", name);
    if (!*address || strpbrk(address, " \t\r\n"))
        return cli_usage("peer", "'%s' is no address", address);
    if (c->port && config_parse_port(c->port))
        return cli_usage("peer", "--port %s: must be from 1 to 65535", c->port);
    if (c->accept && strpbrk(c->accept, "\r\n"))
        return cli_usage("peer", "--accept must be one line");
    if (!strcmp(name, c->config->name))
        return cli_fail("%s is this host: add the other one", name);
    if (config_peer_by_name(c->config, name))
        return cli_fail("[peer %s] is in %s already: change it there", name, c->config->path);
    if (same)
        return cli_fail("this is the fingerprint of [peer %s] in %s", same->name, c->config->path);
    if (access(c->config->key, F_OK) == 0 && identity_fingerprint(c->config, own) && !strcmp(own, fingerprint))
        return cli_fail("this is the fingerprint of this host: `hikae fingerprint` on the other one prints its own");
    return EXIT_OK;
}

static char *with_section(const struct cli *c, const char *before, const char *fingerprint)
{
    char *text;
    size_t n = strlen(before);
    const char *port = c->port ? c->port : "7702", *accept = c->accept ? c->accept : "";
    if (asprintf(&text, "%s%s\n[peer %s]\naddress = %s\nport = %s\nfingerprint = %s\naccept = %s\n", before,
                 n && before[n - 1] != '\n' ? "\n" : "", c->argv[1], c->argv[2], port, fingerprint, accept) < 0)
        abort();
    return text;
}

/* Writes it beside, reads it as the agents will, and only then puts it in place. */
static int replace(const char *path, const char *text, struct errmsg *e)
{
    char trial[PATH_MAX];
    struct stat st;
    if (snprintf(trial, sizeof(trial), "%s.trial", path) >= PATH_MAX || stat(path, &st) < 0)
        return errmsg_set(e, "%s: cannot be replaced", path);
    if (file_write_atomic(trial, text, strlen(text), st.st_mode & 0777, e))
        return -1;
    struct config *valid = config_load(trial, e);
    config_free(valid);
    if (valid && rename(trial, path) == 0)
        return dir_sync_of(path, e);
    if (valid)
        errmsg_set(e, "%s: cannot be replaced: %s", path, strerror(errno));
    unlink(trial);
    return -1;
}

int cmd_peer(struct cli *c)
{
    struct errmsg e;
    char fingerprint[65], path[PATH_MAX];
    if (strcmp(c->argv[0], "add") || c->argc != 4)
        return cli_usage("peer", "write: hikae peer add NAME ADDRESS FINGERPRINT");
    if (config_parse_fingerprint(c->argv[3], fingerprint))
        return cli_usage("peer", "'%s' is no fingerprint: 64 hex digits, as `hikae fingerprint` prints on that host",
                         c->argv[3]);
    if (!cli_config(c))
        return EXIT_FAILED;
    int code = check(c, fingerprint);
    if (code)
        return code;
    if (!realpath(c->config_path, path))
        return cli_fail("%s: %s", c->config_path, strerror(errno));
    char *before = file_read_all(path, CONFIG_MAX, NULL, &e);
    if (!before)
        return cli_fail("%s", e.text);
    char *text = with_section(c, before, fingerprint);
    int r = replace(path, text, &e);
    free(text);
    free(before);
    if (r)
        return cli_fail("%s", e.text);
    if (!c->json)
        printf("added [peer %s] to %s; %s. The agents read it when they start.\n", c->argv[1], path,
               c->accept && *c->accept ? "it may send what accept says" : "it may send no VM here (accept is empty)");
    return EXIT_OK;
}
