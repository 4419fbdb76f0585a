/*
 * consumer.h: how messages come to a consumer.
 *
 * A consumer has one source for each broker group of its subject. A source has one call under way
 * at most: a join, or a pull. The client's thread joins (again) and shows that the consumer lives;
 * threads in qmq_pull() ask for messages and wait.
 *
 *   LEFT ──join──▶ JOINING ──answer──▶ READY ──pull──▶ PULLING ──answer──▶ READY (with `fetched`)
 *     ▲               │ fails             │ NO_SESSION    │
 *     └───────────────┴───────────────────┴───────────────┘     REFUSED: no way on for good
 *
 * `received` lives longer than a session: what this process was handed once is not handed to it
 * again while its consumer id stays, and may still be acknowledged.
 *
 * Thread: any, with consumer.lock held, unless said otherwise.
 */
#ifndef QMQ_SRC_CONSUMER_H
#define QMQ_SRC_CONSUMER_H

#include <qbatch/batch.h>

#include "client.h"

enum {
    TOKEN_SIZE = 16
};

enum source_state {
    SOURCE_LEFT,
    SOURCE_JOINING,
    SOURCE_READY,
    SOURCE_PULLING,
    SOURCE_REFUSED,
};

struct source {
    struct q_list node; /* consumer.sources */
    struct qmq_consumer *consumer;
    struct broker *broker;
    enum source_state state;
    struct call call; /* join or pull */
    struct call ping;
    bool is_pinging;
    bool is_cancelled;         /* `call`, to be made again with a shorter wait */
    uint8_t token[TOKEN_SIZE]; /* of the session, or of the one being asked for */
    uint64_t session;
    uint64_t received;         /* pull sequences below have arrived */
    uint64_t timeout_ns;       /* the broker's patience with a silent consumer */
    uint64_t heard_ns;         /* last call that showed that we live */
    uint64_t pulling_until_ns; /* when the pull under way is answered at the latest */
    struct qmq_batch *fetched; /* not taken by the program yet */
    uint64_t answered_in;      /* consumer.round of the last answer without messages */
    uint64_t next_ns;          /* after a failure: not before */
    uint32_t backoff_ms;
    enum q_err err; /* of the last call; Q_OK once something has worked again */
    struct q_fault fault;

    /* As answers told. */
    uint64_t cursor;
    uint64_t waiting;
    uint64_t pending;
    uint64_t unacked;
    bool group_created;
    enum qmq_held held;
};

struct qmq_consumer {
    struct member member;
    struct qmq_client *client;
    char subject[QPROTO_READ_SUBJECT_MAX + 1];
    char group[QPROTO_GROUP_MAX + 1];
    char name[QPROTO_CONSUMER_MAX + 1];
    char broker_group[QPROTO_GROUP_MAX + 1]; /* the only one; "": all */
    char **tags;
    uint32_t tag_count;
    bool tags_all;
    bool broadcast;
    enum qmq_start start;
    uint64_t start_at;
    bool at_most_once;
    bool prefetch;
    uint32_t pull_bytes_max;
    uint32_t pull_messages_min;
    uint32_t invisible_ms;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    bool is_stopping; /* qmq_consumer_stop() */
    bool is_leaving;
    struct q_list sources;
    uint64_t round;         /* counts qmq_pull() */
    uint32_t messages_max;  /* of the last one */
    uint64_t route_changes; /* of the client, as last seen */
    int event_fd;           /* of a foreign loop; -1: there is none */
    bool wants;             /* it has taken what there was, and waits */
};

/* consumer.c */
void consumer_set_pull(struct qmq_consumer *consumer, uint32_t messages_max);
/* Broker groups may have come. Gives the lock away when they have, to ask meta. */
void consumer_look_for_sources(struct qmq_consumer *consumer);
/* NULL: nothing was fetched. */
struct qmq_batch *consumer_take_fetched(struct qmq_consumer *consumer);
enum q_err consumer_stopped(void);

/* foreign.c */
/* What a foreign loop waits for is asked for. Returns when to come back. */
uint64_t consumer_ask_ahead(struct qmq_consumer *consumer, uint64_t now_ns);

/* source.c */
Q_MUST_CHECK enum q_err source_new(struct qmq_consumer *consumer, struct broker *broker);
/* Join if it is time to, ping if it is. Returns when to come back. */
uint64_t source_tick(struct source *source, uint64_t now_ns);
/* Ask for messages; the source is READY. */
void source_pull(struct source *source, uint64_t wait_ns);
/* The broker does not know `session`: join again, unless that has happened already. */
void source_lost_session(struct source *source, uint64_t session);
/* With this thread's fault. */
void source_failed(struct source *source, enum q_err err);
bool is_session_lost(enum q_err err);
bool source_has_session(const struct source *source);
bool source_has_call(const struct source *source);
/* End the pull under way, so that another one can take its place. */
void source_shorten(struct source *source);
/* End whatever is under way. */
void source_cancel(struct source *source);
/* Without the lock. Blocks. */
void source_leave(struct source *source);
void source_free(struct source *source);

/* ack.c */
/* NULL: there is none of this number. It lives as long as the consumer. Takes the lock itself. */
struct source *consumer_source(struct qmq_consumer *consumer, uint32_t number);
/* The request that says these ranges are done, or (`nack`) have failed. */
Q_MUST_CHECK enum q_err ack_build(
    struct source *source,
    Qmq__Wire__Range **ranges,
    size_t count,
    uint64_t session,
    const struct qmq_nack_options *nack,
    struct qnet_buffer **ret_buffer);
/* Its answer; `*ret_expired` messages came too late. Takes `buffer`, and the lock itself. */
Q_MUST_CHECK enum q_err ack_read(
    struct source *source, bool is_nack, struct qnet_buffer *buffer, uint64_t *ret_expired);

/* received.c */
struct qmq_batch {
    struct qnet_buffer *buffer; /* what the messages point into */
    uint32_t source;            /* number */
    struct piece *pieces;       /* stored batches */
    uint32_t piece_count;
    struct qmq_message *messages;
    uint32_t message_count;
    bool is_strict; /* the group is */
    uint64_t arrived_ns;
};

/* All that lives because of it. */
uint64_t batch_memory(const struct qmq_batch *batch);

/*
 * The messages of a pull's answer whose pull sequences are not below `*received`, which moves
 * behind them. `*ret_batch` takes the answer's buffer, or is NULL when there are none. Needs no
 * lock.
 *
 * Q_OK, Q_E_PROTOCOL, Q_E_CORRUPT, Q_E_VERSION, Q_E_NOMEM.
 */
Q_MUST_CHECK enum q_err received_open(
    struct answer *answer, uint32_t source, uint64_t *received, struct qmq_batch **ret_batch);

#endif /* QMQ_SRC_CONSUMER_H */
