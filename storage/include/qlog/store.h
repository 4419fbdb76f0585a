/*
 * qlog/store.h: a message store: publish, join, pull, acknowledge.
 *
 * A store is a message log and an action log in one directory, and what follows from them. A
 * request is a struct of the caller's: fill it, submit it, leave it alone until `done` is called.
 * Many requests of one turn become one write and one flush.
 *
 * Thread:   qlog_store_submit(), _wake(), _stop(), qlog_publish_check() and qlog_pull_release(): any.
 *           All else, and every `done`: the store thread, which is the thread that opened it.
 * Blocking: submit never; _open(), _wait() and _run() do.
 * Memory:   a submitted request, and all it points to, belongs to the store until `done` has been
 *           entered; then it is the caller's again.
 * Failure:  after a failed write or flush every request ends with Q_E_BROKEN, _turn() returns it,
 *           and the store must be closed. Recovery at the next open reads what the disk has.
 * Order:    acknowledgements of one mode come in the order of the log.
 */
#ifndef QLOG_STORE_H
#define QLOG_STORE_H

#include <qbase/bytes.h>
#include <qlog/group.h>
#include <qlog/options.h>
#include <qlog/request.h>
#include <qlog/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct qlog_store;

/* A publish's, between submit and done. Needs no initialisation. */
struct qlog_publish_private {
    uint64_t words[20];
};

/*
 * Put batches of one or several subjects into the store, all or none.
 *
 * A producer numbers its requests from 1 on, and sends one that has no answer again as it is: it is
 * stored once, and requests of a producer are stored in their order. A store knows the last 64 of each
 * producer, through restarts. A request with number 0 is stored whenever it comes.
 *
 * Q_OK, Q_BUSY (a queue is full), Q_STORAGE_FULL (the disk), Q_TOO_BIG, Q_NO_SUCH_MODE, Q_E_BROKEN;
 * Q_OUT_OF_SEQUENCE (requests before this one did not come within a second, or it is older than what
 * is known), Q_UNKNOWN_PRODUCER (it was sent before, and its producer is not known any more), Q_CONFLICT
 * (its number is stored with other bytes).
 */
struct qlog_publish {
    struct qlog_request request;

    /* Set by the caller. The store writes its prefix into each envelope (qbatch/layout.h). */
    uint8_t *envelopes; /* of all batches, one after another */
    uint32_t envelopes_size;
    const uint8_t *payloads; /* of all batches, each padded to 8 */
    uint32_t payloads_size;
    const struct q_bytes *subjects; /* of each batch */
    uint32_t batch_count;
    enum qlog_mode mode;
    /* The producer has an outcome for all its requests below, and won't send them again. 0: says
     * nothing; above its own number: the number itself. */
    uint64_t settled;
    bool again;                    /* an earlier sending of this request may have been stored */
    uint64_t *ret_first_sequences; /* room for batch_count */

    /* Set by qlog_publish_check(). */
    bool checked;
    bool delayed; /* all of it is for a delay store, which alone takes it */
    uint32_t message_count;
    uint8_t producer[16];
    uint64_t sequence; /* the request's number */
    uint32_t digest;

    /* Set by the store before `done`. */
    enum qlog_mode achieved;
    /* An earlier sending had stored it. Sequences are QLOG_SEQUENCE_GONE when the messages are not
     * stored any more. */
    bool duplicate;

    struct qlog_publish_private private_;
};

#define QLOG_SEQUENCE_GONE UINT64_MAX

enum {
    QLOG_REQUEST_BYTES_MAX = 8 * 1024 * 1024,
    QLOG_REQUEST_BATCHES_MAX = 1024
};

/*
 * Check everything in a publish: envelopes, payload hashes, limits, that it is one request of one
 * producer. Must be called before it is submitted, on any thread: the store thread does not look at
 * bodies.
 *
 * Q_OK, Q_E_CORRUPT, Q_E_VERSION, Q_TOO_BIG, Q_INVALID.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_publish_check(struct qlog_publish *publish);

/*
 * Join a group, which is made when it does not exist. The consumer gets a session, and its earlier
 * session ends. Members may have filters of their own, up to QLOG_FILTERS_MAX different ones.
 *
 * Q_OK, Q_TOO_BIG (a limit), Q_INVALID, Q_E_BROKEN.
 */
