/*
 * proc: see proc.h.
 */
#include "vm/qemu/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static FILE *open_proc(pid_t pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    return fopen(path, "re");
}

struct map_line {
    uint64_t start, end, offset;
    char permissions[8];
    dev_t dev;
    ino_t inode;
    char path[PROC_PATH_MAX];
};

static bool parse_map_line(const char *line, struct map_line *m)
{
    unsigned major_number, minor_number;
    uint64_t inode;
    int path_at = 0;
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %x:%x %" SCNu64 " %n", &m->start, &m->end, m->permissions,
               &m->offset, &major_number, &minor_number, &inode, &path_at) < 7)
        return false;
    m->dev = makedev(major_number, minor_number);
    m->inode = inode;
    snprintf(m->path, sizeof m->path, "%s", path_at ? line + path_at : "");
    m->path[strcspn(m->path, "\n")] = '\0';
    return true;
}

static int compare_pieces(const void *a, const void *b)
{
    const struct map_piece *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

enum { FILES_MAX = 32 };

/* Collects the shared writable file mappings, one entry per file. */
static size_t collect_shared(FILE *f, struct shared_map *files)
{
    char line[1024];
    size_t n = 0;
    while (fgets(line, sizeof line, f)) {
        struct map_line m;
        if (!parse_map_line(line, &m) || m.inode == 0 || m.permissions[1] != 'w' || m.permissions[3] != 's')
            continue;
        size_t i = 0;
        while (i < n && (files[i].dev != m.dev || files[i].inode != m.inode))
            i++;
        if (i == n) {
            if (n == FILES_MAX)
                continue;
            files[n++] = (struct shared_map){.dev = m.dev, .inode = m.inode};
            memcpy(files[i].path, m.path, sizeof m.path);
        }
        files[i].bytes += m.end - m.start;
        if (files[i].n < PROC_PIECES_MAX)
            files[i].piece[files[i].n] = (struct map_piece){m.start, m.end, m.offset};
        files[i].n++;
    }
    return n;
}

int proc_find_shared(pid_t pid, dev_t dev, ino_t inode, uint64_t bytes, struct shared_map *out, struct errmsg *e)
{
    FILE *f = open_proc(pid, "maps");
    struct shared_map *files = calloc(FILES_MAX, sizeof *files);
    if (!f || !files) {
        int status = errmsg_set(e, "/proc/%d/maps: %s", (int)pid, strerror(errno));
        if (f)
            fclose(f);
        free(files);
        return status;
    }
    size_t n = collect_shared(f, files), found = 0;
    fclose(f);
    for (size_t i = 0; i < n; i++) {
        if (inode ? files[i].dev == dev && files[i].inode == inode : files[i].bytes == bytes) {
            *out = files[i];
            found++;
        }
    }
    free(files);
    if (found == 0)
        return errmsg_set(e, "guest memory is not a shared file: start QEMU with -object "
                             "memory-backend-file,id=ram0,mem-path=/dev/shm/NAME,size=SIZE,share=on and -machine "
                             "...,memory-backend=ram0");
    if (found > 1 || out->n > PROC_PIECES_MAX)
        return errmsg_set(e,
                          "guest memory is not one shared mapping of %" PRIu64 " bytes: several NUMA nodes or shared "
                          "devices can't be replicated",
                          bytes);
    qsort(out->piece, out->n, sizeof out->piece[0], compare_pieces);
    return 0;
}

/* Calls `take` for each open descriptor of pid; stops when it returns true. */
static int each_fd(pid_t pid, int after, bool (*take)(pid_t pid, int fd, const void *arg), const void *arg)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *d = opendir(path);
    if (!d)
        return -1;
    int found = -1;
    struct dirent *entry;
    while ((entry = readdir(d))) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd <= after || (found >= 0 && fd > found))
            continue;
        if (take(pid, fd, arg))
            found = fd;
    }
    closedir(d);
    return found;
}

static bool is_inode(pid_t pid, int fd, const void *arg)
{
    const struct stat *want = arg;
    struct stat have;
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    return stat(path, &have) == 0 && have.st_dev == want->st_dev && have.st_ino == want->st_ino;
}

int proc_open_inode(pid_t pid, dev_t dev, ino_t inode, bool writable, struct errmsg *e)
{
    struct stat want = {.st_dev = dev, .st_ino = inode};
    int theirs = each_fd(pid, -1, is_inode, &want);
    if (theirs < 0)
        return errmsg_set(e, "process %d has no open descriptor of its memory file (may we read /proc/%d/fd?)",
                          (int)pid, (int)pid);
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, theirs);
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (fd < 0)
        return errmsg_set(e, "%s: %s", path, strerror(errno));
    return fd;
}

