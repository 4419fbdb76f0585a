/*
 * qbase/clock.h: time as a parameter.
 *
 * No code below a program's main reads a clock by itself: it is handed a `struct q_clock`, which a
 * test can move by hand. Monotonic time is for periods and time-outs and counts suspend; wall time
 * is for what people read, and may jump.
 *
 * Thread:   q_clock_system(): any. A manual clock: one writer, any readers.
 */
#ifndef QBASE_CLOCK_H
#define QBASE_CLOCK_H

#include <stdint.h>

#include <qbase/err.h>

#ifdef __cplusplus
extern "C" {
#endif

struct q_clock {
    uint64_t (*monotonic_ns)(const struct q_clock *clock);
    uint64_t (*wall_ms)(const struct q_clock *clock); /* since 1970-01-01 UTC */
};

struct q_clock_manual {
    struct q_clock clock;
    uint64_t monotonic_ns;
    uint64_t wall_ms;
};

enum {
    Q_MS_PER_S = 1000,
    Q_NS_PER_US = 1000,
    Q_NS_PER_MS = 1000 * 1000,
    Q_NS_PER_S = 1000 * 1000 * 1000,
};

/* The machine's clocks. Static storage. */
Q_EXPORT const struct q_clock *q_clock_system(void);
void q_clock_manual_init(struct q_clock_manual *manual);
void q_clock_manual_advance_ns(struct q_clock_manual *manual, uint64_t ns);

static inline uint64_t
q_clock_monotonic_ns(const struct q_clock *clock)
{
    return clock->monotonic_ns(clock);
}

static inline uint64_t
q_clock_wall_ms(const struct q_clock *clock)
{
    return clock->wall_ms(clock);
}

#ifdef __cplusplus
}
#endif

#endif /* QBASE_CLOCK_H */
