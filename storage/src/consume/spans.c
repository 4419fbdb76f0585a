#include "consume/spans.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

static void spans_move(struct ql_spans *spans, struct ql_range_item *items, uint32_t capacity);
static uint64_t cut_one(
    struct ql_spans *spans, const struct qlog_range *range, ql_span_fn *each, void *context);
static uint64_t cut_many(
    struct ql_spans *spans,
    const struct qlog_range *ranges,
    uint32_t range_count,
    ql_span_fn *each,
    void *context);
static void splice(
    struct ql_spans *spans,
    uint32_t from,
    uint32_t to,
    const struct ql_range_item *items,
    uint32_t count);
static void join(struct ql_spans *spans, uint32_t from, uint32_t to);

void
ql_spans_fini(struct ql_spans *spans)
{
    free(spans->items);
    ql_room_change(spans->room, spans->capacity * sizeof(struct ql_range_item), 0);
    *spans = (struct ql_spans){ .by_pull = spans->by_pull, .room = spans->room };
}

enum q_err
ql_spans_reserve(struct ql_spans *spans, uint64_t more)
{
    uint64_t wanted = spans->count + more;
    if (wanted <= spans->capacity) {
        /* What is free in front counts, too. */
        if (spans->begin + wanted > spans->capacity) {
            memmove(
                spans->items, ql_span_at(spans, 0), spans->count * sizeof(struct ql_range_item));
            spans->begin = 0;
        }
        return Q_OK;
    }
    uint64_t capacity = q_max_u64(wanted, (uint64_t)spans->capacity * 2);
    struct ql_range_item *items = malloc(capacity * sizeof(struct ql_range_item));
    if (items == NULL || capacity > UINT32_MAX) {
        free(items);
        return Q_FAIL(Q_E_NOMEM, .what = "messages in hand of a group");
    }
    spans_move(spans, items, (uint32_t)capacity);
    return Q_OK;
}

void
ql_spans_shrink(struct ql_spans *spans)
{
    if (spans->count == 0) ql_spans_fini(spans);
    if (spans->count == spans->capacity) return;
    struct ql_range_item *items = malloc(spans->count * sizeof(struct ql_range_item));
    if (items != NULL) spans_move(spans, items, spans->count);
}

static void
spans_move(struct ql_spans *spans, struct ql_range_item *items, uint32_t capacity)
{
    if (spans->count > 0)
        memcpy(items, ql_span_at(spans, 0), spans->count * sizeof(struct ql_range_item));
    free(spans->items);
    ql_room_change(
        spans->room, spans->capacity * sizeof(struct ql_range_item),
        capacity * sizeof(struct ql_range_item));
    spans->items = items;
    spans->begin = 0;
    spans->capacity = capacity;
}

