/*
 * qmq/qmq.h: publish messages, and consume them in groups.
 *
 *     struct qmq_client *client;
 *     int code = qmq_connect(NULL, &client);
 *     if (code != QMQ_OK) fprintf(stderr, "%s\n", qmq_last_error().message);
 *
 * A client finds the brokers through meta. A producer sends in the background: messages that wait
 * while a request is on its way share the next one. A consumer joins a group, pulls messages and
 * acknowledges them; what it does not acknowledge is given to the group again.
 *
 * Thread:   every function may be called from any thread; one object may be used by several
 *           threads. Callbacks of one producer run one after another, on a thread of the library.
 * Blocking: qmq_send() while the producer's memory is full, or, with an order key, for the route; functions that take a `timeout_ms` or
 *           `wait_ms`; everything whose comment says so. Never block in a callback.
 * Fork:     a child must not use what its parent connected, which answers QMQ_INVALID there, and it need
 *           not free it. A program that forks connects in the child, and not in the parent before; or the
 *           child calls exec(). No file descriptor of ours is inherited by that.
 * Memory:   what is handed in is copied. Free producers and consumers before their client.
 * Failure:  functions return QMQ_OK or a code: positive codes are answers, negative ones failures.
 *           qmq_last_error() then tells more. Zeroed options mean the defaults named here.
 */
#ifndef QMQ_QMQ_H
#define QMQ_QMQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#    define QMQ_API __attribute__((visibility("default")))
#else
#    define QMQ_API
#endif

/* Codes a program may want to handle. The whole list, with texts, is in docs/errors.md. */
enum qmq_code {
    QMQ_OK = 0,
    QMQ_AGAIN = 2, /* nothing now */
    QMQ_NOT_FOUND = 3,
    QMQ_GONE = 5,               /* no longer stored */
    QMQ_TOO_BIG = 6,            /* a limit is exceeded */
    QMQ_BUSY = 7,               /* a bounded queue is full */
    QMQ_INVALID = 9,            /* an argument */
    QMQ_EXPIRED = 11,           /* the acknowledgement came too late */
    QMQ_CONSUMER_REPLACED = 12, /* another process uses this consumer id */
    QMQ_FILTER_DIFFERS = 14,    /* the group consumes with other tags */
    QMQ_NO_ROUTE = 15,          /* no broker serves the subject */
    QMQ_TIMED_OUT = 16,
    QMQ_UNAVAILABLE = 18, /* not reachable */
    QMQ_WINDOW_FULL = 19, /* acknowledge some */
    QMQ_STOPPING = 21,
    QMQ_STORAGE_FULL = 22,    /* publishes are refused until space is free */
    QMQ_OUTCOME_UNKNOWN = 25, /* the message may be stored, or may not */
    QMQ_DELAY_TOO_LONG = 26,  /* of a negative ack: the message may be dropped before */
    QMQ_DUE_TOO_FAR = 30,     /* later than a delay group takes */
    QMQ_BEING_DELIVERED = 31, /* too late to cancel or move it */
    QMQ_E_NOMEM = -1,
    QMQ_E_IO = -2, /* a broker's disk */
    QMQ_E_CORRUPT = -4,
    QMQ_E_CONNECTION = -13, /* lost; the outcome is unknown */
};

/* What the last call of this thread that did not return QMQ_OK met. */
struct qmq_error {
    int code;
    const char *name;    /* "NO_ROUTE" */
    const char *message; /* the fact, with numbers */
    const char *hint;    /* what to do about it; may be "" */
    bool retryable;
};

/* The texts live until this thread calls the library again. */
QMQ_API struct qmq_error qmq_last_error(void);
/* "0.1.0" */
QMQ_API const char *qmq_version(void);

/* --- Client ---------------------------------------------------------------------------------- */

struct qmq_client;

/* How much a line of the log matters. */
enum qmq_level {
    QMQ_LOG_ERROR = 1,   /* somebody must do something */
    QMQ_LOG_WARNING = 2, /* it does not work now, and is tried again */
    QMQ_LOG_INFO = 3,    /* it works, or works again */
};

/*
 * Takes a line, without a newline at its end; `text` lives until it returns. Called on threads of the library
 * and on those that call it, several at a time perhaps. It must not block, nor call the library.
 */
typedef void qmq_log_fn(void *context, enum qmq_level level, const char *text);

struct qmq_client_options {
    const char *meta;    /* NULL: "tcp://127.0.0.1:20880" */
    const char *program; /* who calls, for people who look at a server. NULL: "libqmq" */
    uint32_t timeout_ms; /* of connecting, joining, leaving, acknowledging. 0: 10,000 */
    qmq_log_fn *log;     /* NULL: nothing is told */
    void *log_context;
};

/* Connect to meta. Blocks until it has answered. `options` may be NULL. */
QMQ_API int qmq_connect(const struct qmq_client_options *options, struct qmq_client **ret_client);
/*
 * The same by one line of text, "qmq://HOST:PORT/?app=shop&timeout_ms=5000", with the options of a client
 * by name (docs/options.md). Of several hosts, "HOST:PORT,HOST", the first one that answers is used; each
 * may take the time-out. QMQ_INVALID tells of everything that is wrong in it.
 */
QMQ_API int qmq_connect_string(const char *text, struct qmq_client **ret_client);
/* NULL is fine. Its producers and consumers have been freed. */
QMQ_API void qmq_client_free(struct qmq_client *client);

/* A number that a client counts. */
struct qmq_metric {
    const char *name;    /* "stored"; of letters and _ */
    const char *meaning; /* one line */
    uint64_t value;
    bool is_gauge; /* it goes up and down; the others only grow, from 0 on */
};

