/*
 * bank HOST: a client of the guest's PostgreSQL that believes nothing. It holds two connections and never makes another
 * in their place. Over the first it commits transactions that are numbered, one after the other, over the second moves
 * of money between accounts, which change B-trees. It remembers what was sent and what was acknowledged. On stdin it
 * takes orders, a line each, and answers each with a line of JSON: report   how much so far, and the longest that an
 * answer took since `mark` mark     begins to measure that anew audit    over the first connection: all that was
 * acknowledged is there, nothing else is, the database is sound and to show that an audit finds what must be found,
 * when nothing else is wanted of the database any more: claim    believes in an acknowledgement that never was remove
 * removes an acknowledged transaction, over a third connection add      adds one that was never sent, likewise spoil
 * adds a row that an index does not know of, likewise It ends with its stdin, or, with status 1, when a connection
 * breaks or a transaction fails.
 */
#include "tests/debian/audit.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BOOT_S = 900, ACCOUNTS = 1000, PAUSE_MS = 10 };

struct session {
    PGconn *db;
    struct book *book;
    void (*write_query)(uint64_t number, char *out, size_t size);
    uint64_t number; /* the one under way; 0: none */
    int64_t since;   /* when it was sent, or the last one was answered, in ms */
};

static struct session ledger, mover;
static int64_t longest_ms;
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

static void write_ledger(uint64_t number, char *out, size_t size)
{
    snprintf(out, size, "INSERT INTO ledger VALUES (%llu, md5('%llu'))", (unsigned long long)number,
             (unsigned long long)number);
}

/* Either all of it or nothing. */
static void write_move(uint64_t number, char *out, size_t size)
{
    int from = rand() % ACCOUNTS, to = (from + 1 + rand() % (ACCOUNTS - 1)) % ACCOUNTS, amount = rand() % 1000 + 1;
    snprintf(out, size,
             "BEGIN; UPDATE accounts SET balance = balance - %d WHERE id = %d; UPDATE accounts SET balance = balance + "
             "%d WHERE id = %d; INSERT INTO moves VALUES (%llu, %d, %d, %d); COMMIT",
             amount, from, amount, to, (unsigned long long)number, from, to, amount);
}

static PGconn *connect_to(const char *host)
{
    const char *const keys[] = {"host", "user", "dbname", "connect_timeout", NULL};
    const char *const values[] = {host, "postgres", "postgres", "5", NULL};
    return PQconnectdbParams(keys, values, 0);
}

/* The guest may still be booting. */
static PGconn *await_server(const char *host)
{
    for (int64_t end = now_ms() + BOOT_S * 1000;;) {
        PGconn *db = connect_to(host);
        if (PQstatus(db) == CONNECTION_OK)
            return db;
        if (now_ms() > end)
            give_up("no connection", PQerrorMessage(db));
        PQfinish(db);
        sleep(1);
    }
}

static void send_next(struct session *s)
{
    char query[400];
    s->number = book_send(s->book);
    s->write_query(s->number, query, sizeof query);
    s->since = now_ms();
    if (!PQsendQuery(s->db, query))
        give_up("a connection broke", PQerrorMessage(s->db));
}

