/* programs: see programs.h. */
#include "tools/demo/programs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *programs_dir(void)
{
    static char path[160];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    if (slash)
        *slash = '\0';
    return path;
}

void programs_find_modules(const char *bin)
{
    char dir[192], probe[256];
    snprintf(dir, sizeof dir, "%s/../lib", bin);
    snprintf(probe, sizeof probe, "%s/hikae-vm-qemu.so", dir);
    if (!getenv("HIKAE_MODULE_DIR") && !access(probe, F_OK))
        setenv("HIKAE_MODULE_DIR", dir, 1);
}

const char *programs_guest(const char *bin)
{
    static char path[192];
    snprintf(path, sizeof path, "%s/../guest", bin);
    return path;
}
