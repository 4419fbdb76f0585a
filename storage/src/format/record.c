#include "format/record.h"

#include <string.h>

#include <qbase/assert.h>

/* --- Bytes in, bytes out. A reader that ran over stays at its end and says so once, at the end. */

struct reader {
    struct q_bytes left;
    bool short_;
};

struct writer {
    uint8_t *at;
    uint8_t *end;
};

static const uint8_t *
take(struct reader *reader, size_t size)
{
    if (size > reader->left.size) {
        reader->short_ = true;
        return NULL;
    }
    const uint8_t *data = reader->left.data;
    reader->left.data += size;
    reader->left.size -= size;
    return data;
}

static uint8_t
take_u8(struct reader *reader)
{
    const uint8_t *data = take(reader, 1);
    return data == NULL ? 0 : data[0];
}

static uint32_t
take_u32(struct reader *reader)
{
    const uint8_t *data = take(reader, 4);
    return data == NULL ? 0 : q_load_le32(data);
}

static uint64_t
take_u64(struct reader *reader)
{
    const uint8_t *data = take(reader, 8);
    return data == NULL ? 0 : q_load_le64(data);
}

/* A text of up to 255 bytes behind its length. */
static struct q_bytes
take_text(struct reader *reader)
{
    uint8_t size = take_u8(reader);
    const uint8_t *data = take(reader, size);
    return data == NULL ? q_bytes_from(NULL, 0) : q_bytes_from(data, size);
}

static struct reader
reader_of(struct q_bytes record)
{
    Q_ASSERT(record.size >= QL_RECORD_HEAD_SIZE);
    return (struct reader){
        .left = q_bytes_from(record.data + QL_RECORD_HEAD_SIZE, record.size - QL_RECORD_HEAD_SIZE),
    };
}

static enum q_err
reader_check(const struct reader *reader, const char *what)
{
    if (!reader->short_) return Q_OK;
    return Q_FAIL(Q_E_CORRUPT, .what = what);
}

static void
put(struct writer *writer, const void *data, size_t size)
{
    Q_ASSERT(size <= (size_t)(writer->end - writer->at));
    if (size > 0) memcpy(writer->at, data, size);
    writer->at += size;
}

static void
put_u8(struct writer *writer, uint8_t value)
{
    put(writer, &value, 1);
}

static void
put_u32(struct writer *writer, uint32_t value)
{
    put(writer, &value, 4);
}

static void
put_u64(struct writer *writer, uint64_t value)
{
    put(writer, &value, 8);
}

static void
put_text(struct writer *writer, struct q_bytes text)
{
    Q_ASSERT(text.size <= UINT8_MAX);
    put_u8(writer, (uint8_t)text.size);
    put(writer, text.data, text.size);
}

/* Size of a record whose contents take `size` bytes. */
static uint32_t
record_size(size_t size)
{
    return (uint32_t)q_align_up(QL_RECORD_HEAD_SIZE + size, 8);
}

static struct writer
writer_of(uint8_t *out, enum ql_record_kind kind, uint32_t size)
{
    /* Encoders write every byte but the padding, which is shorter than this. */
    q_store_le64(out + size - 8, 0);
    q_store_le16(out + QL_RECORD_KIND, (uint16_t)kind);
    q_store_le16(out + QL_RECORD_FLAGS, 0);
    q_store_le32(out + QL_RECORD_LENGTH, size);
    return (struct writer){ .at = out + QL_RECORD_HEAD_SIZE, .end = out + size };
}

/* --- Walk. */

