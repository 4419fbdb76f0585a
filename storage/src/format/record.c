#include "format/record.h"

#include "format/coder.h"

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