typedef void qmq_metric_fn(void *context, const struct qmq_metric *metric);
/* Call `each` for all that the client has counted: sent, stored, handed_over, not_taken, failed, duplicates, maybe_duplicates,
 * requests, retried, pulls, pulled, acked, nacked, connects, reconnects, lost, in_flight. Never blocks. */
QMQ_API void qmq_metrics(struct qmq_client *client, qmq_metric_fn *each, void *context);

/* A broker that takes calls. Texts live as long as the callback. */
struct qmq_broker_info {
    const char *broker_group;
    const char *program; /* "qmqd 0.1.0" */
    const char *node_id;
    const char *roles; /* of its node: "meta,broker" */
    uint64_t cpu_us;   /* processor time that its process has taken since it began */
    /* One-way messages since then. What came is in hand, or one of the next four. */
    uint64_t one_way_came;
    uint64_t one_way_stored;
    uint64_t one_way_busy;    /* sent back, to be tried again: more came than the store took */
    uint64_t one_way_full;    /* dropped: too little space */
    uint64_t one_way_refused; /* dropped for any other reason */
    uint64_t
        one_way_invalid; /* calls of which nothing could be counted: damaged, or beyond a limit */
};

typedef void qmq_broker_fn(void *context, const struct qmq_broker_info *broker);
/* Ask every broker who it is. Blocks. QMQ_OK, QMQ_NO_ROUTE (there is none), or the failure of one,
 * after the others have been asked. */
QMQ_API int qmq_brokers(struct qmq_client *client, qmq_broker_fn *each, void *context);

/* --- Messages -------------------------------------------------------------------------------- */

struct qmq_bytes {
    const void *data;
    size_t size;
};

struct qmq_property {
    struct qmq_bytes key;
    struct qmq_bytes value;
};

/* The global name of a message. */
struct qmq_id {
    uint64_t time_ms;
    uint64_t producer;
    uint32_t counter;
};

enum {
    QMQ_ID_TEXT_SIZE = 48
};

/* "20260111T041502.113Z-9f3c01ab22cd-1" into `out` of QMQ_ID_TEXT_SIZE bytes; returns `out`. */
QMQ_API const char *qmq_id_text(const struct qmq_id *id, char *out);

/* --- Producer -------------------------------------------------------------------------------- */

struct qmq_producer;

enum qmq_mode {
    QMQ_MODE_DEFAULT = 0, /* the subject's own; sync unless set */
    QMQ_MODE_ASYNC = 1,   /* acknowledged when it survives the end of the broker's process */
    QMQ_MODE_SYNC = 2,    /* acknowledged when it survives power loss */
};

/*
 * What becomes of a message whose answer was lost, while its broker group stays away and another
 * one is there. While there is one group alone, it is tried again there, and is stored once.
 */
enum qmq_duplicates {
    QMQ_DUPLICATES_MAYBE = 0, /* it goes to the other group, and is called `maybe_duplicate` */
    QMQ_DUPLICATES_NEVER = 1, /* it waits for its group, and ends as QMQ_OUTCOME_UNKNOWN */
};

struct qmq_producer_options {
    enum qmq_mode mode;
    enum qmq_duplicates duplicates;
    uint32_t unknown_ms; /* how long its group may stay away. 0: 2,000 */
    bool compress;
    uint32_t batch_messages_max; /* 0: 512 */
    uint32_t batch_bytes_max;    /* 0: 64 KiB */
    /* Of messages without an outcome: what is in a batch, and 10 KiB for each batch. 0: 32 MiB */
    uint64_t memory_bytes_max;
    uint32_t block_ms;    /* how long a send waits for memory. 0: 10,000 */
    uint32_t deadline_ms; /* how long a message is tried, and at most an eighth longer. 0: 30,000 */
    /* Callbacks run inside qmq_producer_dispatch() and nowhere else. A send never waits then: QMQ_BUSY comes
     * at once, and the file descriptor is readable when it may go. */
    bool foreign_loop;
    /*
     * For what may be lost, as lines of a log. The outcome QMQ_OK says that a broker has got the message, not
     * that it is stored. Nothing is sent twice that may be stored: what was on its way when a connection was
     * lost ends as QMQ_OUTCOME_UNKNOWN. What no broker takes waits in memory until its deadline. A send that finds the
     * memory full waits block_ms (0: not at all), once: later ones don't until something has gone through;
     * then it is QMQ_BUSY, and dropped. qmq_producer_counts() has all that was. `mode` and `duplicates`
     * mean nothing, and nothing can be delayed.
     */
    bool one_way;
    uint32_t queue_messages_max; /* messages without an outcome. 0: as many as the memory takes */
};

struct qmq_outgoing {
    struct qmq_bytes body;
    const struct qmq_bytes *tags; /* up to 10; none begins with '%' */
    size_t tag_count;
    const struct qmq_property *properties; /* up to 64; keys don't begin with '%' */
    size_t property_count;
    const struct qmq_bytes *keys; /* up to 8 */
    size_t key_count;
    /* Size 0: none. Else it is handed out after those that were sent before with the same one; it can't be
     * delayed then. */
    struct qmq_bytes order_key;
    struct qmq_bytes only; /* the one group that is given it; size 0: every group */
    /* ms since 1970: it goes to a delay group, which publishes it to its subject then; with
     * (due_ms, sequence) of its outcome it can be cancelled or moved. 0: at once. */
    uint64_t due_ms;
};

