/*
 * format/describe.c: records as text and as JSON, for people and tools.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <qbase/text.h>

#include "format/delay_record.h"
#include "format/record.h"

/* Text that stops growing when it is full. */
struct line {
    char *out;
    size_t size;
    size_t used;
    bool json;
    bool first;
};

typedef bool describe_fn(struct line *line, const struct ql_record *record);

#define QL_DESCRIBE_DECLARE(name, number, stem, log)                                               \
    static bool ql_describe_##stem(struct line *line, const struct ql_record *record);
QL_RECORD_LIST(QL_DESCRIBE_DECLARE)
QL_DELAY_RECORD_LIST(QL_DESCRIBE_DECLARE)
#undef QL_DESCRIBE_DECLARE

static const struct {
    unsigned kind;
    const char *name;
    describe_fn *describe;
} kinds[] = {
#define QL_DESCRIBE_ROW(name, number, stem, log) { (number), #name, ql_describe_##stem },
    QL_RECORD_LIST(QL_DESCRIBE_ROW) QL_DELAY_RECORD_LIST(QL_DESCRIBE_ROW)
#undef QL_DESCRIBE_ROW
};

static void describe_filter(struct line *line, const struct qbatch_filter *filter);
static void describe_settings(
    struct line *line, bool paused, const struct qlog_group_settings *settings);
static void describe_ack(struct line *line, const struct ql_ack_record *ack);
static const char *reason_name(uint8_t reason);
static void line_number(struct line *line, const char *name, uint64_t value);
static void line_bytes(struct line *line, const char *name, struct q_bytes value);
static void line_begin_list(struct line *line, const char *name);
static void line_end_list(struct line *line);
static void Q_PRINTF(2, 3) line_raw(struct line *line, const char *format, ...);

const char *
ql_record_name(unsigned kind)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kinds[i].kind == kind) return kinds[i].name;
    return "UNKNOWN";
}

bool
ql_record_describe(const struct ql_record *record, bool json, char *out, size_t out_size)
{
    struct line line = { .out = out, .size = out_size, .json = json, .first = true };
    if (out_size > 0) out[0] = '\0';
    if (json)
        line_raw(&line, "\"kind\":\"%s\"", ql_record_name(record->kind));
    else
        line_raw(&line, "%-8s", ql_record_name(record->kind));
    line.first = false;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        if (kinds[i].kind == record->kind) return kinds[i].describe(&line, record);
    line_number(&line, "number", record->kind);
    line_number(&line, "bytes", record->bytes.size);
    return false;
}

static bool
ql_describe_batch(struct line *line, const struct ql_record *record)
{
    struct qbatch batch;
    if (qbatch_open(record->bytes, &batch) != Q_OK) return false;
    char time[32];
    char id[QBATCH_ID_TEXT_SIZE];
    struct qbatch_id first = qbatch_id_at(&batch, 0);
    line_number(line, "subject", batch.subject_id);
    line_number(line, "sequence", batch.first_sequence);
    line_number(line, "messages", batch.message_count);
    line_number(line, "payload", batch.payload_length);
    line_number(line, "content", batch.content_length);
    line_bytes(line, "id", q_bytes_from_text(qbatch_id_format(&first, id)));
    line_bytes(
        line, "stored",
        q_bytes_from_text(q_text_format_time(batch.store_time_ms, time, sizeof(time))));
    if (batch.delayed)
        line_bytes(
            line, "due", q_bytes_from_text(q_text_format_time(batch.due_ms, time, sizeof(time))));
    if (batch.tag_count > 0) {
        line_begin_list(line, "tags");
        for (uint32_t i = 0; i < batch.tag_count; i++)
            line_bytes(line, NULL, qbatch_tag_at(&batch, i));
        line_end_list(line);
    }
    return true;
}

static bool
ql_describe_subject(struct line *line, const struct ql_record *record)
{
    struct ql_subject_record subject;
    if (ql_subject_record_decode(record->bytes, &subject) != Q_OK) return false;
    line_number(line, "subject", subject.subject_id);
    line_bytes(line, "name", subject.name);
    line_number(line, "next_sequence", subject.next_sequence);
    return true;
}

static bool
ql_describe_group(struct line *line, const struct ql_record *record)
{
    struct ql_group_record group;
    if (ql_group_record_decode(record->bytes, &group) != Q_OK) return false;
    line_number(line, "group", group.group_id);
    line_bytes(line, "name", group.name);
    line_number(line, "subject", group.subject_id);
    line_bytes(line, "subject_name", group.subject);
    line_number(line, "cursor", group.cursor);
    line_number(line, "epoch", group.epoch);
    line_number(line, "filters", group.filter_count);
    for (uint32_t i = 0; i < group.filter_count; i++)
        describe_filter(line, &group.filters[i].filter);
    describe_settings(line, group.paused, &group.settings);
    return true;
}

