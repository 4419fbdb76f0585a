/*
 * consume/group.h: the state of consumer groups: a pure state machine.
 *
 * Every change is an action; applying the actions of the action log in order, live or in recovery,
 * gives the same state. No I/O, no clock, no threads in here: the store decides when a consumer is
 * dead and which messages a pull is given, and says so by an action.
 *
 * Where a message of the subject can be, for one group:
 *
 *   from       -> to          by
 *   –          -> waiting     it is committed (at or above the cursor)
 *   waiting    -> held        PULL: it has a pull sequence of a consumer
 *   waiting    -> skipped     PULL moved the cursor over it: the group's filter does not take it
 *   held       -> done        ACK
 *   held       -> pending     RELEASE: its consumer died or left
 *   pending    -> held        PULL, for any consumer
 *   pending    -> done        ACK of the pull sequence it had before, when that came in time
 *
 * Invariants (ql_group_check): held ranges of a consumer are sorted by pull sequence and disjoint;
 * pending ranges are sorted by sequence and disjoint; both lie below the cursor; no sequence is in
 * two places.
 *
 * Thread: the store's. Memory: arrays that grow by doubling and are kept.
 */
#ifndef QL_CONSUME_GROUP_H
#define QL_CONSUME_GROUP_H

#include <qbase/heap.h>
#include <qbase/list.h>

#include "format/record.h"

struct ql_subject;
struct ql_group;

/* Messages in a consumer's hands, next to each other in both orders. */
struct ql_held {
    uint64_t pull_sequence;
    uint64_t sequence;
    uint32_t count;
    uint32_t attempt;
};

/* Messages below the cursor that are in nobody's hands, and who had them last. */
struct ql_pending {
    uint64_t sequence;
    uint64_t pull_sequence;
    uint32_t count;
    uint32_t attempt;     /* of the next hand-out */
    uint32_t consumer_id; /* QL_CONSUMER_NONE: forgotten */
};

enum {
    QL_CONSUMER_NONE = UINT32_MAX
};

struct ql_consumer {
    struct ql_group *group;
    uint32_t id;      /* ordinal within the group */
    uint64_t session; /* 0: dead */
    uint8_t token[16];
    uint64_t next_pull_sequence;
    uint64_t released_below; /* pull sequences below were taken from it at least once */
    struct ql_held *held;
    uint32_t held_count;
    uint32_t held_capacity;
    uint64_t held_messages;

    /* The store's: not part of the replayed state. */
    struct q_heap_node deadline; /* when it is dead, or forgotten */
    uint64_t last_seen_ns;
    struct qlog_pull *parked;

    uint8_t name_size;
    char name[QLOG_CONSUMER_MAX + 1];
};

struct ql_group {
    uint32_t id;
    struct ql_subject *subject;
    uint64_t cursor;
    struct qbatch_filter filter; /* tags point into `text` */
    struct ql_pending *pending;
    uint32_t pending_count;
    uint32_t pending_capacity;
    uint64_t pending_messages;
    struct ql_consumer **consumers; /* by id; NULL: forgotten */
    uint32_t consumer_count;
    uint32_t consumer_capacity;
    bool restoring;     /* made by a GROUP record, and nothing seen since but its state */
    bool hole;          /* recovery: actions are missing, the next PULL may not follow the last */
    uint64_t stated_at; /* position of its last GROUP record */

    /* The store's. */
    struct q_list subject_link; /* in ql_subject.groups */
    struct q_list parked_link;  /* in ql_subject.parked_groups while `parked` is not empty */
    struct q_list parked;       /* pulls, first come first served */
    uint32_t fetching;          /* of them, that wait for the disk */
    uint64_t ahead;             /* messages below were read ahead of it, */
    uint64_t ahead_halfway;     /* and from here on it is time for more */

    uint8_t name_size;
    char *name;
    char *text; /* names of the filter's tags */
};

Q_MUST_CHECK enum q_err ql_group_new(
    const struct ql_group_record *record, struct ql_subject *subject, struct ql_group **ret_group);
void ql_group_free(struct ql_group *group);

/* NULL when there is none. */
struct ql_consumer *ql_group_consumer(const struct ql_group *group, uint32_t id);
struct ql_consumer *ql_group_consumer_named(const struct ql_group *group, struct q_bytes name);
bool ql_filter_equal(const struct qbatch_filter *a, const struct qbatch_filter *b);

/*
 * Apply an action. Q_OK; Q_E_CORRUPT: it can't follow from the state (only in recovery, from a
 * damaged log); Q_E_NOMEM: nothing was changed.
 */
Q_MUST_CHECK enum q_err ql_group_apply_join(
    struct ql_group *group, const struct ql_join_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_pull(
    struct ql_group *group, const struct ql_pull_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_ack(
    struct ql_group *group, const struct ql_ack_record *record);
Q_MUST_CHECK enum q_err ql_group_apply_release(
    struct ql_group *group, const struct ql_release_record *record);

/*
 * Apply a record of a group's state. Passed over unless the group is `restoring`: it is known
 * already. As above.
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
void ql_group_apply_cursor(struct ql_group *group, const struct ql_cursor_record *record);
/* A number that two groups in the same state share. */
uint64_t ql_group_state_hash(const struct ql_group *group);

/*
 * Which part of a range of pull sequences an ack of this consumer would reach too late: released
 * and given to another since. Q_OK, or Q_INVALID: never handed out. `ret_late`: the whole range is
 * reported when any of it is late.
 */
Q_MUST_CHECK enum q_err ql_consumer_check_ack(
    const struct ql_consumer *consumer, const struct qlog_range *range, bool *ret_late);

/*
 * Messages [from, to) of the subject are no more: forget that they were held or pending. Returns how
 * many were. Out of memory: some are kept, and never given to anybody.
 */
uint64_t ql_group_drop(struct ql_group *group, uint64_t from, uint64_t to);

/* Whether anything is held or pending. */
bool ql_group_has_some(const struct ql_group *group);

/* The oldest message that is not done: waiting, held or pending. */
uint64_t ql_group_oldest(const struct ql_group *group);

void ql_group_check(const struct ql_group *group);

#endif /* QL_CONSUME_GROUP_H */