/* The outcome of one message. */
struct qmq_sent {
    int code; /* QMQ_OK: stored in the mode asked for; one way: a broker has got it. Else
               * qmq_last_error() tells more */
    const char *subject;
    const char *broker_group; /* "" when it was never sent */
    uint64_t
        sequence; /* set when stored; UINT64_MAX: retention has dropped it already, or one way */
    struct qmq_id id;
    bool duplicate; /* an earlier try had stored it, its answer was lost: it is stored once */
    bool
        maybe_duplicate; /* an earlier try may be stored as well, on this broker group or another */
};

/*
 * Called once per message. Calls for one order key come in the order of sending; so do those of a subject
 * that one broker group serves.
 */
typedef void qmq_sent_fn(void *context, const struct qmq_sent *sent);

/*
 * `options` may be NULL. With `one_way` it blocks for one call to meta, and answers QMQ_UNAVAILABLE when there
 * are brokers and none of them takes one-way messages.
 */
QMQ_API int qmq_producer_new(
    struct qmq_client *client,
    const struct qmq_producer_options *options,
    struct qmq_producer **ret_producer);
/* Messages without an outcome end with QMQ_STOPPING: qmq_flush() first. NULL is fine. */
QMQ_API void qmq_producer_free(struct qmq_producer *producer);

/*
 * Send a message. QMQ_OK: taken, `sent` will be called (it may be NULL). Any other code: not taken.
 *
 * Messages are stored once, as long as their broker group is there, and in the order of sending: those of
 * one order key, whatever happens, and those of one subject while one broker group serves it
 * (docs/publishing.md). A message with an order key waits for the broker group of its key, also when there
 * are others; the first such one of a subject blocks until the route is known. Failures that may pass are tried again until the deadline; then
 * QMQ_OUTCOME_UNKNOWN means that it may be stored, any other code that it is not. Inside a callback
 * QMQ_BUSY comes at once instead of waiting.
 */
QMQ_API int qmq_send(
    struct qmq_producer *producer,
    const char *subject,
    const struct qmq_outgoing *message,
    qmq_sent_fn *sent,
    void *context);
/*
 * Send a message and wait for its outcome, which is returned and written to `*ret_sent` (may be
 * NULL; its texts live as long as the producer).
 */
QMQ_API int qmq_send_wait(
    struct qmq_producer *producer,
    const char *subject,
    const struct qmq_outgoing *message,
    struct qmq_sent *ret_sent);
/* Wait until every message has its outcome, good or bad. QMQ_OK or QMQ_TIMED_OUT. */
QMQ_API int qmq_flush(struct qmq_producer *producer, uint32_t timeout_ms);

/* Messages since the producer's start. What was sent waits, or has one of the four outcomes behind that. */
struct qmq_producer_counts {
    uint64_t sent; /* taken by qmq_send() */
    uint64_t waiting;
    uint64_t stored;  /* one way: a broker has got them, and may still have dropped them */
    uint64_t unknown; /* may be stored: an answer was lost */
    uint64_t refused; /* a broker's answer; not stored */
    uint64_t
        unsent; /* no broker took them before their deadline, or the producer's end; not stored */
    uint64_t
        not_taken; /* by qmq_send(), since the memory was full or there was no route; not in `sent` */
    uint64_t held_bytes; /* of memory, until the callbacks have run */
};

/* Never blocks. */
QMQ_API void qmq_producer_counts(
    struct qmq_producer *producer, struct qmq_producer_counts *ret_counts);

/*
 * For event loops, with `foreign_loop` set: a file descriptor that poll() finds readable while outcomes wait;
 * -1 without. It is the producer's: don't read, write or close it.
 */
QMQ_API int qmq_producer_fd(const struct qmq_producer *producer);
/*
 * Run the callbacks of all messages that have an outcome, on this thread. Does not wait for any. Not inside of
 * a callback. QMQ_OK, also when there was none; QMQ_INVALID: the producer runs them by itself.
 */
QMQ_API int qmq_producer_dispatch(struct qmq_producer *producer);

/* --- Delayed messages ------------------------------------------------------------------------ */

/*
 * A message that a delay group keeps: by its handle, which is the delay group and the sequence of its
 * outcome, and its due time; or by its due time and id.
 */
struct qmq_delay_name {
    /* Each delay group counts for itself, so a handle without it (NULL) is QMQ_INVALID. By id it may be
     * NULL: all that are alive are asked in turn. */
    const char *delay_group;
    uint64_t due_ms;
    uint64_t sequence;
    bool by_id; /* `id` counts, `sequence` does not */
    struct qmq_id id;
};

/* Such a message. The texts live until the callback returns, or the next call of this thread. */
struct qmq_delayed {
    const char *delay_group;
    uint64_t due_ms;
    uint64_t sequence;
    struct qmq_id id;
    const char *subject;
    uint64_t stored_ms;
    uint32_t size; /* properties and body */
    bool being_delivered;
    /* Why its broker group refused it for good; QMQ_OK: none did. It waits then, with its handle, until it
     * is cancelled, or rescheduled, which tries it again. */
    int refused;
    const char *refused_name; /* of that code; "" */
    const char *broker_group; /* "" unless it is being delivered, or was refused */
};

/*
 * Never deliver it. Blocks. QMQ_OK: that is durable. QMQ_NOT_FOUND: it was delivered or cancelled
 * before, or was never there. QMQ_BEING_DELIVERED. QMQ_BUSY: not flushed yet, ask again.
 * QMQ_UNAVAILABLE: the delay group is away.
 */
QMQ_API int qmq_delay_cancel(struct qmq_client *client, const struct qmq_delay_name *name);
/*
 * Deliver it at another time. Blocks. Its id stays; its new handle is written to `*ret_name` (may be
 * NULL; its text lives as long as the client). As qmq_delay_cancel(), and QMQ_DUE_TOO_FAR.
 */