static void
describe_filter(struct line *line, const struct qbatch_filter *filter)
{
    if (filter->tag_count == 0) return;
    line_begin_list(line, filter->mode == QBATCH_TAGS_ALL ? "tags_all" : "tags_any");
    for (uint32_t i = 0; i < filter->tag_count; i++)
        line_bytes(line, NULL, filter->tags[i]);
    line_end_list(line);
}

static void
describe_settings(struct line *line, bool paused, const struct qlog_group_settings *settings)
{
    line_number(line, "paused", paused ? 1 : 0);
    line_number(line, "strict", settings->strict ? 1 : 0);
    line_number(line, "attempts_max", settings->attempts_max);
    line_number(line, "pending_max", settings->pending_max);
}

static bool
ql_describe_join(struct line *line, const struct ql_record *record)
{
    struct ql_join_record join;
    if (ql_join_record_decode(record->bytes, &join) != Q_OK) return false;
    line_number(line, "group", join.group_id);
    line_number(line, "consumer", join.consumer_id);
    line_bytes(line, "name", join.name);
    line_number(line, "session", join.session);
    line_number(line, "next_pull_sequence", join.next_pull_sequence);
    describe_filter(line, &join.filter.filter);
    return true;
}

static bool
ql_describe_pull(struct line *line, const struct ql_record *record)
{
    struct ql_pull_record pull;
    if (ql_pull_record_decode(record->bytes, &pull) != Q_OK) return false;
    line_number(line, "group", pull.group_id);
    line_number(line, "consumer", pull.consumer_id);
    line_number(line, "pull_sequence", pull.first_pull_sequence);
    line_number(line, "cursor", pull.cursor);
    line_begin_list(line, "runs");
    for (uint32_t i = 0; i < pull.run_count; i++) {
        struct ql_pull_run run = ql_pull_run_at(&pull, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line, "%s{\"sequence\":%" PRIu64 ",\"count\":%u,\"attempt\":%u}", comma,
                run.sequence, run.count, ql_uses_attempt(run.uses));
        else
            line_raw(line, "%s%" PRIu64 "+%u", comma, run.sequence, run.count);
    }
    line_end_list(line);
    line_begin_list(line, "passed");
    for (uint32_t i = 0; i < pull.pass_count; i++) {
        struct ql_pass pass = ql_pull_pass_at(&pull, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line, "%s{\"sequence\":%" PRIu64 ",\"count\":%u,\"reason\":\"%s\"}", comma,
                pass.sequence, pass.count, reason_name(pass.reason));
        else
            line_raw(line, "%s%" PRIu64 "+%u", comma, pass.sequence, pass.count);
    }
    line_end_list(line);
    if (pull.skipped > 0) line_number(line, "skipped", pull.skipped);
    if (pull.expired > 0) line_number(line, "expired", pull.expired);
    if (pull.until_ms > 0) line_number(line, "until_ms", pull.until_ms);
    if (pull.once) line_number(line, "once", 1);
    return true;
}

static bool
ql_describe_ack(struct line *line, const struct ql_record *record)
{
    struct ql_ack_record ack;
    if (ql_ack_record_decode(record->bytes, &ack) != Q_OK) return false;
    describe_ack(line, &ack);
    return true;
}

static bool
ql_describe_nack(struct line *line, const struct ql_record *record)
{
    struct ql_nack_record nack;
    if (ql_nack_record_decode(record->bytes, &nack) != Q_OK) return false;
    describe_ack(line, &nack.ack);
    if (nack.delay_ms != UINT64_MAX) line_number(line, "delay_ms", nack.delay_ms);
    line_bytes(line, "error", nack.error);
    return true;
}

static void
describe_ack(struct line *line, const struct ql_ack_record *ack)
{
    line_number(line, "group", ack->group_id);
    line_number(line, "consumer", ack->consumer_id);
    line_begin_list(line, "ranges");
    for (uint32_t i = 0; i < ack->range_count; i++) {
        struct qlog_range range = ql_ack_range_at(ack, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line, "%s{\"first\":%" PRIu64 ",\"last\":%" PRIu64 "}", comma, range.first,
                range.last);
        else
            line_raw(line, "%s%" PRIu64 "-%" PRIu64, comma, range.first, range.last);
    }
    line_end_list(line);
}

