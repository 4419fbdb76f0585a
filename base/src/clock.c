/*
 * clock.c: the machine's clocks and the one that tests move.
 */
#include <qbase/clock.h>

#include <time.h>

#include <qbase/assert.h>

static uint64_t system_monotonic_ns(const struct q_clock *clock);
static uint64_t system_wall_ms(const struct q_clock *clock);
static uint64_t manual_monotonic_ns(const struct q_clock *clock);
static uint64_t manual_wall_ms(const struct q_clock *clock);

const struct q_clock *
q_clock_system(void)
{
    static const struct q_clock clock = {
        .monotonic_ns = system_monotonic_ns,
        .wall_ms = system_wall_ms,
    };
    return &clock;
}

void
q_clock_manual_init(struct q_clock_manual *manual)
{
    *manual = (struct q_clock_manual){
        .clock = { .monotonic_ns = manual_monotonic_ns, .wall_ms = manual_wall_ms },
    };
}

void
q_clock_manual_advance_ns(struct q_clock_manual *manual, uint64_t ns)
{
    /* Whole milliseconds crossed, so that many small steps add up to what one large step does. */
    uint64_t before_ns = manual->monotonic_ns;
    uint64_t after_ns = before_ns + ns;
    uint64_t crossed_ms = after_ns / Q_NS_PER_MS - before_ns / Q_NS_PER_MS;

    /* Relaxed: the readers want a recent time, nothing is published through it. */
    __atomic_store_n(&manual->monotonic_ns, after_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&manual->wall_ms, manual->wall_ms + crossed_ms, __ATOMIC_RELAXED);
}

static uint64_t
system_monotonic_ns(const struct q_clock *clock)
{
    (void)clock;
    struct timespec now;
    /* BOOTTIME and not MONOTONIC: a message's delay goes on while the machine is suspended. */
    int result = clock_gettime(CLOCK_BOOTTIME, &now);
    Q_ASSERT(result == 0);
    return (uint64_t)now.tv_sec * Q_NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t
system_wall_ms(const struct q_clock *clock)
{
    (void)clock;
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    Q_ASSERT(result == 0);
    Q_ASSERT(now.tv_sec >= 0);
    return (uint64_t)now.tv_sec * Q_MS_PER_S + (uint64_t)now.tv_nsec / Q_NS_PER_MS;
}

static uint64_t
manual_monotonic_ns(const struct q_clock *clock)
{
    const struct q_clock_manual *manual = (const struct q_clock_manual *)clock;
    return __atomic_load_n(&manual->monotonic_ns, __ATOMIC_RELAXED);
}

static uint64_t
manual_wall_ms(const struct q_clock *clock)
{
    const struct q_clock_manual *manual = (const struct q_clock_manual *)clock;
    return __atomic_load_n(&manual->wall_ms, __ATOMIC_RELAXED);
}
