/*
 * qbase/heap.h: binary min-heap of intrusive timers, ordered by a 64-bit key.
 *
 * The node lives in the object and knows its place, so that removing is O(log n).
 *
 * Thread:   the owner's.
 * Memory:   an array of pointers, grown by q_heap_push() (doubling), freed by q_heap_fini().
 */
#ifndef QBASE_HEAP_H
#define QBASE_HEAP_H

#include <qbase/err.h>

enum {
    Q_HEAP_NOWHERE = UINT32_MAX
};

struct q_heap_node {
    uint64_t key;
    uint32_t index; /* Q_HEAP_NOWHERE: in no heap */
};

struct q_heap {
    struct q_heap_node **nodes;
    uint32_t count;
    uint32_t capacity;
};

static inline void
q_heap_node_init(struct q_heap_node *node)
{
    node->index = (uint32_t)Q_HEAP_NOWHERE;
}

static inline bool
q_heap_node_is_linked(const struct q_heap_node *node)
{
    return node->index != (uint32_t)Q_HEAP_NOWHERE;
}

/* A zeroed heap is valid and empty. The heap must be empty here. */
void q_heap_fini(struct q_heap *heap);
/* Room for `count` nodes: pushing those can't fail. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err q_heap_reserve(struct q_heap *heap, uint32_t count);
Q_MUST_CHECK enum q_err q_heap_push(struct q_heap *heap, struct q_heap_node *node, uint64_t key);
/* The node with the least key, left in place; NULL when empty. */
struct q_heap_node *q_heap_first(const struct q_heap *heap);
/* Does nothing when the node is in no heap. */
void q_heap_remove(struct q_heap *heap, struct q_heap_node *node);

#endif /* QBASE_HEAP_H */