static bool
ql_describe_release(struct line *line, const struct ql_record *record)
{
    static const char *const reasons[] = { "?", "died", "left", "forgotten" };
    struct ql_release_record release;
    if (ql_release_record_decode(record->bytes, &release) != Q_OK) return false;
    line_number(line, "group", release.group_id);
    line_number(line, "consumer", release.consumer_id);
    line_bytes(line, "reason", q_bytes_from_text(reasons[release.reason]));
    return true;
}

static bool
ql_describe_consumer(struct line *line, const struct ql_record *record)
{
    struct ql_consumer_record consumer;
    if (ql_consumer_record_decode(record->bytes, &consumer) != Q_OK) return false;
    line_number(line, "group", consumer.group_id);
    line_number(line, "consumer", consumer.consumer_id);
    line_bytes(line, "name", consumer.name);
    line_number(line, "session", consumer.session);
    line_number(line, "next_pull_sequence", consumer.next_pull_sequence);
    return true;
}

static bool
describe_ranges(struct line *line, const struct ql_record *record)
{
    struct ql_ranges_record ranges;
    if (ql_ranges_record_decode(record->bytes, &ranges) != Q_OK) return false;
    line_number(line, "group", ranges.group_id);
    line_begin_list(line, "ranges");
    for (uint32_t i = 0; i < ranges.item_count; i++) {
        struct ql_range_item item = ql_range_item_at(&ranges, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line,
                "%s{\"consumer\":%u,\"sequence\":%" PRIu64
                ",\"count\":%u,\"attempt\":%u,\"reason\":\"%s\"}",
                comma, item.consumer_id, item.sequence, item.count, ql_uses_attempt(item.uses),
                item.expiring ? "expiring" : reason_name(item.reason));
        else
            line_raw(
                line, "%s%u:%" PRIu64 "+%u", comma, item.consumer_id, item.sequence, item.count);
    }
    line_end_list(line);
    return true;
}

static bool
ql_describe_held(struct line *line, const struct ql_record *record)
{
    return describe_ranges(line, record);
}

static bool
ql_describe_pending(struct line *line, const struct ql_record *record)
{
    return describe_ranges(line, record);
}

static const char *
reason_name(uint8_t reason)
{
    static const char *const names[] = { "held", "retry", "released", "key", "filter", "dying" };
    return reason < sizeof(names) / sizeof(names[0]) ? names[reason] : "?";
}

static bool
ql_describe_timeout(struct line *line, const struct ql_record *record)
{
    struct ql_timeout_record timeout;
    if (ql_timeout_record_decode(record->bytes, &timeout) != Q_OK) return false;
    line_number(line, "group", timeout.group_id);
    line_number(line, "consumer", timeout.consumer_id);
    line_number(line, "now_ms", timeout.now_ms);
    return true;
}

static bool
ql_describe_seek(struct line *line, const struct ql_record *record)
{
    struct ql_seek_record seek;
    if (ql_seek_record_decode(record->bytes, &seek) != Q_OK) return false;
    line_number(line, "group", seek.group_id);
    line_number(line, "cursor", seek.cursor);
    return true;
}

static bool
ql_describe_settings(struct line *line, const struct ql_record *record)
{
    struct ql_settings_record settings;
    if (ql_settings_record_decode(record->bytes, &settings) != Q_OK) return false;
    line_number(line, "group", settings.group_id);
    describe_settings(line, settings.paused, &settings.settings);
    return true;
}

static bool
ql_describe_delete(struct line *line, const struct ql_record *record)
{
    struct ql_delete_record deleted;
    if (ql_delete_record_decode(record->bytes, &deleted) != Q_OK) return false;
    line_number(line, "group", deleted.group_id);
    return true;
}

static bool
ql_describe_unfilter(struct line *line, const struct ql_record *record)
{
    struct ql_unfilter_record unfilter;
    if (ql_unfilter_record_decode(record->bytes, &unfilter) != Q_OK) return false;
    line_number(line, "group", unfilter.group_id);
    line_number(line, "filter", unfilter.slot);
    return true;
}

static bool
ql_describe_resolve(struct line *line, const struct ql_record *record)
{
    static const char *const verdicts[] = {
        "?", "dead", "expired", "skipped", "resent", "expiring"
    };
    struct ql_resolve_record resolve;
    if (ql_resolve_record_decode(record->bytes, &resolve) != Q_OK) return false;
    line_number(line, "group", resolve.group_id);
    line_bytes(line, "verdict", q_bytes_from_text(verdicts[resolve.verdict]));
    line_begin_list(line, "sequences");
    for (uint32_t i = 0; i < resolve.item_count; i++) {
        struct ql_resolve_item item = ql_resolve_item_at(&resolve, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line, "%s{\"first\":%" PRIu64 ",\"last\":%" PRIu64 "}", comma, item.first,
                item.last);
        else
            line_raw(line, "%s%" PRIu64 "-%" PRIu64, comma, item.first, item.last);
    }
    line_end_list(line);
    return true;
}