QMQ_API int qmq_delay_reschedule(
    struct qmq_client *client,
    const struct qmq_delay_name *name,
    uint64_t due_ms,
    struct qmq_delay_name *ret_name);
typedef bool qmq_delayed_fn(void *context, const struct qmq_delayed *message);
/* Tell of one message: `each` is called once. Blocks. QMQ_OK, QMQ_NOT_FOUND, QMQ_UNAVAILABLE. */
QMQ_API int qmq_delay_show(
    struct qmq_client *client,
    const struct qmq_delay_name *name,
    qmq_delayed_fn *each,
    void *context);
/*
 * Messages that wait and are due in [from_ms, to_ms), of one delay group after the other, each in the
 * order of due times; to_ms 0: no end. Blocks. Ends early when `each` says false.
 */
QMQ_API int qmq_delay_list(
    struct qmq_client *client,
    uint64_t from_ms,
    uint64_t to_ms,
    qmq_delayed_fn *each,
    void *context);
/*
 * How many messages are due in each of `count` (1 … 1000) stretches of `width_ms` from `*from_ms` on
 * (0: now; the time that was meant comes back), before, and after. Of all delay groups. Blocks.
 */
QMQ_API int qmq_delay_histogram(
    struct qmq_client *client,
    uint64_t *from_ms,
    uint64_t width_ms,
    uint64_t *counts,
    uint32_t count,
    uint64_t *ret_before,
    uint64_t *ret_after);

/* How a delay group is doing. */
struct qmq_delay_lag {
    const char *delay_group;
    uint64_t pending;       /* messages that wait */
    uint64_t overdue;       /* of those, due and not handed over: the backlog */
    uint64_t oldest_due_ms; /* 0: none */
    uint64_t open;          /* messages handed over and not known to be stored */
    uint64_t accepted;      /* since its start, as the rest */
    uint64_t delivered;
    uint64_t cancelled;
    uint64_t damaged;
    uint64_t late_max_ms;
    uint64_t refused; /* messages that a broker group refused for good; not overdue */
    uint64_t
        maybe_twice; /* messages sent again to a broker group that had forgotten the delay group */
    int64_t clock_off_ms; /* its wall clock - the clock that due times are held against */
    uint32_t failing;     /* broker groups that it can't deliver to now */
};

typedef void qmq_delay_lag_fn(void *context, const struct qmq_delay_lag *lag);
/* Each delay group that is alive. Blocks. */
QMQ_API int qmq_delay_lag(struct qmq_client *client, qmq_delay_lag_fn *each, void *context);

/* --- Consumer -------------------------------------------------------------------------------- */

struct qmq_consumer;
struct qmq_batch;

enum qmq_start {
    QMQ_START_DEFAULT = 0, /* earliest; latest with `broadcast` */
    QMQ_START_EARLIEST = 1,
    QMQ_START_LATEST = 2,
    QMQ_START_TIME =
        3, /* what was stored at or after a time; up to a second of earlier ones before */
    QMQ_START_SEQUENCE = 4, /* this one; if it is no longer stored, the next that is */
};

/* Why a group is given nothing new although messages wait. */
enum qmq_held {
    QMQ_HELD_NOT,
    QMQ_HELD_PAUSED,
    QMQ_HELD_RETRY,    /* too many failed and wait to be tried again, */
    QMQ_HELD_RELEASED, /* … were released by consumers that are gone and wait for a pull, */
    QMQ_HELD_KEY,      /* … wait for an earlier one of their order key, */
    QMQ_HELD_FILTER,   /* … wait for a consumer that takes their tags, */
    QMQ_HELD_DYING,    /* … are to be written as dead letters */
    QMQ_HELD_MEMORY,   /* the groups of this broker group have as much memory as they may */
};

/* "retry"; "" for QMQ_HELD_NOT. */
QMQ_API const char *qmq_held_name(enum qmq_held held);

struct qmq_consumer_options {
    const char *subject;  /* or dead letters: "%DEAD_RETRY%SUBJECT%GROUP" */
    const char *group;    /* NULL with `broadcast` */
    const char *consumer; /* stable id of this process within the group. NULL: a random one */
    /* Every consumer gets every message: the group is the consumer's own and has its id for a name.
     * It is forgotten 2 days after the consumer was last seen. */
    bool broadcast;
    const char *const *tags;
    size_t tag_count;
    bool tags_all;        /* a message needs all of the tags instead of any */
    enum qmq_start start; /* of a group that does not exist yet */
    uint64_t start_at;    /* ms since 1970, or a sequence */
    /* Only of this broker group. A sequence to start at needs it when the subject has several. NULL:
     * of all. */
    const char *broker_group;
    /* Messages are handed out once and never again, whatever happens to them: they need no ack, and
     * what is on its way when a connection breaks is lost. Implies `no_prefetch`. */
    bool at_most_once;
    /* By default the next messages are fetched while the last ones are worked on. */
    bool no_prefetch;
    uint32_t pull_bytes_max; /* of one pull. 0: 256 KiB */
    /* Wait for so many, as long as a pull waits; fewer come when a filter has looked at 20,000
     * messages. 0: 1. */
    uint32_t pull_messages_min;
    /* What is not acknowledged so long after it was fetched goes to other consumers, as its next
     * attempt. 0: only when this consumer leaves or dies. */
    uint32_t invisible_ms;
};

/* A received message. */
struct qmq_message {
    struct qmq_bytes body;
    uint64_t sequence; /* within the subject on one broker group */
    uint64_t pull_sequence;
    uint32_t source;  /* which broker group; pull sequences of each stand for themselves */
    uint32_t attempt; /* from 1; 0: read without a group */
    struct qmq_id id; /* id.time_ms is the time of creation */
    uint64_t stored_ms;

