/*
 * store/hand.h: what a pull is given: messages, the pieces that hold them, the action that says so.
 *
 * A pull is given, in this order:
 *
 *   1. what its consumer holds at or above `received`: handed out before, and not arrived
 *   2. what is pending in its group and due, by sequence
 *   3. new messages from the cursor on, as far as they are visible
 *
 * 2 and 3 are decided by a plan (consume/plan.h), applied and logged as one PULL action; the answer
 * leaves when that is written. An answer is made of whole batches, pinned in memory (fetch.c).
 *
 * Thread: the store's.
 */
#ifndef QL_STORE_HAND_H
#define QL_STORE_HAND_H

#include "store/store.h"

/* What a pull that is given nothing has to wait for. */
enum ql_hand_wait {
    QL_HAND_NEWS,
    QL_HAND_LOOK, /* a turn: there is more to look at than one try may */
    QL_HAND_FETCH /* the disk */
};

/*
 * What did not arrive. Q_OK: the answer is filled in; it is to leave with `*ret_action`, unless that is
 * NULL. Q_NOT_FOUND: everything arrived, unless `*ret_fetching`: it is being read from the disk.
 * Failures: nothing is pinned.
 */
Q_MUST_CHECK enum q_err ql_hand_repeat(
    struct qlog_store *store,
    struct qlog_pull *pull,
    struct ql_consumer *consumer,
    struct ql_action **ret_action,
    bool *ret_fetching);
/*
 * Pending and new messages, applied. As above; also Q_WINDOW_FULL. Q_NOT_FOUND: nothing now, or less
 * than the pull's least unless `last`; `*ret_wait` tells what for.
 */
Q_MUST_CHECK enum q_err ql_hand_out(
    struct qlog_store *store,
    struct qlog_pull *pull,
    struct ql_consumer *consumer,
    bool last,
    struct ql_action **ret_action,
    enum ql_hand_wait *ret_wait);

#endif /* QL_STORE_HAND_H */
