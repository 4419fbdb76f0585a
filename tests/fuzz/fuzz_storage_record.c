/*
 * The records of a frame, from a disk that lies: walked, decoded, described. Nothing may be read
 * outside, and what a decoder accepts must lie inside its record.
 *
 * Input: u32 length of the records, records, payloads.
 */
#include <stdlib.h>

#include <qbase/assert.h>
#include <qlog/cursor.h>

#include "format/delay_record.h"
#include "format/record.h"

enum {
    HEAD_SIZE = 4,
    TEXT_SIZE = 4096,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_record(const struct ql_record *record);
static void try_describe(const struct ql_record *record, bool json, size_t text_size);
static void try_filter(const struct ql_filter_item *item, struct q_bytes bytes);
static void try_names(struct q_bytes bytes);
static void try_lists(struct q_bytes bytes);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < HEAD_SIZE) return 0;
    uint32_t records_size = q_load_le32(data);
    if (records_size > size - HEAD_SIZE) return 0;

    /* Blocks of their own, so that a read beyond either part is seen. */
    size_t payloads_size = size - HEAD_SIZE - records_size;
    uint8_t *records = malloc(records_size + 1);
    uint8_t *payloads = malloc(payloads_size + 1);
    Q_ASSERT(records != NULL);
    Q_ASSERT(payloads != NULL);
    memcpy(records + 1, data + HEAD_SIZE, records_size);
    memcpy(payloads + 1, data + HEAD_SIZE + records_size, payloads_size);
    struct ql_record_walk walk = {
        .records = q_bytes_from(records + 1, records_size),
        .payloads = q_bytes_from(payloads + 1, payloads_size),
    };

    struct ql_record record;
    enum q_err err;
    while ((err = ql_record_next(&walk, &record)) == Q_OK)
        try_record(&record);
    Q_ASSERT(err == Q_END || err == Q_E_CORRUPT || err == Q_E_VERSION);
    Q_ASSERT(err == Q_END || q_fault_last()->err == err);
    free(records);
    free(payloads);
    return 0;
}

static void
try_record(const struct ql_record *record)
{
    for (int json = 0; json < 2; json++) {
        try_describe(record, json, TEXT_SIZE);
        try_describe(record, json, 16);
        try_describe(record, json, 0);
    }
    /* A decoder is also met by records of other kinds. */
    try_names(record->bytes);
    try_lists(record->bytes);
}

static void
try_describe(const struct ql_record *record, bool json, size_t text_size)
{
    char *text = malloc(text_size + 1);
    Q_ASSERT(text != NULL);
    (void)ql_record_describe(record, json, text + 1, text_size);
    Q_ASSERT(text_size == 0 || memchr(text + 1, 0, text_size) != NULL);
    free(text);
}

static void
check_inside(struct q_bytes part, struct q_bytes whole)
{
    Q_ASSERT(part.data >= whole.data);
    Q_ASSERT(part.size <= whole.size - (size_t)(part.data - whole.data));
}

static void
try_filter(const struct ql_filter_item *item, struct q_bytes bytes)
{
    Q_ASSERT(item->slot < QLOG_FILTERS_MAX);
    Q_ASSERT(item->filter.tag_count <= QBATCH_TAGS_MAX);
    for (uint32_t i = 0; i < item->filter.tag_count; i++)
        check_inside(item->filter.tags[i], bytes);
}

static void
try_names(struct q_bytes bytes)
{
    struct ql_subject_record subject;
    if (ql_subject_record_decode(bytes, &subject) == Q_OK) check_inside(subject.name, bytes);
    struct ql_group_record group;
    if (ql_group_record_decode(bytes, &group) == Q_OK) {
        check_inside(group.subject, bytes);
        check_inside(group.name, bytes);
        Q_ASSERT(group.settings.backoff_count <= QLOG_BACKOFF_MAX);
        for (uint32_t i = 0; i < group.filter_count; i++)
            try_filter(&group.filters[i], bytes);
    }
    struct ql_join_record join;
    if (ql_join_record_decode(bytes, &join) == Q_OK) {
        check_inside(join.name, bytes);
        try_filter(&join.filter, bytes);
    }
    struct ql_error_record error;
    if (ql_error_record_decode(bytes, &error) == Q_OK) {
        check_inside(error.text, bytes);
        Q_ASSERT(error.left > 0 && error.left <= error.count);
    }
    struct ql_nack_record nack;
    if (ql_nack_record_decode(bytes, &nack) == Q_OK) check_inside(nack.error, bytes);
    struct ql_consumer_record consumer;
    if (ql_consumer_record_decode(bytes, &consumer) == Q_OK) check_inside(consumer.name, bytes);
    struct q_bytes own;
    if (ql_bytes_record_decode(bytes, &own) == Q_OK) check_inside(own, bytes);
}

