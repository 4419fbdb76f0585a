/*
 * store/statement.c: a group, said as a whole.
 *
 * GROUP, then its CONSUMERs, each with what it has in HELD, then PENDING and ERRORs: one append, so that one
 * frame holds all of it or none.
 *
 * A group with too much in hand for that is stated in parts. They are sorted by sequence, and each
 * begins with how far it tells: the first with a GROUP record of a lower cursor, the others with a
 * CURSOR record. So what precedes a part that is lost is a whole statement, of the group as if it had
 * not gone further: messages come again, and none is passed over.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "store/store.h"

enum {
    PART_BYTES_MAX = 256 * 1024
};

/* A range in the hands of a consumer, or of nobody. */
struct item {
    struct ql_range_item range;
    bool held;
};

struct parts {
    struct qlog_store *store;
    struct ql_group *group;
    struct item *items; /* by sequence */
    uint32_t item_count;
    uint32_t next_item;
    uint32_t next_consumer;
    uint32_t next_error;
    struct ql_action *first;
    struct ql_action *last;
};

/* What goes into one part. */
struct part {
    uint32_t consumer_end;
    uint32_t item_end;
    uint32_t held_count;
    uint32_t error_count; /* when all ranges are said */
    uint32_t record_count;
    uint32_t size;
    uint64_t cursor;
};

static uint32_t group_size(const struct ql_group *group, uint32_t *ret_count);
static void group_encode(const struct ql_group *group, uint8_t *out);
static enum q_err state_in_parts(
    struct qlog_store *store, struct ql_group *group, struct ql_action **ret_action);
static enum q_err parts_collect(struct parts *parts);
static int item_compare(const void *a, const void *b);
static struct part part_measure(const struct parts *parts, uint32_t size_max);
static void part_encode(struct parts *parts, const struct part *part, uint8_t *out);
static uint8_t *encode_consumer(const struct ql_consumer *consumer, uint8_t *out);
static uint8_t *encode_spans(
    enum ql_record_kind kind, uint32_t group_id, const struct ql_spans *spans, uint8_t *out);
static uint8_t *encode_items(
    const struct parts *parts, const struct part *part, bool held, uint8_t *out);

static uint32_t
part_bytes_max(const struct qlog_store *store)
{
    return (uint32_t)q_min_u64(PART_BYTES_MAX, ql_log_body_bytes_max(store->actions));
}

enum q_err
ql_state_group(struct qlog_store *store, struct ql_group *group, struct ql_action **ret_action)
{
    uint32_t count;
    uint32_t size = group_size(group, &count);
    if (size > part_bytes_max(store)) return state_in_parts(store, group, ret_action);
    Q_TRY(ql_action_new_always(store, size, ret_action));
    (*ret_action)->record_count = count;
    (*ret_action)->group_id = group->id;
    group_encode(group, (*ret_action)->record);
    return Q_OK;
}

static struct ql_group_record
group_statement(const struct ql_group *group)
{
    struct ql_group_record record = {
        .group_id = group->id,
        .subject_id = group->subject->id,
        .cursor = group->cursor,
        .epoch = group->epoch,
        .dead = group->dead,
        .expired = group->expired,
        .skipped = group->skipped,
        .broadcast = group->broadcast,
        .paused = group->paused,
        .settings = group->settings,
        .subject = q_bytes_from(group->subject->name, group->subject->name_size),
        .name = q_bytes_from(group->name, group->name_size),
    };
    for (uint32_t i = 0; i < QLOG_FILTERS_MAX; i++)
        if (group->filters.slots[i] != NULL)
            record.filters[record.filter_count++] = (struct ql_filter_item){
                .slot = i,
                .filter = group->filters.slots[i]->filter,
            };
    return record;
}

static struct ql_consumer_record
consumer_statement(const struct ql_consumer *consumer)
{
    struct ql_consumer_record record = {
        .group_id = consumer->group->id,
        .consumer_id = consumer->id,
        .session = consumer->session,
        .next_pull_sequence = consumer->next_pull_sequence,
        .released_below = consumer->released_below,
        .filter = (uint8_t)consumer->filter,
        .name = q_bytes_from(consumer->name, consumer->name_size),
    };
    memcpy(record.token, consumer->token, sizeof(record.token));
    return record;
}

static struct ql_error_record
error_statement(const struct ql_group *group, uint32_t index)
{
    const struct ql_last_error *error = &group->errors[index];
    return (struct ql_error_record){
        .group_id = group->id,
        .sequence = error->sequence,
        .count = error->count,
        .left = error->left,
        .text = q_bytes_from(error->text, error->size),
    };
}