struct qlog_join {
    struct qlog_request request;

    /* Set by the caller. `who.session` is ignored. */
    struct qlog_consumer who;
    struct q_bytes tags[10];
    uint32_t tag_count;
    bool tags_all;
    uint8_t token[16]; /* a repeated join with the same token gets the same session */
    /* Of a new group; one that is there stays as it is. */
    enum qlog_start start;
    uint64_t start_at;
    bool broadcast; /* forgotten 2 days after its last consumer was seen */
    const struct qlog_group_settings *settings; /* NULL: the defaults */

    /* Set by the store before `done(Q_OK)`. */
    uint64_t session;
    uint64_t cursor;
    uint64_t waiting;
    uint64_t pending;
    uint64_t unacked;
    bool group_created;
    uint64_t consumer_timeout_ns;

    struct qlog_private private_;
};

/* Messages of one consumer, next to each other in both orders. */
struct qlog_run {
    uint64_t pull_sequence;
    uint64_t sequence;
    uint32_t count;
    uint32_t attempt;
};

/* A stored batch in memory, checked, and pinned until qlog_pull_release(). */
struct qlog_piece {
    const uint8_t *envelope;
    uint32_t envelope_size;
    const uint8_t *payload;
    uint32_t payload_size; /* padded */
    void *pins[2];         /* the store's */
};

/*
 * Take messages. First what was handed to this consumer and did not arrive, then what is pending in
 * the group and due, then new ones.
 *
 * With `once` the hand-out is its own ack: it is flushed before the answer, and never repeated.
 *
 * Q_OK      runs and pieces are set. May be empty only when wait_ns is over (run_count 0).
 * Q_NO_SESSION, Q_CONSUMER_REPLACED, Q_WINDOW_FULL, Q_NOT_FOUND (group), Q_STOPPING (cancelled),
 * Q_E_BROKEN.
 */
struct qlog_pull {
    struct qlog_request request;

    /* Set by the caller. */
    struct qlog_consumer who;
    uint32_t messages_max;
    uint32_t bytes_max; /* of pieces; at least one batch is given */
    uint64_t wait_ns;   /* 0: answer at once */
    uint64_t received;  /* pull sequences below have arrived */
    /* Wait for so much, as long as wait_ns allows; then what is there is given. 0: anything. Less comes
     * when the window is full, and when a filter has looked at 20,000 messages for it. */
    uint32_t messages_min;
    uint32_t bytes_min;
    /* What is not acknowledged after this time goes to others, as a new attempt. 0: never. */
    uint32_t invisible_ms;
    bool once;
    struct qlog_run *runs;
    uint32_t runs_max;
    struct qlog_piece *pieces;
    uint32_t pieces_max;

    /* Set by the store before `done(Q_OK)`. */
    uint32_t run_count;
    uint32_t piece_count;
    uint64_t unacked;
    uint64_t waiting;
    enum qlog_held held; /* why nothing new is given although messages wait */
    bool strict;         /* of the group's settings */

    struct qlog_private private_;
};

/* Unpin the pieces. Any thread, once, after `done(Q_OK)`. */
Q_EXPORT void qlog_pull_release(struct qlog_pull *pull);

/*
 * Read messages of a subject without a group: nothing is changed, and nothing remembers it. Only
 * subject, limits and room of `pull` are used; its runs have the sequences for pull sequences, and
 * attempt 0. It never waits: without runs, but with `pull.waiting`, what is there is being read from
 * the disk, or is damaged and passed over: ask again from `next` on.
 *
 * Q_OK, Q_NOT_FOUND (the subject), Q_INVALID, Q_E_IO, Q_E_NOMEM, Q_E_BROKEN.
 */