enum q_err
ql_record_next(struct ql_record_walk *walk, struct ql_record *ret_record)
{
    if (walk->records.size == 0) {
        if (walk->payloads.size == 0) return Q_END;
        return Q_FAIL(Q_E_CORRUPT, .what = "payload bytes without a record");
    }
    if (walk->records.size < QL_RECORD_HEAD_SIZE)
        return Q_FAIL(Q_E_CORRUPT, .what = "record head is cut");
    uint32_t length = q_load_le32(walk->records.data + QL_RECORD_LENGTH);
    if (length < QL_RECORD_HEAD_SIZE || length % 8 != 0 || length > walk->records.size)
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text("record length %u of %zu left", length, walk->records.size));

    struct ql_record record = {
        .kind = q_load_le16(walk->records.data + QL_RECORD_KIND),
        .bytes = q_bytes_from(walk->records.data, length),
    };
    if (record.kind == QL_RECORD_BATCH) {
        struct qbatch batch;
        Q_TRY(qbatch_open_trusted(record.bytes, &batch));
        if (batch.envelope_length != length)
            return Q_FAIL(Q_E_CORRUPT, .what = "envelope and record lengths differ");
        if (batch.payload_padded_length > walk->payloads.size)
            return Q_FAIL(Q_E_CORRUPT, .what = "payload is cut");
        record.payload = walk->payloads.data;
        record.payload_size = batch.payload_padded_length;
        walk->payloads.data += record.payload_size;
        walk->payloads.size -= record.payload_size;
    }
    walk->records.data += length;
    walk->records.size -= length;
    *ret_record = record;
    return Q_OK;
}

/* --- Encode and decode, side by side for each kind. */

uint32_t
ql_subject_record_size(const struct ql_subject_record *record)
{
    return record_size(8 + 4 + 1 + 1 + record->name.size);
}

void
ql_subject_record_encode(const struct ql_subject_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_SUBJECT, ql_subject_record_size(record));
    put_u64(&writer, record->next_sequence);
    put_u32(&writer, record->subject_id);
    put_u8(&writer, record->mode);
    put_text(&writer, record->name);
}

enum q_err
ql_subject_record_decode(struct q_bytes bytes, struct ql_subject_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_subject_record record = { 0 };
    record.next_sequence = take_u64(&reader);
    record.subject_id = take_u32(&reader);
    record.mode = take_u8(&reader);
    record.name = take_text(&reader);
    Q_TRY(reader_check(&reader, "SUBJECT record is cut"));
    if (record.name.size == 0) return Q_FAIL(Q_E_CORRUPT, .what = "SUBJECT record without a name");
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_group_record_size(const struct ql_group_record *record)
{
    size_t size = 4 + 4 + 8 + 1 + record->subject.size + 1 + record->name.size + 2;
    for (uint32_t i = 0; i < record->filter.tag_count; i++)
        size += 1 + record->filter.tags[i].size;
    return record_size(size);
}

void
ql_group_record_encode(const struct ql_group_record *record, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_GROUP, ql_group_record_size(record));
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->subject_id);
    put_u64(&writer, record->cursor);
    put_text(&writer, record->subject);
    put_text(&writer, record->name);
    put_u8(&writer, (uint8_t)record->filter.mode);
    put_u8(&writer, (uint8_t)record->filter.tag_count);
    for (uint32_t i = 0; i < record->filter.tag_count; i++)
        put_text(&writer, record->filter.tags[i]);
}

