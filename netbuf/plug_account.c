#include "netbuf/plug_account.h"

bool plug_account_close(struct plug_account *a, uint64_t epoch)
{
    if (a->barrier) {
        a->unbound += a->running;
        a->running = 0;
        return false;
    }
    a->barrier = epoch;
    a->bound = a->unbound + a->running;
    a->unbound = a->running = 0;
    return true;
}

bool plug_account_release(struct plug_account *a, uint64_t epoch, uint64_t *released)
{
    *released = 0;
    if (!a->barrier || a->barrier > epoch)
        return false;
    *released = a->bound;
    a->barrier = a->bound = 0;
    return true;
}

bool plug_account_waiting(const struct plug_account *a)
{
    return a->running > 0 || (a->unbound > 0 && !a->barrier);
}

uint64_t plug_account_held(const struct plug_account *a)
{
    return a->running + a->unbound + a->bound;
}
