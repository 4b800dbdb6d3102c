/*
 * keep: a replica whose agent died stays: a paused domain with its devices and most of the memory that the next replica
 * of that VM needs. Whose it is, and what it was made as, is in xenstore at /libxl/DOMID/hikae, which goes with the
 * domain. A replica is its owner's alone: who takes it over writes himself down as owner first, and its files in
 * another folder mean nothing from then on.
 */
#include "vm/xen/xen.h"

#include <libxl_utils.h>

#include <json-c/json.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 64 };

static void keep_path(char out[PATH_SIZE], uint32_t domid, const char *key)
{
    snprintf(out, PATH_SIZE, "/libxl/%u/hikae/%s", domid, key);
}

static bool put(const struct vm *vm, const char *key, const char *value)
{
    char path[PATH_SIZE];
    keep_path(path, vm->domid, key);
    return xs_write(vm->xs, XBT_NULL, path, value, (unsigned)strlen(value));
}

static bool is(const struct vm *vm, uint32_t domid, const char *key, const char *value)
{
    char path[PATH_SIZE];
    keep_path(path, domid, key);
    char *found = xs_read(vm->xs, XBT_NULL, path, NULL);
    bool equal = found && strcmp(found, value) == 0;
    free(found);
    return equal;
}

/* What makes two domains the same but for what a replica is given at failover: all of the shape less the state that the
 * guest was in when it was taken. */
static int shape_digest(const struct shape *s, char out[2 * EVP_MAX_MD_SIZE + 1], struct errmsg *e)
{
    static const char *const passing[] = {"context", "tsc_khz", "tsc_ns", "tsc_incarnation"};
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    struct json_object *j = shape_to_json(s);
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++)
        json_object_object_del(j, passing[i]);
    const char *text = json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN);
    int done = text ? EVP_Digest(text, strlen(text), digest, &n, EVP_sha256(), NULL) : 0;
    json_object_put(j);
    for (unsigned i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
    return done ? 0 : errmsg_set(e, "the digest of the domain's shape can't be made");
}

int keep_own(struct vm *vm, struct errmsg *e)
{
    return put(vm, "owner", vm->run_dir) ? 0 : xen_error(vm, e, "xenstore");
}

int keep_finish(struct vm *vm, struct errmsg *e)
{
    char digest[2 * EVP_MAX_MD_SIZE + 1];
    if (shape_digest(&vm->shape, digest, e) < 0)
        return -1;
    return put(vm, "shape", digest) ? 0 : xen_error(vm, e, "xenstore");
}

bool keep_is_owned(const struct vm *vm)
{
    return is(vm, vm->domid, "owner", vm->run_dir);
}

int keep_load(struct vm *vm, struct errmsg *e)
{
    return put(vm, "loaded", "1") ? 0 : xen_error(vm, e, "xenstore");
}

bool keep_is_loaded(const struct vm *vm, uint32_t domid)
{
    return is(vm, domid, "loaded", "1");
}

int keep_take(struct vm *vm, uint32_t domid, struct errmsg *e)
{
    char digest[2 * EVP_MAX_MD_SIZE + 1];
    xc_domaininfo_t info;
    if (shape_digest(&vm->shape, digest, e) < 0)
        return -1;
    vm->domid = domid;
    bool fits = xen_info(vm, &info) && info.flags & XEN_DOMINF_paused && !(info.flags & XEN_DOMINF_shutdown) &&
                memcmp(info.handle, vm->shape.uuid, sizeof vm->shape.uuid) == 0 && is(vm, domid, "shape", digest);
    if (!fits)
        vm->domid = XEN_NO_DOMAIN;
    return fits;
}