enum q_err
ql_group_record_decode(struct q_bytes bytes, struct ql_group_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_group_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.subject_id = take_u32(&reader);
    record.cursor = take_u64(&reader);
    record.subject = take_text(&reader);
    record.name = take_text(&reader);
    uint8_t mode = take_u8(&reader);
    uint8_t tag_count = take_u8(&reader);
    if (mode > QBATCH_TAGS_ALL || tag_count > QBATCH_TAGS_MAX)
        return Q_FAIL(Q_E_CORRUPT, .what = "GROUP record with an impossible filter");
    record.filter.mode = (enum qbatch_tag_mode)mode;
    record.filter.tag_count = tag_count;
    for (uint32_t i = 0; i < tag_count; i++)
        record.filter.tags[i] = take_text(&reader);
    Q_TRY(reader_check(&reader, "GROUP record is cut"));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_join_record_size(const struct ql_join_record *record)
{
    return record_size(4 + 4 + 8 + 8 + 16 + 1 + record->name.size);
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
    record.name = take_text(&reader);
    Q_TRY(reader_check(&reader, "JOIN record is cut"));
    *ret_record = record;
    return Q_OK;
}

enum {
    PULL_RUN_SIZE = 16,
    ACK_RANGE_SIZE = 16
};

uint32_t
ql_pull_record_size(uint32_t run_count)
{
    return record_size(4 + 4 + 8 + 8 + 8 + (size_t)run_count * PULL_RUN_SIZE);
}

void
ql_pull_record_encode(
    const struct ql_pull_record *record, const struct qlog_run *runs, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_PULL, ql_pull_record_size(record->run_count));
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u64(&writer, record->first_pull_sequence);
    put_u64(&writer, record->cursor);
    put_u32(&writer, record->run_count);
    put_u32(&writer, 0);
    for (uint32_t i = 0; i < record->run_count; i++) {
        put_u64(&writer, runs[i].sequence);
        put_u32(&writer, runs[i].count);
        put_u32(&writer, runs[i].attempt);
    }
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
    record.run_count = take_u32(&reader);
    (void)take_u32(&reader);
    if (record.run_count > reader.left.size / PULL_RUN_SIZE) reader.short_ = true;
    Q_TRY(reader_check(&reader, "PULL record is cut"));
    record.runs = reader.left.data;
    for (uint32_t i = 0; i < record.run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(&record, i);
        if (run.count == 0 || run.sequence > UINT64_MAX - run.count)
            return Q_FAIL(Q_E_CORRUPT, .what = "PULL record with an impossible run");
    }
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
        .attempt = q_load_le32(at + 12),
    };
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
    put_u32(&writer, record->group_id);
    put_u32(&writer, record->consumer_id);
    put_u32(&writer, record->range_count);
    put_u32(&writer, 0);
    for (uint32_t i = 0; i < record->range_count; i++) {
        put_u64(&writer, ranges[i].first);
        put_u64(&writer, ranges[i].last);
    }
}

enum q_err
ql_ack_record_decode(struct q_bytes bytes, struct ql_ack_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_ack_record record = { 0 };
    record.group_id = take_u32(&reader);
    record.consumer_id = take_u32(&reader);
    record.range_count = take_u32(&reader);
    (void)take_u32(&reader);
    if (record.range_count > reader.left.size / ACK_RANGE_SIZE) reader.short_ = true;
    Q_TRY(reader_check(&reader, "ACK record is cut"));
    record.ranges = reader.left.data;
    for (uint32_t i = 0; i < record.range_count; i++) {
        struct qlog_range range = ql_ack_range_at(&record, i);
        if (range.first > range.last || range.last == UINT64_MAX)
            return Q_FAIL(Q_E_CORRUPT, .what = "ACK record with an impossible range");
    }
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
ql_consumer_record_size(const struct ql_consumer_record *record)
{
    return record_size(4 + 4 + 8 + 8 + 8 + 16 + 1 + record->name.size);
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
    record.name = take_text(&reader);
    Q_TRY(reader_check(&reader, "CONSUMER record is cut"));
    if (record.released_below > record.next_pull_sequence)
        return Q_FAIL(Q_E_CORRUPT, .what = "CONSUMER record that released the future");
    *ret_record = record;
    return Q_OK;
}

enum {
    RANGE_ITEM_SIZE = 32
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
        put_u32(&writer, items[i].count);
        put_u32(&writer, items[i].attempt);
        put_u32(&writer, items[i].consumer_id);
        put_u32(&writer, 0);
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
            item.pull_sequence > UINT64_MAX - item.count)
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
        .count = q_load_le32(at + 16),
        .attempt = q_load_le32(at + 20),
        .consumer_id = q_load_le32(at + 24),
    };
}

