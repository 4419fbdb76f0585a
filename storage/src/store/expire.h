/*
 * store/expire.h: what groups have in hand of messages that are about to go becomes dead letters.
 *
 * A trim that drops messages waits until, for each group, what is pending or in a consumer's hands of
 * them is copied to its dead-letter subject, durably:
 *
 *   IDLE    -> MARKING  a trim is to drop messages
 *   MARKING -> COPYING  all groups were looked at, some in a turn: what they have of it is dying, by a
 *                       RESOLVE action, so nobody is given it any more (store/dead.c copies it)
 *   COPYING             a group has it in hand again (it was sent again by hand): that is marked, too
 *   COPYING -> IDLE     none of it is left; the trim goes on
 *   any     -> IDLE     the disk is at its hard level, or of the group that is waited for nothing was
 *                       copied for a minute: the trim goes on, and what is left is counted as
 *                       expired, and told
 *
 * What waits at a group's cursor is no affair of this: nobody was given it, nor is anybody until the trim
 * is done (store/hand.c), and it is counted when the cursor passes. Nor are groups on dead letters: what
 * goes there goes.
 *
 * Thread: the store's.
 */
#ifndef QL_STORE_EXPIRE_H
#define QL_STORE_EXPIRE_H

#include <qbase/err.h>

enum ql_expiry_state {
    QL_EXPIRY_IDLE,
    QL_EXPIRY_MARKING,
    QL_EXPIRY_COPYING
};

struct ql_expiry {
    enum ql_expiry_state state;
    uint64_t before;      /* positions below go */
    uint32_t next;        /* number of a group */
    uint64_t below;       /* COPYING: sequences of that group's subject that go; 0: not known yet */
    uint32_t waits_for;   /* COPYING: number of a group; UINT32_MAX: none yet */
    uint64_t left;        /* the fewest of its messages that were dying since */
    uint64_t progress_ns; /* when that, or the group, was another before */
    uint64_t
        retry_ns; /* MARKING: not before. Retention looks at the disk each second, so a turn comes */
};

struct qlog_store;

/* A trim is to drop what lies below this position. False: it need not wait. */
bool ql_expiry_begin(struct qlog_store *store, uint64_t before);
/* Once a turn. Lets the trim go on when it is over. */
void ql_expiry_turn(struct qlog_store *store);
/* The next turn has something to do. */
bool ql_expiry_is_due(const struct qlog_store *store);
/* The store stops, or broke: trims that wait end. */
void ql_expiry_end(struct qlog_store *store);

#endif /* QL_STORE_EXPIRE_H */
