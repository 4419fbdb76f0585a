/*
 * The circuit breaker: when something that fails is chosen again.
 */
#include <criterion/criterion.h>

#include <qbase/clock.h>

#include "breaker.h"

static const uint64_t ms = Q_NS_PER_MS;

/* A broken one, and when its pause ends. */
static struct breaker
broken_at(uint64_t now_ns)
{
    struct breaker breaker = { .failures = 0 };
    breaker_failed(&breaker, true, now_ns, 0);
    return breaker;
}

Test(client_breaker, some_failures_open_it)
{
    struct breaker breaker = { .failures = 0 };
    for (unsigned count = 1; count < BREAKER_FAILURES; count++) {
        breaker_failed(&breaker, false, 1000 * ms, 0);
        cr_assert(breaker_allows(&breaker, 1000 * ms, 0), "after %u", count);
    }
    breaker_failed(&breaker, false, 1000 * ms, 0);
    cr_assert(breaker_is_open(&breaker));
    cr_assert_not(breaker_allows(&breaker, 1000 * ms, 0));
}

Test(client_breaker, a_success_between_failures_counts)
{
    struct breaker breaker = { .failures = 0 };
    for (unsigned count = 0; count < 10 * BREAKER_FAILURES; count++) {
        breaker_failed(&breaker, false, 1000 * ms, 0);
        breaker_succeeded(&breaker);
    }
    cr_assert_not(breaker_is_open(&breaker));
}

Test(client_breaker, a_lost_one_is_open_at_once)
{
    struct breaker breaker = broken_at(1000 * ms);
    cr_assert(breaker_is_open(&breaker));
    cr_assert_not(breaker_allows(&breaker, 1000 * ms, 0));
}

Test(client_breaker, after_a_pause_one_is_let_through)
{
    struct breaker breaker = broken_at(1000 * ms);
    uint64_t end_ns = (1000 + BREAKER_PAUSE_MIN_MS / 2) * ms;
    cr_assert_not(breaker_allows(&breaker, end_ns - 1, 0));
    cr_assert(breaker_allows(&breaker, end_ns, 0));
    cr_assert_not(breaker_allows(&breaker, end_ns, 0), "one only");
    cr_assert(breaker_is_open(&breaker));

    breaker_succeeded(&breaker);
    cr_assert(breaker_allows(&breaker, end_ns, 0));
    cr_assert(breaker_allows(&breaker, end_ns, 0));
}

Test(client_breaker, nothing_becomes_of_the_one_that_was_let_through)
{
    struct breaker breaker = broken_at(1000 * ms);
    cr_assert(breaker_allows(&breaker, 2000 * ms, 0));
    cr_assert_not(breaker_allows(&breaker, 2000 * ms, 0));
    cr_assert(breaker_allows(&breaker, (2000 + BREAKER_PAUSE_MIN_MS) * ms, 0));
    /* It hangs: the pauses grow, to the longest. */
    uint64_t now_ms = 2000 + BREAKER_PAUSE_MIN_MS;
    unsigned tries = 0;
    for (; now_ms < 60 * 1000; now_ms++)
        tries += breaker_allows(&breaker, now_ms * ms, 0);
    cr_assert_leq(tries, 16, "%u in a minute", tries);
}

Test(client_breaker, pauses_grow_to_a_limit_and_begin_anew)
{
    struct breaker breaker = broken_at(1000 * ms);
    uint64_t now_ns = 1000 * ms;
    uint32_t pause_ms = BREAKER_PAUSE_MIN_MS;
    for (unsigned round = 0; round < 20; round++) {
        cr_assert_eq(breaker.pause_ms, pause_ms, "round %u", round);
        now_ns = breaker.until_ns;
        cr_assert(breaker_allows(&breaker, now_ns, 0));
        breaker_failed(&breaker, false, now_ns, 0);
        pause_ms = pause_ms * 2 < BREAKER_PAUSE_MAX_MS ? pause_ms * 2 : BREAKER_PAUSE_MAX_MS;
    }
    breaker_succeeded(&breaker);
    breaker_failed(&breaker, true, now_ns, 0);
    cr_assert_eq(breaker.pause_ms, BREAKER_PAUSE_MIN_MS);
}

/* Four requests are on the air when a connection breaks: that is one failure. */
Test(client_breaker, what_was_under_way_does_not_count)
{
    struct breaker breaker = broken_at(1000 * ms);
    for (unsigned count = 0; count < 4; count++)
        breaker_failed(&breaker, true, 1001 * ms, 0);
    cr_assert_eq(breaker.pause_ms, BREAKER_PAUSE_MIN_MS);
}

Test(client_breaker, a_pause_is_between_a_half_and_the_whole)
{
    for (uint32_t index = 0; index < 1000; index++) {
        struct breaker breaker = { .failures = 0 };
        breaker_failed(&breaker, true, 1000 * ms, index * 4294967);
        uint64_t pause_ns = breaker.until_ns - 1000 * ms;
        cr_assert_geq(pause_ns, BREAKER_PAUSE_MIN_MS / 2 * ms);
        cr_assert_leq(pause_ns, BREAKER_PAUSE_MIN_MS * ms);
    }
}
