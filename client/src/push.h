/*
 * push.h: a push consumer from the inside.
 *
 * One thread pulls while there is room, any number handle, one sends verdicts:
 *
 *   qmq_pull() ─▶ load ─▶ queue ─▶ handler ─▶ lane ─▶ ack or nack ─▶ forgotten
 *                  │ behind an earlier one      ▲
 *                  └ of its key: chain ─────────┘ or, in a strict group behind a failed one, forgotten
 *
 * A load is what one pull brought, and has a delivery for each message. A delivery is in one place:
 *
 *   CHAINED   behind another one of its order key and broker group, which is undecided
 *   QUEUED    a handler may take it
 *   HANDLING  on a handler's thread; decided when that returns, or by who it was kept for
 *   KEPT      the handler has returned, the verdict is to come
 *   DECIDED   in a lane, until the broker has the verdict on record, or has refused it for good
 *
 * and is forgotten afterwards; the load is freed with its last one. What is forgotten undecided is
 * still held by the broker, which hands it to others when this consumer leaves, or, in a strict group,
 * when it learns what failed before it. A lane is the way of verdicts to one broker group, with one
 * call under way at most, so that what comes meanwhile shares the next.
 *
 *   PULLING ──stop──▶ STOPPING (no handler begins) ──all is on record, or time is over──▶ OVER
 *
 * Thread:  with push.lock held, unless said otherwise. It is taken before consumer.lock.
 * Memory:  the messages held are bounded by the options; everything else is of their number.
 */
#ifndef QMQ_SRC_PUSH_H
#define QMQ_SRC_PUSH_H

#include "consumer.h"

enum {
    PUSH_FILTERS_MAX = 8,
    PUSH_KEY_SLOTS = 1024,
    LANE_CALL_MAX = 2048, /* messages in one ack */
};

enum push_phase {
    PUSH_PULLING,
    PUSH_STOPPING,
    PUSH_OVER,
};

enum delivery_state {
    DELIVERY_CHAINED,
    DELIVERY_QUEUED,
    DELIVERY_HANDLING,
    DELIVERY_KEPT,
    DELIVERY_DECIDED,
};

struct qmq_delivery {
    struct load *load;
    const struct qmq_message *message;
    struct qmq_delivery *next;      /* in the queue, or a lane */
    struct qmq_delivery *key_next;  /* that waits for the verdict on this one */
    struct qmq_delivery *slot_next; /* in push.keys */
    bool is_key_last;               /* it is there */
    enum delivery_state state;
    bool is_kept;
    bool is_decided; /* while HANDLING: the verdict is there already */
    bool has_begun;  /* `once` was told; only who handles or decides it looks */
    bool has_failed;
    uint64_t *counter;            /* of push.info: what became of it */
    struct qmq_nack_options nack; /* its text is ours */
    char *key_text; /* the key that `once` knows it by; NULL: not asked for, or the user's */
};

struct deliveries {
    struct qmq_delivery *first;
    struct qmq_delivery *last;
    uint32_t count;
};

struct load {
    struct qmq_push *push;
    struct lane *lane;
    struct qmq_batch *batch;
    uint64_t bytes;
    uint64_t overdue_ns; /* when others may have it; UINT64_MAX: never */
    uint32_t open;       /* deliveries that are not forgotten */
    bool is_strict;
    struct qmq_delivery deliveries[];
};

struct lane {
    struct q_list node; /* push.lanes */
    struct qmq_push *push;
    struct source *source;
    struct deliveries acks;
    struct deliveries nacks;
    uint64_t since_ns; /* when the first of those came */
    bool is_under_way;

    /* The answer, by the call's `done`. */
    bool is_answered;
    enum q_err err;
    struct q_fault fault;
    struct qnet_buffer *buffer;

    /* Of the thread of verdicts alone. */
    struct call call;
    uint64_t session;
    struct deliveries chosen;                 /* to be sent next, of one kind */
    struct qmq_delivery *sent[LANE_CALL_MAX]; /* by pull sequence */
    uint32_t sent_count;                      /* not 0: to be sent, or sent and not on record */
    bool is_nack;
    uint32_t nacks_max; /* at once, since more were refused; 0: LANE_CALL_MAX */
    uint64_t next_ns;   /* after a failure: not before */
    uint32_t backoff_ms;
    bool has_told; /* of the failure that goes on */
};

