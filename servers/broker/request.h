/*
 * broker/request.h: a call on its way through the broker.
 *
 * Every kind of call takes the same way; what differs stands in its route: a table of functions,
 * named by the thread they run on. publish.c, pull.c, peek.c, ack.c, session.c and group.c each begin
 * with theirs.
 *
 *   NET     broker_on_call   takes a request, unpacks the header; route.on_net checks, fills the
 *                            store's request; submit
 *   STORE   the store works; its `done` sends the request on, a failure with its answer built
 *   ANSWER  route.on_answer  builds the answer; send; the request is free again
 *
 * A failure at any point builds its Error on the thread where the fault is, and goes on from there.
 */
#ifndef BROKER_REQUEST_H
#define BROKER_REQUEST_H

#include <pthread.h>
#include <stdatomic.h>

#include <qlog/store.h>
#include <qnet/server.h>
#include <qproto/message.h>

#include "broker/broker.h"
#include "common/gate.h"
#include "common/listener.h"
#include "common/registrar.h"
#include "common/url.h"
#include "common/worker.h"

struct broker_request;

struct broker_route {
    unsigned op;
    enum qlog_request_kind kind;

    /*
     * NET: check `header` (unpacked into request.arena) and `payload` (in the call's bytes), fill
     * request.store. Anything but Q_OK ends the call with that error.
     */
    enum q_err (*on_net)(
        struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
    /* ANSWER, after the store said Q_OK: build the answer, give back what the store lent. */
    enum q_err (*on_answer)(struct broker_request *request, struct qnet_buffer **ret_answer);
};

extern const struct broker_route broker_publish_route;
extern const struct broker_route broker_pull_route;
extern const struct broker_route broker_ack_route;
extern const struct broker_route broker_join_route;
extern const struct broker_route broker_keep_alive_route;
extern const struct broker_route broker_leave_route;
extern const struct broker_route broker_nack_route;
extern const struct broker_route broker_control_route;
extern const struct broker_route broker_groups_route;
extern const struct broker_route broker_lag_route;
extern const struct broker_route broker_peek_route;

struct broker_request {
    struct broker *broker;
    const struct broker_route *route;
    struct qnet_call *call;
    bool has_failed;           /* in the store */
    struct qnet_buffer *error; /* then: instead of an answer */
    struct broker_request *next_free;
    uint32_t publish_bytes; /* of the bound on bytes under way */

    /* Of a one-way publish, whose call is over already. */
    struct qnet_buffer *bytes; /* of the call: the store works on them */
    uint32_t one_way_bytes;
    enum q_err one_way_err;

    /* To the answer thread, when the store is done. */
    struct srv_job finish;

    /* A pull that may wait: it is known by its connection, to be ended when that is gone. */
    bool may_wait;         /* entered into the table */
    struct q_list waiting; /* in its bucket; guarded by the table's lock */
    uint64_t connection;
    bool cancelled;        /* guarded by the table's lock; final once it left the table */
    bool is_finished;      /* the answer thread's: nothing is left but the cancel */
    bool is_cancel_over;   /* the answer thread's */
    struct srv_job cancel; /* to the answer thread, before and after the store's cancel */
    struct qlog_cancel cancel_request;

    union {
        struct qlog_request any;
        struct qlog_publish publish;
        struct qlog_pull pull;
        struct qlog_ack ack;
        struct qlog_join join;
        struct qlog_session session;
        struct qlog_nack nack;
        struct qlog_control control;
        struct qlog_groups groups;
        struct qlog_lag lag;
        struct qlog_peek peek; /* its pull is the one above */
    } store;

