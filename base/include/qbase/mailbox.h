/*
 * qbase/mailbox.h: bounded inbox of one thread: many senders, one taker, no lock.
 *
 * Senders push intrusive nodes; the owner takes all of them at once, in the order they were
 * pushed. The owner announces that it goes to sleep; the first sender after that gets `true` from
 * q_mailbox_push() and must wake the owner by whatever the owner sleeps on.
 *
 * Thread:   push: any. All else: the owner.
 * Blocking: never.
 * Memory:   nothing is allocated. A node belongs to the mailbox until it is taken.
 */
#ifndef QBASE_MAILBOX_H
#define QBASE_MAILBOX_H

#include <stdatomic.h>

#include <qbase/err.h>
#include <qbase/list.h>

struct q_mailbox {
    _Atomic(struct q_mailbox_node *) top;
    atomic_uint count;
    atomic_bool asleep;
    unsigned count_max;
};

void q_mailbox_init(struct q_mailbox *mailbox, unsigned count_max);
/* Asserts that the mailbox is empty. */
void q_mailbox_fini(struct q_mailbox *mailbox);
/* Q_OK, or Q_BUSY when full (the node stays the caller's). `*ret_wake`: wake the owner. */
Q_MUST_CHECK enum q_err q_mailbox_push(
    struct q_mailbox *mailbox, struct q_mailbox_node *node, bool *ret_wake);
/* Everything there is, oldest first, linked by `next`; NULL when empty. */
struct q_mailbox_node *q_mailbox_take(struct q_mailbox *mailbox);
/* Before sleeping. False: something came in meanwhile, don't sleep. */
bool q_mailbox_sleep(struct q_mailbox *mailbox);
/* After sleeping, or instead of it. */
void q_mailbox_awake(struct q_mailbox *mailbox);

#endif /* QBASE_MAILBOX_H */
