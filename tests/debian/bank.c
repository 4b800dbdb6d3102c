/*
 * bank HOST [MOVERS]: a client of the guest's PostgreSQL that believes nothing. It holds its connections and never
 * makes others in their place. Over the first it commits transactions that are numbered, one after the other; over the
 * others, two by default, it moves money between accounts, which changes B-trees. It remembers what was sent and what
 * was acknowledged. On stdin it takes orders, a line each, and answers each with a line of JSON:
 *   - report: how much so far, and the longest that an answer took since the last mark;
 *   - mark: begins to measure that anew;
 *   - audit: over the first connection: all that was acknowledged is there, nothing else is, the database is sound;
 *   - inspect: the same over a new connection, for when the old ones say nothing any more.
 * To show that an audit finds what must be found, when nothing else is wanted of the database any more:
 *   - claim: believes in an acknowledgement that never was;
 *   - remove: removes an acknowledged transaction behind the audit's back;
 *   - add: adds one that was never sent;
 *   - spoil: adds a row that an index does not know of.
 * A connection that breaks and a transaction that fails are counted, and end what that connection was for. It ends with
 * its stdin.
 */
#include "tests/debian/audit.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BOOT_S = 900, INSPECT_S = 60, ACCOUNTS = 1000, PAUSE_MS = 10, MOVERS_MAX = 16 };

struct session {
    PGconn *db;
    struct book *book;
    void (*write_query)(uint64_t number, char *out, size_t size);
    uint64_t number; /* the one under way; 0: none */
    int64_t since;   /* when it was sent, or the last one was answered, in ms */
    bool ended;      /* it broke, or was refused a transaction */
};

static const char *host;
static struct session sessions[1 + MOVERS_MAX], *const ledger = sessions;
static int session_count;
static int64_t longest_ms;
static uint64_t breaks, refused;
static char server_start[64];

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static _Noreturn void give_up(const char *what, const char *why)
{
    fprintf(stderr, "bank: %s: %s\n", what, why);
    exit(1);
}

static void end_session(struct session *s, uint64_t *counter, const char *why)
{
    if (!s->ended) {
        fprintf(stderr, "bank: connection %d: %s\n", (int)(s - sessions), why);
        ++*counter;
    }
    s->ended = true;
    s->number = 0;
}

static void write_ledger(uint64_t number, char *out, size_t size)
{
    snprintf(out, size, "INSERT INTO ledger VALUES (%llu, md5('%llu'))", (unsigned long long)number,
             (unsigned long long)number);
}

/* Either all of it or nothing. Always the lower account first: movers wait for each other and never in a circle. */
static void write_move(uint64_t number, char *out, size_t size)
{
    int low = rand() % (ACCOUNTS - 1), high = low + 1 + rand() % (ACCOUNTS - 1 - low), amount = rand() % 2001 - 1000;
    snprintf(out, size,
             "BEGIN; UPDATE accounts SET balance = balance - %d WHERE id = %d; UPDATE accounts SET balance = balance + "
             "%d WHERE id = %d; INSERT INTO moves VALUES (%llu, %d, %d, %d); COMMIT",
             amount, low, amount, high, (unsigned long long)number, low, high, amount);
}

static PGconn *connect_once(void)
{
    const char *const keys[] = {"host", "user", "dbname", "connect_timeout", NULL};
    const char *const values[] = {host, "postgres", "postgres", "20", NULL};
    return PQconnectdbParams(keys, values, 0);
}

/* For so many seconds: the guest may still be booting, or have much to do. */
static PGconn *connect_within(int seconds)
{
    for (int64_t end = now_ms() + seconds * 1000;;) {
        PGconn *db = connect_once();
        if (PQstatus(db) == CONNECTION_OK || now_ms() > end)
            return db;
        PQfinish(db);
        sleep(1);
    }
}

static PGconn *await_server(void)
{
    PGconn *db = connect_within(BOOT_S);
    if (PQstatus(db) != CONNECTION_OK)
        give_up("no connection", PQerrorMessage(db));
    return db;
}

static void send_next(struct session *s)
{
    char query[400];
    s->number = book_send(s->book);
    s->write_query(s->number, query, sizeof query);
    s->since = now_ms();
    if (!PQsendQuery(s->db, query))
        end_session(s, &breaks, PQerrorMessage(s->db));
}

/* Of several results the last one says whether the transaction is committed. */
static void take_answer(struct session *s)
{
    if (!PQconsumeInput(s->db))
        end_session(s, &breaks, PQerrorMessage(s->db));
    while (s->number && !PQisBusy(s->db)) {
        PGresult *r = PQgetResult(s->db);
        if (!r) {
            book_acknowledge(s->book, s->number);
            s->number = 0;
            if (s == ledger && now_ms() - s->since > longest_ms)
                longest_ms = now_ms() - s->since;
            s->since = now_ms();
        } else if (PQresultStatus(r) != PGRES_COMMAND_OK) {
            end_session(s, PQstatus(s->db) == CONNECTION_OK ? &refused : &breaks, PQresultErrorMessage(r));
        }
        PQclear(r);
    }
}

static void finish(struct session *s)
{
    struct pollfd p = {.fd = PQsocket(s->db), .events = POLLIN};
    while (s->number) {
        poll(&p, 1, -1);
        take_answer(s);
    }
}

static void print_count(const char *name, uint64_t n)
{
    printf("\"%s\":%llu,", name, (unsigned long long)n);
}

