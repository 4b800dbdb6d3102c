/*
 * diskbench: runs fio in the guest for ./dev bench disk, on the part of the disk that is behind the blocks of diskd.
 *
 * TCP port 11, one order at a time: a line of fio's options, without those that say where. The answer is a line of JSON
 * when it is done: {"status": of fio, "ms": how long all of it took by the guest's clock, "fio": its own JSON, or the
 * first of what it said instead}.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 11, BLOCK = 4096, ALIGNED = 1 << 20, SAID = 1 << 20, LINE = 512 };

static const char *disk;
static uint64_t first, bytes; /* our part of the disk */

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* What it says, as one line. */
static int run(const char *command, char said[SAID])
{
    FILE *f = popen(command, "r");
    size_t n = f ? fread(said, 1, SAID - 1, f) : 0;
    said[n] = '\0';
    for (char *c = said; *c; c++)
        if (*c == '\n')
            *c = ' ';
    return f ? pclose(f) : -1;
}

static int obey(int fd, const char *options)
{
    static char said[SAID];
    char command[LINE * 2], head[LINE];
    snprintf(command, sizeof command,
             "fio --output-format=json --name=load --filename=%s --offset=%llu --size=%llu %s 2>&1", disk,
             (unsigned long long)first, (unsigned long long)bytes, options);
    uint64_t begin = now_ms();
    int status = run(command, said);
    const char *json = strchr(said, '{');
    bool good = status == 0 && json;
    for (char *c = said; !good && *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = '\'';
    if (!good && strlen(said) > 300)
        said[300] = '\0';
    int n = snprintf(head, sizeof head, "{\"status\":%d,\"ms\":%llu,\"fio\":%s", status,
                     (unsigned long long)(now_ms() - begin), good ? "" : "\"");
    FILE *f = fdopen(dup(fd), "w");
    if (!f)
        return -1;
    fwrite(head, 1, (size_t)n, f);
    fputs(good ? json : said, f);
    fputs(good ? "}\n" : "\"}\n", f);
    return fclose(f);
}

static void serve(int fd)
{
    char line[LINE];
    FILE *f = fdopen(fd, "r");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        if (obey(fd, line))
            break;
    }
    if (f)
        fclose(f);
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), on = 1;
    uint64_t whole = 0, blocks = 4096;
    unsigned long long n;
    disk = argc > 1 ? argv[1] : "";
    int of = open(disk, O_RDONLY | O_CLOEXEC);
    if (of < 0 || ioctl(of, BLKGETSIZE64, &whole)) {
        perror("diskbench");
        return 1;
    }
    close(of);
    for (int i = 2; i < argc; i++)
        if (sscanf(argv[i], "disk_blocks=%llu", &n) == 1)
            blocks = n;
    first = (blocks * BLOCK + ALIGNED - 1) / ALIGNED * ALIGNED;
    if (whole < first + ALIGNED)
        return 0; /* too small for it */
    bytes = (whole - first) / ALIGNED * ALIGNED;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 1)) {
        perror("diskbench: listen");
        return 1;
    }
    for (;;) {
        int client = accept(fd, NULL, NULL);
        if (client >= 0)
            serve(client);
    }
}
