/*
 * The machine's clocks, and the one that a test moves.
 */
#include <criterion/criterion.h>

#include <qbase/clock.h>

/* Monotonic time does not go back, and wall time is in this century. */
Test(base_clock, system)
{
    const struct q_clock *clock = q_clock_system();
    uint64_t first = q_clock_monotonic_ns(clock);
    uint64_t second = q_clock_monotonic_ns(clock);
    cr_assert_leq(first, second);
    cr_assert_gt(q_clock_wall_ms(clock), UINT64_C(946684800000));
    cr_assert_lt(q_clock_wall_ms(clock), UINT64_C(4102444800000));
}

/* A manual clock stands still until it is moved; small steps add up in both times. */
Test(base_clock, manual)
{
    struct q_clock_manual manual;
    q_clock_manual_init(&manual);
    manual.wall_ms = 1000;
    cr_assert_eq(q_clock_monotonic_ns(&manual.clock), 0);
    for (int i = 0; i < 10; i++)
        q_clock_manual_advance_ns(&manual, Q_NS_PER_MS / 4);
    cr_assert_eq(q_clock_monotonic_ns(&manual.clock), 10 * Q_NS_PER_MS / 4);
    cr_assert_eq(q_clock_wall_ms(&manual.clock), 1002);
    q_clock_manual_advance_ns(&manual, UINT64_C(3) * Q_NS_PER_S);
    cr_assert_eq(q_clock_wall_ms(&manual.clock), 4002);
}
