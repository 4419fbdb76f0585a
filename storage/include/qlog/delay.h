/*
 * qlog/delay.h: a delay store: keeps messages until they are due, then hands them to a sender.
 *
 * A message is known by its handle: when it is due, and its delay sequence, which is given when it
 * is accepted and never changes. It is handed over in a request: before the sender sees one, a
 * dispatch record that names its number, its broker group and its exact messages is durable; until
 * the sender says that the group has stored it, the same bytes are handed over again, also after a
 * crash. Whoever stores it knows (producer id, request sequence), and stores it once.
 *
 * Thread:   qlog_delay_submit(), _sent(), _wake() and _stop(): any. All else, and every callback: the
 *           thread that opened the store.
 * Blocking: qlog_delay_open(), _wait(), _run() and _close(). The rest never.
 * Memory:   a submitted request, and all it points to, belongs to the store until `done` has been
 *           entered. Up to 1.7 KiB for each producer that it knows. About 50 bytes for each batch of the segment that is written; of those before, a
 *           bit for each message, 8 bytes for 92 batches, and 5 KiB for each segment.
 * Failure:  after a failed write or flush every request ends with Q_E_BROKEN, and the store must be
 *           closed. Recovery at the next open reads what the disk has.
 * Units:    times are ms since 1970-01-01 UTC; due times are held against the effective clock
 *           (docs/delay.md), which never runs ahead of the wall clock by a step.
 */
#ifndef QLOG_DELAY_H
#define QLOG_DELAY_H

#include <qbase/bytes.h>
#include <qlog/options.h>
#include <qlog/store.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog_delay;
struct qlog_delay_request;

/* Called exactly once, never from inside submit. For a failure, q_fault_last() tells more. */
typedef void qlog_delay_done_fn(struct qlog_delay_request *request, enum q_err err);

enum qlog_delay_kind {
    QLOG_DELAY_PUBLISH,
    QLOG_DELAY_CANCEL,
    QLOG_DELAY_RESCHEDULE,
    QLOG_DELAY_SHOW,
    QLOG_DELAY_LIST,
    QLOG_DELAY_HISTOGRAM,
    QLOG_DELAY_LAG,
};

struct qlog_delay_request {
    /* Set by the caller. */
    enum qlog_delay_kind kind;
    qlog_delay_done_fn *done;
    void *context;

    /* Private to the store between submit and done. */
    struct q_mailbox_node node;
};

/*
 * Keep batches, all or none. Each says in its envelope when it is due; what is due already is handed
 * over at once, by the same path. The message with index i of batch b has the handle (the batch's due
 * time, ret_first_sequences[b] + i). A request with a number is stored once and in its producer's order,
 * as in a message store; a repeat gets the handles of the first one, whatever became of its messages.
 *
 * Q_OK, Q_INVALID (a batch without a due time), Q_DUE_TOO_FAR, Q_BUSY, Q_STORAGE_FULL (the disk, or
 * batches_max), Q_TOO_BIG, Q_NO_SUCH_MODE, Q_E_BROKEN; Q_OUT_OF_SEQUENCE, Q_UNKNOWN_PRODUCER, Q_CONFLICT
 * (struct qlog_publish).
 */
struct qlog_delay_publish {
    struct qlog_delay_request request;
    /* As for a store; checked by qlog_publish_check(). Its own `request` is not used. */
    struct qlog_publish publish;

    struct qlog_private private_;
};

/* Which message: by its handle, or, where `sequence` is QLOG_DELAY_BY_ID, by due time and id. */
struct qlog_delay_name {
    uint64_t due_ms;
    uint64_t sequence;
    uint64_t id_time_ms;
    uint64_t id_producer;
    uint32_t id_counter;
};
#define QLOG_DELAY_BY_ID UINT64_MAX

/*
 * Never hand it over. Durable when answered with Q_OK.
 *
 * Q_OK, Q_NOT_FOUND (never there, handed over, or cancelled before), Q_BEING_DELIVERED, Q_E_BROKEN.
 */
struct qlog_delay_cancel {
    struct qlog_delay_request request;
    struct qlog_delay_name name;
};

/*
 * Hand it over at another time. The message gets a new handle; its id stays. In one step: whatever
 * happens, it is there under one of the two.
 *
 * As cancel; Q_DUE_TOO_FAR, Q_STORAGE_FULL.
 */
