/*
 * support.c: waiting, trying again, chance.
 */
#include "support.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include <qbase/assert.h>
#include <qbase/bytes.h>
#include <qbase/clock.h>

enum {
    BACKOFF_MIN_MS = 20,
    BACKOFF_MAX_MS = 1000,
    WAIT_S_MAX = 3600
};

uint64_t
backoff_next(uint32_t *backoff_ms)
{
    *backoff_ms =
        (uint32_t)q_max_u64(q_min_u64(*backoff_ms * UINT64_C(2), BACKOFF_MAX_MS), BACKOFF_MIN_MS);

    /* Between a half and the whole, so that those who failed together don't come back together. */
    uint64_t whole_ns = *backoff_ms * (uint64_t)Q_NS_PER_MS;
    return whole_ns / 2 + random_number() % (whole_ns / 2);
}

uint32_t
random_number(void)
{
    uint32_t number;
    random_bytes(&number, sizeof(number));
    return number;
}

bool
is_passing(enum q_err err)
{
    return err != Q_OK && q_err_retryable(err);
}

void
random_bytes(void *out, size_t size)
{
    /* Up to 256 bytes at once never come short; it fails on kernels older than any we run on. */
    Q_ASSERT(size <= 256);
    ssize_t got;
    do {
        got = getrandom(out, size, 0);
    } while (got < 0 && errno == EINTR);
    Q_ASSERT(got == (ssize_t)size);
}

void
condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

bool
condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t until_ns)
{
    /* That clock counts suspend, and conditions can't wait on it: so the rest is what counts. */
    uint64_t now_ns = q_clock_monotonic_ns(q_clock_system());
    if (until_ns <= now_ns) return false;
    uint64_t rest_ns = q_min_u64(until_ns - now_ns, (uint64_t)WAIT_S_MAX * Q_NS_PER_S);

    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    rest_ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(rest_ns / Q_NS_PER_S);
    until.tv_nsec = (long)(rest_ns % Q_NS_PER_S);
    /* After an hour it was no time-out, but the caller looks at its condition again. */
    (void)pthread_cond_timedwait(condition, lock, &until);
    return true;
}