static bool
ql_describe_error(struct line *line, const struct ql_record *record)
{
    struct ql_error_record error;
    if (ql_error_record_decode(record->bytes, &error) != Q_OK) return false;
    line_number(line, "group", error.group_id);
    line_number(line, "sequence", error.sequence);
    line_number(line, "count", error.count);
    line_number(line, "left", error.left);
    line_bytes(line, "text", error.text);
    return true;
}

static bool
ql_describe_cursor(struct line *line, const struct ql_record *record)
{
    struct ql_cursor_record cursor;
    if (ql_cursor_record_decode(record->bytes, &cursor) != Q_OK) return false;
    line_number(line, "group", cursor.group_id);
    line_number(line, "cursor", cursor.cursor);
    return true;
}

static bool
ql_describe_producer(struct line *line, const struct ql_record *record)
{
    struct ql_producer_record producer;
    if (ql_producer_record_decode(record->bytes, &producer) != Q_OK) return false;
    char id[2 * sizeof(producer.id) + 1];
    char time[32];
    for (size_t i = 0; i < sizeof(producer.id); i++)
        (void)snprintf(id + 2 * i, 3, "%02x", producer.id[i]);
    line_bytes(line, "producer", q_bytes_from_text(id));
    line_bytes(
        line, "seen", q_bytes_from_text(q_text_format_time(producer.seen_ms, time, sizeof(time))));
    line_begin_list(line, "requests");
    for (uint32_t i = 0; i < producer.result_count; i++) {
        struct ql_producer_result result = ql_producer_result_at(&producer, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line, "%s{\"request\":%" PRIu64 ",\"batches\":%u,\"position\":%" PRIu64 "}", comma,
                result.sequence, result.batch_count, result.frame);
        else
            line_raw(line, "%s%" PRIu64 "@%" PRIu64, comma, result.sequence, result.frame);
    }
    line_end_list(line);
    return true;
}

static bool
ql_describe_bytes(struct line *line, const struct ql_record *record)
{
    struct q_bytes bytes;
    if (ql_bytes_record_decode(record->bytes, &bytes) != Q_OK) return false;
    line_number(line, "size", bytes.size);
    line_bytes(line, "bytes", q_bytes_from(bytes.data, q_min_u64(bytes.size, 64)));
    return true;
}

static bool
ql_describe_replaces(struct line *line, const struct ql_record *record)
{
    struct ql_replaces_record replaces;
    if (ql_replaces_record_decode(record->bytes, &replaces) != Q_OK) return false;
    line_number(line, "sequence", replaces.sequence);
    return true;
}

static bool
ql_describe_delayed(struct line *line, const struct ql_record *record)
{
    struct ql_delayed_record delayed;
    if (ql_delayed_record_decode(record->bytes, &delayed) != Q_OK) return false;
    line_number(line, "next_sequence", delayed.next_sequence);
    line_number(line, "done_below", delayed.done_below);
    return true;
}

static bool
ql_describe_target(struct line *line, const struct ql_record *record)
{
    struct ql_target_record target;
    if (ql_target_record_decode(record->bytes, &target) != Q_OK) return false;
    line_number(line, "target", target.target_id);
    line_bytes(line, "broker_group", target.name);
    line_number(line, "next_request", target.next_request);
    return true;
}

static bool
ql_describe_dispatch(struct line *line, const struct ql_record *record)
{
    struct ql_dispatch_record dispatch;
    if (ql_dispatch_record_decode(record->bytes, &dispatch) != Q_OK) return false;
    line_number(line, "target", dispatch.target_id);
    line_number(line, "request", dispatch.request);
    line_begin_list(line, "messages");
    for (uint32_t i = 0; i < dispatch.item_count; i++) {
        struct ql_dispatch_item item = ql_dispatch_item_at(&dispatch, i);
        const char *comma = line->first ? "" : ",";
        line->first = false;
        if (line->json)
            line_raw(
                line, "%s{\"due_ms\":%" PRIu64 ",\"sequence\":%" PRIu64 ",\"count\":%u}", comma,
                item.due_ms, item.sequence, item.count);
        else
            line_raw(
                line, "%s%" PRIu64 ":%" PRIu64 "+%u", comma, item.due_ms, item.sequence,
                item.count);
    }
    line_end_list(line);
    return true;
}