struct qmq_push {
    struct qmq_client *client;
    struct qmq_consumer *consumer; /* NULL once it has left */
    char *key_prefix;              /* "SUBJECT GROUP" */
    qmq_handler_fn *handler;
    void *context;
    uint32_t thread_count;
    bool at_most_once;
    uint64_t invisible_ns; /* 0: for good */
    uint32_t prefetch_messages;
    uint64_t prefetch_bytes;
    uint32_t pull_bytes;
    struct qmq_filter filters[PUSH_FILTERS_MAX];
    size_t filter_count;
    struct qmq_once once; /* `begin` NULL: none */
    qmq_once_key_fn *once_key;
    void *once_context;
    qmq_trouble_fn *trouble;
    void *trouble_context;
    pthread_mutex_t trouble_lock; /* one trouble at a time */

    pthread_t puller;
    pthread_t acker;
    pthread_t *handlers;
    uint32_t handlers_started;
    bool has_puller;
    bool has_acker;

    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t ready;   /* the queue has something, or the phase changed: for handlers */
    pthread_cond_t room;    /* there may be room: for the puller */
    pthread_cond_t urgent;  /* verdicts are to be sent, or an answer came: for the acker */
    pthread_cond_t settled; /* something ended: for who stops it */
    enum push_phase phase;
    bool is_starved;    /* the puller waits for room */
    bool is_ack_wanted; /* the acker has to look again */
    struct deliveries queue;
    /* The last undecided message of each order key, in slots by the key's hash. */
    struct qmq_delivery *keys[PUSH_KEY_SLOTS];
    struct q_list lanes;
    uint64_t decided;       /* in lanes, with those under way */
    struct q_fault refusal; /* of verdicts that were given up; `err` Q_OK: none was */
    uint32_t verdicts;      /* on kept messages, that are telling `once` */
    bool is_freed;          /* by its owner: user's functions are not called any more */
    struct qmq_push_info info;
    uint32_t references; /* the owner's, and one for each kept message */
};

/* push.c */
/* Called without the lock. `error` NULL: this thread's last one. */
void push_tell(
    struct qmq_push *push,
    enum qmq_trouble_kind kind,
    bool is_tried_again,
    uint64_t messages,
    const struct qmq_error *error);
/* Frees it with the last reference. Gives the lock away for good. */
void push_unlock_and_part(struct qmq_push *push);

/* push_pull.c */
/* The thread that pulls. Without the lock. */
void *push_pull(void *context);

/* push_handle.c */
/* A thread that handles. Without the lock. */
void *push_handle(void *context);
/* Behind the last undecided one of its key, if there is one; false: there is none. */
bool push_chain(struct qmq_push *push, struct qmq_delivery *delivery);
/* Hand back what no handler will take: all of the queue, and what is chained to it. */
void push_clear_queue(struct qmq_push *push);
/* The verdict is in it. What was chained to it is the queue's first now, or handed back. */
void push_decide(struct qmq_push *push, struct qmq_delivery *delivery);
/* Done with it, as the broker knows or not. */
void push_forget(struct qmq_push *push, struct qmq_delivery *delivery);
/* The same of so many of one load, whose texts are freed. Returns the load if it is to be freed. */
Q_MUST_CHECK struct load *push_drop(struct qmq_push *push, struct load *load, uint32_t count);
/* Also without the lock. NULL is fine. */
void load_free(struct load *load);

/* push_ack.c */
/* The thread that sends verdicts. Without the lock. */
void *push_ack(void *context);
/* NULL: no memory. Without the lock. */
struct lane *push_lane(struct qmq_push *push, uint32_t source);
void push_post(struct qmq_push *push, struct qmq_delivery *delivery);
/* Have the acker look again. */
void push_want_acks(struct qmq_push *push);
/* After the thread has ended. */
void push_lanes_free(struct qmq_push *push);

static inline void
deliveries_add(struct deliveries *list, struct qmq_delivery *delivery)
{
    delivery->next = NULL;
    if (list->last)
        list->last->next = delivery;
    else
        list->first = delivery;
    list->last = delivery;
    list->count++;
}

/* All of `more`, which is empty then. */
static inline void
deliveries_append(struct deliveries *list, struct deliveries *more)
{
    if (!more->first) return;
    if (list->last)
        list->last->next = more->first;
    else
        list->first = more->first;
    list->last = more->last;
    list->count += more->count;
    *more = (struct deliveries){ .first = NULL };
}

static inline void
deliveries_put_back(struct deliveries *list, struct qmq_delivery *delivery)
{
    delivery->next = list->first;
    list->first = delivery;
    if (!list->last) list->last = delivery;
    list->count++;
}

/* NULL: it is empty. */
static inline struct qmq_delivery *
deliveries_take(struct deliveries *list)
{
    struct qmq_delivery *delivery = list->first;
    if (!delivery) return NULL;
    list->first = delivery->next;
    if (!list->first) list->last = NULL;
    list->count--;
    return delivery;
}

#endif /* QMQ_SRC_PUSH_H */
