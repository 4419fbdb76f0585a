#include "consume/release.h"

#include <stdlib.h>

#include <qbase/assert.h>

#include "planted.h"

enum q_err
ql_release_reserve(struct ql_group *group, uint64_t count)
{
    return ql_pending_reserve(group, 2 * count);
}

struct ql_range_item *
ql_release_room(struct ql_group *group, uint64_t count)
{
    const struct ql_spans *pending = &group->pending;
    Q_ASSERT(pending->begin + pending->count + 2 * count <= pending->capacity);
    return pending->items + pending->begin + pending->count + count;
}

void
ql_release_where(
    struct ql_consumer *consumer, ql_moves_fn *moves, const void *context, enum ql_use use)
{
    struct ql_group *group = consumer->group;
    uint32_t held_count = consumer->held.count;
    if (held_count == 0) return;
    struct ql_range_item *items = ql_release_room(group, held_count);
    uint32_t count = ql_held_sift(consumer, moves, context, items);
    bool together = group->settings.strict && use != QL_USE_NONE;
    if (together) qsort(items, count, sizeof(items[0]), ql_item_by_key);
    for (uint32_t i = 0; i < count; i++) {
        bool later = together && i > 0 && items[i].key != 0 && items[i].key == items[i - 1].key;
        items[i].consumer_id = consumer->id;
        ql_item_use(group, &items[i], later ? QL_USE_NONE : use, 0);
    }
    ql_pending_add(group, items, count);
}

void
ql_item_use(
    const struct ql_group *group, struct ql_range_item *item, enum ql_use use, uint64_t due_ms)
{
    struct ql_uses *uses = &item->uses;
    if (use == QL_USE_FAILED && uses->failed < UINT8_MAX) uses->failed++;
    if (use == QL_USE_TIMED_OUT && uses->timed_out < UINT8_MAX) uses->timed_out++;
    if (use == QL_USE_DIED && !QL_PLANTED(death_unused) && uses->died < UINT8_MAX) uses->died++;
    item->reason = use == QL_USE_FAILED ? QL_REASON_RETRY : QL_REASON_RELEASED;
    item->time_ms = due_ms;
    item->bytes = 0;
    bool over = ql_uses_attempt(*uses) > group->settings.attempts_max;
    if (!over || group->of_dead || use == QL_USE_NONE) return;
    item->reason = QL_REASON_DYING;
    item->time_ms = UINT64_MAX;
}

int
ql_item_by_key(const void *a, const void *b)
{
    const struct ql_range_item *left = a;
    const struct ql_range_item *right = b;
    if (left->key != right->key) return left->key < right->key ? -1 : 1;
    return (left->sequence > right->sequence) - (left->sequence < right->sequence);
}
