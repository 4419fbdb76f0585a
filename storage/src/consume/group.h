/*
 * consume/group.h: the state of consumer groups: a pure state machine.
 *
 * Every change is an action; applying the actions of the action log in order, live or in recovery,
 * gives the same state. No I/O, no clock, no threads in here: the store decides when a consumer is
 * dead and which messages a pull is given, and says so by an action, with the time if it matters.
 *
 * Where a message of the subject can be, for one group:
 *
 *   from       -> to          by
 *   –          -> waiting     it is committed (at or above the cursor)
 *   waiting    -> held        PULL: it has a pull sequence of a consumer
 *   waiting    -> done        PULL at most once
 *   waiting    -> skipped     PULL moved the cursor over it: no filter of the group takes it
 *   waiting    -> pending     PULL passed over it: its key is busy, or it is for another's filter
 *   held       -> done        ACK
 *   held       -> pending     NACK, TIMEOUT; RELEASE: its consumer died or left
 *   pending    -> held        PULL, for any consumer, once it is due
 *   pending    -> done        ACK of the pull sequence it had before, when that came in time
 *   held, pending -> pending  RESOLVE: its segment is about to go (reason DYING, `expiring`)
 *   pending    -> dead        it is DYING and RESOLVE: its copy is stored
 *   held, pending -> expired  RESOLVE: its segment went, and there is no copy
 *   pending    -> skipped     UNFILTER: nobody is left who takes it
 *   any        -> skipped     RESOLVE by hand
 *   any        -> waiting     SEEK
 *   done       -> pending     RESOLVE: a dead letter is sent again
 *
 * Invariants (ql_group_check): spans of a window are sorted by pull sequence and disjoint; pending
 * ones are sorted by sequence and disjoint; both lie below the cursor; no sequence is in two places;
 * a pending one is for a filter that is kept; counts and keys are what a recount gives.
 *
 * Thread: the store's. Memory: arrays that grow by doubling and are kept, counted by room.h.
 */
#ifndef QL_CONSUME_GROUP_H
#define QL_CONSUME_GROUP_H

#include <qbase/heap.h>
#include <qbase/list.h>
#include <qbase/map.h>

#include "consume/filter.h"
#include "consume/keys.h"
#include "consume/room.h"
#include "consume/spans.h"

struct ql_subject;
struct ql_group;

enum {
    QL_CONSUMER_NONE = UINT32_MAX
};

/* Subjects of dead letters begin so: what fails there stays there. */
#define QL_DEAD_PREFIX "%DEAD_RETRY%"

struct ql_consumer {
    struct ql_group *group;
    uint32_t id;      /* ordinal within the group */
    uint32_t filter;  /* its slot */
    uint64_t session; /* 0: dead */
    uint8_t token[16];
    uint64_t next_pull_sequence; /* at least; the store has a floor for it */
    uint64_t released_below;     /* pull sequences below were taken from it at least once */
    struct ql_spans held;
    uint64_t held_messages;
    uint64_t held_bytes;
    uint64_t returned; /* pending messages that it had last: an ack of them counts */

    /* The store's: not part of the replayed state. */
    struct q_heap_node deadline; /* when it is dead, or forgotten */
    struct q_heap_node timeout;  /* when something it holds has no time left */
    uint64_t last_seen_ns;
    uint64_t handed_out;
    uint64_t acked;
    struct qlog_pull *parked;

    uint8_t name_size;
    char name[QLOG_CONSUMER_MAX + 1];
};

/* The last error of messages that are dying, or were: each of them leaves once. */
struct ql_last_error {
    uint64_t sequence; /* of the first */
    uint32_t count;
    uint32_t left; /* of them, that are still dying */
    uint8_t size;
    char text[QLOG_ERROR_MAX];
};

struct ql_group {
    uint32_t id;
    struct ql_room *room; /* of the store; NULL: nobody counts */
    struct ql_subject *subject;
    uint64_t cursor;
    uint64_t epoch; /* raised by each seek */
    uint64_t dead;
    uint64_t expired;
    uint64_t skipped;
    bool broadcast;
    bool paused;
    bool of_dead;       /* its subject holds dead letters */
    bool restoring;     /* made by a GROUP record, and nothing seen since but its state */
    bool hole;          /* recovery: actions are missing, the next PULL may not follow the last */
    uint64_t stated_at; /* position of its last GROUP record */
    struct qlog_group_settings settings; /* defaults filled in */
    struct ql_filters filters;

