#include "format/delay_record.h"

#include <qbase/assert.h>

static void head_encode(uint8_t *out, enum ql_record_kind kind, uint32_t size);
static enum q_err check_size(struct q_bytes bytes, size_t size, const char *what);

void
ql_replaces_record_encode(const struct ql_replaces_record *record, uint8_t *out)
{
    head_encode(out, QL_RECORD_REPLACES, QL_REPLACES_RECORD_SIZE);
    q_store_le64(out + 8, record->sequence);
}

enum q_err
ql_replaces_record_decode(struct q_bytes bytes, struct ql_replaces_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_REPLACES_RECORD_SIZE, "REPLACES"));
    ret_record->sequence = q_load_le64(bytes.data + 8);
    return Q_OK;
}

void
ql_delayed_record_encode(const struct ql_delayed_record *record, uint8_t *out)
{
    head_encode(out, QL_RECORD_DELAYED, QL_DELAYED_RECORD_SIZE);
    q_store_le64(out + 8, record->next_sequence);
    q_store_le64(out + 16, record->done_below);
}

enum q_err
ql_delayed_record_decode(struct q_bytes bytes, struct ql_delayed_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_DELAYED_RECORD_SIZE, "DELAYED"));
    struct ql_delayed_record record = {
        .next_sequence = q_load_le64(bytes.data + 8),
        .done_below = q_load_le64(bytes.data + 16),
    };
    if (record.done_below > record.next_sequence)
        return Q_FAIL(Q_E_CORRUPT, .what = "a DELAYED record that is done with what is not given");
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_target_record_size(const struct ql_target_record *record)
{
    return (uint32_t)q_align_up(41 + record->name.size, 8);
}

void
ql_target_record_encode(const struct ql_target_record *record, uint8_t *out)
{
    Q_ASSERT(record->name.size <= UINT8_MAX);
    uint32_t size = ql_target_record_size(record);
    head_encode(out, QL_RECORD_TARGET, size);
    q_store_le32(out + 8, record->target_id);
    q_store_le64(out + 16, record->next_request);
    memcpy(out + 24, record->producer_id, sizeof(record->producer_id));
    out[40] = (uint8_t)record->name.size;
    memcpy(out + 41, record->name.data, record->name.size);
}

enum q_err
ql_target_record_decode(struct q_bytes bytes, struct ql_target_record *ret_record)
{
    if (bytes.size < 48 || bytes.data[40] == 0 || bytes.data[40] > bytes.size - 41)
        return Q_FAIL(Q_E_CORRUPT, .what = "a TARGET record that is too short");
    struct ql_target_record record = {
        .target_id = q_load_le32(bytes.data + 8),
        .next_request = q_load_le64(bytes.data + 16),
        .name = q_bytes_from(bytes.data + 41, bytes.data[40]),
    };
    memcpy(record.producer_id, bytes.data + 24, sizeof(record.producer_id));
    *ret_record = record;
    return Q_OK;
}

uint32_t
ql_dispatch_record_size(uint32_t item_count)
{
    return 24 + item_count * QL_DISPATCH_ITEM_SIZE;
}

void
ql_dispatch_record_encode(
    const struct ql_dispatch_record *record, const struct ql_dispatch_item *items, uint8_t *out)
{
    head_encode(out, QL_RECORD_DISPATCH, ql_dispatch_record_size(record->item_count));
    q_store_le32(out + 8, record->target_id);
    q_store_le32(out + 12, record->item_count);
    q_store_le64(out + 16, record->request);
    for (uint32_t i = 0; i < record->item_count; i++) {
        uint8_t *to = out + 24 + (size_t)i * QL_DISPATCH_ITEM_SIZE;
        q_store_le64(to, items[i].due_ms);
        q_store_le64(to + 8, items[i].sequence);
        q_store_le64(to + 16, items[i].frame);
        q_store_le32(to + 24, items[i].count);
        q_store_le32(to + 28, items[i].first);
        q_store_le32(to + 32, items[i].envelope_at);
        q_store_le32(to + 36, items[i].envelope_size);
        q_store_le32(to + 40, items[i].payload_at);
        q_store_le32(to + 44, items[i].payload_size);
        q_store_le32(to + 48, items[i].subject_id);
        q_store_le32(to + 52, 0);
    }
}

enum q_err
ql_dispatch_record_decode(struct q_bytes bytes, struct ql_dispatch_record *ret_record)
{
    if (bytes.size < 24) return Q_FAIL(Q_E_CORRUPT, .what = "a DISPATCH record that is too short");
    struct ql_dispatch_record record = {
        .target_id = q_load_le32(bytes.data + 8),
        .item_count = q_load_le32(bytes.data + 12),
        .request = q_load_le64(bytes.data + 16),
        .items = bytes.data + 24,
    };
    if (record.item_count == 0 || record.item_count > QL_DISPATCH_ITEMS_MAX ||
        bytes.size != ql_dispatch_record_size(record.item_count))
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text(
                "a DISPATCH record of %zu bytes with %u items", bytes.size, record.item_count));
    for (uint32_t i = 0; i < record.item_count; i++) {
        struct ql_dispatch_item item = ql_dispatch_item_at(&record, i);
        uint64_t end;
        if (item.count == 0 || !q_add_u64(item.sequence, item.count, &end))
            return Q_FAIL(Q_E_CORRUPT, .what = "a DISPATCH record with an item of no messages");
    }
    *ret_record = record;
    return Q_OK;
}