static void report(void)
{
    int64_t waiting = ledger->number ? now_ms() - ledger->since : 0;
    printf("{");
    print_count("acknowledged", book_acknowledged(ledger->book));
    print_count("sent", book_sent(ledger->book));
    print_count("moves", book_acknowledged(sessions[1].book));
    print_count("breaks", breaks);
    print_count("refused", refused);
    printf("\"longest_ms\":%lld}\n", (long long)(waiting > longest_ms ? waiting : longest_ms));
}

static void audit(PGconn *db)
{
    int64_t begin = now_ms();
    struct audit a = audit_run(db, ledger->book, sessions[1].book, server_start);
    printf("{");
    print_count("acknowledged", book_acknowledged(ledger->book));
    print_count("lost", a.ledger.lost);
    print_count("invented", a.ledger.invented);
    print_count("doubled", a.ledger.doubled);
    print_count("wrong_rows", a.wrong_rows);
    print_count("moves", book_acknowledged(sessions[1].book));
    print_count("moves_lost", a.moves.lost);
    print_count("moves_invented", a.moves.invented + a.moves.doubled);
    print_count("wrong_balances", a.wrong_balances);
    print_count("indexes", a.indexes);
    print_count("index_errors", a.index_errors);
    print_count("heap_errors", a.heap_errors);
    print_count("restarts", a.restarts);
    print_count("failed", a.failed);
    print_count("breaks", breaks);
    print_count("refused", refused);
    print_count("errors", audit_errors(&a) + breaks + refused);
    printf("\"took_ms\":%lld,\"what\":\"%s\"}\n", (long long)(now_ms() - begin), a.what);
}

static void audit_over_the_old_one(void)
{
    finish(ledger);
    audit(ledger->db);
    ledger->since = now_ms();
    if (PQstatus(ledger->db) != CONNECTION_OK)
        end_session(ledger, &breaks, PQerrorMessage(ledger->db));
}

static void audit_over_a_new_one(void)
{
    PGconn *db = connect_within(INSPECT_S);
    audit(db);
    PQfinish(db);
}

static void meddle(const char *query)
{
    PGconn *db = await_server();
    PGresult *r = PQexec(db, query);
    if (PQresultStatus(r) != PGRES_COMMAND_OK)
        give_up("could not meddle", PQerrorMessage(db));
    PQclear(r);
    PQfinish(db);
    printf("{}\n");
}

static void obey(const char *order)
{
    if (!strcmp(order, "report\n")) {
        report();
    } else if (!strcmp(order, "mark\n")) {
        longest_ms = 0;
        report();
    } else if (!strcmp(order, "audit\n")) {
        audit_over_the_old_one();
    } else if (!strcmp(order, "inspect\n")) {
        audit_over_a_new_one();
    } else if (!strcmp(order, "claim\n")) {
        finish(ledger);
        book_acknowledge(ledger->book, book_sent(ledger->book) + 1);
        report();
    } else if (!strcmp(order, "remove\n")) {
        meddle("DELETE FROM ledger WHERE n = 1");
    } else if (!strcmp(order, "add\n")) {
        meddle("INSERT INTO ledger VALUES (1000000000, md5('1000000000'))");
    } else if (!strcmp(order, "spoil\n")) {
        meddle("UPDATE pg_index SET indisready = false WHERE indexrelid = 'accounts_owner'::regclass;"
               "INSERT INTO accounts VALUES (-1, 'nobody');"
               "UPDATE pg_index SET indisready = true WHERE indexrelid = 'accounts_owner'::regclass");
    } else {
        printf("{\"error\":\"no such order\"}\n");
    }
    fflush(stdout);
}

static void serve(void)
{
    char order[64];
    for (;;) {
        struct pollfd p[2 + MOVERS_MAX] = {{.fd = 0, .events = POLLIN}};
        for (int i = 0; i < session_count; i++) {
            struct session *s = &sessions[i];
            if (!s->ended && !s->number && now_ms() - s->since >= PAUSE_MS)
                send_next(s);
            p[i + 1] = (struct pollfd){.fd = s->ended ? -1 : PQsocket(s->db), .events = POLLIN};
        }
        poll(p, (nfds_t)session_count + 1, PAUSE_MS);
        for (int i = 0; i < session_count; i++)
            if (p[i + 1].revents)
                take_answer(&sessions[i]);
        if (!p[0].revents)
            continue;
        if (!fgets(order, sizeof order, stdin))
            return;
        obey(order);
    }
}

static void begin(int movers)
{
    char what[400];
    struct book *numbers = book_new(), *moves = book_new();
    session_count = 1 + movers;
    for (int i = 0; i < session_count; i++)
        sessions[i] = (struct session){
            .db = await_server(), .book = i ? moves : numbers, .write_query = i ? write_move : write_ledger};
    if (!audit_prepare(ledger->db, what, sizeof what))
        give_up("the tables", what);
    audit_server_start(ledger->db, server_start);
    report();
    fflush(stdout);
}

int main(int argc, char **argv)
{
    int movers = argc == 3 ? atoi(argv[2]) : 2;
    if (argc < 2 || argc > 3 || movers < 1 || movers > MOVERS_MAX) {
        fprintf(stderr, "usage: bank HOST [MOVERS], 1 to %d of them\n", MOVERS_MAX);
        return 2;
    }
    host = argv[1];
    setvbuf(stdin, NULL, _IONBF, 0); /* poll must see what is there */
    begin(movers);
    serve();
    book_free(sessions[0].book);
    book_free(sessions[1].book);
    for (int i = 0; i < session_count; i++)
        PQfinish(sessions[i].db);
    return 0;
}
