/*
 * qnet/pipeline.h: messages that want no answer, as those of replication.
 *
 * At most once: what was under way when the connection was lost is lost without notice. For what
 * may be lost, or is acknowledged by other means. A pusher and a puller only understand each other.
 *
 * Thread:   qnet_pusher_push(): any. on_message: a transport thread, one message at a time.
 * Blocking: push never blocks; Q_BUSY when queue_max messages wait.
 * Memory:   a pushed buffer is the pusher's after Q_OK.
 */
#ifndef QNET_PIPELINE_H
#define QNET_PIPELINE_H

#include <qnet/buffer.h>

struct qnet_pusher;
struct qnet_puller;

struct qnet_pusher_options {
    const char *url;
    unsigned queue_max; /* messages not yet with the puller. 0: 1024 */
};

Q_MUST_CHECK enum q_err qnet_pusher_new(
    const struct qnet_pusher_options *options, struct qnet_pusher **ret_pusher);
/* Waits up to `linger_ms` for what is queued to arrive. NULL is fine. */
void qnet_pusher_free(struct qnet_pusher *pusher, uint64_t linger_ms);
/* Messages pushed by one thread one after another leave in that order. Q_BUSY, Q_E_NOMEM: the
 * buffer stays the caller's. */
Q_MUST_CHECK enum q_err qnet_pusher_push(struct qnet_pusher *pusher, struct qnet_buffer *buffer);

struct qnet_puller_options {
    const char *url;          /* listens */
    size_t message_bytes_max; /* 0: 4 MiB + 64 KiB */
    void *context;
    /* Takes `buffer`. The next message is read after this returns. */
    void (*on_message)(void *context, struct qnet_buffer *buffer);
};

Q_MUST_CHECK enum q_err qnet_puller_new(
    const struct qnet_puller_options *options, struct qnet_puller **ret_puller);
/* Waits for on_message to end. NULL is fine. */
void qnet_puller_free(struct qnet_puller *puller);
const char *qnet_puller_url(const struct qnet_puller *puller);

#endif /* QNET_PIPELINE_H */
