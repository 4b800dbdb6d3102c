/*
 * audit: is in the database what its clients were told, and is the database itself sound?
 */
#ifndef HIKAE_DEBIAN_AUDIT_H
#define HIKAE_DEBIAN_AUDIT_H

#include "tests/debian/book.h"

#include <libpq-fe.h>

struct audit {
    struct book_findings ledger, moves;
    uint64_t wrong_rows;     /* of the ledger: another content than the number's */
    uint64_t wrong_balances; /* accounts that do not have what their moves add up to */
    uint64_t indexes; /* B-trees that amcheck has looked at, the catalogue's too: against all of their tables' rows */
    uint64_t index_errors; /* those that it has complained of */
    uint64_t heap_errors;  /* complaints about tables */
    uint64_t restarts;     /* of the server since `since` */
    uint64_t failed;       /* queries that were not answered */
    char what[400];        /* the first thing that is wrong, if the database says anything of it */
};

/* The tables, and what is in them at the beginning. False: `what` says why. */
bool audit_prepare(PGconn *db, char *what, size_t size);
/* When the server was started, as it says; "" without an answer. */
void audit_server_start(PGconn *db, char out[64]);
/* Blocks until all is read, or the connection is gone. `since` is from audit_server_start. */
struct audit audit_run(PGconn *db, struct book *ledger, struct book *moves, const char *since);
/* All that must be 0. */
uint64_t audit_errors(const struct audit *a);

#endif