    struct ql_spans pending;
    uint64_t pending_messages;
    uint64_t pending_by[QL_REASON_DYING + 1]; /* messages, by reason */
    uint64_t due_ms;                          /* nothing pending is due before */
    struct ql_keys keys;
    struct ql_last_error *errors; /* of some that are dying */
    uint32_t error_count;
    uint32_t error_capacity;

    struct ql_consumer **consumers; /* by id; NULL: forgotten */
    uint32_t consumer_count;
    uint32_t consumer_capacity;
    uint32_t consumer_hint; /* the store's: below it every number is taken */
    struct q_map consumers_by_name;

    /* The store's. */
    struct q_list subject_link; /* in ql_subject.groups */
    struct q_list parked_link;  /* in ql_subject.parked_groups while one of these is not empty */
    struct q_list parked;       /* pulls that wait for messages, first come first served */
    struct q_list hurried;      /* … that would not wait, or read again what they hold already */
    uint64_t ahead;             /* messages below were read ahead of it, */
    uint64_t ahead_halfway;     /* and from here on it is time for more */
    struct q_heap_node due;     /* when something pending is due, or a filter is to be dropped */
    uint64_t seen_ns;           /* of a broadcast group: the last sign of life of any consumer */
    struct q_list dying_link;   /* groups with messages to be written as dead letters */

    uint8_t name_size;
    char *name;
};

/* --- group.c: groups and consumers. */
Q_MUST_CHECK enum q_err ql_group_new(
    const struct ql_group_record *record,
    struct ql_subject *subject,
    struct ql_room *room,
    struct ql_group **ret_group);
void ql_group_free(struct ql_group *group);

/* Give back what its arrays have free. */
void ql_group_shrink(struct ql_group *group);

/* NULL when there is none. */
struct ql_consumer *ql_group_consumer(const struct ql_group *group, uint32_t id);
struct ql_consumer *ql_group_consumer_named(const struct ql_group *group, struct q_bytes name);
/* Inside consume/: a consumer that is not known yet, and its end. */
Q_MUST_CHECK enum q_err ql_consumer_new(
    struct ql_group *group,
    uint32_t id,
    struct q_bytes name,
    uint64_t next_pull_sequence,
    struct ql_consumer **ret_consumer);
void ql_consumer_free(struct ql_consumer *consumer);
/* A consumer gets a session (or none: 0) with the filter of a slot. */
void ql_consumer_set_session(struct ql_consumer *consumer, uint64_t session, uint32_t filter);

/* --- settings.c */
/* Fill in defaults. Q_OK or Q_INVALID (what is out of its range). */
Q_MUST_CHECK enum q_err ql_settings_complete(struct qlog_group_settings *settings);
/* How long a message waits after so many attempts, which all failed. */
uint64_t ql_settings_backoff_ms(const struct ql_group *group, uint32_t attempts);

/*
 * Apply an action. Q_OK; Q_E_CORRUPT: it can't follow from the state (only in recovery, from a
 * damaged log); Q_E_NOMEM: nothing was changed.
 */
