#include "disk/identity.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

/* The first line of a file of sysfs without blanks at its ends; false: there is none, or it is empty. */
static bool read_line(const char *folder, const char *name, char out[DISK_IDENTITY_MAX])
{
    char path[PATH_MAX], line[DISK_IDENTITY_MAX] = "";
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return false;
    FILE *f = fopen(path, "re");
    bool got = f && fgets(line, sizeof line, f);
    if (f)
        fclose(f);
    char *start = line + strspn(line, " \t"), *end = start + strcspn(start, "\n");
    while (end > start && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    *end = '\0';
    snprintf(out, DISK_IDENTITY_MAX, "%s", start);
    return got && *start;
}

static bool name_of(const char *folder, char out[DISK_IDENTITY_MAX])
{
    static const char *const where[][2] = {{"dm", "dm/uuid"},       {"md", "md/uuid"},    {"wwid", "wwid"},
                                           {"wwid", "device/wwid"}, {"serial", "serial"}, {"serial", "device/serial"}};
    char value[DISK_IDENTITY_MAX];
    for (size_t i = 0; i < sizeof where / sizeof *where; i++)
        if (read_line(folder, where[i][1], value)) {
            snprintf(out, DISK_IDENTITY_MAX, "%s:%.180s", where[i][0], value);
            return true;
        }
    return false;
}

void disk_identity_in(const char *sysfs, uint64_t device, uint64_t inode, char out[DISK_IDENTITY_MAX])
{
    char folder[PATH_MAX], partition[DISK_IDENTITY_MAX], name[DISK_IDENTITY_MAX];
    *out = '\0';
    if (inode) {
        snprintf(out, DISK_IDENTITY_MAX, "file:%" PRIu64, inode);
        return;
    }
    snprintf(folder, sizeof folder, "%s/dev/block/%u:%u", sysfs, major(device), minor(device));
    bool is_part = read_line(folder, "partition", partition);
    if (is_part)
        strcat(folder, "/..");
    if (name_of(folder, name))
        snprintf(out, DISK_IDENTITY_MAX, "%.180s%s%.10s", name, is_part ? "-part" : "", is_part ? partition : "");
}

void disk_identity(uint64_t device, uint64_t inode, char out[DISK_IDENTITY_MAX])
{
    disk_identity_in("/sys", device, inode, out);
}