    /* Private. */
    const void *batch_;
    struct qmq_bytes properties_;
    uint64_t tags_;
    uint32_t order_key_hash_;
};

struct qmq_consumer_info {
    uint64_t cursor;       /* the group's next sequence (the sum over broker groups) */
    uint64_t waiting;      /* messages from there to the end of the subject */
    uint64_t pending;      /* below the cursor, to be given out again; as of joining */
    uint64_t unacked;      /* handed to this consumer and not acknowledged */
    uint64_t fetched;      /* of those, fetched and not pulled by the program yet */
    uint32_t sources;      /* broker groups */
    uint32_t sources_away; /* of those, not reachable or not joined now */
    enum qmq_held held;    /* of a broker group that gives nothing new although messages wait */
    bool group_created;
    const char *consumer; /* its id */
};

/* Join the group on every broker group that has the subject. Blocks until one has answered. */
QMQ_API int qmq_consumer_new(
    struct qmq_client *client,
    const struct qmq_consumer_options *options,
    struct qmq_consumer **ret_consumer);
/* Leave: what was not acknowledged goes to the others at once. Blocks. NULL is fine. */
QMQ_API void qmq_consumer_free(struct qmq_consumer *consumer);
/* As the last answers told. */
QMQ_API void qmq_consumer_info(struct qmq_consumer *consumer, struct qmq_consumer_info *ret_info);

/*
 * Take messages. `messages_max` 0: 512. What was fetched ahead has up to the last call's maximum.
 *
 * QMQ_OK    `*ret_batch` has one message or more; the caller frees it.
 * QMQ_AGAIN every broker group said that there is nothing, after `wait_ms`.
 * Else a broker is not reachable or refuses. Retryable ones pass; the consumer joins again by
 * itself.
 */
QMQ_API int qmq_pull(
    struct qmq_consumer *consumer,
    uint32_t messages_max,
    uint32_t wait_ms,
    struct qmq_batch **ret_batch);
/*
 * For event loops: a file descriptor that poll() finds readable while qmq_pull_now() may have something to
 * tell. From then on messages are fetched as long as qmq_pull_now() takes them. It is the consumer's: don't
 * read, write or close it.
 */
QMQ_API int qmq_consumer_fd(struct qmq_consumer *consumer, int *ret_fd);
/*
 * Take messages that were fetched already. QMQ_OK, QMQ_AGAIN (none was: wait for the file descriptor), and the
 * failures of qmq_pull() that don't pass. Blocks only for a call to meta, when broker groups have come.
 */
QMQ_API int qmq_pull_now(
    struct qmq_consumer *consumer, uint32_t messages_max, struct qmq_batch **ret_batch);
/* End a qmq_pull() that waits, with QMQ_STOPPING; also those that come. At most once, they first bring
 * what is on its way, for which they wait a second or two. From any thread. */
QMQ_API void qmq_consumer_stop(struct qmq_consumer *consumer);

/* Messages of the batch: one or more. */
QMQ_API size_t qmq_batch_count(const struct qmq_batch *batch);
/* Valid until the batch is freed. */
QMQ_API const struct qmq_message *qmq_batch_message(const struct qmq_batch *batch, size_t index);
/* Also after its consumer was freed. */
QMQ_API void qmq_batch_free(struct qmq_batch *batch);

/* Property `index` of the message; false when it has fewer. Its keys are among them, each as "%key",
 * and its order key, as "%order-key". */
QMQ_API bool qmq_message_property_at(
    const struct qmq_message *message, size_t index, struct qmq_property *ret_property);
/* True and `*ret_value` set when the message has the property. */
QMQ_API bool qmq_message_property(
    const struct qmq_message *message, const char *key, struct qmq_bytes *ret_value);
/* Tag `index` of the message; false when it has fewer. */
QMQ_API bool qmq_message_tag(
    const struct qmq_message *message, size_t index, struct qmq_bytes *ret_tag);

/*
 * Acknowledge messages [first, first + count) of a batch. Blocks until the broker has it on record.
 * QMQ_EXPIRED: some came too late and were given to another consumer; the rest is done.
 */
QMQ_API int qmq_ack(
    struct qmq_consumer *consumer, const struct qmq_batch *batch, size_t first, size_t count);
/* The same by numbers: pull sequences [first, last] of one source. */
QMQ_API int qmq_ack_range(
    struct qmq_consumer *consumer, uint32_t source, uint64_t first, uint64_t last);

struct qmq_nack_options {
    bool with_delay;   /* false: by the group's back-off, which grows with each attempt */
    uint64_t delay_ms; /* may be 0: at once */
    const char *error; /* why, for people; at most 255 bytes are kept. NULL: nothing */
};

/*
 * Messages [first, first + count) of a batch have failed: they come again, to any consumer of the
 * group, or become dead letters when they have no attempt left. `options` may be NULL. Blocks until
 * the broker has it on record.
 *
 * QMQ_EXPIRED: as of qmq_ack(). QMQ_DELAY_TOO_LONG: longer than the messages are kept; nothing was
 * changed.
 */
QMQ_API int qmq_nack(
    struct qmq_consumer *consumer,
    const struct qmq_batch *batch,
    size_t first,
    size_t count,
    const struct qmq_nack_options *options);

/* --- Push consumer --------------------------------------------------------------------------- */

/*
 * A consumer that brings its messages to a handler, on threads of its own. It pulls from all broker
 * groups, holds no more than its limits say, and acknowledges beside the handlers: none of them ever
 * waits for a broker. docs/client.md tells the whole.
 */
struct qmq_push;
/* A message in the hands of a handler. */
struct qmq_delivery;

