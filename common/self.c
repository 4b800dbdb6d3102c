#include "common/self.h"

#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void self_path(char *out, size_t size, const char *otherwise)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n > 0)
        out[n] = 0;
    else
        snprintf(out, size, "%s", otherwise);
}

bool self_is_outdated(void)
{
    static const char gone[] = " (deleted)"; /* how the kernel marks it */
    char path[512];
    struct stat running, installed;
    self_path(path, sizeof path, "");
    size_t n = strlen(path), k = sizeof gone - 1;
    if (n > k && !strcmp(path + n - k, gone))
        path[n - k] = 0;
    return !stat("/proc/self/exe", &running) && !stat(path, &installed) &&
           (running.st_ino != installed.st_ino || running.st_dev != installed.st_dev);
}

void self_add_memory(struct json_object *j)
{
    unsigned long long size, resident = 0, shared = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f && fscanf(f, "%llu %llu %llu", &size, &resident, &shared) != 3)
        resident = shared = 0;
    if (f)
        fclose(f);
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    json_object_object_add(j, "rss_bytes", json_object_new_uint64(resident * page));
    json_object_object_add(j, "rss_anon_bytes", json_object_new_uint64((resident - shared) * page));
}
