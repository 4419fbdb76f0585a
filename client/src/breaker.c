/*
 * breaker.c: see breaker.h.
 */
#include "breaker.h"

#include <qbase/bytes.h>
#include <qbase/clock.h>

static void
grow_pause(struct breaker *breaker)
{
    breaker->pause_ms = (uint32_t)q_max_u64(
        q_min_u64(breaker->pause_ms * UINT64_C(2), BREAKER_PAUSE_MAX_MS), BREAKER_PAUSE_MIN_MS);
}

static void
begin_pause(struct breaker *breaker, uint64_t now_ns, uint32_t chance)
{
    /* Between a half and the whole, so that those who failed together don't come back together. */
    uint64_t whole_ns = breaker->pause_ms * (uint64_t)Q_NS_PER_MS;
    breaker->until_ns = now_ns + whole_ns / 2 + chance % (whole_ns / 2);
}

bool
breaker_is_open(const struct breaker *breaker)
{
    return breaker->failures >= BREAKER_FAILURES;
}

bool
breaker_allows(struct breaker *breaker, uint64_t now_ns, uint32_t chance)
{
    if (!breaker_is_open(breaker)) return true;
    if (now_ns < breaker->until_ns) return false;
    /* Nothing has come of the last one: it hangs. */
    if (breaker->is_trying) grow_pause(breaker);
    breaker->is_trying = true;
    begin_pause(breaker, now_ns, chance);
    return true;
}

void
breaker_succeeded(struct breaker *breaker)
{
    *breaker = (struct breaker){ .failures = 0 };
}

void
breaker_failed(struct breaker *breaker, bool is_lost, uint64_t now_ns, uint32_t chance)
{
    bool was_open = breaker_is_open(breaker);
    if (was_open && now_ns < breaker->until_ns && !breaker->is_trying) return;
    if (!was_open) breaker->failures = is_lost ? BREAKER_FAILURES : breaker->failures + 1;
    if (!breaker_is_open(breaker)) return;
    breaker->is_trying = false;
    grow_pause(breaker);
    begin_pause(breaker, now_ns, chance);
}
