/*
 * producer.h: how a message travels through a producer.
 *
 *   qmq_send() adds it to an open batch of its subject. A subject has ways, one for each broker group
 *   that serves it, and a way has a lane: the lanes of a producer are one for each broker group in use.
 *   A message with an order key goes the way that its key's slot is at home, the others take turns.
 *   Until the route is known batches wait at the subject. A lane seals what waits into a request,
 *   sends up to four, and tries a failed one again. A batch with an outcome goes to `finished`, from
 *   where its callbacks are run.
 *
 *   subject.unrouted → lane.waiting → request.batches → producer.finished → producer.spare
 *
 * Order: batches never overtake each other on this way; the broker puts the requests of a lane into
 * their order. What is known not to be stored leaves a lane when its broker group fails and its subject
 * has another way. What may be stored follows after a while. What is bound, since it has an order key
 * or lies in a request with one, never leaves (docs/decisions/014).
 *
 * Invariants, with producer.lock held:
 *   (1) a batch is in exactly one of the five lists
 *   (2) lane.on_air == requests of the lane between submit and the begin of their `done`
 *   (3) lane.is_stalled: nothing is submitted until the client's thread resumes the lane
 *   (4) lane.is_parting: nothing is submitted that lies behind the request that is being parted
 *   (5) subject.open is in subject.unrouted, way.open in its lane's waiting; neither is closed
 *   (6) an ordered batch is in no subject.unrouted
 *
 * Deadlines: a message is given up with its request, and not before its own deadline. So that this is
 * not much later either, a batch takes messages, and a request batches, that were sent within
 * producer.together_ns of its first one.
 *
 * Thread: any, with producer.lock held, unless said otherwise.
 */
#ifndef QMQ_SRC_PRODUCER_H
#define QMQ_SRC_PRODUCER_H

#include <qbase/map.h>
#include <qbatch/build.h>

#include "breaker.h"
#include "client.h"

/* Where the messages of a subject go. */
struct way {
    struct lane *lane;
    /* In lane.waiting; may be NULL. While there are several broker groups the second one is for messages that
     * are bound to theirs, so that a producer of both kinds fills two batches, and not many with one each. */
    struct batch *open[2];
    bool is_split; /* both are used: there were several groups when a message came last */
    bool is_writable;
};

/* What is remembered of a message until its outcome. */
struct note {
    qmq_sent_fn *sent; /* may be NULL */
    void *context;
    uint64_t time_ms;
    uint32_t counter;
};

struct batch {
    struct q_list node;
    struct qmq_producer *producer;
    struct subject *subject;
    struct qbatch_builder *builder;
    struct note *notes; /* of each message */
    uint32_t note_capacity;
    uint64_t held_bytes;  /* counted against the producer's limit */
    uint64_t opened_ms;   /* when its first message was sent, by the wall clock */
    uint64_t deadline_ns; /* of the last message it may get */
    uint64_t due_ms;      /* of all its messages; 0: at once */
    bool is_closed;
    bool is_ordered;        /* some of its messages have an order key */
    bool is_alone;          /* it has a request of its own */
    uint32_t envelope_size; /* once closed */
    uint32_t payload_size;
    bool maybe_duplicate;
    bool duplicate;
    bool is_refused; /* a broker refused it for good */

    /* The outcome. */
    enum q_err err;
    struct q_fault *fault; /* NULL when there was no memory for it */
    struct broker *broker; /* NULL: was never sent */
    uint64_t first_sequence;
};

struct subject {
    struct qmq_producer *producer;
    bool is_delayed;   /* its messages go to a delay group */
    bool goes_alone;   /* its last batch was refused, and should not take others with it */
    struct ways *ways; /* NULL: the route is not known */
    struct batch *open;
    struct q_list unrouted; /* batches */
    struct q_list node; /* producer.unrouted, while `unrouted` has something, or a sender waits */
    uint32_t senders;   /* threads that wait for the route */
    struct call route;
    bool is_routing;        /* `route` is under way */
    uint64_t route_changes; /* of the client, when the route was asked for */
    uint32_t backoff_ms;
    uint64_t next_ns; /* not before: ask for the route again */
    char name[];
};

/* What goes to one broker group. */
struct lane {
    struct q_list node; /* producer.lanes */
    struct qmq_producer *producer;
    struct broker *broker;
    struct q_list waiting; /* batches */
    uint64_t waiting_bytes;
    struct q_list requests; /* sealed, in order */
    uint32_t on_air;
    uint64_t next_sequence; /* of requests */
    struct breaker breaker;
    bool was_open;    /* as the log was told */
    bool is_unwanted; /* a subject has it as a way no more: what waits may have to leave */
    bool is_stalled;
    bool is_parting; /* one of its requests is to go batch by batch, and nothing may overtake it */
    uint32_t backoff_ms;
    uint64_t resume_ns;
};