/* Of several results the last one says whether the transaction is committed. */
static void take_answer(struct session *s)
{
    if (!PQconsumeInput(s->db))
        give_up("a connection broke", PQerrorMessage(s->db));
    while (s->number && !PQisBusy(s->db)) {
        PGresult *r = PQgetResult(s->db);
        if (!r) {
            book_acknowledge(s->book, s->number);
            s->number = 0;
            if (now_ms() - s->since > longest_ms)
                longest_ms = now_ms() - s->since;
            s->since = now_ms();
        } else if (PQresultStatus(r) != PGRES_COMMAND_OK) {
            give_up("a transaction failed", PQresultErrorMessage(r));
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

static void report(void)
{
    int64_t waiting = ledger.number ? now_ms() - ledger.since : 0;
    printf("{\"acknowledged\":%llu,\"sent\":%llu,\"moves\":%llu,\"longest_ms\":%lld}\n",
           (unsigned long long)book_acknowledged(ledger.book), (unsigned long long)book_sent(ledger.book),
           (unsigned long long)book_acknowledged(mover.book), (long long)(waiting > longest_ms ? waiting : longest_ms));
}

static void audit(void)
{
    finish(&ledger);
    int64_t begin = now_ms();
    struct audit a = audit_run(ledger.db, ledger.book, mover.book, server_start);
    ledger.since = now_ms();
    printf("{\"acknowledged\":%llu,\"lost\":%llu,\"invented\":%llu,\"doubled\":%llu,\"wrong_rows\":%llu,"
           "\"moves\":%llu,\"moves_lost\":%llu,\"moves_invented\":%llu,\"wrong_balances\":%llu,\"indexes\":%llu,"
           "\"index_errors\":%llu,\"heap_errors\":%llu,\"restarts\":%llu,\"failed\":%llu,\"errors\":%llu,"
           "\"took_ms\":%lld,\"what\":\"%s\"}\n",
           (unsigned long long)book_acknowledged(ledger.book), (unsigned long long)a.ledger.lost,
           (unsigned long long)a.ledger.invented, (unsigned long long)a.ledger.doubled,
           (unsigned long long)a.wrong_rows, (unsigned long long)book_acknowledged(mover.book),
           (unsigned long long)a.moves.lost, (unsigned long long)(a.moves.invented + a.moves.doubled),
           (unsigned long long)a.wrong_balances, (unsigned long long)a.indexes, (unsigned long long)a.index_errors,
           (unsigned long long)a.heap_errors, (unsigned long long)a.restarts, (unsigned long long)a.failed,
           (unsigned long long)audit_errors(&a), (long long)(now_ms() - begin), a.what);
    if (PQstatus(ledger.db) != CONNECTION_OK)
        give_up("a connection broke", a.what);
}

static void meddle(const char *host, const char *query)
{
    PGconn *db = connect_to(host);
    PGresult *r = PQexec(db, query);
    if (PQresultStatus(r) != PGRES_COMMAND_OK)
        give_up("could not meddle", PQerrorMessage(db));
    PQclear(r);
    PQfinish(db);
    printf("{}\n");
}

static void obey(const char *host, const char *order)
{
    if (!strcmp(order, "report\n")) {
        report();
    } else if (!strcmp(order, "mark\n")) {
        longest_ms = 0;
        report();
    } else if (!strcmp(order, "audit\n")) {
        audit();
    } else if (!strcmp(order, "claim\n")) {
        finish(&ledger);
        book_acknowledge(ledger.book, book_sent(ledger.book) + 1);
        report();
    } else if (!strcmp(order, "remove\n")) {
        meddle(host, "DELETE FROM ledger WHERE n = 1");
    } else if (!strcmp(order, "add\n")) {
        meddle(host, "INSERT INTO ledger VALUES (1000000000, md5('1000000000'))");
    } else if (!strcmp(order, "spoil\n")) {
        meddle(host, "UPDATE pg_index SET indisready = false WHERE indexrelid = 'accounts_owner'::regclass;"
                     "INSERT INTO accounts VALUES (-1, 'nobody');"
                     "UPDATE pg_index SET indisready = true WHERE indexrelid = 'accounts_owner'::regclass");
    } else {
        printf("{\"error\":\"no such order\"}\n");
    }
    fflush(stdout);
}

static void serve(const char *host)
{
    char order[64];
    for (;;) {
        struct session *const all[] = {&ledger, &mover};
        struct pollfd p[3] = {{.fd = 0, .events = POLLIN}};
        for (int i = 0; i < 2; i++) {
            if (!all[i]->number && now_ms() - all[i]->since >= PAUSE_MS)
                send_next(all[i]);
            p[i + 1] = (struct pollfd){.fd = PQsocket(all[i]->db), .events = POLLIN};
        }
        poll(p, 3, PAUSE_MS);
        for (int i = 0; i < 2; i++)
            if (p[i + 1].revents)
                take_answer(all[i]);
        if (!p[0].revents)
            continue;
        if (!fgets(order, sizeof order, stdin))
            return;
        obey(host, order);
    }
}

int main(int argc, char **argv)
{
    char what[400];
    if (argc != 2) {
        fprintf(stderr, "usage: bank HOST\n");
        return 2;
    }
    setvbuf(stdin, NULL, _IONBF, 0); /* poll must see what is there */
    ledger = (struct session){.db = await_server(argv[1]), .book = book_new(), .write_query = write_ledger};
    mover = (struct session){.db = await_server(argv[1]), .book = book_new(), .write_query = write_move};
    if (!audit_prepare(ledger.db, what, sizeof what))
        give_up("the tables", what);
    audit_server_start(ledger.db, server_start);
    report();
    fflush(stdout);
    serve(argv[1]);
    PQfinish(ledger.db);
    PQfinish(mover.db);
    book_free(ledger.book);
    book_free(mover.book);
    return 0;
}