/*
 * Handles a message. 0: it is acknowledged. Anything else: it has failed and comes again by the
 * group's back-off, or as qmq_delivery_fail() says. The message lives until the handler returns, or
 * longer by qmq_delivery_keep().
 *
 * Handlers run at the same time on as many threads as were asked for, but messages of one order key
 * one after another, in order. In a strict group those behind a failed one are not handled; they
 * come again after it. A handler may block; it may not free or stop its consumer.
 */
typedef int qmq_handler_fn(
    void *context, const struct qmq_message *message, struct qmq_delivery *delivery);

enum qmq_filtered {
    QMQ_FILTER_HANDLE = 0,
    QMQ_FILTER_SKIP = 1, /* done with, without a handler: acknowledged */
    QMQ_FILTER_FAIL = 2, /* as if the handler had failed */
};

/* Around the handler, on its thread. */
struct qmq_filter {
    void *context;
    enum qmq_filtered (*before)(void *context, const struct qmq_message *message);
    /* For each `before` that said HANDLE, in the opposite order. `code` is the handler's; of what was
     * not handled QMQ_OK if it is acknowledged. NULL: none. */
    void (*after)(void *context, const struct qmq_message *message, int code);
};

enum qmq_once_state {
    QMQ_ONCE_NEW = 0,  /* handle it; `end` will be called */
    QMQ_ONCE_DONE = 1, /* was handled before: it is acknowledged, without a handler */
    /* Somebody is at it now: it has failed, and comes again by the group's back-off. That uses an
     * attempt, so a group needs as many as fit into a lease: 16 last for hours. */
    QMQ_ONCE_BUSY = 2,
    QMQ_ONCE_FAILED = 3, /* can't tell: as BUSY */
};

/*
 * Remembers which messages were handled, so that one that comes twice is handled once. Called on the
 * threads of handlers, at the same time. See qmq_once_memory_new(), and qmq/sqlite.h.
 */
struct qmq_once {
    void *context;
    enum qmq_once_state (*begin)(void *context, struct qmq_bytes key);
    /* `is_done`: it was handled well. False: forget that it began. QMQ_OK, or it could not be noted,
     * which is told as trouble. */
    int (*end)(void *context, struct qmq_bytes key, bool is_done);
};

/* By what a message is known again. Lives as long as the message. Of size 0: by nothing; it fails, since
 * all such messages would look like one. */
typedef struct qmq_bytes qmq_once_key_fn(void *context, const struct qmq_message *message);

enum qmq_trouble_kind {
    QMQ_TROUBLE_PULL = 0, /* messages can't be fetched */
    QMQ_TROUBLE_ACK = 1,  /* `messages` could not be acknowledged (QMQ_EXPIRED: others have them) */
    QMQ_TROUBLE_NACK = 2, /* the same of a negative ack */
    /* qmq_once can't tell, and the message comes again; or it could not note that it was handled, and
     * it is acknowledged all the same. */
    QMQ_TROUBLE_ONCE = 3,
};

/* What a push consumer can't return to anybody. */
struct qmq_trouble {
    enum qmq_trouble_kind kind;
    /* It is tried again until it works; told once, not for each try. Else it is given up. */
    bool is_tried_again;
    uint64_t messages;
    struct qmq_error error;
};

/* Called by one thread at a time. Must not block: acks and pulls wait for it. */
typedef void qmq_trouble_fn(void *context, const struct qmq_trouble *trouble);

struct qmq_push_options {
    /* What it consumes, as of qmq_consumer_new(). `no_prefetch` is implied: the limits below rule. */
    const struct qmq_consumer_options *consumer;
    qmq_handler_fn *handler;
    void *context;    /* of the handler */
    uint32_t threads; /* 0: 1 */
    /* Messages are fetched while fewer than this are held, that is, fetched and not yet on record as
     * acknowledged. 0: 2,000. Of one broker group at most 10,000 can be. */
    uint32_t prefetch_messages;
    /* The same in bytes of memory; a pull of each broker group may come on top. One pull is always
     * held. 0: 8 MiB */
    uint64_t prefetch_bytes;
    const struct qmq_filter *filters; /* copied, run in order */
    size_t filter_count;              /* up to 8 */
    const struct qmq_once *once; /* copied; what it stands for outlives the consumer. NULL: none */
    qmq_once_key_fn *once_key;   /* NULL: subject, group and id: each group does its own work */
    void *once_context;          /* of once_key */
    qmq_trouble_fn *trouble;     /* NULL: nobody is told */
    void *trouble_context;
    bool is_paused; /* begins as after qmq_push_pause() */
};

/* Counts are messages since the start. */
struct qmq_push_info {
    uint64_t handled;     /* the handler returned 0, or they were acknowledged after keeping */
    uint64_t failed;      /* by handler, filter or negative ack, or `once` was busy */
    uint64_t skipped;     /* by a filter */
    uint64_t repeated;    /* `once` knew them */
    uint64_t overdue;     /* not handled: their invisible time was over first */
    uint64_t handed_back; /* not handled: behind a failed one of their key, or it was stopped */
    uint64_t expired;     /* acks that came too late */
    uint64_t held;        /* now, as all that follows */
    uint64_t held_bytes;
    uint64_t running; /* in handlers */
    uint64_t kept;    /* kept by qmq_delivery_keep() */
    bool is_paused;
    int code;                          /* QMQ_OK: it pulls. Else why it stopped to, for good */
    struct qmq_consumer_info consumer; /* zeros after qmq_push_stop() */
};

/* Join the group and begin. Blocks as qmq_consumer_new(). */
QMQ_API int qmq_push_new(
    struct qmq_client *client, const struct qmq_push_options *options, struct qmq_push **ret_push);
