#include "consume/keys.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

static void keys_remove(struct ql_keys *keys, uint32_t at);

void
ql_keys_fini(struct ql_keys *keys)
{
    free(keys->slots);
    ql_room_change(keys->room, keys->slot_count * sizeof(struct ql_key), 0);
    *keys = (struct ql_keys){ .room = keys->room };
}

static uint32_t
keys_home(const struct ql_keys *keys, uint32_t key)
{
    /* Keys are hashes; one multiplication more, in case somebody chose them. */
    return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32) & (keys->slot_count - 1);
}

/* Where the key is, or the free slot where it would be. */
static uint32_t
keys_at(const struct ql_keys *keys, uint32_t key)
{
    uint32_t at = keys_home(keys, key);
    while (keys->slots[at].key != 0 && keys->slots[at].key != key)
        at = (at + 1) & (keys->slot_count - 1);
    return at;
}

enum q_err
ql_keys_reserve(struct ql_keys *keys, uint64_t more)
{
    uint64_t wanted = (keys->used + more) * 2;
    if (more == 0 || wanted <= keys->slot_count) return Q_OK;
    uint64_t slot_count = 16;
    while (slot_count < wanted)
        slot_count *= 2;
    struct ql_key *slots = calloc(slot_count, sizeof(struct ql_key));
    if (slots == NULL || slot_count > UINT32_MAX) {
        free(slots);
        return Q_FAIL(Q_E_NOMEM, .what = "order keys of a group");
    }
    struct ql_keys old = *keys;
    ql_room_change(
        keys->room, old.slot_count * sizeof(struct ql_key), slot_count * sizeof(struct ql_key));
    keys->slots = slots;
    keys->slot_count = (uint32_t)slot_count;
    for (uint32_t i = 0; i < old.slot_count; i++)
        if (old.slots[i].key != 0) keys->slots[keys_at(keys, old.slots[i].key)] = old.slots[i];
    free(old.slots);
    return Q_OK;
}

struct ql_key *
ql_keys_find(const struct ql_keys *keys, uint32_t key)
{
    if (keys->used == 0 || key == 0) return NULL;
    struct ql_key *slot = &keys->slots[keys_at(keys, key)];
    return slot->key == key ? slot : NULL;
}

void
ql_keys_add(struct ql_keys *keys, uint32_t key, int64_t held, int64_t waiting)
{
    if (key == 0 || (held == 0 && waiting == 0)) return;
    Q_ASSERT(keys->slot_count > 0);
    uint32_t at = keys_at(keys, key);
    struct ql_key *slot = &keys->slots[at];
    if (slot->key == 0) {
        Q_ASSERT(keys->used < keys->slot_count / 2 + 1);
        *slot = (struct ql_key){ .key = key };
        keys->used++;
    }
    int64_t now_held = (int64_t)slot->held + held;
    int64_t now_waiting = (int64_t)slot->waiting + waiting;
    Q_ASSERT(now_held >= 0);
    Q_ASSERT(now_waiting >= 0);
    slot->held = (uint32_t)now_held;
    slot->waiting = (uint32_t)now_waiting;
    if (now_held == 0 && now_waiting == 0) keys_remove(keys, at);
}

/* Those behind it that probed past it move up. */
static void
keys_remove(struct ql_keys *keys, uint32_t at)
{
    uint32_t mask = keys->slot_count - 1;
    keys->used--;
    uint32_t next = at;
    for (;;) {
        keys->slots[at].key = 0;
        for (;;) {
            next = (next + 1) & mask;
            if (keys->slots[next].key == 0) return;
            uint32_t home = keys_home(keys, keys->slots[next].key);
            /* It may stand at `at` unless its home lies behind that. */
            if (((next - home) & mask) >= ((next - at) & mask)) break;
        }
        keys->slots[at] = keys->slots[next];
        at = next;
    }
}

void
ql_keys_clear(struct ql_keys *keys)
{
    if (keys->used > 0) memset(keys->slots, 0, keys->slot_count * sizeof(struct ql_key));
    keys->used = 0;
}