/* --- session.c */
Q_MUST_CHECK enum q_err ql_group_apply_join(
    struct ql_group *group, const struct ql_join_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_release(
    struct ql_group *group, const struct ql_release_record *record);
/* --- pull.c */
Q_MUST_CHECK enum q_err ql_group_apply_pull(
    struct ql_group *group, const struct ql_pull_record *record);
/* --- ack.c */
Q_MUST_CHECK enum q_err ql_group_apply_ack(
    struct ql_group *group, const struct ql_ack_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_nack(
    struct ql_group *group, const struct ql_nack_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_timeout(
    struct ql_group *group, const struct ql_timeout_record *record);
/* --- control.c */
Q_MUST_CHECK enum q_err ql_group_apply_seek(
    struct ql_group *group, const struct ql_seek_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_settings(
    struct ql_group *group, const struct ql_settings_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_unfilter(
    struct ql_group *group, const struct ql_unfilter_record *record);
/* --- resolve.c */
Q_MUST_CHECK enum q_err ql_group_apply_resolve(
    struct ql_group *group, const struct ql_resolve_record *record);

/*
 * Apply a record of a group's state. Passed over unless the group is `restoring`: it is known
 * already. As above. --- state.c
 */
Q_MUST_CHECK enum q_err ql_group_apply_consumer(
    struct ql_group *group, const struct ql_consumer_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_held(
    struct ql_group *group, const struct ql_ranges_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_pending(
    struct ql_group *group, const struct ql_ranges_record *record);
/* Recovery: actions are missing. What was stated so far is all that is known. */
void ql_group_note_hole(struct ql_group *group);
/* What is stated of the group from here on lies below this cursor. */
Q_MUST_CHECK enum q_err ql_group_apply_cursor(
    struct ql_group *group, const struct ql_cursor_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_error(
    struct ql_group *group, const struct ql_error_record *record);
/* A number that two groups in the same state share. */
uint64_t ql_group_state_hash(const struct ql_group *group);
void ql_group_check(const struct ql_group *group);

/*
 * How many messages of each range of pull sequences, as far as they lie below `below`, this consumer
 * still has a say about: it holds them, or (`late`) they are pending and it had them last. Ranges are
 * sorted and disjoint. --- ack.c
 */
void ql_consumer_has(
    const struct ql_consumer *consumer,
    const struct qlog_range *ranges,
    uint32_t range_count,
    uint64_t below,
    bool late,
    uint64_t *ret_counts);

/*
 * Messages [from, to) of the subject are no more: forget that they were held or pending. Returns how
 * many were. Out of memory: they are kept, and never given to anybody. --- resolve.c
 */
uint64_t ql_group_drop(struct ql_group *group, uint64_t from, uint64_t to);

/* It is given no new messages now: its pending set, or the room of all groups, is full. */
bool ql_group_is_full(const struct ql_group *group);
/* Whether anything is held or pending. */
bool ql_group_has_some(const struct ql_group *group);
/* The oldest message that is not done: waiting, held or pending. */
uint64_t ql_group_oldest(const struct ql_group *group);
/* Messages in consumers' hands. */
uint64_t ql_group_in_flight(const struct ql_group *group);
/* When the next thing pending is due, after `now_ms`; UINT64_MAX: nothing waits for time. */
uint64_t ql_group_next_due(const struct ql_group *group, uint64_t now_ms);
/* When something that it holds has no time left; UINT64_MAX: nothing is timed. */
uint64_t ql_consumer_next_timeout(const struct ql_consumer *consumer);
/* Nothing pending is due before: found out anew, when something was taken. */
void ql_group_refresh_due(struct ql_group *group);
/* The text of a dying message's last error; size 0: none is known. */
struct q_bytes ql_group_error(const struct ql_group *group, uint64_t sequence);

/* --- pending.c: how spans get into windows and the pending set, and out; counts and keys follow. */
/* Room for so many more in the pending set, each perhaps of a key of its own. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_pending_reserve(struct ql_group *group, uint64_t more);
Q_MUST_CHECK enum q_err ql_held_reserve(struct ql_consumer *consumer, uint64_t more);
/* Sorted by sequence, or not (then they are sorted here). Those without a kept filter are skipped. */
void ql_pending_add(struct ql_group *group, struct ql_range_item *items, uint32_t count);
uint64_t ql_pending_cut(struct ql_group *group, const struct qlog_range *ranges, uint32_t count);
/* A filter is no more: take out what no other takes. Returns how many messages. */
uint64_t ql_pending_unfilter(struct ql_group *group, uint16_t bit);
/* Take out the spans that `moves` says go, to `out`. Returns how many. */
uint32_t ql_held_sift(
    struct ql_consumer *consumer,
    bool (*moves)(const void *context, const struct ql_range_item *item),
    const void *context,
    struct ql_range_item *out);
void ql_held_add(struct ql_consumer *consumer, const struct ql_range_item *item);
uint64_t ql_held_cut(struct ql_consumer *consumer, const struct qlog_range *ranges, uint32_t count);
/* Whether a pending one holds back later ones of its key. */
bool ql_pending_blocks(const struct ql_group *group, const struct ql_range_item *item);
/* Recount keys: what holds back has changed. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_pending_recount(struct ql_group *group);

#endif /* QL_CONSUME_GROUP_H */
