/*
 * book: what a client has told a database to commit, and what the database has said was committed: numbers 1, 2, 3 and
 * so on. Compared with the numbers that are found there, it says what was lost and what nobody ever sent. No database,
 * no clock.
 */
#ifndef HIKAE_DEBIAN_BOOK_H
#define HIKAE_DEBIAN_BOOK_H

#include <stdbool.h>
#include <stdint.h>

struct book;

struct book_findings {
    uint64_t lost;     /* acknowledged, and not found */
    uint64_t invented; /* found, and never sent */
    uint64_t doubled;  /* found more than once: each further one */
};

struct book *book_new(void); /* aborts without memory */
void book_free(struct book *b);
/* The next number, which counts as sent. */
uint64_t book_send(struct book *b);
/* The database has said that it is committed. A number that was never sent is one from now on. */
void book_acknowledge(struct book *b, uint64_t number);
uint64_t book_sent(const struct book *b);
uint64_t book_acknowledged(const struct book *b);

/* What is found: book_look, then each number that is there, in any order, then book_findings. */
void book_look(struct book *b);
void book_found(struct book *b, int64_t number);
struct book_findings book_findings(const struct book *b);

#endif