static bool
ql_describe_dispatched(struct line *line, const struct ql_record *record)
{
    struct ql_dispatched_record dispatched;
    if (ql_dispatched_record_decode(record->bytes, &dispatched) != Q_OK) return false;
    line_number(line, "target", dispatched.target_id);
    line_number(line, "request", dispatched.request);
    line_bytes(line, "outcome", q_bytes_from_text(q_err_name((enum q_err)dispatched.code)));
    return true;
}

static bool
ql_describe_withdrawn(struct line *line, const struct ql_record *record)
{
    struct ql_withdrawn_record withdrawn;
    if (ql_withdrawn_record_decode(record->bytes, &withdrawn) != Q_OK) return false;
    line_number(line, "sequence", withdrawn.sequence);
    return true;
}

static bool
ql_describe_aside(struct line *line, const struct ql_record *record)
{
    struct ql_aside_record aside;
    if (ql_aside_record_decode(record->bytes, &aside) != Q_OK) return false;
    line_number(line, "sequence", aside.sequence);
    line_number(line, "target", aside.target_id);
    line_bytes(line, "error", q_bytes_from_text(q_err_name((enum q_err)aside.code)));
    return true;
}

static bool
ql_describe_done(struct line *line, const struct ql_record *record)
{
    struct ql_done_record done;
    if (ql_done_record_decode(record->bytes, &done) != Q_OK) return false;
    line_number(line, "first", done.first);
    line_number(line, "done", done.end - done.first);
    return true;
}

static bool
ql_describe_marks(struct line *line, const struct ql_record *record)
{
    struct ql_marks_record marks;
    if (ql_marks_record_decode(record->bytes, &marks) != Q_OK) return false;
    uint64_t count = 0;
    for (uint32_t i = 0; i < QL_MARKS_WORDS; i++)
        count += (uint64_t)__builtin_popcountll(q_load_le64(marks.bits + (size_t)i * 8));
    line_number(line, "first", marks.first);
    line_number(line, "done", count);
    return true;
}

static void
line_name(struct line *line, const char *name)
{
    if (line->json) {
        line_raw(line, "%s", line->first ? "" : ",");
        if (name != NULL) line_raw(line, "\"%s\":", name);
    } else if (name != NULL) {
        line_raw(line, " %s=", name);
    } else {
        line_raw(line, "%s", line->first ? "" : ",");
    }
    line->first = false;
}

static void
line_number(struct line *line, const char *name, uint64_t value)
{
    line_name(line, name);
    line_raw(line, "%" PRIu64, value);
}

/* Whether a character of UTF-8 with this length stands for itself, in both ways to print. */
static bool
line_shows(const uint8_t *at, size_t length)
{
    if (length == 1) return at[0] >= 0x20 && at[0] < 0x7f && at[0] != '"' && at[0] != '\\';
    /* Not U+0080 … U+009F: some terminals obey those. */
    return length > 1 && (at[0] != 0xc2 || at[1] >= 0xa0);
}

/*
 * What does not stand for itself. In JSON a byte that is not UTF-8 becomes half a surrogate pair,
 * U+DC80 … U+DCFF, which no text can hold: so the bytes can be had back. (Python reads and writes
 * them with "surrogateescape".)
 */
static void
line_escape(struct line *line, const uint8_t *at, size_t length)
{
    if (!line->json)
        for (size_t i = 0; i < length || i == 0; i++)
            line_raw(line, "\\x%02x", at[i]);
    else
        /* Of two bytes only U+0080 … U+009F come here: the second is their number. */
        line_raw(line, "\\u%04x", length == 0 ? 0xdc00u + at[0] : at[length - 1]);
}

static void
line_bytes(struct line *line, const char *name, struct q_bytes value)
{
    line_name(line, name);
    if (line->json) line_raw(line, "\"");
    for (size_t at = 0; at < value.size;) {
        size_t length = q_text_utf8_length(value.data + at, value.size - at);
        if (line_shows(value.data + at, length))
            line_raw(line, "%.*s", (int)length, (const char *)value.data + at);
        else
            line_escape(line, value.data + at, length);
        at += length == 0 ? 1 : length;
    }
    if (line->json) line_raw(line, "\"");
}

static void
line_begin_list(struct line *line, const char *name)
{
    line_name(line, name);
    line_raw(line, "[");
    line->first = true;
}

static void
line_end_list(struct line *line)
{
    line_raw(line, "]");
    line->first = false;
}

static void
line_raw(struct line *line, const char *format, ...)
{
    if (line->used >= line->size) return;
    va_list args;
    va_start(args, format);
    int size = vsnprintf(line->out + line->used, line->size - line->used, format, args);
    va_end(args);
    if (size > 0) line->used += (size_t)size;
}
