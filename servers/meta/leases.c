/*
 * leases.c: a list of all, a heap of those that live.
 */
#include "meta/leases.h"

#include <stdlib.h>
#include <string.h>

static struct meta_lease *find(const struct meta_leases *leases, const char *key);

void
meta_leases_init(struct meta_leases *leases)
{
    *leases = (struct meta_leases){ 0 };
    q_list_init(&leases->all);
}

void
meta_leases_fini(struct meta_leases *leases)
{
    struct q_list *node;
    while ((node = q_list_pop_front(&leases->all))) {
        struct meta_lease *lease = q_container_of(node, struct meta_lease, node);
        q_heap_remove(&leases->living, &lease->due);
        free(lease);
    }
    q_heap_fini(&leases->living);
}

enum q_err
meta_leases_renew(struct meta_leases *leases, const char *key, uint64_t until_ns, bool *ret_began)
{
    struct meta_lease *lease = find(leases, key);
    if (!lease) {
        size_t size = strlen(key) + 1;
        lease = malloc(sizeof(*lease) + size);
        if (!lease) return Q_FAIL(Q_E_NOMEM);
        memcpy(lease->key, key, size);
        q_heap_node_init(&lease->due);
        q_list_push_back(&leases->all, &lease->node);
    }

    bool lived = q_heap_node_is_linked(&lease->due);
    q_heap_remove(&leases->living, &lease->due);
    Q_TRY(q_heap_push(&leases->living, &lease->due, until_ns));
    *ret_began = !lived;
    return Q_OK;
}

const char *
meta_leases_expire_one(struct meta_leases *leases, uint64_t now_ns)
{
    struct q_heap_node *first = q_heap_first(&leases->living);
    if (!first || first->key > now_ns) return NULL;
    q_heap_remove(&leases->living, first);
    return q_container_of(first, struct meta_lease, due)->key;
}

uint64_t
meta_leases_next_ns(const struct meta_leases *leases)
{
    const struct q_heap_node *first = q_heap_first(&leases->living);
    return first ? first->key : UINT64_MAX;
}

static struct meta_lease *
find(const struct meta_leases *leases, const char *key)
{
    q_list_for_each(at, &leases->all) {
        struct meta_lease *lease = q_container_of(at, struct meta_lease, node);
        if (strcmp(lease->key, key) == 0) return lease;
    }
    return NULL;
}
