/*
 * delay/clock.h: the effective clock, against which due times are held.
 *
 * It starts at the wall clock and moves on with the monotonic clock. Where the two come to differ:
 *
 *   by less than a minute   it moves toward the wall clock, by a tenth of the time that passes
 *   by a minute or more     it goes on as if nothing were, and takes the wall clock over once it has
 *                           been that far off, steadily, for 30 s: a clock that was set right, not
 *                           one that is being set
 *
 * So a step delivers nothing early against this clock, and what a step back would have delivered
 * twice is marked.
 *
 * Thread: the owner's. Pure: time is a parameter.
 */
#ifndef QL_DELAY_CLOCK_H
#define QL_DELAY_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    QL_CLOCK_STEP_MS = 60 * 1000,
    QL_CLOCK_CONFIRM_S = 30,
};

struct ql_delay_clock {
    uint64_t now_ms;
    uint64_t base_ns;   /* monotonic; when now_ms became what it is */
    int64_t off_ms;     /* wall - effective, at the last look */
    uint64_t since_ns;  /* when a step was first seen; 0: there is none */
    int64_t step_ms;    /* that step */
    uint64_t slewed_ns; /* monotonic; of the last millisecond that was made up */
    uint64_t steps;     /* taken over */
};

void ql_delay_clock_init(struct ql_delay_clock *clock, uint64_t monotonic_ns, uint64_t wall_ms);
void ql_delay_clock_move(struct ql_delay_clock *clock, uint64_t monotonic_ns, uint64_t wall_ms);
/* Monotonic time at which it will be `due_ms`, as things are. */
uint64_t ql_delay_clock_when_ns(const struct ql_delay_clock *clock, uint64_t due_ms);

#endif /* QL_DELAY_CLOCK_H */