static uint32_t
errors_size(const struct ql_group *group, uint32_t from, uint32_t size_max, uint32_t *count)
{
    uint32_t size = 0;
    for (*count = 0; from + *count < group->error_count; ++*count) {
        struct ql_error_record error = error_statement(group, from + *count);
        if (ql_error_record_size(&error) > size_max - size) break;
        size += ql_error_record_size(&error);
    }
    return size;
}

static uint8_t *
encode_errors(const struct ql_group *group, uint32_t from, uint32_t count, uint8_t *out)
{
    for (uint32_t i = from; i < from + count; i++) {
        struct ql_error_record error = error_statement(group, i);
        ql_error_record_encode(&error, out);
        out += ql_error_record_size(&error);
    }
    return out;
}

/* Records and bytes that `items` ranges take. */
static uint32_t
ranges_size(uint32_t items, uint32_t *count)
{
    uint32_t full = items / QL_RANGE_ITEMS_MAX;
    uint32_t rest = items % QL_RANGE_ITEMS_MAX;
    *count += full + (rest > 0 ? 1 : 0);
    return full * ql_ranges_record_size(QL_RANGE_ITEMS_MAX) +
           (rest > 0 ? ql_ranges_record_size(rest) : 0);
}

static uint32_t
consumer_size(const struct ql_consumer *consumer)
{
    struct ql_consumer_record record = consumer_statement(consumer);
    return ql_consumer_record_size(&record);
}

static uint32_t
group_size(const struct ql_group *group, uint32_t *ret_count)
{
    struct ql_group_record record = group_statement(group);
    uint32_t count = 1;
    uint32_t size = ql_group_record_size(&record);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        size += consumer_size(consumer);
        size += ranges_size(consumer->held.count, &count);
        count++;
    }
    size += ranges_size(group->pending.count, &count);
    uint32_t errors;
    size += errors_size(group, 0, UINT32_MAX, &errors);
    *ret_count = count + errors;
    return size;
}

static void
group_encode(const struct ql_group *group, uint8_t *out)
{
    struct ql_group_record record = group_statement(group);
    ql_group_record_encode(&record, out);
    out += ql_group_record_size(&record);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        if (consumer == NULL) continue;
        out = encode_consumer(consumer, out);
        out = encode_spans(QL_RECORD_HELD, group->id, &consumer->held, out);
    }
    out = encode_spans(QL_RECORD_PENDING, group->id, &group->pending, out);
    (void)encode_errors(group, 0, group->error_count, out);
}

static uint8_t *
encode_consumer(const struct ql_consumer *consumer, uint8_t *out)
{
    struct ql_consumer_record record = consumer_statement(consumer);
    ql_consumer_record_encode(&record, out);
    return out + ql_consumer_record_size(&record);
}

static uint8_t *
encode_spans(
    enum ql_record_kind kind, uint32_t group_id, const struct ql_spans *spans, uint8_t *out)
{
    for (uint32_t from = 0; from < spans->count; from += QL_RANGE_ITEMS_MAX) {
        uint32_t count = (uint32_t)q_min_u64(QL_RANGE_ITEMS_MAX, spans->count - from);
        struct ql_ranges_record record = { .group_id = group_id, .item_count = count };
        ql_ranges_record_encode(kind, &record, ql_span_at(spans, from), out);
        out += ql_ranges_record_size(count);
    }
    return out;
}

static enum q_err
state_in_parts(struct qlog_store *store, struct ql_group *group, struct ql_action **ret_action)
{
    struct parts parts = { .store = store, .group = group };
    enum q_err err = parts_collect(&parts);
    do {
        if (err != Q_OK) break;
        struct part part = part_measure(&parts, part_bytes_max(store));
        struct ql_action *action;
        err = ql_action_new_always(store, part.size, &action);
        if (err != Q_OK) break;
        action->record_count = part.record_count;
        /* It is read from its first part on. */
        if (parts.first == NULL) action->group_id = group->id;
        part_encode(&parts, &part, action->record);
        if (parts.first == NULL) parts.first = action;
        if (parts.last != NULL) parts.last->next = action;
        parts.last = action;
        parts.next_consumer = part.consumer_end;
        parts.next_item = part.item_end;
        parts.next_error += part.error_count;
    } while (parts.next_consumer < group->consumer_count || parts.next_item < parts.item_count ||
             parts.next_error < group->error_count);
    free(parts.items);
    *ret_action = parts.first;
    if (err == Q_OK) return Q_OK;
    while (parts.first != NULL) {
        struct ql_action *next = parts.first->next;
        ql_action_drop(parts.first);
        parts.first = next;
    }
    return err;
}

