/* audit: see audit.h. */
#include "tests/debian/audit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void complain(struct audit *a, const char *text)
{
    if (*a->what)
        return;
    snprintf(a->what, sizeof a->what, "%s", text);
    for (char *c = a->what; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ')
            *c = ' ';
}

/* NULL: no rows came, and `a` knows. */
static PGresult *ask(PGconn *db, struct audit *a, const char *query)
{
    PGresult *r = PQexec(db, query);
    if (PQresultStatus(r) == PGRES_TUPLES_OK)
        return r;
    a->failed++;
    complain(a, PQerrorMessage(db));
    PQclear(r);
    return NULL;
}

static uint64_t count(PGconn *db, struct audit *a, const char *query)
{
    PGresult *r = ask(db, a, query);
    uint64_t n = r && PQntuples(r) == 1 ? strtoull(PQgetvalue(r, 0, 0), NULL, 10) : 0;
    PQclear(r);
    return n;
}

bool audit_prepare(PGconn *db, char *what, size_t size)
{
    /* Each balance is indexed, so every move puts new entries into a B-tree. */
    static const char script[] =
        "CREATE EXTENSION amcheck;"
        "CREATE TABLE ledger (n bigint PRIMARY KEY, digest text NOT NULL);"
        "CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL DEFAULT 0);"
        "CREATE TABLE moves (n bigint PRIMARY KEY, debit int NOT NULL, credit int NOT NULL, amount int NOT NULL);"
        "INSERT INTO accounts SELECT i, md5(i::text) FROM generate_series(0, 999) i;"
        "CREATE INDEX accounts_balance ON accounts (balance);"
        "CREATE INDEX accounts_owner ON accounts (owner);"
        "CREATE INDEX moves_debit ON moves (debit);";
    PGresult *r = PQexec(db, script);
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK;
    if (!ok)
        snprintf(what, size, "%s", PQerrorMessage(db));
    PQclear(r);
    return ok;
}

void audit_server_start(PGconn *db, char out[64])
{
    struct audit ignored = {0};
    PGresult *r = ask(db, &ignored, "SELECT pg_postmaster_start_time()::text");
    snprintf(out, 64, "%s", r && PQntuples(r) == 1 ? PQgetvalue(r, 0, 0) : "");
    PQclear(r);
}

/* The first column has the numbers; a second one says whether the row is right. */
static struct book_findings compare(PGconn *db, struct audit *a, struct book *book, const char *query, uint64_t *wrong)
{
    PGresult *r = ask(db, a, query);
    book_look(book);
    for (int i = 0; r && i < PQntuples(r); i++) {
        book_found(book, strtoll(PQgetvalue(r, i, 0), NULL, 10));
        if (wrong && *PQgetvalue(r, i, 1) != 't')
            ++*wrong;
    }
    PQclear(r);
    return book_findings(book);
}

/* One after the other, so that one that is broken does not hide the others. */
static void check_indexes(PGconn *db, struct audit *a)
{
    PGresult *all =
        ask(db, a,
            "SELECT c.oid FROM pg_class c JOIN pg_am m ON m.oid = c.relam JOIN pg_index i ON i.indexrelid = "
            "c.oid WHERE m.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready "
            "AND i.indisvalid");
    for (int i = 0; all && i < PQntuples(all); i++) {
        char query[96];
        snprintf(query, sizeof query, "SELECT bt_index_check(%s, true)", PQgetvalue(all, i, 0));
        PGresult *r = PQexec(db, query);
        a->indexes++;
        if (PQresultStatus(r) != PGRES_TUPLES_OK) {
            a->index_errors++;
            complain(a, PQerrorMessage(db));
        }
        PQclear(r);
    }
    PQclear(all);
}

struct audit audit_run(PGconn *db, struct book *ledger, struct book *moves, const char *since)
{
    struct audit a = {0};
    char start[64];
    /* Read from the tables, not from the indexes: amcheck says whether those have the same. */
    PQclear(PQexec(db, "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"));
    a.ledger = compare(db, &a, ledger, "SELECT n, digest = md5(n::text) FROM ledger", &a.wrong_rows);
    a.moves = compare(db, &a, moves, "SELECT n FROM moves", NULL);
    a.wrong_balances = count(
        db, &a,
        "SELECT count(*) FROM accounts a LEFT JOIN (SELECT account, sum(amount) AS sum FROM (SELECT debit AS account, "
        "-amount AS amount FROM moves UNION ALL SELECT credit, amount FROM moves) AS x GROUP BY account) AS m ON "
        "m.account = a.id WHERE a.balance <> coalesce(m.sum, 0)");
    PQclear(PQexec(db, "RESET enable_indexscan; RESET enable_indexonlyscan; RESET enable_bitmapscan"));
    check_indexes(db, &a);
    a.heap_errors = count(db, &a,
                          "SELECT count(*) FROM pg_class c CROSS JOIN LATERAL verify_heapam(c.oid) WHERE c.relkind IN "
                          "('r', 't', 'm') AND c.relpersistence = 'p'");
    audit_server_start(db, start);
    a.restarts = strcmp(start, since) != 0;
    return a;
}

uint64_t audit_errors(const struct audit *a)
{
    return a->ledger.lost + a->ledger.invented + a->ledger.doubled + a->moves.lost + a->moves.invented +
           a->moves.doubled + a->wrong_rows + a->wrong_balances + a->index_errors + a->heap_errors + a->restarts +
           a->failed;
}
