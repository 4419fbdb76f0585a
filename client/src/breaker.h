/*
 * breaker.h: when to stop choosing what fails, and when to try it again. A circuit breaker: pure.
 *
 *   closed  it may be chosen. BREAKER_FAILURES in a row, or one that says that nobody is there, open it
 *   open    it may not, for a pause that grows from one to the next; then once, to see (half open). A
 *           success closes it; a failure begins the next pause. So does waiting: when nothing becomes
 *           of the one that was let through, another is let through after a pause, which grows, too.
 *
 * What fails during a pause was sent before it, and says nothing new.
 *
 * Thread: its user's. Time and chance are parameters.
 */
#ifndef QMQ_SRC_BREAKER_H
#define QMQ_SRC_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum {
    BREAKER_FAILURES = 3,
    BREAKER_PAUSE_MIN_MS = 100,
    BREAKER_PAUSE_MAX_MS = 10 * 1000,
};

/* Zeroed: closed. */
struct breaker {
    uint32_t failures; /* in a row */
    uint32_t pause_ms; /* the last one */
    uint64_t until_ns; /* it ends */
    bool is_trying;    /* one was let through since it opened, and nothing is known of it */
};

bool breaker_is_open(const struct breaker *breaker);
/* May it be chosen now? Counts as the try that an open one gets. */
bool breaker_allows(struct breaker *breaker, uint64_t now_ns, uint32_t chance);
void breaker_succeeded(struct breaker *breaker);
/* `is_lost`: nobody is there. */
void breaker_failed(struct breaker *breaker, bool is_lost, uint64_t now_ns, uint32_t chance);

#endif /* QMQ_SRC_BREAKER_H */
