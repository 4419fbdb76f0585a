/*
 * map.c: open addressing with linear probing.
 *
 * An entry that goes lets the ones behind it move up, so there are no tombs: a table that has room
 * for n entries keeps that room whatever comes and goes.
 *
 * Invariants:
 *   (1) used <= 3/4 of slot_count, so a probe always meets a free slot
 *   (2) between an entry's home and its slot no slot is free
 */
#include <qbase/map.h>

#include <assert.h>
#include <stdlib.h>

#include <qbase/assert.h>

enum {
    SLOTS_FIRST = 16
};

/* The largest table: its slots still have 32-bit numbers. */
static const uint32_t slots_max = UINT32_C(1) << 31;

struct q_map_slot {
    uint64_t hash;
    uint32_t value;
    uint32_t is_used;
};

static_assert(sizeof(struct q_map_slot) == 16, "the header promises 16 bytes an entry");

static enum q_err map_resize(struct q_map *map, uint32_t slot_count);
static void map_place(struct q_map *map, uint64_t hash, uint32_t value);
static void map_close_gap(struct q_map *map, uint32_t gap);
static uint32_t home_of(const struct q_map *map, uint64_t hash);
static uint32_t slot_after(const struct q_map *map, uint32_t index);
static uint32_t room_of(uint32_t slot_count);

void
q_map_fini(struct q_map *map)
{
    free(map->slots);
    *map = (struct q_map){ 0 };
}

enum q_err
q_map_reserve(struct q_map *map, uint32_t count)
{
    if (count <= room_of(map->slot_count)) return Q_OK;

    uint32_t slot_count = map->slot_count == 0 ? SLOTS_FIRST : map->slot_count;
    while (room_of(slot_count) < count) {
        if (slot_count == slots_max)
            return Q_FAIL(Q_E_NOMEM, .what = q_text("a map can't hold %u entries", count));
        slot_count *= 2;
    }
    return map_resize(map, slot_count);
}

enum q_err
q_map_put(struct q_map *map, uint64_t hash, uint32_t value)
{
    Q_TRY(q_map_reserve(map, map->used + 1));
    map_place(map, hash, value);
    return Q_OK;
}

bool
q_map_get(
    const struct q_map *map,
    uint64_t hash,
    q_map_equal_fn *equal,
    const void *key,
    const void *context,
    uint32_t *ret_value)
{
    if (map->used == 0) return false;
    for (uint32_t i = home_of(map, hash); map->slots[i].is_used; i = slot_after(map, i)) {
        const struct q_map_slot *slot = &map->slots[i];
        if (slot->hash != hash) continue;
        if (equal != NULL && !equal(key, slot->value, context)) continue;
        *ret_value = slot->value;
        return true;
    }
    return false;
}

bool
q_map_remove(struct q_map *map, uint64_t hash, uint32_t value)
{
    if (map->used == 0) return false;
    for (uint32_t i = home_of(map, hash); map->slots[i].is_used; i = slot_after(map, i)) {
        if (map->slots[i].hash != hash || map->slots[i].value != value) continue;
        map_close_gap(map, i);
        map->used--;
        return true;
    }
    return false;
}

static enum q_err
map_resize(struct q_map *map, uint32_t slot_count)
{
    struct q_map grown = { .slot_count = slot_count };
    grown.slots = calloc(slot_count, sizeof(struct q_map_slot));
    if (grown.slots == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = q_text("no memory for a map of %u slots", slot_count));

    for (uint32_t i = 0; i < map->slot_count; i++) {
        const struct q_map_slot *slot = &map->slots[i];
        if (slot->is_used) map_place(&grown, slot->hash, slot->value);
    }
    Q_ASSERT(grown.used == map->used);
    free(map->slots);
    *map = grown;
    return Q_OK;
}

/* Put an entry into the first slot that is free for it; there is room. */
static void
map_place(struct q_map *map, uint64_t hash, uint32_t value)
{
    uint32_t i = home_of(map, hash);
    while (map->slots[i].is_used)
        i = slot_after(map, i);
    map->slots[i] = (struct q_map_slot){ .hash = hash, .value = value, .is_used = true };
    map->used++;
}

/* Free the slot `gap`; entries behind it that may stand there move up, each leaving a new gap. */
static void
map_close_gap(struct q_map *map, uint32_t gap)
{
    uint32_t mask = map->slot_count - 1;
    for (uint32_t i = slot_after(map, gap); map->slots[i].is_used; i = slot_after(map, i)) {
        /* It may stand anywhere from its home on, so not in a gap that lies before its home. */
        uint32_t from_home = (i - home_of(map, map->slots[i].hash)) & mask;
        uint32_t from_gap = (i - gap) & mask;
        if (from_home < from_gap) continue;
        map->slots[gap] = map->slots[i];
        gap = i;
    }
    map->slots[gap].is_used = false;
}

static uint32_t
home_of(const struct q_map *map, uint64_t hash)
{
    /* Callers may use plain numbers as hashes; the multiplication (2^64 / golden ratio) spreads
     * them, and the upper bits of the product depend on all bits of the hash. */
    uint64_t spread = hash * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(spread >> 32) & (map->slot_count - 1);
}

static uint32_t
slot_after(const struct q_map *map, uint32_t index)
{
    return (index + 1) & (map->slot_count - 1);
}

/* Entries that a table of `slot_count` takes. */
static uint32_t
room_of(uint32_t slot_count)
{
    return slot_count - slot_count / 4;
}
