/*
 * format/record_action.c: records of what consumers and groups do with messages.
 */
#include "format/coder.h"

enum {
    PULL_RUN_SIZE = 28,
    PASS_SIZE = 20,
    ACK_RANGE_SIZE = 16,
    RESOLVE_ITEM_SIZE = 24
};

uint32_t
ql_pull_record_size(uint32_t run_count, uint32_t pass_count)
{
    return record_size(
        4 + 4 + 5 * 8 + 3 * 4 + (size_t)run_count * PULL_RUN_SIZE + (size_t)pass_count * PASS_SIZE);
}

void
ql_pull_record_encode(
    const struct ql_pull_record *record,
    const struct ql_pull_run *runs,
    const struct ql_pass *passes,
    uint8_t *out)
{
    uint32_t size = ql_pull_record_size(record->run_count, record->pass_count);
    struct writer writer = writer_of(out, QL_RECORD_PULL, size);
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u64(&writer, record->first_pull_sequence);
    put_u64(&writer, record->cursor);
    put_u64(&writer, record->until_ms);
    put_u64(&writer, record->skipped);
    put_u64(&writer, record->expired);
    put_u32(&writer, record->once ? 1 : 0);
    put_u32(&writer, record->run_count);
    put_u32(&writer, record->pass_count);
    for (uint32_t i = 0; i < record->run_count; i++) {
        put_u64(&writer, runs[i].sequence);
        put_u32(&writer, runs[i].count);
        put_u32(&writer, runs[i].key);
        put_u32(&writer, runs[i].bytes);
        put_u16(&writer, runs[i].filters);
        put_uses(&writer, runs[i].uses);
        put_u8(&writer, 0);
        put_u16(&writer, 0);
    }
    for (uint32_t i = 0; i < record->pass_count; i++) {
        put_u64(&writer, passes[i].sequence);
        put_u32(&writer, passes[i].count);
        put_u32(&writer, passes[i].key);
        put_u16(&writer, passes[i].filters);
        put_u8(&writer, passes[i].reason);
        put_u8(&writer, 0);
    }
}

static bool
pull_is_sound(const struct ql_pull_record *record)
{
    for (uint32_t i = 0; i < record->run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(record, i);
        if (run.count == 0 || run.sequence > UINT64_MAX - run.count) return false;
    }
    for (uint32_t i = 0; i < record->pass_count; i++) {
        struct ql_pass pass = ql_pull_pass_at(record, i);
        if (pass.count == 0 || pass.sequence > UINT64_MAX - pass.count) return false;
        if (pass.reason != QL_REASON_KEY && pass.reason != QL_REASON_FILTER) return false;
    }
    return true;
}

enum q_err
ql_pull_record_decode(struct q_bytes bytes, struct ql_pull_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_pull_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.consumer_id = take_u32(&reader);
    record.first_pull_sequence = take_u64(&reader);
    record.cursor = take_u64(&reader);
    record.until_ms = take_u64(&reader);
    record.skipped = take_u64(&reader);
    record.expired = take_u64(&reader);
    record.once = take_u32(&reader) != 0;
    record.run_count = take_u32(&reader);
    record.pass_count = take_u32(&reader);
    if (record.run_count > reader.left.size / PULL_RUN_SIZE) {
        reader.short_ = true;
    } else {
        record.runs = take(&reader, (size_t)record.run_count * PULL_RUN_SIZE);
        if (record.pass_count > reader.left.size / PASS_SIZE) reader.short_ = true;
        record.passes = reader.left.data;
    }
    Q_TRY(reader_check(&reader, "PULL record is cut"));
    if (!pull_is_sound(&record))
        return Q_FAIL(Q_E_CORRUPT, .what = "PULL record with an impossible run");
    *ret_record = record;
    return Q_OK;
}

struct ql_pull_run
ql_pull_run_at(const struct ql_pull_record *record, uint32_t index)
{
    Q_ASSERT(index < record->run_count);
    const uint8_t *at = record->runs + (size_t)index * PULL_RUN_SIZE;
    return (struct ql_pull_run){
        .sequence = q_load_le64(at),
        .count = q_load_le32(at + 8),
        .key = q_load_le32(at + 12),
        .bytes = q_load_le32(at + 16),
        .filters = q_load_le16(at + 20),
        .uses = { at[22], at[23], at[24] },
    };
}

struct ql_pass
ql_pull_pass_at(const struct ql_pull_record *record, uint32_t index)
{
    Q_ASSERT(index < record->pass_count);
    const uint8_t *at = record->passes + (size_t)index * PASS_SIZE;
    return (struct ql_pass){
        .sequence = q_load_le64(at),
        .count = q_load_le32(at + 8),
        .key = q_load_le32(at + 12),
        .filters = q_load_le16(at + 16),
        .reason = at[18],
    };
}

