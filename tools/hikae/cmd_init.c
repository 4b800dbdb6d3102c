/* init, fingerprint: this host's identity and first configuration. */
#include "common/config_parse.h"
#include "common/file.h"
#include "common/link.h"
#include "tools/hikae/cli.h"
#include "tools/hikae/identity.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <json-c/json.h>
#include <limits.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char template[] =
    "# Hikae on this host; hikae.conf(5) explains every key.\n"
    "\n"
    "[host]\n"
    "name = %s\n"
    "%slisten = %s\n"
    "#port = 7702\n"
    "# Who owns a VM is decided by an etcd cluster, or in a directory that BOTH hosts share (for example by NFS); the\n"
    "# same line on both:\n"
    "#arbiter = etcd:https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379\n"
    "#arbiter = file:/srv/hikae-arbiter\n"
    "# Silence of the other host for so long is its death.\n"
    "#detect = 500ms\n"
    "\n"
    "# The other host: `hikae init` there prints these lines.\n"
    "#[peer host-b]\n"
    "#address = 10.0.0.2\n"
    "#fingerprint = 64 hex digits\n"
    "# Which VMs it may send here:\n"
    "#accept = *\n"
    "\n"
    "# A VM that runs here and that QEMU is to start:\n"
    "#[vm web]\n"
    "#mode = on-output\n"
    "#interval = 20ms\n";

static int write_template(const struct cli *c, const char *name)
{
    struct errmsg e;
    char *text;
    if (asprintf(&text, template, name, c->listen ? "" : "#", c->listen ? c->listen : "*") < 0)
        abort();
    int r = file_write_atomic(c->config_path, text, strlen(text), 0644, &e);
    free(text);
    return r ? cli_fail("%s", e.text) : EXIT_OK;
}

static int make_config(struct cli *c)
{
    struct errmsg e;
    char dir[PATH_MAX], host[64] = "";
    snprintf(dir, sizeof(dir), "%s", c->config_path);
    char *slash = strrchr(dir, '/');
    if (slash && slash != dir) {
        *slash = 0;
        if (dir_make(dir, 0755, &e))
            return cli_fail("%s", e.text);
    }
    const char *name = c->name;
    if (!name && gethostname(host, sizeof(host) - 1) == 0)
        name = host;
    if (!name || !config_name_is_valid(name))
        return cli_fail("'%s' cannot be this host's name in hikae: give one with --name", name ? name : "");
    int r = write_template(c, name);
    if (!r && !c->json)
        printf("made %s\n", c->config_path);
    return r;
}

/* New files beside, then both put in place: a crash between leaves a pair that does not fit, which the agents refuse.
 */
static int replace_identity(const struct config *config, struct errmsg *e)
{
    char key[PATH_MAX], certificate[PATH_MAX];
    if (snprintf(key, sizeof(key), "%s.new", config->key) >= PATH_MAX ||
        snprintf(certificate, sizeof(certificate), "%s.new", config->certificate) >= PATH_MAX)
        return errmsg_set(e, "%s: the path is too long", config->key);
    unlink(key);
    unlink(certificate);
    if (tls_identity_create(key, certificate, config->name, e))
        return -1;
    if (rename(key, config->key) < 0 || rename(certificate, config->certificate) < 0)
        return errmsg_set(e, "%s: cannot be replaced: %s", config->key, strerror(errno));
    return dir_sync_of(config->key, e) || dir_sync_of(config->certificate, e) ? -1 : 0;
}

static int make_identity(struct cli *c, struct errmsg *e)
{
    const struct config *config = c->config;
    bool has_key = access(config->key, F_OK) == 0, has_certificate = access(config->certificate, F_OK) == 0;
    if (has_key && has_certificate && !c->force)
        return 0;
    if (has_key != has_certificate && !c->force)
        return errmsg_set(e, "%s is there and %s is not: `hikae init --force` makes both anew",
                          has_key ? config->key : config->certificate, has_key ? config->certificate : config->key);
    int r =
        c->force ? replace_identity(config, e) : tls_identity_create(config->key, config->certificate, config->name, e);
    if (!r && !c->json)
        printf("made %s and %s\n", config->key, config->certificate);
    return r;
}

