/*
 * meta/routes.h: which broker groups serve a subject.
 *
 * A subject is given broker groups on first use: META_GROUPS_MIN of them, or all there are; the
 * choice is stored and never taken back. A subject that got fewer than that, since there were no
 * more, gets the rest on a later use. Who is chosen follows from the names alone (highest random
 * weight), so that the load is even without anybody counting.
 *
 * The version of a route is a hash of what it says. It is the same after a restart of meta, and
 * differs when anything in the route does, which is all that a client waits for.
 *
 * Order keys live in 1,024 slots of a subject. The broker groups that it was given at first are the homes
 * of its slots, in equal ranges; those that it gets later are homes of none. So no key ever moves.
 *
 * Keys: "subjects/NAME" → names of broker groups, each ended by a newline; those without slots begin
 * with a '+'.
 *
 * Thread:   the store's. Blocking: as the store. Memory: a route points into `nodes`.
 */
#ifndef META_ROUTES_H
#define META_ROUTES_H

#include "meta/nodes.h"

enum {
    META_GROUPS_MIN = 2,
    META_SLOTS = 1024,
    META_ROUTE_GROUPS_MAX = 256,
    META_ASSIGNMENT_MAX = 4096, /* bytes of names */
};

/* In the place of a subject: all delay groups. */
#define META_DELAY_GROUPS "%delay"

struct meta_route {
    uint64_t version; /* never 0 */
    size_t group_count;
    const struct meta_node *groups[META_ROUTE_GROUPS_MAX]; /* alive */
    bool assigned_now;                                     /* groups were given by this call */
    size_t home_count;
    const char *homes[META_ROUTE_GROUPS_MAX]; /* of slots, in order; alive or not; in `names` */
    char names[META_ASSIGNMENT_MAX];
};

/* Slots below this are at home `index`, or one before. */
uint32_t meta_route_slots_until(const struct meta_route *route, size_t index);

/*
 * The route of `subject`, "": all broker groups, META_DELAY_GROUPS: all delay groups. `assign`: somebody is about to use the subject.
 * A route without groups is a valid answer: nobody serves it now. Q_OK or failures of the store.
 */
Q_MUST_CHECK enum q_err meta_route_find(
    struct meta_nodes *nodes, const char *subject, bool assign, struct meta_route *ret_route);

#endif /* META_ROUTES_H */