uint32_t
ql_spans_find(const struct ql_spans *spans, uint64_t at)
{
    uint32_t low = 0;
    uint32_t high = spans->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct ql_range_item *item = ql_span_at(spans, middle);
        if (ql_span_from(spans, item) + item->count <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct ql_range_item
ql_span_part(
    const struct ql_spans *spans, const struct ql_range_item *item, uint64_t from, uint32_t count)
{
    struct ql_range_item part = *item;
    uint64_t before = from - ql_span_from(spans, item);
    Q_ASSERT(before + count <= item->count);
    part.sequence += before;
    part.pull_sequence += before;
    part.count = count;
    /* By its messages' share; what is rounded off stays with the last part. */
    uint64_t begin = (uint64_t)item->bytes * before / item->count;
    uint64_t end = (uint64_t)item->bytes * (before + count) / item->count;
    part.bytes = (uint32_t)(end - begin);
    return part;
}

void
ql_spans_merge(
    struct ql_spans *spans,
    const struct ql_range_item *items,
    uint32_t count,
    ql_span_fn *each,
    void *context)
{
    if (count == 0) return;
    Q_ASSERT(spans->begin + spans->count + count <= spans->capacity);
    for (uint32_t i = 0; each != NULL && i < count; i++)
        each(context, &items[i], 1);
    uint32_t old = spans->count;
    uint32_t fresh = count;
    uint32_t to = old + count;
    spans->count = to;
    while (fresh > 0) {
        const struct ql_range_item *item = &items[fresh - 1];
        bool behind = old == 0 ||
                      ql_span_from(spans, ql_span_at(spans, old - 1)) <= ql_span_from(spans, item);
        *ql_span_at(spans, --to) = behind ? *item : *ql_span_at(spans, old - 1);
        spans->moved++;
        if (behind)
            fresh--;
        else
            old--;
    }
    /* All below `to` is as it was; the last new one is at or below this. */
    uint32_t last = ql_spans_find(spans, ql_span_from(spans, &items[count - 1]));
    join(spans, to == 0 ? 0 : to - 1, (uint32_t)q_min_u64(last + 2, spans->count));
}

static bool
may_join(const struct ql_range_item *a, const struct ql_range_item *b)
{
    /* Messages with an order key stay alone: what happens to one concerns its key. */
    return a->key == 0 && a->sequence + a->count == b->sequence &&
           (a->consumer_id == (uint32_t)UINT32_MAX ||
            a->pull_sequence + a->count == b->pull_sequence) &&
           a->consumer_id == b->consumer_id && a->time_ms == b->time_ms && a->key == b->key &&
           a->filters == b->filters && a->reason == b->reason && a->expiring == b->expiring &&
           memcmp(&a->uses, &b->uses, sizeof(a->uses)) == 0 &&
           (uint64_t)a->count + b->count <= INT32_MAX && (uint64_t)a->bytes + b->bytes <= INT32_MAX;
}

/* Join neighbours among spans [from, to). */
static void
join(struct ql_spans *spans, uint32_t from, uint32_t to)
{
    uint32_t kept = from;
    for (uint32_t i = from + 1; i < to; i++) {
        struct ql_range_item *last = ql_span_at(spans, kept);
        const struct ql_range_item *item = ql_span_at(spans, i);
        if (may_join(last, item)) {
            last->count += item->count;
            last->bytes += item->bytes;
        } else {
            *ql_span_at(spans, ++kept) = *item;
        }
    }
    if (kept + 1 < to) splice(spans, kept + 1, to, NULL, 0);
}

uint64_t
ql_spans_cut(
    struct ql_spans *spans,
    const struct qlog_range *ranges,
    uint32_t range_count,
    ql_span_fn *each,
    void *context)
{
    if (range_count == 0 || spans->count == 0) return 0;
    if (range_count == 1) return cut_one(spans, ranges, each, context);
    return cut_many(spans, ranges, range_count, each, context);
}

static uint64_t
cut_one(struct ql_spans *spans, const struct qlog_range *range, ql_span_fn *each, void *context)
{
    uint32_t from = ql_spans_find(spans, range->first);
    uint32_t to = from;
    uint64_t removed = 0;
    struct ql_range_item left[2];
    uint32_t left_count = 0;
    for (; to < spans->count; to++) {
        const struct ql_range_item *item = ql_span_at(spans, to);
        uint64_t begin = ql_span_from(spans, item);
        uint64_t end = begin + item->count;
        if (begin > range->last) break;
        uint64_t cut_from = q_max_u64(begin, range->first);
        uint64_t cut_to = q_min_u64(end, range->last + 1);
        if (begin < cut_from)
            left[left_count++] = ql_span_part(spans, item, begin, (uint32_t)(cut_from - begin));
        if (cut_to < end)
            left[left_count++] = ql_span_part(spans, item, cut_to, (uint32_t)(end - cut_to));
        struct ql_range_item part =
            ql_span_part(spans, item, cut_from, (uint32_t)(cut_to - cut_from));
        removed += part.count;
        if (each != NULL) each(context, &part, -1);
    }
    if (to > from) splice(spans, from, to, left, left_count);
    return removed;
}

/*
 * Spans from the first that is touched are moved up by as many as cuts may add, then walked and
 * written back without what is cut.
 */
static uint64_t
cut_many(
    struct ql_spans *spans,
    const struct qlog_range *ranges,
    uint32_t range_count,
    ql_span_fn *each,
    void *context)
{
    uint32_t to = ql_spans_find(spans, ranges[0].first);
    uint32_t left = spans->count - to;
    Q_ASSERT(spans->begin + spans->count + range_count <= spans->capacity);
    struct ql_range_item *read = ql_span_at(spans, to) + range_count;
    memmove(read, ql_span_at(spans, to), left * sizeof(struct ql_range_item));
    spans->moved += left;
    uint64_t removed = 0;
    uint32_t next = 0;
    for (; left > 0 && next < range_count; left--, read++) {
        struct ql_range_item item = *read;
        uint64_t at = ql_span_from(spans, &item);
        uint64_t end = at + item.count;
        while (next < range_count && ranges[next].first < end) {
            uint64_t from = q_max_u64(at, ranges[next].first);
            uint64_t until = q_min_u64(end, ranges[next].last + 1);
            if (until > from) {
                if (at < from)
                    *ql_span_at(spans, to++) =
                        ql_span_part(spans, &item, at, (uint32_t)(from - at));
                struct ql_range_item part =
                    ql_span_part(spans, &item, from, (uint32_t)(until - from));
                removed += part.count;
                if (each != NULL) each(context, &part, -1);
                at = until;
            }
            if (ranges[next].last + 1 > end) break; /* it goes on in the next span */
            next++;
        }
        if (at < end)
            *ql_span_at(spans, to++) = ql_span_part(spans, &item, at, (uint32_t)(end - at));
    }
    memmove(ql_span_at(spans, to), read, left * sizeof(struct ql_range_item));
    spans->count = to + left;
    if (spans->count == 0) spans->begin = 0;
    return removed;
}

void
ql_spans_clear(struct ql_spans *spans, ql_span_fn *each, void *context)
{
    for (uint32_t i = 0; each != NULL && i < spans->count; i++)
        each(context, ql_span_at(spans, i), -1);
    spans->count = 0;
    spans->begin = 0;
}

/* Replace spans [from, to); the shorter side moves. */
static void
splice(
    struct ql_spans *spans,
    uint32_t from,
    uint32_t to,
    const struct ql_range_item *items,
    uint32_t count)
{
    uint32_t gone = to - from;
    struct ql_range_item *first = ql_span_at(spans, 0);
    if (count <= gone && from < spans->count - to) {
        spans->moved += from;
        memmove(first + (gone - count), first, from * sizeof(struct ql_range_item));
        spans->begin += gone - count;
    } else if (count != gone) {
        Q_ASSERT(spans->begin + spans->count - gone + count <= spans->capacity);
        spans->moved += spans->count - to;
        memmove(
            first + from + count, first + to, (spans->count - to) * sizeof(struct ql_range_item));
    }
    spans->count = spans->count - gone + count;
    for (uint32_t i = 0; i < count; i++)
        *ql_span_at(spans, from + i) = items[i];
    if (spans->count == 0) spans->begin = 0;
}
