/*
 * mailbox.c: a stack that many push to and one takes as a whole.
 *
 * Taking everything at once leaves no ABA problem: nobody ever unlinks a single node. Falling
 * asleep and pushing are Dekker's pattern: the owner writes `asleep` and reads `top`, a sender
 * writes `top` and reads `asleep`; with sequential consistency on all four, one of them sees the
 * other, so that no push is slept over.
 */
#include <qbase/mailbox.h>

#include <qbase/assert.h>

void
q_mailbox_init(struct q_mailbox *mailbox, unsigned count_max)
{
    Q_ASSERT(count_max > 0);
    atomic_init(&mailbox->top, NULL);
    atomic_init(&mailbox->count, 0);
    atomic_init(&mailbox->asleep, false);
    mailbox->count_max = count_max;
}

void
q_mailbox_fini(struct q_mailbox *mailbox)
{
    Q_ASSERT(atomic_load_explicit(&mailbox->top, memory_order_acquire) == NULL);
}

enum q_err
q_mailbox_push(struct q_mailbox *mailbox, struct q_mailbox_node *node, bool *ret_wake)
{
    /* Relaxed: a place is only a number; what a node carries is published by `top`. */
    if (atomic_fetch_add_explicit(&mailbox->count, 1, memory_order_relaxed) >= mailbox->count_max) {
        atomic_fetch_sub_explicit(&mailbox->count, 1, memory_order_relaxed);
        return Q_BUSY;
    }

    /* The node's bytes are released here; pairs with the acquire in q_mailbox_take(). */
    struct q_mailbox_node *top = atomic_load_explicit(&mailbox->top, memory_order_relaxed);
    do {
        node->next = top;
    } while (!atomic_compare_exchange_weak_explicit(
        &mailbox->top, &top, node, memory_order_seq_cst, memory_order_relaxed));

    /* Pairs with the store in q_mailbox_sleep(). Of many senders the exchange elects one. */
    *ret_wake = atomic_load_explicit(&mailbox->asleep, memory_order_seq_cst) &&
                atomic_exchange_explicit(&mailbox->asleep, false, memory_order_relaxed);
    return Q_OK;
}

struct q_mailbox_node *
q_mailbox_take(struct q_mailbox *mailbox)
{
    /* Looking first keeps the line shared with the senders while there is nothing. */
    if (atomic_load_explicit(&mailbox->top, memory_order_relaxed) == NULL) return NULL;
    struct q_mailbox_node *newest =
        atomic_exchange_explicit(&mailbox->top, NULL, memory_order_acquire);

    struct q_mailbox_node *oldest = NULL;
    unsigned count = 0;
    while (newest != NULL) {
        struct q_mailbox_node *older = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = older;
        count++;
    }
    atomic_fetch_sub_explicit(&mailbox->count, count, memory_order_relaxed);
    return oldest;
}

bool
q_mailbox_sleep(struct q_mailbox *mailbox)
{
    /* Pairs with the load in q_mailbox_push(). */
    atomic_store_explicit(&mailbox->asleep, true, memory_order_seq_cst);
    return atomic_load_explicit(&mailbox->top, memory_order_seq_cst) == NULL;
}

void
q_mailbox_awake(struct q_mailbox *mailbox)
{
    /* Relaxed: a sender that still sees "asleep" wakes us once too often, which does no harm. */
    atomic_store_explicit(&mailbox->asleep, false, memory_order_relaxed);
}
