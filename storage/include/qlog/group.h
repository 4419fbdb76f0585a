/*
 * qlog/group.h: requests about consumer groups: negative acks, control, lag, dead letters.
 *
 * What a group is and what each call means to its messages: docs/consumption.md. The requests of a
 * consumer that only pulls and acknowledges are in qlog/store.h, which includes this file.
 *
 * Thread, blocking, memory: as any request of qlog/store.h.
 */
#ifndef QLOG_GROUP_H
#define QLOG_GROUP_H

#include <qbase/bytes.h>
#include <qlog/request.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    QLOG_SUBJECT_MAX = 255,
    QLOG_GROUP_MAX = 255,
    QLOG_CONSUMER_MAX = 100,
    QLOG_FILTERS_MAX = 16, /* different ones of one group's members */
    QLOG_BACKOFF_MAX = 16,
    QLOG_ERROR_MAX = 255, /* bytes kept of the text of a negative ack */
    QLOG_ATTEMPTS_MAX = 250
};

/* A consumer of a group: who asks. */
struct qlog_consumer {
    struct q_bytes subject;
    struct q_bytes group;
    struct q_bytes consumer;
    uint64_t session; /* from join */
};

/* Where a new group, or a seek, begins. */
enum qlog_start {
    QLOG_START_EARLIEST,
    QLOG_START_LATEST,
    QLOG_START_TIME, /* messages stored at or after `at` ms since 1970; up to a second of earlier
                          * ones comes before them */
    QLOG_START_SEQUENCE, /* `at`; one that is dropped: the next that is stored */
};

/* What a group does with its messages. Zeros stand for the defaults named here. */
struct qlog_group_settings {
    /* Order by key: false: a message that fails goes to retry and its key moves on; true: later
     * messages of its key wait for it. */
    bool strict;
    /* An ack is answered when it is flushed, not when it is written. */
    bool ack_sync;
    /* After so many it is a dead letter. 0: 16; at most QLOG_ATTEMPTS_MAX. */
    uint32_t attempts_max;
    /* Messages in the pending set above which the cursor stands still. 0: 20,000. */
    uint32_t pending_max;
    /* A filter is kept so long after its last member left. 0: 10 minutes. */
    uint32_t filter_keep_ms;
    /* Wait after the first, second, … failure; the last one for all later ones. 0: 5 s, 10 s, 30 s,
     * 1 m, 2 m, 5 m, 10 m. In a strict group at most 30 s. */
    uint32_t backoff_count;
    uint32_t backoff_ms[QLOG_BACKOFF_MAX];
};

struct qlog_range {
    uint64_t first;
    uint64_t last; /* inclusive */
};

#define QLOG_DELAY_BACKOFF UINT64_MAX

/*
 * Pull sequences have failed: they come again, to any consumer, after a delay, or become dead
 * letters. Answered as an ack is. Those that this consumer does not hold any more are told in
 * `expired`.
 *
 * Q_OK, Q_DELAY_TOO_LONG (the delay ends after the message may be dropped; nothing was changed),
 * Q_NO_SESSION, Q_CONSUMER_REPLACED, Q_NOT_FOUND, Q_INVALID, Q_E_BROKEN.
 */
struct qlog_nack {
    struct qlog_request request;

    /* Set by the caller. */
    struct qlog_consumer who;
    const struct qlog_range *ranges;
    uint32_t range_count;
    uint64_t delay_ms;    /* QLOG_DELAY_BACKOFF: by the group's table */
    struct q_bytes error; /* why, for people; cut at QLOG_ERROR_MAX */
    struct qlog_range *expired;
    uint32_t expired_max;

    /* Set by the store before `done(Q_OK)`. */
    uint32_t expired_count;
    uint32_t dead_count; /* messages that will be dead letters */
    uint64_t unacked;

    struct qlog_private private_;
};

enum qlog_control_kind {
    QLOG_CONTROL_SETTINGS,
    QLOG_CONTROL_PAUSE, /* pulls find nothing new; acks go on */
    QLOG_CONTROL_RESUME,
    QLOG_CONTROL_SEEK,   /* to `start`, `at`; all attempts begin again, later acks are EXPIRED */
    QLOG_CONTROL_SKIP,   /* `range` of sequences: done with, whoever has them */
    QLOG_CONTROL_RESEND, /* `range` of sequences that the group is done with: pending, attempt 1 */
    QLOG_CONTROL_DELETE,
};

/*
 * Change a group as a whole. Answered when the change is flushed.
 *
 * Q_OK, Q_NOT_FOUND (subject or group), Q_GONE (RESEND of a message that is not stored any more; SEEK
 * and SKIP take what is there), Q_INVALID, Q_E_BROKEN.
 */
