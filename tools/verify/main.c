/*
 * hikae-verify: checks recorded streams and says what is in them. Exit status 0: all are right; 1: one is not; 2: the
 * command line is wrong or a file can't be read.
 */
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct options {
    bool verbose, json, memory_digest, complete;
};

static const char usage[] =
    "usage: hikae-verify [-v] [--json] [--memory-digest] [--complete] FILE...\n"
    "Checks streams that a secondary has recorded (key `record` in hikae.conf) against the protocol.\n"
    "  -v, --verbose      a line for each epoch\n"
    "  --json             one JSON object per file\n"
    "  --memory-digest    XXH3-128 of the replica's memory after the last epoch, as `xxhsum -H128` of its file\n"
    "  --complete         a stream that ends inside of a record or an epoch is wrong, too\n"
    "Exit status: 0 right, 1 wrong (\"offset N: what\"), 2 trouble.\n";

static struct json_object *tally_json(const struct tally *t)
{
    struct json_object *j = json_object_new_object(), *pages = json_object_new_object();
    for (unsigned i = 0; i < ENCODINGS; i++) {
        struct json_object *one = json_object_new_object();
        json_object_object_add(one, "entries", json_object_new_uint64(t->entries[i]));
        json_object_object_add(one, "octets", json_object_new_uint64(t->page_octets[i]));
        json_object_object_add(pages, encoding_names[i], one);
    }
    json_object_object_add(j, "records", json_object_new_uint64(t->records));
    json_object_object_add(j, "octets", json_object_new_uint64(t->octets));
    json_object_object_add(j, "device_octets", json_object_new_uint64(t->blob_octets));
    json_object_object_add(j, "disk_octets", json_object_new_uint64(t->disk_octets));
    json_object_object_add(j, "disk_written", json_object_new_uint64(t->disk_written));
    json_object_object_add(j, "pages", pages);
    return j;
}

static void print_json(const char *path, const struct options *o, const struct verdict *v)
{
    struct json_object *j = json_object_new_object();
    json_object_object_add(j, "file", json_object_new_string(path));
    json_object_object_add(j, "ok", json_object_new_boolean(v->ok));
    json_object_object_add(j, "complete", json_object_new_boolean(v->complete));
    if (!v->ok) {
        json_object_object_add(j, "offset", json_object_new_uint64(v->offset));
        json_object_object_add(j, "error", json_object_new_string(v->what.text));
    }
    json_object_object_add(j, "octets", json_object_new_uint64(v->octets));
    json_object_object_add(j, "records", json_object_new_uint64(v->records));
    json_object_object_add(j, "guest_pages", json_object_new_uint64(v->pages));
    json_object_object_add(j, "epochs", json_object_new_uint64(v->last_epoch));
    json_object_object_add(j, "total", tally_json(&v->total));
    if (v->memory_digest[0])
        json_object_object_add(j, "memory_digest", json_object_new_string(v->memory_digest));
    if (o->verbose) {
        struct json_object *epochs = json_object_new_array();
        for (size_t i = 0; i < v->epoch_count; i++) {
            struct json_object *one = tally_json(&v->epochs[i]);
            json_object_object_add(one, "epoch", json_object_new_uint64(v->epochs[i].epoch));
            json_object_array_add(epochs, one);
        }
        json_object_object_add(j, "per_epoch", epochs);
    }
    puts(json_object_to_json_string_ext(j, JSON_C_TO_STRING_PLAIN));
    json_object_put(j);
}

static void print_row(const char *label, const struct tally *t, const char *digest)
{
    printf("%8s %8" PRIu64, label, t->records);
    for (unsigned i = 0; i < ENCODINGS; i++)
        printf(" %9" PRIu64, t->entries[i]);
    printf(" %9" PRIu64 " %10" PRIu64 " %12" PRIu64 "  %s\n", t->blob_octets, t->disk_octets, t->octets, digest);
}

static void print_text(const char *path, const struct options *o, const struct verdict *v)
{
    char label[24];
    printf("%8s %8s", "epoch", "records");
    for (unsigned i = 0; i < ENCODINGS; i++)
        printf(" %9s", encoding_names[i]);
    printf(" %9s %10s %12s  %s\n", "device", "disk", "octets", "digest");
    for (size_t i = 0; i < v->epoch_count && o->verbose; i++) {
        snprintf(label, sizeof label, "%" PRIu64, v->epochs[i].epoch);
        print_row(label, &v->epochs[i], "ok");
    }
    print_row("all", &v->total, "");
    printf("%s: %" PRIu64 " octets, %" PRIu64 " records, %" PRIu64 " epochs of a guest of %" PRIu64 " pages; %s\n",
           path, v->octets, v->records, v->last_epoch, v->pages, v->ok ? v->end : "stopped at the first violation");
    if (v->memory_digest[0])
        printf("memory after epoch %" PRIu64 ": %s\n", v->last_epoch, v->memory_digest);
    fflush(stdout);
}

static int verify_data(const char *path, const struct options *o, const uint8_t *data, size_t n)
{
    struct verdict v;
    verify_stream(data, n, o->verbose, o->memory_digest, &v);
    if (v.ok && o->complete && !v.complete) {
        v.ok = false;
        complain(&v.what, "%s", v.end);
    }
    if (o->json)
        print_json(path, o, &v);
    else
        print_text(path, o, &v);
    if (!v.ok)
        fprintf(stderr, "%s: offset %" PRIu64 ": %s\n", path, v.offset, v.what.text);
    free(v.epochs);
    return v.ok ? 0 : 1;
}

static int verify_file(const char *path, const struct options *o)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        fprintf(stderr, "hikae-verify: %s: %s\n", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return 2;
    }
    size_t n = (size_t)st.st_size;
    void *data = n ? mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    close(fd);
    if (data == MAP_FAILED) {
        fprintf(stderr, "hikae-verify: %s: %s\n", path, strerror(errno));
        return 2;
    }
    int status = verify_data(path, o, data, n);
    if (data)
        munmap(data, n);
    return status;
}

int main(int argc, char **argv)
{
    enum { JSON = 256, MEMORY_DIGEST, COMPLETE };
    static const struct option long_options[] = {
        {"verbose", no_argument, NULL, 'v'},
        {"json", no_argument, NULL, JSON},
        {"memory-digest", no_argument, NULL, MEMORY_DIGEST},
        {"complete", no_argument, NULL, COMPLETE},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    struct options o = {0};
    int option, worst = 0;
    while ((option = getopt_long(argc, argv, "vh", long_options, NULL)) != -1) {
        o.verbose |= option == 'v';
        o.json |= option == JSON;
        o.memory_digest |= option == MEMORY_DIGEST;
        o.complete |= option == COMPLETE;
        if (option == 'h') {
            fputs(usage, stdout);
            return 0;
        }
        if (option == '?') {
            fputs(usage, stderr);
            return 2;
        }
    }
    if (optind == argc) {
        fputs(usage, stderr);
        return 2;
    }
    for (int i = optind; i < argc; i++) {
        int status = verify_file(argv[i], &o);
        worst = status > worst ? status : worst;
    }
    return worst;
}
