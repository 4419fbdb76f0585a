/*
 * qbase/map.h: hash table from a 64-bit hash to a 32-bit number, open addressing.
 *
 * The map keeps no keys: it stores (hash, value) and asks the caller's `equal` whether a value
 * with the same hash is the one meant. So a table of names costs 16 bytes an entry plus the names
 * wherever the caller keeps them. Grows by doubling, in q_map_put() only.
 *
 * Thread:   the owner's.
 * Blocking: never.
 * Memory:   one block, allocated by q_map_reserve() and q_map_put(), freed by q_map_fini().
 */
#ifndef QBASE_MAP_H
#define QBASE_MAP_H

#include <qbase/err.h>

struct q_map_slot;

struct q_map {
    struct q_map_slot *slots; /* NULL while nothing was put */
    uint32_t slot_count;      /* a power of two, or 0 */
    uint32_t used;            /* entries */
};

typedef bool q_map_equal_fn(const void *key, uint32_t value, const void *context);

/* A zeroed map is valid and empty: struct q_map map = { 0 }; */
void q_map_fini(struct q_map *map);
/* Room for `count` entries without growing, for good. Q_E_NOMEM leaves the map as it was. */
Q_MUST_CHECK enum q_err q_map_reserve(struct q_map *map, uint32_t count);
/* Q_OK or Q_E_NOMEM. The caller has checked that the key is not in the map. */
Q_MUST_CHECK enum q_err q_map_put(struct q_map *map, uint64_t hash, uint32_t value);
/* True and `*ret_value` set when found. `equal` NULL: the hash alone decides. */
bool q_map_get(
    const struct q_map *map,
    uint64_t hash,
    q_map_equal_fn *equal,
    const void *key,
    const void *context,
    uint32_t *ret_value);
/* Remove the entry with this hash and value. True when it was there. */
bool q_map_remove(struct q_map *map, uint64_t hash, uint32_t value);

#endif /* QBASE_MAP_H */