struct qmq_producer {
    struct member member;
    struct qmq_client *client;
    enum qmq_mode mode;
    enum qmq_duplicates duplicates;
    bool one_way;
    uint64_t unknown_ns;
    struct qbatch_builder_options batch_options;
    uint64_t memory_bytes_max;
    uint64_t queue_messages_max;
    uint64_t block_ns;
    uint64_t deadline_ns;
    uint64_t together_ns; /* messages sent so far apart may be given up together */

    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t changed; /* less held, or nothing under way */
    bool is_stopping;
    uint32_t counter; /* of message ids */
    struct q_map map; /* name → index in subjects */
    struct subject **subjects;
    uint32_t subject_count;
    uint32_t routing_count;
    struct q_list lanes;
    struct q_list unrouted; /* subjects */
    struct q_list finished; /* batches */
    struct q_list spare;    /* batches */
    uint32_t spare_count;
    uint64_t held_bytes;
    uint64_t held_messages;
    bool is_jammed; /* one way: a send has waited in vain, and later ones don't */
    struct qmq_producer_counts counts;
    bool is_delivering;
    int event_fd;               /* of a foreign loop, which delivers; -1: we do */
    uint64_t route_changes;     /* of the client, as last seen */
    struct q_fault route_fault; /* why the last route was not found */
};

/* subject.c */
Q_MUST_CHECK enum q_err subject_get(
    struct qmq_producer *producer, const char *name, bool is_delayed, struct subject **ret_subject);
/* A batch was put into subject.unrouted, or a sender waits: have its route asked for. */
void subject_wants_route(struct subject *subject);
/* Broker groups have come or gone since its route was asked for: ask again, and go on meanwhile. */
void subject_refresh(struct subject *subject);
/* Ask for routes that are due. Returns when to come back. */
uint64_t subjects_tick(struct qmq_producer *producer, uint64_t now_ns);

/* ways.c */
/* `before` may be NULL; its open batches stay open where the new route has their broker group. Takes
 * `before` unless it fails. Q_OK, Q_NO_ROUTE (nobody takes messages), Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ways_new(
    struct qmq_producer *producer,
    const struct route *route,
    struct ways *before,
    struct ways **ret_ways);
/* Which way the next message goes, and the batch that is open there. NULL: there is no home for keys. */
struct way *ways_choose(struct ways *ways, struct q_bytes order_key);
/* Another way than this lane, for what is not bound; NULL: there is none that works now. */
struct way *ways_other(struct ways *ways, const struct lane *lane);
/* It is still a way of the subject to send what has no order key. */
bool ways_has(const struct ways *ways, const struct lane *lane);
/* The batch is not open any more, or never was. */
void ways_close(struct ways *ways, const struct batch *batch);

/* lane.c */
Q_MUST_CHECK enum q_err lane_get(
    struct qmq_producer *producer, struct broker *broker, struct lane **ret_lane);
/* Send what may be sent now. */
void lane_pump(struct lane *lane);
/* Try failed requests again, give up late ones, leave a group that is away. Returns when to come back. */
uint64_t lane_tick(struct lane *lane, uint64_t now_ns);
/* Nothing is on the air: what may be stored ends as unknown; all else, in order, to `batches`. */
void lane_empty(struct lane *lane, struct q_list *batches);
/* End soon what is on the air. */
void lane_cancel(struct lane *lane);
void lane_free(struct lane *lane);

/* batch.c */
/* A spare one, or new. */
Q_MUST_CHECK enum q_err batch_get(struct subject *subject, struct batch **ret_batch);
/* Q_OK, Q_AGAIN: full, or open for too long. Counts what it takes. */
Q_MUST_CHECK enum q_err batch_add(
    struct batch *batch, const struct qbatch_message *message, const struct note *note);
Q_MUST_CHECK enum q_err batch_close(struct batch *batch);
/* It is no open batch of its subject any more. */
void batch_close_for_more(struct batch *batch);
/* Out of its list, into `finished`. For a failure this thread's fault tells more. */
void batch_finish(struct batch *batch, enum q_err err, struct broker *broker);
/* The first of `batches` that are over their deadline. Returns the deadline of the next one. */
uint64_t batches_expire(
    struct q_list *batches,
    uint64_t now_ns,
    enum q_err err,
    struct broker *broker,
    uint64_t *ret_expired_bytes);
/* Run the callbacks of what is finished, or tell the foreign loop. Gives the lock away meanwhile. */
void batches_deliver(struct qmq_producer *producer);
/* Run them on this thread. */
void batches_deliver_here(struct qmq_producer *producer);
void batch_recycle(struct batch *batch);
void batch_free(struct batch *batch);
/* Whether this thread is inside a callback. */
bool is_in_callback(void);

#endif /* QMQ_SRC_PRODUCER_H */
