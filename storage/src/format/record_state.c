/*
 * format/record_state.c: records that make a group, and those that tell its state.
 */
#include "format/coder.h"

/* Numbers of a group's settings, in this order. */
static size_t
settings_size(const struct qlog_group_settings *settings)
{
    return 1 + 1 + 2 + 4 + 4 + 4 + 4 * (size_t)settings->backoff_count;
}

static void
put_settings(struct writer *writer, bool paused, const struct qlog_group_settings *settings)
{
    Q_ASSERT(settings->backoff_count <= QLOG_BACKOFF_MAX);
    put_u8(
        writer,
        (uint8_t)((settings->strict ? 1 : 0) | (settings->ack_sync ? 2 : 0) | (paused ? 4 : 0)));
    put_u8(writer, (uint8_t)settings->backoff_count);
    put_u16(writer, 0);
    put_u32(writer, settings->attempts_max);
    put_u32(writer, settings->pending_max);
    put_u32(writer, settings->filter_keep_ms);
    for (uint32_t i = 0; i < settings->backoff_count; i++)
        put_u32(writer, settings->backoff_ms[i]);
}

static void
take_settings(struct reader *reader, bool *ret_paused, struct qlog_group_settings *settings)
{
    uint8_t flags = take_u8(reader);
    *ret_paused = (flags & 4) != 0;
    *settings = (struct qlog_group_settings){
        .strict = (flags & 1) != 0,
        .ack_sync = (flags & 2) != 0,
        .backoff_count = take_u8(reader),
    };
    (void)take_u16(reader);
    settings->attempts_max = take_u32(reader);
    settings->pending_max = take_u32(reader);
    settings->filter_keep_ms = take_u32(reader);
    bool sound = flags < 8 && settings->backoff_count > 0 &&
                 settings->backoff_count <= QLOG_BACKOFF_MAX && settings->attempts_max > 0 &&
                 settings->attempts_max <= QLOG_ATTEMPTS_MAX && settings->pending_max > 0;
    if (!sound) reader->short_ = true;
    for (uint32_t i = 0; sound && i < settings->backoff_count; i++)
        settings->backoff_ms[i] = take_u32(reader);
}

static size_t
filter_size(const struct ql_filter_item *item)
{
    size_t size = 3;
    for (uint32_t i = 0; i < item->filter.tag_count; i++)
        size += 1 + item->filter.tags[i].size;
    return size;
}

static void
put_filter(struct writer *writer, const struct ql_filter_item *item)
{
    put_u8(writer, (uint8_t)item->slot);
    put_u8(writer, (uint8_t)item->filter.mode);
    put_u8(writer, (uint8_t)item->filter.tag_count);
    for (uint32_t i = 0; i < item->filter.tag_count; i++)
        put_text(writer, item->filter.tags[i]);
}

static void
take_filter(struct reader *reader, struct ql_filter_item *item)
{
    item->slot = take_u8(reader);
    uint8_t mode = take_u8(reader);
    uint8_t tag_count = take_u8(reader);
    if (item->slot >= QLOG_FILTERS_MAX || mode > QBATCH_TAGS_ALL || tag_count > QBATCH_TAGS_MAX) {
        reader->short_ = true;
        return;
    }
    item->filter.mode = (enum qbatch_tag_mode)mode;
    item->filter.tag_count = tag_count;
    for (uint32_t i = 0; i < tag_count; i++)
        item->filter.tags[i] = take_text(reader);
}

uint32_t
ql_group_record_size(const struct ql_group_record *record)
{
    size_t size = 4 + 4 + 5 * 8 + 2 + settings_size(&record->settings) + 1 + record->subject.size +
                  1 + record->name.size + 1;
    for (uint32_t i = 0; i < record->filter_count; i++)
        size += filter_size(&record->filters[i]);
    return record_size(size);
}

void
ql_group_record_encode(const struct ql_group_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_GROUP, ql_group_record_size(record));
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->subject_id);
    put_u64(&writer, record->cursor);
    put_u64(&writer, record->epoch);
    put_u64(&writer, record->dead);
    put_u64(&writer, record->expired);
    put_u64(&writer, record->skipped);
    put_u8(&writer, record->broadcast ? 1 : 0);
    put_settings(&writer, record->paused, &record->settings);
    put_text(&writer, record->subject);
    put_text(&writer, record->name);
    put_u8(&writer, (uint8_t)record->filter_count);
    for (uint32_t i = 0; i < record->filter_count; i++)
        put_filter(&writer, &record->filters[i]);
}

