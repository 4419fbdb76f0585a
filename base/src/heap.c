/*
 * heap.c: binary min-heap in an array of pointers.
 *
 * Invariants:
 *   (1) nodes[i]->index == i
 *   (2) nodes[(i - 1) / 2]->key <= nodes[i]->key
 */
#include <qbase/heap.h>

#include <stdlib.h>

#include <qbase/assert.h>

enum {
    CAPACITY_FIRST = 16
};

static enum q_err heap_grow(struct q_heap *heap);
static void sift_up(struct q_heap *heap, uint32_t index, struct q_heap_node *node);
static void sift_down(struct q_heap *heap, uint32_t index, struct q_heap_node *node);
static void heap_set(struct q_heap *heap, uint32_t index, struct q_heap_node *node);

void
q_heap_fini(struct q_heap *heap)
{
    Q_ASSERT(heap->count == 0);
    free(heap->nodes);
    *heap = (struct q_heap){ 0 };
}

enum q_err
q_heap_push(struct q_heap *heap, struct q_heap_node *node, uint64_t key)
{
    Q_ASSERT(!q_heap_node_is_linked(node));

    if (heap->count == heap->capacity) Q_TRY(heap_grow(heap));
    node->key = key;
    sift_up(heap, heap->count++, node);
    return Q_OK;
}

enum q_err
q_heap_reserve(struct q_heap *heap, uint32_t count)
{
    while (heap->capacity < count)
        Q_TRY(heap_grow(heap));
    return Q_OK;
}

struct q_heap_node *
q_heap_first(const struct q_heap *heap)
{
    return heap->count > 0 ? heap->nodes[0] : NULL;
}

void
q_heap_remove(struct q_heap *heap, struct q_heap_node *node)
{
    if (!q_heap_node_is_linked(node)) return;
    Q_ASSERT(node->index < heap->count);
    Q_ASSERT(heap->nodes[node->index] == node);

    /* The last node takes the hole, and goes wherever its key belongs from there. */
    uint32_t hole = node->index;
    struct q_heap_node *last = heap->nodes[--heap->count];
    q_heap_node_init(node);
    if (last == node) return;
    if (hole > 0 && last->key < heap->nodes[(hole - 1) / 2]->key) {
        sift_up(heap, hole, last);
    } else {
        sift_down(heap, hole, last);
    }
}

static enum q_err
heap_grow(struct q_heap *heap)
{
    uint32_t capacity = heap->capacity == 0 ? CAPACITY_FIRST : heap->capacity * 2;
    /* The highest index is taken: it means "nowhere". */
    if (capacity < heap->capacity) return Q_FAIL(Q_E_NOMEM, .what = "heap of 2^32 nodes");
    struct q_heap_node **nodes = reallocarray(heap->nodes, capacity, sizeof(struct q_heap_node *));
    if (nodes == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = q_text("no memory for a heap of %u nodes", capacity));

    heap->nodes = nodes;
    heap->capacity = capacity;
    return Q_OK;
}

/* Put `node` at `index` or above; the place at `index` is free. */
static void
sift_up(struct q_heap *heap, uint32_t index, struct q_heap_node *node)
{
    while (index > 0) {
        uint32_t parent = (index - 1) / 2;
        if (heap->nodes[parent]->key <= node->key) break;
        heap_set(heap, index, heap->nodes[parent]);
        index = parent;
    }
    heap_set(heap, index, node);
}

/* Put `node` at `index` or below; the place at `index` is free. */
static void
sift_down(struct q_heap *heap, uint32_t index, struct q_heap_node *node)
{
    for (;;) {
        uint64_t child = 2 * (uint64_t)index + 1;
        if (child >= heap->count) break;
        if (child + 1 < heap->count && heap->nodes[child + 1]->key < heap->nodes[child]->key)
            child++;
        if (node->key <= heap->nodes[child]->key) break;
        heap_set(heap, index, heap->nodes[child]);
        index = (uint32_t)child;
    }
    heap_set(heap, index, node);
}

static void
heap_set(struct q_heap *heap, uint32_t index, struct q_heap_node *node)
{
    heap->nodes[index] = node;
    node->index = index;
}
