/*
 * consume/room.h: how much memory the groups of a store have, all together.
 *
 * Whatever a group keeps takes from it and gives back: groups, consumers, filters, spans, keys, errors.
 * A room that is full stops what makes groups larger (new messages to consumers, new groups and
 * consumers) and nothing else: what is in somebody's hands can be acknowledged, fail and come again
 * whatever the room says. So the bound is exceeded by what that takes: a window falls apart into at
 * most as many spans as it has messages.
 *
 * Thread: the store's.
 */
#ifndef QL_CONSUME_ROOM_H
#define QL_CONSUME_ROOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "planted.h"

struct ql_room {
    uint64_t used; /* bytes */
    uint64_t max;
};

/* `room` may be NULL: nobody counts. */
static inline void
ql_room_change(struct ql_room *room, uint64_t before, uint64_t after)
{
    if (room != NULL) room->used += after - before;
}

static inline bool
ql_room_is_full(const struct ql_room *room)
{
    return room != NULL && room->used >= room->max && !QL_PLANTED(room_unlimited);
}

#endif /* QL_CONSUME_ROOM_H */