/* --- ACK and NACK: which pull sequences. */

static void
put_ack(struct writer *writer, const struct ql_ack_record *record, const struct qlog_range *ranges)
{
    put_u32(writer, record->group_id);
    put_u32(writer, record->consumer_id);
    put_u32(writer, record->range_count);
    put_u32(writer, 0);
    for (uint32_t i = 0; i < record->range_count; i++) {
        put_u64(writer, ranges[i].first);
        put_u64(writer, ranges[i].last);
    }
}

/* Q_OK, or Q_E_CORRUPT: not sorted, not disjoint, or cut. */
static enum q_err
take_ack(struct reader *reader, struct ql_ack_record *record)
{
    record->group_id = take_u32(reader);
    record->consumer_id = take_u32(reader);
    record->range_count = take_u32(reader);
    (void)take_u32(reader);
    if (record->range_count > reader->left.size / ACK_RANGE_SIZE)
        reader->short_ = true;
    else
        record->ranges = take(reader, (size_t)record->range_count * ACK_RANGE_SIZE);
    Q_TRY(reader_check(reader, "ACK or NACK record is cut"));
    for (uint32_t i = 0; i < record->range_count; i++) {
        struct qlog_range range = ql_ack_range_at(record, i);
        bool behind = i == 0 || ql_ack_range_at(record, i - 1).last < range.first;
        if (range.first > range.last || range.last == UINT64_MAX || !behind)
            return Q_FAIL(Q_E_CORRUPT, .what = "ACK or NACK record with an impossible range");
    }
    return Q_OK;
}

uint32_t
ql_ack_record_size(uint32_t range_count)
{
    return record_size(4 + 4 + 8 + (size_t)range_count * ACK_RANGE_SIZE);
}

void
ql_ack_record_encode(
    const struct ql_ack_record *record, const struct qlog_range *ranges, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_ACK, ql_ack_record_size(record->range_count));
    put_ack(&writer, record, ranges);
}

enum q_err
ql_ack_record_decode(struct q_bytes bytes, struct ql_ack_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_ack_record record = { 0 };
    Q_TRY(take_ack(&reader, &record));
    *ret_record = record;
    return Q_OK;
}

struct qlog_range
ql_ack_range_at(const struct ql_ack_record *record, uint32_t index)
{
    Q_ASSERT(index < record->range_count);
    const uint8_t *at = record->ranges + (size_t)index * ACK_RANGE_SIZE;
    return (struct qlog_range){ .first = q_load_le64(at), .last = q_load_le64(at + 8) };
}

uint32_t
ql_nack_record_size(uint32_t range_count, size_t error_size)
{
    return record_size(4 + 4 + 8 + (size_t)range_count * ACK_RANGE_SIZE + 8 + 8 + 1 + error_size);
}

void
ql_nack_record_encode(
    const struct ql_nack_record *record, const struct qlog_range *ranges, uint8_t *out)
{
    uint32_t size = ql_nack_record_size(record->ack.range_count, record->error.size);
    struct writer writer = writer_of(out, QL_RECORD_NACK, size);
    put_ack(&writer, &record->ack, ranges);
    put_u64(&writer, record->now_ms);
    put_u64(&writer, record->delay_ms);
    put_text(&writer, record->error);
}

enum q_err
ql_nack_record_decode(struct q_bytes bytes, struct ql_nack_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_nack_record record = { 0 };
    Q_TRY(take_ack(&reader, &record.ack));
    record.now_ms = take_u64(&reader);
    record.delay_ms = take_u64(&reader);
    record.error = take_text(&reader);
    Q_TRY(reader_check(&reader, "NACK record is cut"));
    *ret_record = record;
    return Q_OK;
}

/* --- Small ones. */

uint32_t
ql_release_record_size(void)
{
    return record_size(4 + 4 + 1);
}

void
ql_release_record_encode(const struct ql_release_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_RELEASE, ql_release_record_size());
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u8(&writer, record->reason);
}

enum q_err
ql_release_record_decode(struct q_bytes bytes, struct ql_release_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_release_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.consumer_id = take_u32(&reader);
    record.reason = take_u8(&reader);
    Q_TRY(reader_check(&reader, "RELEASE record is cut"));
    if (record.reason < QL_RELEASE_DIED || record.reason > QL_RELEASE_FORGOTTEN)
        return Q_FAIL(Q_E_CORRUPT, .what = "RELEASE record with an unknown reason");
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_timeout_record_size(void)
{
    return record_size(4 + 4 + 8);
}

void
ql_timeout_record_encode(const struct ql_timeout_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_TIMEOUT, ql_timeout_record_size());
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u64(&writer, record->now_ms);
}

