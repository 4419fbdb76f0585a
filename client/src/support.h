/*
 * support.h: waiting, trying again, chance.
 *
 * Thread: any.
 */
#ifndef QMQ_SRC_SUPPORT_H
#define QMQ_SRC_SUPPORT_H

#include <pthread.h>

#include <qbase/err.h>

/* Doubles `*backoff_ms` up to a second; returns it with jitter, in ns. */
uint64_t backoff_next(uint32_t *backoff_ms);
/* May it pass by itself? */
bool is_passing(enum q_err err);
/* At most 256 bytes. */
void random_bytes(void *out, size_t size);

uint32_t random_number(void);

/* A condition variable for condition_wait(). */
void condition_init(pthread_cond_t *condition);
/* Wait for a signal; false when `until_ns`, of the machine's monotonic clock, has passed. */
bool condition_wait(pthread_cond_t *condition, pthread_mutex_t *lock, uint64_t until_ns);

#endif /* QMQ_SRC_SUPPORT_H */
