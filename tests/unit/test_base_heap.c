/*
 * The heap of timers.
 */
#include <criterion/criterion.h>

#include <qbase/heap.h>

#include "random.h"

enum {
    NODES = 300
};

/* An empty heap has no first node, and ending it frees nothing twice. */
Test(base_heap, empty)
{
    struct q_heap heap = { 0 };
    cr_assert_null(q_heap_first(&heap));
    q_heap_fini(&heap);
    q_heap_fini(&heap);
}

/* Removing a node that is in no heap does nothing. */
Test(base_heap, remove_unlinked)
{
    struct q_heap heap = { 0 };
    struct q_heap_node node;
    q_heap_node_init(&node);
    cr_assert_not(q_heap_node_is_linked(&node));
    q_heap_remove(&heap, &node);
    cr_assert_eq(q_heap_push(&heap, &node, 5), Q_OK);
    cr_assert(q_heap_node_is_linked(&node));
    cr_assert_eq(q_heap_first(&heap), &node);
    q_heap_remove(&heap, &node);
    cr_assert_not(q_heap_node_is_linked(&node));
    q_heap_remove(&heap, &node);
    q_heap_fini(&heap);
}

static uint64_t
least_key(const struct q_heap_node *nodes)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < NODES; i++) {
        if (q_heap_node_is_linked(&nodes[i]) && nodes[i].key < least) least = nodes[i].key;
    }
    return least;
}

/* After any pushes and removals the first node has the least key of all (against a plain scan). */
Test(base_heap, random_against_scan)
{
    struct random_source random = random_from_seed(1);
    static struct q_heap_node nodes[NODES];
    for (int i = 0; i < NODES; i++)
        q_heap_node_init(&nodes[i]);

    struct q_heap heap = { 0 };
    uint32_t linked = 0;
    for (int step = 0; step < 20000; step++) {
        struct q_heap_node *node = &nodes[random_below(&random, NODES)];
        if (q_heap_node_is_linked(node)) {
            q_heap_remove(&heap, node);
            linked--;
        } else {
            /* Few keys, so that many are equal. */
            cr_assert_eq(q_heap_push(&heap, node, random_below(&random, 50)), Q_OK);
            linked++;
        }
        cr_assert_eq(heap.count, linked);
        const struct q_heap_node *first = q_heap_first(&heap);
        cr_assert_eq(first != NULL, linked > 0);
        if (first) cr_assert_eq(first->key, least_key(nodes));
    }

    uint64_t last = 0;
    while (q_heap_first(&heap)) {
        struct q_heap_node *first = q_heap_first(&heap);
        cr_assert_geq(first->key, last);
        last = first->key;
        q_heap_remove(&heap, first);
    }
    q_heap_fini(&heap);
}
