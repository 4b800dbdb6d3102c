#include "common/token_bucket.h"

static const double NS = 1e9, BURST_S = 0.05, LOOK_S = 0.5, MEMORY_S = 3;

int64_t token_bucket_wait(struct token_bucket *b, uint64_t rate, int64_t now)
{
    double most = (double)rate * BURST_S;
    if (!b->begun || !rate) {
        *b = (struct token_bucket){.begun = true, .at = now, .level = most};
        return 0;
    }
    if (now > b->at)
        b->level += (double)(now - b->at) / NS * (double)rate;
    b->at = now;
    if (b->level > most)
        b->level = most;
    return b->level >= 0 ? 0 : (int64_t)(-b->level / (double)rate * NS) + 1;
}

void token_bucket_take(struct token_bucket *b, uint64_t n)
{
    b->level -= (double)n;
}

void speed_note(struct speed *s, uint64_t done, int64_t now)
{
    double passed = (double)(now - s->at) / NS;
    if (!s->begun || done < s->done) {
        *s = (struct speed){.begun = true, .at = now, .done = done};
        return;
    }
    if (passed < LOOK_S)
        return;
    double is = (double)(done - s->done) / passed, weight = s->per_s > 0 ? passed / (passed + MEMORY_S) : 1;
    s->per_s += (is - s->per_s) * weight;
    s->at = now;
    s->done = done;
}

double speed_eta(const struct speed *s, uint64_t rest)
{
    if (!rest)
        return 0;
    return s->per_s > 0 ? (double)rest / s->per_s : -1;
}