struct qlog_delay_reschedule {
    struct qlog_delay_request request;
    struct qlog_delay_name name;
    uint64_t due_ms;

    uint64_t ret_sequence; /* set before `done(Q_OK)` */

    struct qlog_private private_;
};

/* A message as show and list tell it. */
struct qlog_delay_message {
    uint64_t due_ms;
    uint64_t sequence;
    uint64_t stored_ms;
    uint64_t id_time_ms;
    uint64_t id_producer;
    uint32_t id_counter;
    uint32_t size;         /* properties and body */
    bool being_delivered;  /* a dispatch record names it */
    enum q_err refused;    /* Q_OK, or why the broker group did not take it: it waits aside */
    char broker_group[64]; /* "" unless it is one of the two */
    char subject[256];
};

/* Q_OK, Q_NOT_FOUND, Q_E_CORRUPT, Q_E_IO. */
struct qlog_delay_show {
    struct qlog_delay_request request;
    struct qlog_delay_name name;

    struct qlog_delay_message ret_message;
};

/* Messages that wait, by due time, then sequence: those with a handle from `from` on, due before
 * `to_ms`. Q_OK, Q_E_IO, Q_E_CORRUPT. */
struct qlog_delay_list {
    struct qlog_delay_request request;
    uint64_t from_ms;
    uint64_t from_sequence;
    uint64_t to_ms;
    struct qlog_delay_message *messages;
    uint32_t messages_max;

    uint32_t ret_count; /* messages_max: there may be more */
};

/* How many messages wait that are due in each stretch of time. Overdue ones count as due now. */
struct qlog_delay_histogram {
    struct qlog_delay_request request;
    uint64_t from_ms; /* 0: now */
    uint64_t width_ms;
    uint64_t *counts;
    uint32_t count_max;

    uint64_t ret_from_ms;
    uint64_t ret_before; /* due before the first */
    uint64_t ret_after;  /* due behind the last */
};

/* A broker group that is sent to. */
struct qlog_delay_group_state {
    char name[64];
    bool failing; /* the last request could not be stored there: it is tried again */
    uint32_t open;
    uint64_t next_sequence;
};

struct qlog_delay_lag {
    struct qlog_delay_request request;
    struct qlog_delay_group_state *groups;
    uint32_t groups_max;

    uint32_t ret_group_count;
    uint64_t ret_now_ms;        /* the effective clock */
    int64_t ret_clock_off_ms;   /* wall clock - effective clock */
    uint64_t ret_overdue;       /* messages due and not handed over */
    uint64_t ret_oldest_due_ms; /* of those; 0: none */
    uint64_t ret_open;          /* messages handed over and not known to be stored */
    uint64_t ret_refused;       /* messages that wait aside: they are not overdue */
};

/* --- Sending. */

/*
 * A request to a broker group: batches with all that a broker checks. The store's; it stays as it is
 * until qlog_delay_sent() has been called.
 */
struct qlog_delay_send {
    const char *broker_group;
    uint64_t request_sequence; /* from 1 on, without gaps */
    uint64_t settled;          /* all requests below are stored there */
    bool again;                /* it may have been stored by an earlier call */
    const uint8_t *envelopes;
    uint32_t envelopes_size;
    const uint8_t *payloads;
    uint32_t payloads_size;
    const struct q_bytes *subjects; /* of each batch */
    uint32_t batch_count;
    uint32_t message_count;
    uint32_t attempt; /* from 1; of this process */
    void *context;    /* the sender's own */

    /* Private to the store. */
    struct q_mailbox_node node;
    enum q_err err;
};

/*
 * Who sends. Both functions are called on the store's thread and must not block.
 */
struct qlog_delay_sender {
    void *context;
    /* Candidate `index` (0, 1, …) of the broker groups that serve a subject; NULL: no more. The text
     * must live until the next call. */
    const char *(*route)(void *context, struct q_bytes subject, unsigned index);
    /* Send; qlog_delay_sent() once, at any time after, from any thread. */
    void (*send)(void *context, struct qlog_delay_send *send);
};

/*
 * Q_OK: stored (now or before). An answer that is not retryable: the group refused it for good. Its
 * messages are sent one by one then, and one that is refused alone waits aside, until it is cancelled
 * or rescheduled. Q_UNKNOWN_PRODUCER, Q_CONFLICT: the group knows this store no more, or as another; all
 * requests to it are taken back and their messages sent by a new producer id, maybe twice. Anything
 * else: not known to be stored; it is handed over again.
 */