enum q_err
ql_group_record_decode(struct q_bytes bytes, struct ql_group_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_group_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.subject_id = take_u32(&reader);
    record.cursor = take_u64(&reader);
    record.epoch = take_u64(&reader);
    record.dead = take_u64(&reader);
    record.expired = take_u64(&reader);
    record.skipped = take_u64(&reader);
    uint8_t broadcast = take_u8(&reader);
    take_settings(&reader, &record.paused, &record.settings);
    record.subject = take_text(&reader);
    record.name = take_text(&reader);
    record.filter_count = take_u8(&reader);
    if (broadcast > 1 || record.filter_count > QLOG_FILTERS_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = "GROUP record with an impossible flag or filter");
    record.broadcast = broadcast != 0;
    for (uint32_t i = 0; i < record.filter_count; i++)
        take_filter(&reader, &record.filters[i]);
    Q_TRY(reader_check(&reader, "GROUP record is cut, or has impossible settings"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_join_record_size(const struct ql_join_record *record)
{
    return record_size(4 + 4 + 8 + 8 + 16 + filter_size(&record->filter) + 1 + record->name.size);
}

void
ql_join_record_encode(const struct ql_join_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_JOIN, ql_join_record_size(record));
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u64(&writer, record->session);
    put_u64(&writer, record->next_pull_sequence);
    put(&writer, record->token, sizeof(record->token));
    put_filter(&writer, &record->filter);
    put_text(&writer, record->name);
}

enum q_err
ql_join_record_decode(struct q_bytes bytes, struct ql_join_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_join_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.consumer_id = take_u32(&reader);
    record.session = take_u64(&reader);
    record.next_pull_sequence = take_u64(&reader);
    const uint8_t *token = take(&reader, sizeof(record.token));
    if (token != NULL) memcpy(record.token, token, sizeof(record.token));
    take_filter(&reader, &record.filter);
    record.name = take_text(&reader);
    Q_TRY(reader_check(&reader, "JOIN record is cut, or has an impossible filter"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_settings_record_size(const struct ql_settings_record *record)
{
    return record_size(4 + settings_size(&record->settings));
}

void
ql_settings_record_encode(const struct ql_settings_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_SETTINGS, ql_settings_record_size(record));
    put_u32(&writer, record->group_id);
    put_settings(&writer, record->paused, &record->settings);
}

enum q_err
ql_settings_record_decode(struct q_bytes bytes, struct ql_settings_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_settings_record record = { 0 };
    record.group_id = take_u32(&reader);
    take_settings(&reader, &record.paused, &record.settings);
    Q_TRY(reader_check(&reader, "SETTINGS record is cut, or impossible"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_consumer_record_size(const struct ql_consumer_record *record)
{
    return record_size(4 + 4 + 8 + 8 + 8 + 16 + 1 + 1 + record->name.size);
}

void
ql_consumer_record_encode(const struct ql_consumer_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_CONSUMER, ql_consumer_record_size(record));
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u64(&writer, record->session);
    put_u64(&writer, record->next_pull_sequence);
    put_u64(&writer, record->released_below);
    put(&writer, record->token, sizeof(record->token));
    put_u8(&writer, record->filter);
    put_text(&writer, record->name);
}

enum q_err
ql_consumer_record_decode(struct q_bytes bytes, struct ql_consumer_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_consumer_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.consumer_id = take_u32(&reader);
    record.session = take_u64(&reader);
    record.next_pull_sequence = take_u64(&reader);
    record.released_below = take_u64(&reader);
    const uint8_t *token = take(&reader, sizeof(record.token));
    if (token != NULL) memcpy(record.token, token, sizeof(record.token));
    record.filter = take_u8(&reader);
    record.name = take_text(&reader);
    Q_TRY(reader_check(&reader, "CONSUMER record is cut"));
    if (record.filter >= QLOG_FILTERS_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = "CONSUMER record with an impossible filter");
    if (record.released_below > record.next_pull_sequence)
        return Q_FAIL(Q_E_CORRUPT, .what = "CONSUMER record that released the future");
    *ret_record = record;
    return Q_OK;
}

enum {
    RANGE_ITEM_SIZE = 48
};

uint32_t
ql_ranges_record_size(uint32_t item_count)
{
    return record_size(4 + 4 + (size_t)item_count * RANGE_ITEM_SIZE);
}

void
ql_ranges_record_encode(
    enum ql_record_kind kind,
    const struct ql_ranges_record *record,
    const struct ql_range_item *items,
    uint8_t *out)
{
    struct writer writer = writer_of(out, kind, ql_ranges_record_size(record->item_count));
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->item_count);
    for (uint32_t i = 0; i < record->item_count; i++) {
        put_u64(&writer, items[i].pull_sequence);
        put_u64(&writer, items[i].sequence);
        put_u64(&writer, items[i].time_ms);
        put_u32(&writer, items[i].count);
        put_u32(&writer, items[i].consumer_id);
        put_u32(&writer, items[i].key);
        put_u32(&writer, items[i].bytes);
        put_u16(&writer, items[i].filters);
        put_u8(&writer, items[i].reason);
        put_uses(&writer, items[i].uses);
        put_u8(&writer, items[i].expiring ? 1 : 0);
        put_u8(&writer, 0);
    }
}

enum q_err
ql_ranges_record_decode(struct q_bytes bytes, struct ql_ranges_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_ranges_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.item_count = take_u32(&reader);
    if (record.item_count > reader.left.size / RANGE_ITEM_SIZE) reader.short_ = true;
    Q_TRY(reader_check(&reader, "HELD or PENDING record is cut"));
    record.items = reader.left.data;
    for (uint32_t i = 0; i < record.item_count; i++) {
        struct ql_range_item item = ql_range_item_at(&record, i);
        if (item.count == 0 || item.sequence > UINT64_MAX - item.count ||
            item.pull_sequence > UINT64_MAX - item.count || item.reason > QL_REASON_DYING)
            return Q_FAIL(Q_E_CORRUPT, .what = "HELD or PENDING record with an impossible range");
    }
    *ret_record = record;
    return Q_OK;
}

struct ql_range_item
ql_range_item_at(const struct ql_ranges_record *record, uint32_t index)
{
    Q_ASSERT(index < record->item_count);
    const uint8_t *at = record->items + (size_t)index * RANGE_ITEM_SIZE;
    return (struct ql_range_item){
        .pull_sequence = q_load_le64(at),
        .sequence = q_load_le64(at + 8),
        .time_ms = q_load_le64(at + 16),
        .count = q_load_le32(at + 24),
        .consumer_id = q_load_le32(at + 28),
        .key = q_load_le32(at + 32),
        .bytes = q_load_le32(at + 36),
        .filters = q_load_le16(at + 40),
        .reason = at[42],
        .uses = { at[43], at[44], at[45] },
        .expiring = at[46] != 0,
    };
}

uint32_t
ql_cursor_record_size(void)
{
    return record_size(4 + 4 + 8);
}

void
ql_cursor_record_encode(const struct ql_cursor_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_CURSOR, ql_cursor_record_size());
    put_u32(&writer, record->group_id);
    put_u32(&writer, 0);
    put_u64(&writer, record->cursor);
}

enum q_err
ql_cursor_record_decode(struct q_bytes bytes, struct ql_cursor_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_cursor_record record = { 0 };
    record.group_id = take_u32(&reader);
    (void)take_u32(&reader);
    record.cursor = take_u64(&reader);
    Q_TRY(reader_check(&reader, "CURSOR record is cut"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_error_record_size(const struct ql_error_record *record)
{
    return record_size(4 + 8 + 4 + 4 + 1 + record->text.size);
}

void
ql_error_record_encode(const struct ql_error_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_ERROR, ql_error_record_size(record));
    put_u32(&writer, record->group_id);
    put_u64(&writer, record->sequence);
    put_u32(&writer, record->count);
    put_u32(&writer, record->left);
    put_text(&writer, record->text);
}

enum q_err
ql_error_record_decode(struct q_bytes bytes, struct ql_error_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_error_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.sequence = take_u64(&reader);
    record.count = take_u32(&reader);
    record.left = take_u32(&reader);
    record.text = take_text(&reader);
    Q_TRY(reader_check(&reader, "ERROR record is cut"));
    if (record.left == 0 || record.left > record.count)
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text("ERROR record of %u of %u messages", record.left, record.count));
    *ret_record = record;
    return Q_OK;
}