static bool is_userfaultfd(pid_t pid, int fd, const void *arg)
{
    (void)arg;
    char path[64], target[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, fd);
    ssize_t n = readlink(path, target, sizeof target - 1);
    if (n < 0)
        return false;
    target[n] = '\0';
    return strcmp(target, "anon_inode:[userfaultfd]") == 0;
}

int proc_next_userfaultfd(pid_t pid, int after)
{
    return each_fd(pid, after, is_userfaultfd, NULL);
}

static bool in_pieces(const struct shared_map *m, uint64_t address)
{
    for (size_t i = 0; i < m->n; i++)
        if (address >= m->piece[i].start && address < m->piece[i].end)
            return true;
    return false;
}

int proc_check_page_size(pid_t pid, const struct shared_map *m, struct errmsg *e)
{
    FILE *f = open_proc(pid, "smaps");
    if (!f)
        return errmsg_set(e, "/proc/%d/smaps: %s", (int)pid, strerror(errno));
    char line[1024];
    bool ours = false;
    int status = 0;
    while (status == 0 && fgets(line, sizeof line, f)) {
        struct map_line header;
        unsigned long kb;
        if (parse_map_line(line, &header))
            ours = in_pieces(m, header.start);
        else if (!ours)
            continue;
        else if (sscanf(line, "KernelPageSize: %lu", &kb) == 1 && kb != 4)
            status =
                errmsg_set(e,
                           "guest memory is made of %lu kB pages, whose changes can't be told apart: use a file on "
                           "tmpfs (/dev/shm), not on hugetlbfs",
                           kb);
        else if ((sscanf(line, "ShmemPmdMapped: %lu", &kb) == 1 || sscanf(line, "FilePmdMapped: %lu", &kb) == 1 ||
                  sscanf(line, "THPeligible: %lu", &kb) == 1) &&
                 kb != 0)
            status = errmsg_set(e, "guest memory may be mapped by transparent huge pages, whose changes can't be told "
                                   "apart: echo never > /sys/kernel/mm/transparent_hugepage/shmem_enabled and mount "
                                   "/dev/shm without huge=, then restart the VM");
    }
    fclose(f);
    return status;
}

/* Is `flag`, of two letters, among the words of a line "VmFlags: rd wr ..."? */
static bool has_flag(const char *line, const char *flag)
{
    char word[8];
    snprintf(word, sizeof word, " %s ", flag);
    return strstr(line, word);
}

int proc_count_flags(pid_t pid, const struct shared_map *m, struct proc_flags *out, struct errmsg *e)
{
    FILE *f = open_proc(pid, "smaps");
    if (!f)
        return errmsg_set(e, "/proc/%d/smaps: %s", (int)pid, strerror(errno));
    char line[1024];
    bool ours = false;
    *out = (struct proc_flags){0};
    while (fgets(line, sizeof line, f)) {
        struct map_line header;
        if (parse_map_line(line, &header)) {
            ours = in_pieces(m, header.start);
            out->mappings += ours;
        } else if (ours && strncmp(line, "VmFlags:", 8) == 0) {
            out->locked += has_flag(line, "lo");
            out->no_huge_pages += has_flag(line, "nh");
            out->soft_dirty += has_flag(line, "sd");
        }
    }
    fclose(f);
    return 0;
}

char **proc_command_line(pid_t pid, size_t *n, struct errmsg *e)
{
    FILE *f = open_proc(pid, "cmdline");
    enum { MAX = 1 << 17 };
    char *text = f ? malloc(MAX) : NULL;
    if (!text) {
        errmsg_set(e, "/proc/%d/cmdline: %s", (int)pid, strerror(errno));
        if (f)
            fclose(f);
        return NULL;
    }
    size_t length = fread(text, 1, MAX - 1, f), words = 0;
    fclose(f);
    text[length] = '\0';
    for (size_t i = 0; i < length; i++)
        words += text[i] == '\0';
    char **list = malloc((words + 1) * sizeof *list + length + 1);
    if (!list || words == 0) {
        errmsg_set(e, "process %d has no command line: has it ended?", (int)pid);
        free(text);
        free(list);
        return NULL;
    }
    char *copy = memcpy(list + words + 1, text, length + 1);
    free(text);
    for (size_t i = 0; i < words; i++, copy += strlen(copy) + 1)
        list[i] = copy;
    list[words] = NULL;
    *n = words;
    return list;
}

int proc_named_mapping(pid_t pid, const char *name, uint64_t *start, uint64_t *end)
{
    FILE *f = open_proc(pid, "maps");
    char line[1024];
    int status = -1;
    while (f && status < 0 && fgets(line, sizeof line, f)) {
        struct map_line m;
        if (parse_map_line(line, &m) && strcmp(m.path, name) == 0) {
            *start = m.start;
            *end = m.end;
            status = 0;
        }
    }
    if (f)
        fclose(f);
    return status;
}