/* An address that the other host can probably use. */
static void own_address(const struct config *config, char *out, size_t size)
{
    snprintf(out, size, "%s", config->listen);
    struct ifaddrs *all;
    if (strcmp(config->listen, "*") || getifaddrs(&all))
        return;
    snprintf(out, size, "%s", config->name);
    for (const struct ifaddrs *i = all; i; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET && (i->ifa_flags & IFF_UP) &&
            !(i->ifa_flags & IFF_LOOPBACK)) {
            getnameinfo(i->ifa_addr, sizeof(struct sockaddr_in), out, (socklen_t)size, NULL, 0, NI_NUMERICHOST);
            break;
        }
    freeifaddrs(all);
}

bool identity_fingerprint(const struct config *config, char out[65])
{
    struct errmsg e;
    struct tls_identity *id = tls_identity_load(config->key, config->certificate, &e);
    if (!id) {
        cli_fail("%s", e.text);
        return false;
    }
    tls_identity_fingerprint(id, out);
    tls_identity_free(id);
    return true;
}

static void print_json(const struct config *config, const char *address, const char *fingerprint)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "name", json_object_new_string(config->name));
    json_object_object_add(j, "address", json_object_new_string(address));
    json_object_object_add(j, "port", json_object_new_string(config->port));
    json_object_object_add(j, "fingerprint", json_object_new_string(fingerprint));
    json_object_object_add(j, "config", json_object_new_string(config->path));
    puts(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(j);
}

static void print_pairing(const struct config *config, const char *address, const char *fingerprint)
{
    bool usual = !strcmp(config->port, "7702");
    printf("\nThis host is %s, fingerprint %s\n", config->name, fingerprint);
    printf("\nOn the other host run (check the address, and choose which VMs it accepts):\n\n"
           "  hikae peer add %s %s %s --accept '*'%s%s\n",
           config->name, address, fingerprint, usual ? "" : " --port ", usual ? "" : config->port);
    printf("\nor put into its configuration:\n\n"
           "  [peer %s]\n  address = %s\n%s%s%s  fingerprint = %s\n  accept = *\n",
           config->name, address, usual ? "" : "  port = ", usual ? "" : config->port, usual ? "" : "\n", fingerprint);
}

int cmd_init(struct cli *c)
{
    struct errmsg e;
    char fingerprint[65], address[NI_MAXHOST];
    bool fresh = access(c->config_path, F_OK) < 0;
    if (c->listen && (!*c->listen || strpbrk(c->listen, " \t\r\n")))
        return cli_usage("init", "'%s' is no address", c->listen);
    if (fresh && make_config(c))
        return EXIT_FAILED;
    if (!cli_config(c))
        return EXIT_FAILED;
    if (!fresh &&
        ((c->name && strcmp(c->name, c->config->name)) || (c->listen && strcmp(c->listen, c->config->listen))))
        return cli_fail("%s is there already and says name = %s, listen = %s: change it there", c->config_path,
                        c->config->name, c->config->listen);
    if (make_identity(c, &e))
        return cli_fail("%s", e.text);
    if (!identity_fingerprint(c->config, fingerprint))
        return EXIT_FAILED;
    own_address(c->config, address, sizeof(address));
    if (c->json)
        print_json(c->config, address, fingerprint);
    else
        print_pairing(c->config, address, fingerprint);
    return EXIT_OK;
}

int cmd_fingerprint(struct cli *c)
{
    char fingerprint[65];
    if (!cli_config(c) || !identity_fingerprint(c->config, fingerprint))
        return EXIT_FAILED;
    if (c->json)
        printf("{\"fingerprint\":\"%s\"}\n", fingerprint);
    else
        puts(fingerprint);
    return EXIT_OK;
}