struct ql_dispatch_item
ql_dispatch_item_at(const struct ql_dispatch_record *record, uint32_t index)
{
    const uint8_t *at = record->items + (size_t)index * QL_DISPATCH_ITEM_SIZE;
    return (struct ql_dispatch_item){
        .due_ms = q_load_le64(at),
        .sequence = q_load_le64(at + 8),
        .frame = q_load_le64(at + 16),
        .count = q_load_le32(at + 24),
        .first = q_load_le32(at + 28),
        .envelope_at = q_load_le32(at + 32),
        .envelope_size = q_load_le32(at + 36),
        .payload_at = q_load_le32(at + 40),
        .payload_size = q_load_le32(at + 44),
        .subject_id = q_load_le32(at + 48),
    };
}

void
ql_dispatched_record_encode(const struct ql_dispatched_record *record, uint8_t *out)
{
    head_encode(out, QL_RECORD_DISPATCHED, QL_DISPATCHED_RECORD_SIZE);
    q_store_le32(out + 8, record->target_id);
    q_store_le32(out + 12, (uint32_t)record->code);
    q_store_le64(out + 16, record->request);
}

enum q_err
ql_dispatched_record_decode(struct q_bytes bytes, struct ql_dispatched_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_DISPATCHED_RECORD_SIZE, "DISPATCHED"));
    ret_record->target_id = q_load_le32(bytes.data + 8);
    ret_record->code = (int32_t)q_load_le32(bytes.data + 12);
    ret_record->request = q_load_le64(bytes.data + 16);
    return Q_OK;
}

void
ql_withdrawn_record_encode(const struct ql_withdrawn_record *record, uint8_t *out)
{
    head_encode(out, QL_RECORD_WITHDRAWN, QL_WITHDRAWN_RECORD_SIZE);
    q_store_le64(out + 8, record->sequence);
}

enum q_err
ql_withdrawn_record_decode(struct q_bytes bytes, struct ql_withdrawn_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_WITHDRAWN_RECORD_SIZE, "WITHDRAWN"));
    ret_record->sequence = q_load_le64(bytes.data + 8);
    return Q_OK;
}

void
ql_aside_record_encode(const struct ql_aside_record *record, uint8_t *out)
{
    head_encode(out, QL_RECORD_ASIDE, QL_ASIDE_RECORD_SIZE);
    q_store_le64(out + 8, record->sequence);
    q_store_le32(out + 16, record->target_id);
    q_store_le32(out + 20, (uint32_t)record->code);
}

enum q_err
ql_aside_record_decode(struct q_bytes bytes, struct ql_aside_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_ASIDE_RECORD_SIZE, "ASIDE"));
    ret_record->sequence = q_load_le64(bytes.data + 8);
    ret_record->target_id = q_load_le32(bytes.data + 16);
    ret_record->code = (int32_t)q_load_le32(bytes.data + 20);
    if (ret_record->code == Q_OK)
        return Q_FAIL(Q_E_CORRUPT, .what = "a refused message without an error");
    return Q_OK;
}

void
ql_done_record_encode(const struct ql_done_record *record, uint8_t *out)
{
    head_encode(out, QL_RECORD_DONE, QL_DONE_RECORD_SIZE);
    q_store_le64(out + 8, record->first);
    q_store_le64(out + 16, record->end);
}

enum q_err
ql_done_record_decode(struct q_bytes bytes, struct ql_done_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_DONE_RECORD_SIZE, "DONE"));
    ret_record->first = q_load_le64(bytes.data + 8);
    ret_record->end = q_load_le64(bytes.data + 16);
    if (ret_record->first % QL_MARKS_MESSAGES != 0 || ret_record->end % QL_MARKS_MESSAGES != 0)
        return Q_FAIL(Q_E_CORRUPT, .what = "a DONE record that begins or ends inside of a page");
    if (ret_record->first >= ret_record->end ||
        ret_record->end > UINT32_MAX * (uint64_t)QL_MARKS_MESSAGES)
        return Q_FAIL(Q_E_CORRUPT, .what = "a DONE record of nothing, or of too much");
    return Q_OK;
}

void
ql_marks_record_encode(uint64_t first, const uint64_t bits[QL_MARKS_WORDS], uint8_t *out)
{
    head_encode(out, QL_RECORD_MARKS, QL_MARKS_RECORD_SIZE);
    q_store_le64(out + 8, first);
    for (uint32_t i = 0; i < QL_MARKS_WORDS; i++)
        q_store_le64(out + 16 + (size_t)i * 8, bits[i]);
}

enum q_err
ql_marks_record_decode(struct q_bytes bytes, struct ql_marks_record *ret_record)
{
    Q_TRY(check_size(bytes, QL_MARKS_RECORD_SIZE, "MARKS"));
    uint64_t first = q_load_le64(bytes.data + 8);
    if (first % QL_MARKS_MESSAGES != 0)
        return Q_FAIL(Q_E_CORRUPT, .what = "a MARKS record that begins inside of a page");
    *ret_record = (struct ql_marks_record){ .first = first, .bits = bytes.data + 16 };
    return Q_OK;
}

static void
head_encode(uint8_t *out, enum ql_record_kind kind, uint32_t size)
{
    memset(out, 0, q_min_u64(size, 48));
    q_store_le64(out + size - 8, 0);
    q_store_le16(out + QL_RECORD_KIND, (uint16_t)kind);
    q_store_le32(out + QL_RECORD_LENGTH, size);
}

static enum q_err
check_size(struct q_bytes bytes, size_t size, const char *what)
{
    if (bytes.size == size) return Q_OK;
    return Q_FAIL(Q_E_CORRUPT, .what = q_text("a %s record of %zu bytes", what, bytes.size));
}