/* No handler begins, and nothing more is asked for, until resume. What is held stays, and so does what
 * the pull under way brings. Never blocks. */
QMQ_API void qmq_push_pause(struct qmq_push *push);
QMQ_API void qmq_push_resume(struct qmq_push *push);
/*
 * End in order: no handler begins any more; wait up to `wait_ms` for those that run, for messages
 * that were kept, and until all acks are on record; then leave the group, which hands back what is
 * held. At most once, what is held is handled first. With 0 it is a forced end.
 *
 * QMQ_OK: everything that was handled is on record. QMQ_TIMED_OUT: it was left all the same; what
 * was still in hands comes again, elsewhere too, and its later verdicts do nothing. Else: why a broker
 * has refused verdicts, which were given up. Verdicts that are there get a second, also with `wait_ms` 0;
 * blocks some seconds longer when a broker does not answer. One thread at a time, and no handler.
 */
QMQ_API int qmq_push_stop(struct qmq_push *push, uint32_t wait_ms);
/* As qmq_push_stop(push, 0) unless it was stopped; then waits until all handlers have returned.
 * Messages that are kept live on until their verdict, which calls none of the program's functions any
 * more. NULL is fine. */
QMQ_API void qmq_push_free(struct qmq_push *push);
QMQ_API void qmq_push_info(struct qmq_push *push, struct qmq_push_info *ret_info);

/* In the handler: with which delay and text its message fails, should it. Copied. QMQ_E_NOMEM. */
QMQ_API int qmq_delivery_fail(
    struct qmq_delivery *delivery, const struct qmq_nack_options *options);
/*
 * In the handler: decide later. What the handler returns does not count; one of the two functions
 * below is called once, by any thread, also before the handler has returned. Message and delivery
 * live until then.
 */
QMQ_API void qmq_delivery_keep(struct qmq_delivery *delivery);
QMQ_API const struct qmq_message *qmq_delivery_message(const struct qmq_delivery *delivery);
/* By what `once` knows its message: what once_key gave, or its text "SUBJECT GROUP ID". Lives as long as
 * the message. In the handler, or between keeping it and its verdict. */
QMQ_API struct qmq_bytes qmq_delivery_key(struct qmq_delivery *delivery);
/* The verdict on what was kept; the delivery is gone then. Never blocks. QMQ_OK: it will be on record
 * soon. QMQ_STOPPING: the consumer has ended, and the message was handed back. */
QMQ_API int qmq_delivery_ack(struct qmq_delivery *delivery);
QMQ_API int qmq_delivery_nack(
    struct qmq_delivery *delivery, const struct qmq_nack_options *options);

struct qmq_once_memory_options {
    uint32_t count_max; /* messages remembered; the first handled go first. 0: 100,000 */
    uint32_t keep_ms;   /* and no longer than this. 0: 10 minutes */
};

/* Remember in memory: of one process, until it ends. About 120 bytes for each message, and its key.
 * `options` may be NULL. */
QMQ_API int qmq_once_memory_new(
    const struct qmq_once_memory_options *options, struct qmq_once **ret_once);
/* After the consumers that use it. NULL is fine. */
QMQ_API void qmq_once_memory_free(struct qmq_once *once);

/* --- Reading without a group ----------------------------------------------------------------- */

struct qmq_reader;

struct qmq_reader_options {
    const char *subject; /* or dead letters: "%DEAD_RETRY%SUBJECT%GROUP" */
    enum qmq_start start;
    uint64_t start_at;
    const char *broker_group; /* as of a consumer */
    const char *const *tags;
    size_t tag_count;
    bool tags_all;
    struct qmq_bytes
        key; /* only messages with this key, found by the broker's index. Size 0: all */
};

/*
 * Look at a subject's messages. Nothing remembers that they were read: no group is made or moved.
 * QMQ_NOT_FOUND: there is no such broker group. One reader is used by one thread at a time.
 */
QMQ_API int qmq_reader_new(
    struct qmq_client *client,
    const struct qmq_reader_options *options,
    struct qmq_reader **ret_reader);
/*
 * The next messages, at most `messages_max` (0: 512). Blocks for one call to a broker.
 *
 * QMQ_OK, QMQ_AGAIN (all that there is has been read; later there may be more), QMQ_NOT_FOUND (no
 * broker group has the subject), failures.
 */
QMQ_API int qmq_read(
    struct qmq_reader *reader, uint32_t messages_max, struct qmq_batch **ret_batch);
/* NULL is fine. Batches live on. */
QMQ_API void qmq_reader_free(struct qmq_reader *reader);
/* The name of the broker group that `source` of a message stands for. */
QMQ_API const char *qmq_source_name(struct qmq_client *client, uint32_t source);

/* --- Options by name ------------------------------------------------------------------------- */

/*
 * Set the option `name` of a zeroed or filled struct to what `value` says; docs/options.md has all names.
 * A text is not copied: `value` lives as long as the struct is used. QMQ_INVALID: there is no such option,
 * or no such value; the error names it, and its hint what may have been meant.
 */
QMQ_API int qmq_client_option_set(
    struct qmq_client_options *options, const char *name, const char *value);
QMQ_API int qmq_producer_option_set(
    struct qmq_producer_options *options, const char *name, const char *value);
QMQ_API int qmq_consumer_option_set(
    struct qmq_consumer_options *options, const char *name, const char *value);
/* What it consumes is set by qmq_consumer_option_set(), handler and filters not by name. */
QMQ_API int qmq_push_option_set(
    struct qmq_push_options *options, const char *name, const char *value);
QMQ_API int qmq_reader_option_set(
    struct qmq_reader_options *options, const char *name, const char *value);

