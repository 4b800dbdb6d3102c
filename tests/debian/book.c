/* book: see book.h. */
#include "tests/debian/book.h"

#include <stdlib.h>
#include <string.h>

enum mark { SENT = 1, ACKNOWLEDGED = 2, FOUND = 4 };

struct book {
    uint8_t *marks; /* of number n at [n] */
    uint64_t sent, room, acknowledged;
    struct book_findings findings; /* `lost` is counted when it is asked for */
};

struct book *book_new(void)
{
    struct book *b = calloc(1, sizeof *b);
    if (!b)
        abort();
    return b;
}

void book_free(struct book *b)
{
    if (b)
        free(b->marks);
    free(b);
}

/* Numbers up to this one have marks. */
static void make_room(struct book *b, uint64_t number)
{
    if (number < b->room)
        return;
    uint64_t room = number * 2 + 1024;
    uint8_t *marks = realloc(b->marks, room);
    if (!marks)
        abort();
    memset(marks + b->room, 0, room - b->room);
    b->marks = marks;
    b->room = room;
}

uint64_t book_send(struct book *b)
{
    make_room(b, ++b->sent);
    b->marks[b->sent] |= SENT;
    return b->sent;
}

void book_acknowledge(struct book *b, uint64_t number)
{
    make_room(b, number);
    while (b->sent < number)
        book_send(b);
    if (!(b->marks[number] & ACKNOWLEDGED))
        b->acknowledged++;
    b->marks[number] |= ACKNOWLEDGED;
}

uint64_t book_sent(const struct book *b)
{
    return b->sent;
}

uint64_t book_acknowledged(const struct book *b)
{
    return b->acknowledged;
}

void book_look(struct book *b)
{
    b->findings = (struct book_findings){0};
    for (uint64_t n = 1; n <= b->sent; n++)
        b->marks[n] &= (uint8_t)~FOUND;
}

void book_found(struct book *b, int64_t number)
{
    if (number < 1 || (uint64_t)number > b->sent) {
        b->findings.invented++;
        return;
    }
    if (b->marks[number] & FOUND)
        b->findings.doubled++;
    b->marks[number] |= FOUND;
}

struct book_findings book_findings(const struct book *b)
{
    struct book_findings f = b->findings;
    for (uint64_t n = 1; n <= b->sent; n++)
        if ((b->marks[n] & (ACKNOWLEDGED | FOUND)) == ACKNOWLEDGED)
            f.lost++;
    return f;
}