    /* The unpacked header, and arrays as large as it asks for. */
    struct qproto_arena arena;
};

enum {
    BROKER_REQUESTS_MAX = 16 * 1024,              /* under way; above: BUSY */
    BROKER_REQUESTS_KEPT = 256,                   /* free ones that are not given back */
    BROKER_PUBLISH_BYTES_MAX = 128 * 1024 * 1024, /* under way; above: BUSY */
    /* One-way publishes under way; above: BUSY. A small part of what others may have. */
    BROKER_ONE_WAY_MAX = BROKER_REQUESTS_MAX / 16,
    BROKER_ONE_WAY_BYTES_DEFAULT = BROKER_PUBLISH_BYTES_MAX / 8,
    BROKER_WAITING_BUCKETS = 256,
};

/* Free requests, and how many are under way. */
struct broker_pool {
    pthread_mutex_t lock;
    struct broker_request *free;
    unsigned free_count;
    unsigned used_count;
};

/* Pulls in the store that may wait there, by connection. */
struct broker_waiting {
    pthread_mutex_t lock;
    struct q_list buckets[BROKER_WAITING_BUCKETS];
};

/* One-way messages, and what became of them. */
struct broker_one_way {
    atomic_uint requests; /* under way */
    atomic_size_t bytes;  /* of them */
    atomic_uint_fast64_t came;
    atomic_uint_fast64_t stored;
    atomic_uint_fast64_t busy;    /* sent back, to be tried again: more came than the store took */
    atomic_uint_fast64_t full;    /* dropped: too little space */
    atomic_uint_fast64_t refused; /* dropped for any other reason */
    atomic_uint_fast64_t invalid; /* calls of which nothing could be counted */
};

struct broker {
    struct broker_options options;
    char address[SRV_URL_MAX]; /* for clients */
    char one_way_address[SRV_URL_MAX];

    /* Any thread. */
    struct srv_gate gate;       /* in front of new calls */
    struct srv_gate store_gate; /* in front of the store, for the answer thread */
    struct broker_pool pool;
    struct broker_waiting waiting;
    atomic_size_t publish_bytes; /* under way */
    struct broker_one_way one_way;
    atomic_bool has_failed; /* the store */

    /* Each its own thread. */
    struct broker_store *store;
    struct broker_archive *archive; /* NULL: what goes is gone */
    struct srv_worker *answerer;
    struct srv_listener *listener;
    struct srv_listener *one_way_listener; /* NULL: none are taken */
    struct srv_registrar *registrar;

    /* The answer thread's. */
    uint64_t rot_told_ns;
};

/* Memory from the request's arena, as it comes: a waiting pull must not touch what it may never
 * use. NULL: the header asks for too much. */
void *broker_request_array(struct broker_request *request, size_t count, size_t size);
/* Names of subject, group and consumer, checked. */
Q_MUST_CHECK enum q_err broker_read_consumer(
    const char *subject,
    const char *group,
    const char *consumer,
    uint64_t session,
    struct qlog_consumer *ret_who);
/* Where a new group, a seek or a look begins. Q_OK or Q_INVALID. */
Q_MUST_CHECK enum q_err broker_read_start(uint32_t start, enum qlog_start *ret_start);
/* How much one pull or look may give: `pieces` and `runs` from the request's arena. */
Q_MUST_CHECK enum q_err broker_limit_pull(
    struct broker_request *request, uint32_t messages_max, uint32_t bytes_max);
/* pull.c: the pieces of request.store.pull, checked, as the payload of an answer to `op`. Gives back
 * what the store lent. */
Q_MUST_CHECK enum q_err broker_answer_pull(
    struct broker_request *request, uint64_t next, struct qnet_buffer **ret_answer);
/* An answer without payload. */
Q_MUST_CHECK enum q_err broker_build_answer(
    const struct broker_request *request,
    const ProtobufCMessage *header,
    struct qnet_buffer **ret_answer);

/* srv_call_fn of every operation; `op->route` is the broker_route. */
void broker_on_call(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message);
/* publish.c: check `header` and `payload`, which lies in the call's bytes, and fill the store's request. */
Q_MUST_CHECK enum q_err broker_read_publish(
    struct broker_request *request, const ProtobufCMessage *header, struct q_bytes payload);
/* one_way.c: srv_call_fn of PUBLISH_ONE_WAY. */
void broker_on_one_way(
    void *context,
    const struct srv_op *op,
    struct qnet_call *call,
    const struct qproto_message *message);
/* Adds the counts of one-way messages. */
void broker_on_hello(void *context, Qmq__Wire__HelloAnswer *answer);
/* NULL: BROKER_REQUESTS_MAX are under way. */
struct broker_request *broker_request_take(struct broker *broker);
void broker_request_give_back(struct broker_request *request);
void broker_pool_init(struct broker *broker);
void broker_pool_fini(struct broker *broker);
unsigned broker_pool_used(struct broker *broker);

#endif /* BROKER_REQUEST_H */