struct qlog_peek {
    struct qlog_pull pull; /* its request is this one's; its pieces are released the same way */

    /* Set by the caller. */
    enum qlog_start start;
    uint64_t at;
    /* Only batches that have a message with this key; size 0: all. The index finds them, by a hash: what
     * else is in such a batch, or has the same hash by accident, is the caller's to leave out. One
     * request looks at a few index files, so an answer may be empty though `next` has moved. */
    struct q_bytes key;

    /* Set by the store before `done(Q_OK)`. */
    uint64_t next; /* the sequence to go on at */
};

/*
 * Pull sequences are done. Answered when the action is written (survives the end of the process), or
 * flushed, as the group's settings say.
 *
 * Q_OK, also when some came too late: `expired` holds those. Q_NO_SESSION, Q_CONSUMER_REPLACED,
 * Q_NOT_FOUND, Q_INVALID (a range that was never handed out), Q_E_BROKEN.
 */
struct qlog_ack {
    struct qlog_request request;

    /* Set by the caller. */
    struct qlog_consumer who;
    const struct qlog_range *ranges;
    uint32_t range_count;
    struct qlog_range *expired; /* room for expired_max; may be `ranges`' own memory */
    uint32_t expired_max;

    /* Set by the store before `done(Q_OK)`. */
    uint32_t expired_count;
    uint64_t unacked;

    struct qlog_private private_;
};

/* KEEP_ALIVE: the consumer lives. LEAVE: goodbye; what it holds goes to the others at once. */
struct qlog_session {
    struct qlog_request request;
    struct qlog_consumer who;

    struct qlog_private private_;
};

/*
 * End a parked pull early: `target` is answered with Q_STOPPING. One that is parked no more gets its
 * answer all the same, perhaps after the cancel's own, which always is Q_OK: the target's memory is
 * the store's until the target's `done`.
 */
struct qlog_cancel {
    struct qlog_request request;
    struct qlog_pull *target;
};

/*
 * Drop the heads of the logs: whole segments whose bytes all lie below these positions. What is
 * pinned and the segments being written stay. Sequences, groups and their progress are kept.
 *
 * Q_OK, Q_E_NO_SPACE, Q_E_BROKEN.
 */
struct qlog_trim {
    struct qlog_request request;
    qlog_position messages_before;
    qlog_position actions_before;
};

/*
 * Open or create a store and recover it.
 *
 * Q_OK, Q_NOT_FOUND (options.log.create is false), Q_E_LOCKED, Q_E_FOREIGN, Q_E_NOT_DIRECTORY,
 * Q_E_PERMISSION, Q_E_NO_SPACE, Q_E_CORRUPT, Q_E_VERSION, Q_E_IO, Q_E_NOMEM; q_fault_last() has
 * path, position and hint.
 */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_store_open(
    const char *directory, const struct qlog_store_options *options, struct qlog_store **ret_store);
/*
 * Flush, mark clean, and close. Requests that are still inside end with Q_STOPPING. No other thread
 * may be in, or go into, a call on the store. Q_OK, or the failure that made the stop unclean (the
 * store is closed all the same).
 */
Q_EXPORT enum q_err qlog_store_close(struct qlog_store *store);

/* Q_OK: `done` will be called. Q_BUSY: the mailbox is full. Q_STOPPING. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_store_submit(
    struct qlog_store *store, struct qlog_request *request);
/* One turn: take, apply, reap, answer, write. Q_OK or the failure that broke the store. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_store_turn(struct qlog_store *store);
/* Sleep until there is something to do, at most `timeout_ns`. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_store_wait(struct qlog_store *store, uint64_t timeout_ns);
/* Turns and waits until _stop(). Q_OK, or the failure that broke the store. */
Q_EXPORT Q_MUST_CHECK enum q_err qlog_store_run(struct qlog_store *store);
Q_EXPORT void qlog_store_stop(struct qlog_store *store);