struct qlog_control {
    struct qlog_request request;

    /* Set by the caller. */
    struct q_bytes subject;
    struct q_bytes group;
    enum qlog_control_kind kind;
    bool preview; /* SEEK, SKIP: tell what would happen, and change nothing */
    struct qlog_group_settings settings;
    enum qlog_start start;
    uint64_t at;
    struct qlog_range range;

    /* Set by the store before `done(Q_OK)`. */
    uint64_t epoch;  /* raised by each seek */
    uint64_t cursor; /* after it */
    uint64_t
        affected; /* SEEK: messages in flight, which come again or are dropped; else: those that
                        * were skipped or sent again */

    struct qlog_private private_;
};

/* Why a group's cursor stands still although messages wait. */
enum qlog_held {
    QLOG_HELD_NOT,
    QLOG_HELD_PAUSED,
    QLOG_HELD_RETRY,    /* the pending set is full, mostly of messages that */
    QLOG_HELD_RELEASED, /* … wait for a retry; … were released and wait for a pull; */
    QLOG_HELD_KEY,      /* … wait for an earlier one of their order key, */
    QLOG_HELD_FILTER,   /* … or for a member that takes them */
    QLOG_HELD_DYING,    /* … wait to be written as dead letters; */
    QLOG_HELD_MEMORY,   /* all groups together have as much memory as they may: qlog/options.h */
};

/* A group in a list. */
struct qlog_group_info {
    char subject[QLOG_SUBJECT_MAX + 1];
    char name[QLOG_GROUP_MAX + 1];
    bool broadcast;
    bool paused;
    uint32_t members; /* with a session */
    uint64_t cursor;
    uint64_t waiting;
    uint64_t pending;
    uint64_t in_flight;
};

/* All groups, or those of a subject, a page at a time. Q_OK, Q_NOT_FOUND (the subject). */
struct qlog_groups {
    struct qlog_request request;

    /* Set by the caller. */
    struct q_bytes subject; /* size 0: all */
    uint32_t from;          /* 0, then `next` */
    struct qlog_group_info *groups;
    uint32_t groups_max;

    /* Set by the store before `done(Q_OK)`. */
    uint32_t group_count;
    uint32_t next; /* 0: that was all */
};

struct qlog_lag_consumer {
    char name[QLOG_CONSUMER_MAX + 1];
    bool alive;  /* it has a session */
    bool parked; /* a pull of it waits */
    uint64_t in_flight;
    uint64_t in_flight_bytes;
    uint64_t last_seen_ms; /* ago */
    uint64_t handed_out;   /* messages since the store was opened: two looks give a rate */
    uint64_t acked;
};

/*
 * How far a group is, and what holds it. All counts are messages. Q_OK, Q_NOT_FOUND.
 */
struct qlog_lag {
    struct qlog_request request;

    /* Set by the caller. */
    struct q_bytes subject;
    struct q_bytes group;
    struct qlog_lag_consumer *consumers; /* NULL: not wanted */
    uint32_t consumers_max;

    /* Set by the store before `done(Q_OK)`. */
    struct qlog_group_settings settings; /* defaults filled in */
    bool broadcast;
    bool paused;
    uint64_t epoch;
    uint64_t cursor;
    uint64_t end;       /* behind the last message that consumers may see */
    uint64_t ready;     /* waiting, or pending and due */
    uint64_t waiting;   /* from the cursor on */
    uint64_t in_flight; /* in consumers' hands */
    uint64_t pending_retry;
    uint64_t pending_released;
    uint64_t pending_key;
    uint64_t pending_filter;
    uint64_t pending_dying; /* about to be dead letters */
    uint64_t dead;          /* since the group was made: became dead letters, */
    uint64_t expired; /* … were dropped before the group was done with them, without a letter, */
    uint64_t skipped; /* … were taken by no filter, or skipped by hand */
    uint64_t oldest_ms; /* age of the oldest message that is not done; 0: there is none */
    uint64_t oldest;    /* its sequence; UINT64_MAX: there is none */
    enum qlog_held held;
    uint32_t
        held_key; /* QLOG_HELD_KEY: hash of the key that most wait for, and its first message */
    uint64_t held_sequence;
    uint32_t member_count;
    uint32_t filter_count;
    uint32_t consumer_count; /* known; as many as fit are in `consumers` */

    struct qlog_private private_;
};

#ifdef __cplusplus
}
#endif

#endif /* QLOG_GROUP_H */
