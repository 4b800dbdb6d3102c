#include "primary/trigger.h"

int64_t trigger_due(const struct trigger *t)
{
    const int64_t soonest = t->resumed_at + t->min_interval;
    if (t->full)
        return soonest;
    int64_t due = t->paused_at + (t->on_output ? t->max_interval : t->interval);
    if (t->on_output && t->output)
        due = soonest;
    return due > soonest ? due : soonest;
}
