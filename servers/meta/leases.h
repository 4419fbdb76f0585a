/*
 * meta/leases.h: signs of life that run out.
 *
 * Thread: the owner's. Blocking: never. Memory: one block per key, kept until _fini(): keys are
 * nodes, which are few and come back.
 */
#ifndef META_LEASES_H
#define META_LEASES_H

#include <qbase/heap.h>
#include <qbase/list.h>

struct meta_lease {
    struct q_list node;
    struct q_heap_node due; /* in the heap while it lives; key: when it runs out */
    char key[];
};

struct meta_leases {
    struct q_list all;
    struct q_heap living;
};

void meta_leases_init(struct meta_leases *leases);
void meta_leases_fini(struct meta_leases *leases);
/* Q_OK or Q_E_NOMEM. `*ret_began`: it did not live before. */
Q_MUST_CHECK enum q_err meta_leases_renew(
    struct meta_leases *leases, const char *key, uint64_t until_ns, bool *ret_began);
/* One that has run out by now, NULL: none. Valid until the next call. */
const char *meta_leases_expire_one(struct meta_leases *leases, uint64_t now_ns);
/* UINT64_MAX: none lives. */
uint64_t meta_leases_next_ns(const struct meta_leases *leases);

#endif /* META_LEASES_H */
