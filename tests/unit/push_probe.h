/*
 * push_probe.h: a handler that notes what it is given: which numbers how often, in which order for each
 * key, how many at a time; and that can be held at a gate.
 *
 * A body is "KEY NUMBER"; numbers of all keys are different.
 */
#ifndef TEST_PUSH_PROBE_H
#define TEST_PUSH_PROBE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <criterion/criterion.h>

#include <qmq/qmq.h>

enum {
    PROBE_NUMBERS_MAX = 10000,
    PROBE_KEYS_MAX = 64,
    PROBE_KEPT_MAX = 2000,
    PATIENCE_S = 60,
};

struct probe {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned calls;
    unsigned seen[PROBE_NUMBERS_MAX];
    unsigned running;
    unsigned running_max;
    bool key_runs[PROBE_KEYS_MAX];
    unsigned key_next[PROBE_KEYS_MAX]; /* one above the highest that was handled well */
    unsigned disorders;  /* two of a key at once, or an earlier one after a later one */
    bool is_closed;      /* the gate: handlers wait */
    unsigned wait_for;   /* so many have to be at it at once before any returns; 0 after that */
    unsigned fail_first; /* numbers divisible by it fail at their first attempt */
    int fail_always;     /* every call returns it */
    bool keeps;
    struct qmq_delivery *kept[PROBE_KEPT_MAX];
    unsigned kept_count;
    unsigned troubles[4];
    uint64_t trouble_messages;
    int trouble_code;
    struct qmq_nack_options nack;
};

static inline struct probe *
probe_new(void)
{
    struct probe *probe = calloc(1, sizeof(*probe));
    pthread_mutex_init(&probe->lock, NULL);
    pthread_cond_init(&probe->changed, NULL);
    return probe;
}

/* A gate that is never opened fails its test by the test's own time-out. On threads of the library,
 * where the runner's assertions have no place. */
static inline int
probe_handle(void *context, const struct qmq_message *message, struct qmq_delivery *delivery)
{
    struct probe *probe = context;
    char body[64] = "";
    unsigned key;
    unsigned number;
    memcpy(body, message->body.data, message->body.size < 63 ? message->body.size : 63);
    if (sscanf(body, "%u %u", &key, &number) != 2) abort();

    pthread_mutex_lock(&probe->lock);
    probe->calls++;
    probe->seen[number]++;
    if (++probe->running > probe->running_max) probe->running_max = probe->running;
    bool is_keyed = key > 0;
    if (is_keyed && (probe->key_runs[key] || number < probe->key_next[key])) probe->disorders++;
    probe->key_runs[key] = true;
    if (probe->running == probe->wait_for) probe->wait_for = 0;
    pthread_cond_broadcast(&probe->changed);
    while (probe->is_closed || probe->wait_for > 0)
        pthread_cond_wait(&probe->changed, &probe->lock);

    int code = probe->fail_always;
    if (probe->fail_first > 0 && number % probe->fail_first == 0 && message->attempt == 1) code = 7;
    if (code == 0) probe->key_next[key] = number + 1;
    probe->key_runs[key] = false;
    probe->running--;
    if (code != 0) (void)qmq_delivery_fail(delivery, &probe->nack);
    if (probe->keeps) {
        qmq_delivery_keep(delivery);
        if (probe->kept_count == PROBE_KEPT_MAX) abort();
        probe->kept[probe->kept_count++] = delivery;
    }
    pthread_cond_broadcast(&probe->changed);
    pthread_mutex_unlock(&probe->lock);
    return code;
}

static inline void
probe_trouble(void *context, const struct qmq_trouble *trouble)
{
    struct probe *probe = context;
    pthread_mutex_lock(&probe->lock);
    probe->troubles[trouble->kind]++;
    probe->trouble_messages += trouble->messages;
    probe->trouble_code = trouble->error.code;
    pthread_cond_broadcast(&probe->changed);
    pthread_mutex_unlock(&probe->lock);
}

/* Wait until `condition`, which may use `probe` under its lock, holds. */
#define probe_wait(probe, condition)                                                               \
    do {                                                                                           \
        struct timespec until_;                                                                    \
        (void)clock_gettime(CLOCK_REALTIME, &until_);                                              \
        until_.tv_sec += PATIENCE_S;                                                               \
        int rv_ = 0;                                                                               \
        pthread_mutex_lock(&(probe)->lock);                                                        \
        while (!(condition) && rv_ == 0)                                                           \
            rv_ = pthread_cond_timedwait(&(probe)->changed, &(probe)->lock, &until_);              \
        bool holds_ = (condition);                                                                 \
        pthread_mutex_unlock(&(probe)->lock);                                                      \
        cr_assert(holds_, "never: %s", #condition);                                                \
    } while (0)

static inline void
probe_open(struct probe *probe, bool is_open)
{
    pthread_mutex_lock(&probe->lock);
    probe->is_closed = !is_open;
    pthread_cond_broadcast(&probe->changed);
    pthread_mutex_unlock(&probe->lock);
}

static inline struct qmq_delivery *
probe_take_kept(struct probe *probe)
{
    pthread_mutex_lock(&probe->lock);
    struct qmq_delivery *delivery = probe->kept_count > 0 ? probe->kept[--probe->kept_count] : NULL;
    pthread_mutex_unlock(&probe->lock);
    return delivery;
}

/* Each of [first, first + count) came exactly once. */
static inline void
probe_expect_once(const struct probe *probe, unsigned first, unsigned count)
{
    for (unsigned number = first; number < first + count; number++)
        cr_assert_eq(probe->seen[number], 1, "%u came %u times", number, probe->seen[number]);
}

static inline void
probe_free(struct probe *probe)
{
    pthread_cond_destroy(&probe->changed);
    pthread_mutex_destroy(&probe->lock);
    free(probe);
}

#endif /* TEST_PUSH_PROBE_H */
