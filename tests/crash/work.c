#include "work.h"

#include <stdarg.h>
#include <stdio.h>

void
verdict_add(struct verdict *verdict, enum verdict_kind kind, const char *format, ...)
{
    if (verdict_is_good(verdict)) {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(verdict->text, sizeof(verdict->text), format, args);
        va_end(args);
    }
    verdict->counts[kind]++;
}

bool
verdict_is_good(const struct verdict *verdict)
{
    uint64_t all = 0;
    for (unsigned i = 0; i < VERDICT_KINDS; i++)
        all |= verdict->counts[i];
    return all == 0;
}

struct promise
promise_new(uint64_t now)
{
    return (struct promise){ now, MEDIA_NEVER, MEDIA_NEVER, MEDIA_NEVER, MEDIA_NEVER, MEDIA_NEVER };
}

bool
promise_is_known(const struct promise *promise, uint64_t at)
{
    return promise->submitted <= at && at < promise->dropped;
}

bool
promise_holds(const struct promise *promise)
{
    return promise->settled != MEDIA_NEVER ||
           (promise->answered != MEDIA_NEVER && promise->voided == MEDIA_NEVER);
}

struct promise
promise_cut(const struct promise *promise, uint64_t at, bool kill)
{
    struct promise cut = promise_new(0);
    bool settled = promise->settled <= at;
    if (settled || promise->durable <= at) cut.durable = 0;
    bool answered = promise->answered <= at && at < promise->voided;
    if (settled || (answered && (kill || cut.durable == 0))) cut.answered = 0;
    return cut;
}

void
promise_void(struct promise *promise, uint64_t now)
{
    if (promise->durable == MEDIA_NEVER && promise->settled == MEDIA_NEVER &&
        promise->voided == MEDIA_NEVER)
        promise->voided = now;
}

void
promise_settle(struct promise *promise, uint64_t now, bool found)
{
    if (found && promise->settled == MEDIA_NEVER) promise->settled = now;
    if (!found && promise->dropped == MEDIA_NEVER) promise->dropped = now;
}
