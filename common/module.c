#include "common/module.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int module_path(const char *file, char *out, size_t size)
{
    const char *dir = getenv("HIKAE_MODULE_DIR");
    if (dir && *dir)
        return snprintf(out, size, "%s/%s", dir, file) < (int)size ? 0 : -1;
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n > 0) {
        exe[n] = '\0';
        char *slash = strrchr(exe, '/');
        if (slash)
            *slash = '\0';
        if (snprintf(out, size, "%s/../lib/%s", exe, file) < (int)size && access(out, R_OK) == 0)
            return 0;
    }
    return snprintf(out, size, "%s/%s", HIKAE_MODULE_DIR, file) < (int)size ? 0 : -1;
}