enum {
    PRODUCER_RESULT_SIZE = 32
};

uint32_t
ql_producer_record_size(uint32_t result_count)
{
    return record_size(16 + 8 + 4 + 4 + (size_t)result_count * PRODUCER_RESULT_SIZE);
}

void
ql_producer_record_encode(
    const struct ql_producer_record *record, const struct ql_producer_result *results, uint8_t *out)
{
    struct writer writer =
        writer_of(out, QL_RECORD_PRODUCER, ql_producer_record_size(record->result_count));
    put(&writer, record->id, sizeof(record->id));
    put_u64(&writer, record->seen_ms);
    put_u32(&writer, record->result_count);
    put_u32(&writer, 0);
    for (uint32_t i = 0; i < record->result_count; i++) {
        put_u64(&writer, results[i].sequence);
        put_u64(&writer, results[i].frame);
        put_u32(&writer, results[i].from);
        put_u32(&writer, results[i].to);
        put_u32(&writer, results[i].digest);
        put_u32(&writer, results[i].batch_count);
    }
}

enum q_err
ql_producer_record_decode(struct q_bytes bytes, struct ql_producer_record *ret_record)
{
    struct reader reader = reader_of(bytes);
    struct ql_producer_record record = { 0 };
    const uint8_t *id = take(&reader, sizeof(record.id));
    if (id != NULL) memcpy(record.id, id, sizeof(record.id));
    record.seen_ms = take_u64(&reader);
    record.result_count = take_u32(&reader);
    (void)take_u32(&reader);
    if (record.result_count > reader.left.size / PRODUCER_RESULT_SIZE) reader.short_ = true;
    Q_TRY(reader_check(&reader, "PRODUCER record is cut"));
    if (record.result_count == 0 || record.result_count > QL_PRODUCER_RESULTS_MAX)
        return Q_FAIL(
            Q_E_CORRUPT, .what = q_text("PRODUCER record of %u results", record.result_count));
    record.results = reader.left.data;
    uint64_t sequence = 0;
    for (uint32_t i = 0; i < record.result_count; i++) {
        struct ql_producer_result result = ql_producer_result_at(&record, i);
        if (result.sequence <= sequence || result.sequence > INT64_MAX || result.frame > INT64_MAX)
            return Q_FAIL(Q_E_CORRUPT, .what = "PRODUCER record with an impossible result");
        sequence = result.sequence;
    }
    *ret_record = record;
    return Q_OK;
}

struct ql_producer_result
ql_producer_result_at(const struct ql_producer_record *record, uint32_t index)
{
    Q_ASSERT(index < record->result_count);
    const uint8_t *at = record->results + (size_t)index * PRODUCER_RESULT_SIZE;
    return (struct ql_producer_result){
        .sequence = q_load_le64(at),
        .frame = q_load_le64(at + 8),
        .from = q_load_le32(at + 16),
        .to = q_load_le32(at + 20),
        .digest = q_load_le32(at + 24),
        .batch_count = q_load_le32(at + 28),
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
ql_bytes_record_size(size_t size)
{
    return record_size(4 + size);
}

void
ql_bytes_record_encode(struct q_bytes bytes, uint8_t *out)
{
    struct writer writer = writer_of(out, QL_RECORD_BYTES, ql_bytes_record_size(bytes.size));
    put_u32(&writer, (uint32_t)bytes.size);
    put(&writer, bytes.data, bytes.size);
}

enum q_err
ql_bytes_record_decode(struct q_bytes bytes, struct q_bytes *ret_bytes)
{
    struct reader reader = reader_of(bytes);
    uint32_t size = take_u32(&reader);
    const uint8_t *data = take(&reader, size);
    Q_TRY(reader_check(&reader, "BYTES record is cut"));
    *ret_bytes = q_bytes_from(data, size);
    return Q_OK;
}
