/*
 * sqld: a database in the test guest: SQLite on an ext4 of the VM's second disk, every transaction synced.
 *
 * TCP port 10: "put" adds a row in a transaction of its own and answers with its number once it is committed: exactly
 * the last one plus one, or a transaction that was acknowledged has been lost. "check" reads all rows, compares each
 * with what follows from its number, runs SQLite's own check of the file, and tells how many rows there are and how
 * many things are wrong.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sqlite3.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PORT = 10, TEXT = 200 };

static sqlite3 *db;

static void text_of(int64_t id, char out[TEXT + 1])
{
    uint64_t x = (uint64_t)id;
    for (int i = 0; i < TEXT; i++) {
        x = x * 6364136223846793005U + 1442695040888963407U;
        out[i] = (char)('a' + (x >> 33) % 26);
    }
    out[TEXT] = '\0';
}

/* The new row's number; 0: it could not be written. */
static int64_t put(void)
{
    char text[TEXT + 1];
    sqlite3_stmt *s = NULL;
    int64_t id = 0;
    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return 0;
    if (sqlite3_prepare_v2(db, "SELECT coalesce(max(id), 0) + 1 FROM t", -1, &s, NULL) == SQLITE_OK &&
        sqlite3_step(s) == SQLITE_ROW)
        id = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    s = NULL;
    text_of(id, text);
    if (id && sqlite3_prepare_v2(db, "INSERT INTO t VALUES (?, ?)", -1, &s, NULL) == SQLITE_OK) {
        sqlite3_bind_int64(s, 1, id);
        sqlite3_bind_text(s, 2, text, TEXT, SQLITE_TRANSIENT);
        if (sqlite3_step(s) != SQLITE_DONE)
            id = 0;
    }
    sqlite3_finalize(s);
    if (sqlite3_exec(db, id ? "COMMIT" : "ROLLBACK", NULL, NULL, NULL) == SQLITE_OK)
        return id;
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return 0;
}

static int64_t wrong_rows(int64_t *rows)
{
    char text[TEXT + 1];
    sqlite3_stmt *s = NULL;
    int64_t wrong = 0;
    if (sqlite3_prepare_v2(db, "SELECT id, v FROM t ORDER BY id", -1, &s, NULL) != SQLITE_OK)
        return 1;
    int step;
    while ((step = sqlite3_step(s)) == SQLITE_ROW) {
        const char *is = (const char *)sqlite3_column_text(s, 1);
        text_of(++*rows, text);
        wrong += sqlite3_column_int64(s, 0) != *rows || !is || strcmp(is, text) != 0;
    }
    sqlite3_finalize(s);
    return wrong + (step != SQLITE_DONE);
}

static int is_sound(void)
{
    sqlite3_stmt *s = NULL;
    int sound = sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL) == SQLITE_OK &&
                sqlite3_step(s) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(s, 0), "ok") == 0;
    sqlite3_finalize(s);
    return sound;
}

static int answer(int fd, const char *line)
{
    char out[128];
    int n;
    if (strcmp(line, "check") == 0) {
        int64_t rows = 0, wrong;
        sqlite3_db_release_memory(db); /* what is in the file counts */
        wrong = wrong_rows(&rows) + !is_sound();
        n = snprintf(out, sizeof out, "{\"rows\":%lld,\"wrong\":%lld}\n", (long long)rows, (long long)wrong);
    } else {
        int64_t id = put();
        if (!id)
            printf("sqld: %s\n", sqlite3_errmsg(db));
        n = snprintf(out, sizeof out, "%lld\n", (long long)id);
    }
    return send(fd, out, (size_t)n, MSG_NOSIGNAL) == n ? 0 : -1;
}

static void serve(int fd)
{
    char line[64], c;
    size_t used = 0;
    while (recv(fd, &c, 1, 0) == 1) {
        if (c != '\n') {
            if (used < sizeof line - 1)
                line[used++] = c;
            continue;
        }
        line[used] = '\0';
        used = 0;
        if (answer(fd, line))
            break;
    }
    close(fd);
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), on = 1;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || sqlite3_open(argv[1], &db) != SQLITE_OK ||
        sqlite3_exec(db,
                     "PRAGMA synchronous = FULL; PRAGMA cache_size = 16; CREATE TABLE IF NOT EXISTS t (id INTEGER "
                     "PRIMARY KEY, v TEXT)",
                     NULL, NULL, NULL) != SQLITE_OK) {
        printf("sqld: %s\n", db ? sqlite3_errmsg(db) : "no database");
        return 1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 8)) {
        perror("sqld: listen");
        return 1;
    }
    for (;;) { /* one client at a time */
        int client = accept(fd, NULL, NULL);
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
        serve(client);
    }
}