enum q_err
ql_timeout_record_decode(struct q_bytes bytes, struct ql_timeout_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_timeout_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.consumer_id = take_u32(&reader);
    record.now_ms = take_u64(&reader);
    Q_TRY(reader_check(&reader, "TIMEOUT record is cut"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_seek_record_size(void)
{
    return record_size(4 + 4 + 8);
}

void
ql_seek_record_encode(const struct ql_seek_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_SEEK, ql_seek_record_size());
    put_u32(&writer, record->group_id);
    put_u32(&writer, 0);
    put_u64(&writer, record->cursor);
}

enum q_err
ql_seek_record_decode(struct q_bytes bytes, struct ql_seek_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_seek_record record = { 0 };
    record.group_id = take_u32(&reader);
    (void)take_u32(&reader);
    record.cursor = take_u64(&reader);
    Q_TRY(reader_check(&reader, "SEEK record is cut"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_delete_record_size(void)
{
    return record_size(4);
}

void
ql_delete_record_encode(const struct ql_delete_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_DELETE, ql_delete_record_size());
    put_u32(&writer, record->group_id);
}

enum q_err
ql_delete_record_decode(struct q_bytes bytes, struct ql_delete_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_delete_record record = { 0 };
    record.group_id = take_u32(&reader);
    Q_TRY(reader_check(&reader, "DELETE record is cut"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_unfilter_record_size(void)
{
    return record_size(4 + 4);
}

void
ql_unfilter_record_encode(const struct ql_unfilter_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_UNFILTER, ql_unfilter_record_size());
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->slot);
}

enum q_err
ql_unfilter_record_decode(struct q_bytes bytes, struct ql_unfilter_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_unfilter_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.slot = take_u32(&reader);
    Q_TRY(reader_check(&reader, "UNFILTER record is cut"));
    if (record.slot >= QLOG_FILTERS_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = "UNFILTER record of an impossible filter");
    *ret_record = record;
    return Q_OK;
}

/* --- RESOLVE. */

uint32_t
ql_resolve_record_size(uint32_t item_count)
{
    return record_size(4 + 4 + 8 + 4 + 4 + (size_t)item_count * RESOLVE_ITEM_SIZE);
}

void
ql_resolve_record_encode(
    const struct ql_resolve_record *record, const struct ql_resolve_item *items, uint8_t *out)
{
    uint32_t size = ql_resolve_record_size(record->item_count);
    struct writer writer = writer_of(out, QL_RECORD_RESOLVE, size);
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->verdict);
    put_u64(&writer, record->cursor);
    put_u32(&writer, record->item_count);
    put_u32(&writer, 0);
    for (uint32_t i = 0; i < record->item_count; i++) {
        put_u64(&writer, items[i].first);
        put_u64(&writer, items[i].last);
        put_u32(&writer, items[i].key);
        put_u32(&writer, 0);
    }
}

enum q_err
ql_resolve_record_decode(struct q_bytes bytes, struct ql_resolve_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_resolve_record record = { 0 };
    record.group_id = take_u32(&reader);
    uint32_t verdict = take_u32(&reader);
    record.cursor = take_u64(&reader);
    record.item_count = take_u32(&reader);
    (void)take_u32(&reader);
    if (record.item_count > reader.left.size / RESOLVE_ITEM_SIZE) reader.short_ = true;
    Q_TRY(reader_check(&reader, "RESOLVE record is cut"));
    record.items = reader.left.data;
    bool sound = verdict >= QL_VERDICT_DEAD && verdict <= QL_VERDICT_EXPIRING;
    for (uint32_t i = 0; i < record.item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(&record, i);
        sound = sound && item.first <= item.last && item.last < UINT64_MAX &&
                item.last - item.first < UINT32_MAX;
    }
    if (!sound) return Q_FAIL(Q_E_CORRUPT, .what = "RESOLVE record with an impossible range");
    record.verdict = (uint8_t)verdict;
    *ret_record = record;
    return Q_OK;
}

struct ql_resolve_item
ql_resolve_item_at(const struct ql_resolve_record *record, uint32_t index)
{
    Q_ASSERT(index < record->item_count);
    const uint8_t *at = record->items + (size_t)index * RESOLVE_ITEM_SIZE;
    return (struct ql_resolve_item){
        .first = q_load_le64(at),
        .last = q_load_le64(at + 8),
        .key = q_load_le32(at + 16),
    };
}
