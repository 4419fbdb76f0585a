/*
 * consume/keys.h: which order keys of a group are busy.
 *
 * Of each key (its hash) that has messages below the cursor: how many are in consumers' hands, and
 * how many of the pending ones hold back later ones. Derived from windows and pending set.
 *
 * Thread: the owner's. Memory: an open hash table, made with the first key.
 */
#ifndef QL_CONSUME_KEYS_H
#define QL_CONSUME_KEYS_H

#include "consume/room.h"
#include "format/record.h"

struct ql_key {
    uint32_t key; /* 0: free */
    uint32_t held;
    uint32_t waiting;
};

struct ql_keys {
    struct ql_key *slots;
    uint32_t slot_count; /* a power of two, or 0 */
    uint32_t used;
    struct ql_room *room; /* that its memory is taken from; NULL: nobody counts */
};

void ql_keys_fini(struct ql_keys *keys);
/* Room for `more` keys. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_keys_reserve(struct ql_keys *keys, uint64_t more);
/* NULL: it is not busy. */
struct ql_key *ql_keys_find(const struct ql_keys *keys, uint32_t key);
/* Count; there is room. Forgotten when nothing is left. Key 0 is none. */
void ql_keys_add(struct ql_keys *keys, uint32_t key, int64_t held, int64_t waiting);
void ql_keys_clear(struct ql_keys *keys);

#endif /* QL_CONSUME_KEYS_H */