Q_EXPORT void qlog_delay_sent(
    struct qlog_delay *delay, struct qlog_delay_send *send, enum q_err err);
/* Something that route() answers, or whether a group can be reached, has changed. */
Q_EXPORT void qlog_delay_wake(struct qlog_delay *delay);

/* --- The store. */

struct qlog_delay_options {
    struct qlog_options log;
    struct qlog_delay_sender sender;
    /* Requests waiting for the store's thread; above: Q_BUSY. 0: 65536. */
    uint32_t mailbox_max;
    /* Due later than this from now on is refused. 0: two years (2 x 366 days). */
    uint64_t ahead_max_ms;
    /* Batches in the logs, waiting or not yet dropped; above: Q_STORAGE_FULL. 0: 1,000,000,000. */
    uint32_t batches_max;
    /* Requests under way to a broker group. 0: 4. */
    uint32_t depth_max;
    /* A request has up to this many messages and bytes. 0: 512; 256 KiB. */
    uint32_t send_messages_max;
    uint32_t send_bytes_max;
    /* As in struct qlog_store_options. 0: 16,384; 24 h. */
    uint32_t producers_max;
    uint64_t producer_keep_ms;
    /* Bytes of the dispatch log between two statements of all marks. 0: 8 MiB. */
    uint64_t round_bytes;
    /* Durability of publishes that do not say otherwise. 0: sync. */
    enum qlog_mode mode;
};

/* As qlog_store_open(). */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_delay_open(
    const char *directory, const struct qlog_delay_options *options, struct qlog_delay **ret_delay);
/*
 * Flush, mark clean, and close. The sender must have given back everything: nothing is handed over
 * any more once qlog_delay_stop() was called and a turn has passed. Q_OK, or the failure that made
 * the stop unclean.
 */
Q_EXPORT enum q_err qlog_delay_close(struct qlog_delay *delay);

/* Q_OK: `done` will be called. Q_BUSY, Q_STOPPING. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_delay_submit(
    struct qlog_delay *delay, struct qlog_delay_request *request);
Q_EXPORT Q_MUST_CHECK enum q_err qlog_delay_turn(struct qlog_delay *delay);
/* Sleep until there is something to do, at most `timeout_ns`. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_delay_wait(struct qlog_delay *delay, uint64_t timeout_ns);
/* Turns and waits until _stop(). Q_OK, or the failure that broke the store. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_delay_run(struct qlog_delay *delay);
Q_EXPORT void qlog_delay_stop(struct qlog_delay *delay);

#define QLOG_DELAY_COUNTER_LIST(X)                                                                 \
    X(accepted, "messages accepted")                                                               \
    X(duplicates, "publish requests that were stored before")                                      \
    X(delivered, "messages handed over and stored by a broker group")                              \
    X(cancelled, "messages cancelled")                                                             \
    X(rescheduled, "messages given another time")                                                  \
    X(pending, "messages that wait")                                                               \
    X(requests, "requests handed over, each once")                                                 \
    X(repeats, "requests handed over again")                                                       \
    X(open, "requests handed over and not known to be stored")                                     \
    X(damaged, "messages that can't be read any more")                                             \
    X(refused, "messages that a broker group refused for good")                                    \
    X(renewals, "times that a broker group did not know this store any more")                      \
    X(maybe_twice, "messages sent again to such a group, which may be stored there twice")         \
    X(carried, "batches written again so that a segment could go")                                 \
    X(late_max_ms, "the latest hand-over of this process")                                         \
    X(clock_steps, "steps of the wall clock that were taken over")

struct qlog_delay_counters {
#define QLOG_DELAY_COUNTER_FIELD(name, help) uint64_t name;
    QLOG_DELAY_COUNTER_LIST(QLOG_DELAY_COUNTER_FIELD)
#undef QLOG_DELAY_COUNTER_FIELD
    uint64_t generation;
    const char *io_name;
    const char *io_note;
};

/* A snapshot of counters. The store's thread, or any thread for a rough look. */
Q_EXPORT void qlog_delay_counters(
    struct qlog_delay *delay, struct qlog_delay_counters *ret_counters);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_DELAY_H */