/* --- Groups ---------------------------------------------------------------------------------- */

/*
 * Each broker group keeps its own part of a subject, and so of each group. The functions below ask
 * all broker groups and call back for each that has something to say, on the calling thread, before
 * they return. They return QMQ_OK, QMQ_NOT_FOUND (no broker group knows it), or the failure of a
 * broker group, after the others have been asked.
 */

enum {
    QMQ_BACKOFF_MAX = 16
};

/* What a group does with its messages. Zeros stand for the defaults named here. */
struct qmq_group_settings {
    bool strict;           /* later messages of an order key wait for one that failed */
    bool ack_sync;         /* an ack is answered when it survives power loss */
    uint32_t attempts_max; /* after so many it is a dead letter. 0: 16 */
    uint32_t pending_max;  /* messages out of turn above which nothing new is given. 0: 20,000 */
    uint32_t
        filter_keep_ms;     /* a filter is kept so long after its last member left. 0: 10 minutes */
    uint32_t backoff_count; /* 0: 5 s, 10 s, 30 s, 1 m, 2 m, 5 m, 10 m */
    uint32_t
        backoff_ms[QMQ_BACKOFF_MAX]; /* after the 1st, 2nd, … failure; the last for all later */
};

struct qmq_group_info {
    const char *subject;
    const char *group;
    const char *broker_group;
    bool broadcast;
    bool paused;
    uint32_t members; /* consumers with a session */
    uint64_t cursor;  /* the next sequence that is given out for the first time */
    uint64_t waiting; /* messages from there on */
    uint64_t pending; /* below it, and neither done nor in a consumer's hands */
    uint64_t in_flight;
};

typedef void qmq_group_fn(void *context, const struct qmq_group_info *group);

/* The groups of a subject; of all when it is NULL. */
QMQ_API int qmq_groups(
    struct qmq_client *client, const char *subject, qmq_group_fn *each, void *context);

struct qmq_lag_consumer {
    const char *consumer;
    bool alive;   /* it has a session */
    bool waiting; /* a pull of it waits for messages */
    uint64_t in_flight;
    uint64_t in_flight_bytes;
    uint64_t last_seen_ms; /* ago */
    uint64_t handed_out;   /* messages since the broker started: two looks give a rate */
    uint64_t acked;
};

/* Counts are messages. */
struct qmq_lag {
    const char *subject;
    const char *group;
    const char *broker_group;
    struct qmq_group_settings settings; /* defaults filled in */
    bool broadcast;
    bool paused;
    uint64_t epoch; /* raised by each seek */
    uint64_t cursor;
    uint64_t end;     /* behind the subject's last message */
    uint64_t ready;   /* would be given to a pull now, */
    uint64_t waiting; /* … of those, never given before */
    uint64_t in_flight;
    uint64_t pending_retry; /* below the cursor, by why they wait: as of enum qmq_held */
    uint64_t pending_released;
    uint64_t pending_key;
    uint64_t pending_filter;
    uint64_t pending_dying;
    uint64_t dead;    /* became dead letters since the group was made, */
    uint64_t expired; /* … were dropped before it was done with them, without a letter, */
    uint64_t skipped; /* … were taken by no filter, or skipped by hand */
    bool has_oldest;  /* something is not done: */
    uint64_t oldest;  /* … the oldest such, its sequence and age */
    uint64_t oldest_ms;
    enum qmq_held held;
    uint32_t
        held_key; /* of QMQ_HELD_KEY: hash of the order key that most wait for, and who holds it */
    uint64_t held_sequence;
    uint32_t members;
    uint32_t filters;
    uint32_t consumers_known; /* there may be more than are listed */
    const struct qmq_lag_consumer *consumers;
    size_t consumer_count;
};

typedef void qmq_lag_fn(void *context, const struct qmq_lag *lag);

/* How far a group is, and what holds it. */
QMQ_API int qmq_group_lag(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    qmq_lag_fn *each,
    void *context);

enum qmq_control_kind {
    QMQ_CONTROL_SETTINGS = 0,
    QMQ_CONTROL_PAUSE = 1, /* nothing new is given out; acks go on */
    QMQ_CONTROL_RESUME = 2,
    /* Go on at `start`, `at`: all attempts begin again, and acks of what was handed out before come
     * too late. */
    QMQ_CONTROL_SEEK = 3,
    QMQ_CONTROL_SKIP = 4,   /* sequences [first, last] are done, whoever has them */
    QMQ_CONTROL_RESEND = 5, /* sequences [first, last], done before, come again, as attempt 1 */
    QMQ_CONTROL_DELETE = 6,
};

struct qmq_control {
    enum qmq_control_kind kind;
    const char *broker_group; /* NULL: all that have the group */
    bool preview;             /* SEEK, SKIP, RESEND: tell what would happen, and change nothing */
    struct qmq_group_settings settings;
    enum qmq_start start;
    uint64_t at;
    uint64_t first;
    uint64_t last;
};

struct qmq_controlled {
    const char *broker_group;
    uint64_t epoch;
    uint64_t cursor; /* after it */
    /* SEEK: messages in consumers' hands, which come again or are left behind; SKIP, RESEND: those
     * that were. */
    uint64_t affected;
};

typedef void qmq_controlled_fn(void *context, const struct qmq_controlled *controlled);

/* Change a group as a whole. Blocks until the change survives power loss. `each` may be NULL. */
QMQ_API int qmq_group_control(
    struct qmq_client *client,
    const char *subject,
    const char *group,
    const struct qmq_control *control,
    qmq_controlled_fn *each,
    void *context);

#ifdef __cplusplus
}
#endif

#endif /* QMQ_QMQ_H */