static void
try_delayed(struct q_bytes bytes)
{
    struct ql_target_record target;
    if (ql_target_record_decode(bytes, &target) == Q_OK) check_inside(target.name, bytes);
    struct ql_dispatch_record dispatch;
    if (ql_dispatch_record_decode(bytes, &dispatch) == Q_OK) {
        for (uint32_t i = 0; i < dispatch.item_count; i++)
            Q_ASSERT(ql_dispatch_item_at(&dispatch, i).count > 0);
    }
    struct ql_marks_record marks;
    if (ql_marks_record_decode(bytes, &marks) == Q_OK)
        check_inside(q_bytes_from(marks.bits, QL_MARKS_MESSAGES / 8), bytes);
    struct ql_delayed_record delayed;
    if (ql_delayed_record_decode(bytes, &delayed) == Q_OK)
        Q_ASSERT(delayed.done_below <= delayed.next_sequence);
    struct ql_done_record done;
    if (ql_done_record_decode(bytes, &done) == Q_OK) Q_ASSERT(done.first < done.end);
    struct ql_aside_record aside;
    if (ql_aside_record_decode(bytes, &aside) == Q_OK) Q_ASSERT(aside.code != Q_OK);
}

static void
try_lists(struct q_bytes bytes)
{
    try_delayed(bytes);
    struct ql_pull_record pull;
    if (ql_pull_record_decode(bytes, &pull) == Q_OK) {
        for (uint32_t i = 0; i < pull.run_count; i++)
            Q_ASSERT(ql_pull_run_at(&pull, i).count > 0);
        for (uint32_t i = 0; i < pull.pass_count; i++)
            Q_ASSERT(ql_pull_pass_at(&pull, i).count > 0);
    }
    struct ql_ack_record ack;
    if (ql_ack_record_decode(bytes, &ack) == Q_OK) {
        for (uint32_t i = 0; i < ack.range_count; i++) {
            struct qlog_range range = ql_ack_range_at(&ack, i);
            Q_ASSERT(range.first <= range.last);
        }
    }
    struct ql_ranges_record ranges;
    if (ql_ranges_record_decode(bytes, &ranges) == Q_OK) {
        for (uint32_t i = 0; i < ranges.item_count; i++)
            Q_ASSERT(ql_range_item_at(&ranges, i).count > 0);
    }
    struct ql_cursor_record cursor;
    if (ql_cursor_record_decode(bytes, &cursor) == Q_OK) Q_ASSERT(bytes.size >= 24);
    struct ql_producer_record producer;
    if (ql_producer_record_decode(bytes, &producer) == Q_OK) {
        Q_ASSERT(producer.result_count <= QL_PRODUCER_RESULTS_MAX);
        for (uint32_t i = 0; i < producer.result_count; i++)
            Q_ASSERT(ql_producer_result_at(&producer, i).sequence > 0);
    }
    struct ql_resolve_record resolve;
    if (ql_resolve_record_decode(bytes, &resolve) == Q_OK) {
        for (uint32_t i = 0; i < resolve.item_count; i++) {
            struct ql_resolve_item item = ql_resolve_item_at(&resolve, i);
            Q_ASSERT(item.first <= item.last);
        }
    }
    struct ql_unfilter_record unfilter;
    if (ql_unfilter_record_decode(bytes, &unfilter) == Q_OK)
        Q_ASSERT(unfilter.slot < QLOG_FILTERS_MAX);
    struct ql_settings_record settings;
    if (ql_settings_record_decode(bytes, &settings) == Q_OK)
        Q_ASSERT(settings.settings.backoff_count <= QLOG_BACKOFF_MAX);
    struct ql_release_record release;
    if (ql_release_record_decode(bytes, &release) == Q_OK) Q_ASSERT(release.reason > 0);
}