/* Counts since the store was opened. */
#define QLOG_COUNTER_LIST(X)                                                                       \
    X(messages, "messages published")                                                              \
    X(publishes, "publish requests")                                                               \
    X(duplicates, "publish requests that were stored before")                                      \
    X(producers, "producers whose last requests are known")                                        \
    X(pulls, "pulls answered")                                                                     \
    X(pulled, "messages handed out")                                                               \
    X(acks, "ack requests")                                                                        \
    X(acked, "messages acknowledged")                                                              \
    X(nacked, "messages negatively acknowledged")                                                  \
    X(timed_out, "messages whose invisible time was over")                                         \
    X(released, "messages taken from dead or leaving consumers")                                   \
    X(dead, "messages that became dead letters")                                                   \
    X(expired, "messages dropped before a group was done with them, without a dead letter")        \
    X(frames, "frames written")                                                                    \
    X(flushes, "flushes")                                                                          \
    X(bytes, "bytes written to logs, padding included")                                            \
    X(reads, "reads of messages that were not in memory")                                          \
    X(read_bytes, "bytes that they read")                                                          \
    X(scrubbed, "bytes that the scrubber has read")                                                \
    X(rotten, "bytes that it found damaged or unreadable")                                         \
    X(subjects, "subjects")                                                                        \
    X(groups, "groups")                                                                            \
    X(parked, "pulls waiting now")

struct qlog_counters {
#define QLOG_COUNTER_FIELD(name, help) uint64_t name;
    QLOG_COUNTER_LIST(QLOG_COUNTER_FIELD)
#undef QLOG_COUNTER_FIELD
    uint64_t generation;
    const char *io_name; /* "io_uring" or "plain" */
    const char *io_note; /* why not io_uring; "" */
};

/* A snapshot of counters and marks. The store thread, or any thread for a rough look. */
Q_EXPORT void qlog_store_counters(struct qlog_store *store, struct qlog_counters *ret_counters);

/*
 * The memory plan: what each thing may take, as the limits in qlog/options.h say, and what it takes now.
 * X(row, how its bytes come about).
 */
#define QLOG_MEMORY_LIST(X)                                                                        \
    X(frames, "2 logs x (depth + 1) x frame, and depth x the largest request")                     \
    X(tail, "messages written lately: tail_bytes_max")                                             \
    X(reads, "messages read back: read_bytes_max; what is wanted of the disk: 2 MiB")              \
    X(index, "batches and keys that no index file has yet: index_entries_max x 80")                \
    X(build, "the index file that is being made: half a segment")                                  \
    X(subjects, "subjects_max x one subject with a name of 24 bytes")                              \
    X(groups, "groups, and what their consumers hold: group_bytes_max")                            \
    X(producers, "producers_max x one producer with 64 requests")                                  \
    X(actions, "mailbox_max x 512: what consumers did, on its way to the disk")                    \
    X(work, "a start's window, plans of pulls, dead letters: 25 MiB")

enum qlog_memory_row {
#define QLOG_MEMORY_ENUM(name, formula) QLOG_MEMORY_##name,
    QLOG_MEMORY_LIST(QLOG_MEMORY_ENUM)
#undef QLOG_MEMORY_ENUM
    QLOG_MEMORY_ROWS,
};

enum {
    QLOG_MEMORY_TEXT_MAX = 320
};

struct qlog_memory {
    struct {
        const char *name;
        const char *formula;
        uint64_t planned; /* bytes */
        uint64_t used;    /* of them, now */
    } rows[QLOG_MEMORY_ROWS];
    uint64_t planned;
    uint64_t used;
    uint64_t max; /* memory_max; 0: none */
};

/* The plan, and what is in use. The store thread; costs a look at each producer. */
Q_EXPORT void qlog_store_memory(struct qlog_store *store, struct qlog_memory *ret_memory);
/* "frames 42 MiB, tail 16 MiB, …": what is planned, in one line. Returns `out`. */
Q_EXPORT const char *qlog_memory_text(
    const struct qlog_memory *memory, char out[QLOG_MEMORY_TEXT_MAX]);

#ifdef __cplusplus
}
#endif

#endif /* QLOG_STORE_H */
