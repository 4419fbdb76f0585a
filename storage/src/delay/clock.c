#include "delay/clock.h"

#include <stdlib.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "planted.h"

enum {
    SLEW = 10 /* one millisecond in so many */
};

static void clock_step(struct ql_delay_clock *clock, uint64_t monotonic_ns, uint64_t wall_ms);
static void clock_slew(struct ql_delay_clock *clock, uint64_t monotonic_ns);

void
ql_delay_clock_init(struct ql_delay_clock *clock, uint64_t monotonic_ns, uint64_t wall_ms)
{
    *clock = (struct ql_delay_clock){
        .now_ms = wall_ms,
        .base_ns = monotonic_ns,
        .slewed_ns = monotonic_ns,
    };
}

void
ql_delay_clock_move(struct ql_delay_clock *clock, uint64_t monotonic_ns, uint64_t wall_ms)
{
    if (QL_PLANTED(clock_followed)) {
        ql_delay_clock_init(clock, monotonic_ns, wall_ms);
        return;
    }
    uint64_t passed_ms = (monotonic_ns - clock->base_ns) / Q_NS_PER_MS;
    clock->now_ms += passed_ms;
    clock->base_ns += passed_ms * Q_NS_PER_MS;
    clock->off_ms = (int64_t)(wall_ms - clock->now_ms);
    if (llabs(clock->off_ms) >= QL_CLOCK_STEP_MS) {
        clock_step(clock, monotonic_ns, wall_ms);
        return;
    }
    clock->since_ns = 0;
    clock_slew(clock, monotonic_ns);
}

/* The two clocks drift while a step is looked at: a second is no other step. */
static void
clock_step(struct ql_delay_clock *clock, uint64_t monotonic_ns, uint64_t wall_ms)
{
    clock->slewed_ns = monotonic_ns;
    bool other = llabs(clock->off_ms - clock->step_ms) > Q_MS_PER_S;
    if (clock->since_ns == 0 || other) {
        clock->since_ns = q_max_u64(monotonic_ns, 1);
        clock->step_ms = clock->off_ms;
        return;
    }
    if (monotonic_ns - clock->since_ns < (uint64_t)QL_CLOCK_CONFIRM_S * Q_NS_PER_S) return;
    clock->now_ms = wall_ms;
    clock->off_ms = 0;
    clock->since_ns = 0;
    clock->steps++;
}

static void
clock_slew(struct ql_delay_clock *clock, uint64_t monotonic_ns)
{
    uint64_t ticks = (monotonic_ns - clock->slewed_ns) / ((uint64_t)SLEW * Q_NS_PER_MS);
    clock->slewed_ns += ticks * SLEW * Q_NS_PER_MS;
    /* A millisecond apart is how two clocks are read. */
    uint64_t off = (uint64_t)llabs(clock->off_ms);
    uint64_t change = q_min_u64(ticks, off > 1 ? off - 1 : 0);
    clock->now_ms = clock->off_ms > 0 ? clock->now_ms + change : clock->now_ms - change;
}

uint64_t
ql_delay_clock_when_ns(const struct ql_delay_clock *clock, uint64_t due_ms)
{
    if (due_ms <= clock->now_ms) return 0;
    uint64_t left = due_ms - clock->now_ms;
    if (left > UINT64_MAX / 2 / Q_NS_PER_MS) return UINT64_MAX;
    return clock->base_ns + left * Q_NS_PER_MS;
}