static enum q_err
parts_collect(struct parts *parts)
{
    const struct ql_group *group = parts->group;
    size_t count = group->pending.count;
    for (uint32_t i = 0; i < group->consumer_count; i++)
        if (group->consumers[i] != NULL) count += group->consumers[i]->held.count;
    parts->items = malloc((count + 1) * sizeof(*parts->items));
    if (parts->items == NULL) return Q_FAIL(Q_E_NOMEM, .what = "statement of a group");
    struct item *item = parts->items;
    for (uint32_t i = 0; i < group->pending.count; i++)
        *item++ = (struct item){ *ql_span_at(&group->pending, i), .held = false };
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++)
            *item++ = (struct item){ *ql_span_at(&consumer->held, j), .held = true };
    }
    parts->item_count = (uint32_t)count;
    qsort(parts->items, count, sizeof(*parts->items), item_compare);
    return Q_OK;
}

static int
item_compare(const void *a, const void *b)
{
    uint64_t left = ((const struct item *)a)->range.sequence;
    uint64_t right = ((const struct item *)b)->range.sequence;
    return left < right ? -1 : left > right;
}

/* As many consumers as fit; ranges when all consumers are said. */
static struct part
part_measure(const struct parts *parts, uint32_t size_max)
{
    const struct ql_group *group = parts->group;
    struct ql_group_record record = group_statement(group);
    struct part part = {
        .consumer_end = parts->next_consumer,
        .item_end = parts->next_item,
        .record_count = 1,
        .size = parts->first == NULL ? ql_group_record_size(&record) : ql_cursor_record_size(),
    };
    for (; part.consumer_end < group->consumer_count; part.consumer_end++) {
        const struct ql_consumer *consumer = group->consumers[part.consumer_end];
        if (consumer == NULL) continue;
        uint32_t size = consumer_size(consumer);
        if (size > size_max - part.size) break;
        part.size += size;
        part.record_count++;
    }
    uint32_t size = 0;
    uint32_t records = 0;
    while (part.consumer_end == group->consumer_count && part.item_end < parts->item_count) {
        uint32_t held = part.held_count + (parts->items[part.item_end].held ? 1 : 0);
        uint32_t pending = part.item_end + 1 - parts->next_item - held;
        uint32_t with_records = 0;
        uint32_t with = ranges_size(held, &with_records) + ranges_size(pending, &with_records);
        if (with > size_max - part.size) break;
        size = with;
        records = with_records;
        part.held_count = held;
        part.item_end++;
    }
    part.size += size;
    part.record_count += records;
    if (part.consumer_end == group->consumer_count && part.item_end == parts->item_count)
        part.size += errors_size(group, parts->next_error, size_max - part.size, &part.error_count);
    part.record_count += part.error_count;
    part.cursor = part.item_end < parts->item_count ? parts->items[part.item_end].range.sequence
                                                    : group->cursor;
    return part;
}

static void
part_encode(struct parts *parts, const struct part *part, uint8_t *out)
{
    const struct ql_group *group = parts->group;
    const uint8_t *begin = out;
    if (parts->first == NULL) {
        struct ql_group_record record = group_statement(group);
        record.cursor = part->cursor;
        ql_group_record_encode(&record, out);
        out += ql_group_record_size(&record);
    } else {
        struct ql_cursor_record record = { .group_id = group->id, .cursor = part->cursor };
        ql_cursor_record_encode(&record, out);
        out += ql_cursor_record_size();
    }
    for (uint32_t i = parts->next_consumer; i < part->consumer_end; i++)
        if (group->consumers[i] != NULL) out = encode_consumer(group->consumers[i], out);
    out = encode_items(parts, part, true, out);
    out = encode_items(parts, part, false, out);
    out = encode_errors(group, parts->next_error, part->error_count, out);
    Q_ASSERT((uint32_t)(out - begin) == part->size);
}

static uint8_t *
encode_items(const struct parts *parts, const struct part *part, bool held, uint8_t *out)
{
    struct ql_range_item items[QL_RANGE_ITEMS_MAX];
    uint32_t count = 0;
    for (uint32_t at = parts->next_item; at < part->item_end || count > 0; at++) {
        bool more = at < part->item_end;
        if (more && parts->items[at].held == held) items[count++] = parts->items[at].range;
        if (count == 0 || (more && count < QL_RANGE_ITEMS_MAX)) continue;
        struct ql_ranges_record record = { .group_id = parts->group->id, .item_count = count };
        ql_ranges_record_encode(held ? QL_RECORD_HELD : QL_RECORD_PENDING, &record, items, out);
        out += ql_ranges_record_size(count);
        count = 0;
    }
    return out;
}
