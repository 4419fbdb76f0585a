/*
 * stat.c: `qlog stat`: how much of what a store's message log holds, and what it costs.
 *
 * What index files know is told from those, and costs their reading; sizes of messages, and how full
 * frames are, are in the log alone: --deep reads it.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qbase/clock.h>
#include <qbase/text.h>

#include "command.h"
#include "format/record.h"
#include "json.h"
#include "look/audit.h"
#include "names.h"

enum {
    TEXT_SIZE = 32,
    SIZE_CLASSES = 24, /* message sizes by powers of two: 0, 1, 2-3, 4-7, … */
};

struct subject_stat {
    uint64_t messages;
    uint64_t batches;
    uint64_t content; /* bytes of messages as they were sent */
    uint64_t payload; /* as they are stored */
    uint64_t envelope;
    uint64_t first_ms;
    uint64_t last_ms;
    uint32_t smallest;
    uint32_t largest;
    uint64_t classes[SIZE_CLASSES];
};

struct stat_report {
    struct names names;
    struct subject_stat *subjects; /* by id */
    uint32_t count;
    uint32_t capacity;
    struct subject_stat all;
    uint64_t frames;
    uint64_t frame_bytes; /* of the log */
    uint64_t frame_body;
    uint64_t last_frame; /* position + 1 */
    uint64_t damages;
    struct qlog_log_state state;
};

static enum tool_exit stat_deep(const struct command_line *line);
static enum q_err read_all(struct stat_report *stat, const char *directory);
static enum q_err add_record(struct stat_report *stat, const struct qlog_record *record);
static void add_batch(struct subject_stat *subject, const struct qbatch *batch);
static uint32_t class_quantile(const struct subject_stat *subject, double quantile);
static void print_text_deep(const struct stat_report *stat);
static void print_json_deep(const struct stat_report *stat);
static enum tool_exit stat_index(const struct command_line *line);
static void print_text(const struct ql_audit *audit, const struct ql_audit_source *source);
static void print_json(const struct ql_audit *audit, const struct ql_audit_source *source);

enum tool_exit
stat_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    bool deep = false;
    const struct q_opt options[] = {
        { "deep", 0, Q_OPT_FLAG, &deep, NULL, "read the log: sizes of messages, fill of frames", 0,
          0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 2, &format, argc, argv, &line, &code)) return code;
    return deep ? stat_deep(&line) : stat_index(&line);
}

/* --- By reading the log. */

static enum tool_exit
stat_deep(const struct command_line *line)
{
    struct stat_report stat = { 0 };
    enum tool_exit code;
    enum q_err err = read_all(&stat, line->directory);
    if (err != Q_OK) {
        code = report(err, line->json);
    } else {
        if (line->json)
            print_json_deep(&stat);
        else
            print_text_deep(&stat);
        code = stat.damages > 0 ? TOOL_EXIT_CORRUPT : TOOL_EXIT_OK;
    }
    free(stat.subjects);
    names_fini(&stat.names);
    return code;
}

static enum q_err
read_all(struct stat_report *stat, const char *directory)
{
    struct qlog_cursor *cursor;
    enum q_err err = qlog_cursor_open(directory, "message", (qlog_position){ 0 }, &cursor);
    if (err == Q_NOT_FOUND)
        return Q_FAIL(
            Q_NOT_FOUND, .path = directory, .what = "this is no store: it has no message log",
            .hint = "qlog info DIR tells what it is");
    if (err != Q_OK) return err;
    do {
        struct qlog_record record;
        struct qlog_damage damage;
        err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_OK) err = add_record(stat, &record);
        if (err != Q_E_CORRUPT && err != Q_E_VERSION) continue;
        stat->damages++;
        err = Q_OK;
    } while (err == Q_OK);
    qlog_cursor_state(cursor, &stat->state);
    qlog_cursor_close(cursor);
    return err == Q_END ? Q_OK : err;
}

static enum q_err
add_record(struct stat_report *stat, const struct qlog_record *record)
{
    if (stat->last_frame != record->frame.value + 1) {
        stat->last_frame = record->frame.value + 1;
        stat->frames++;
        stat->frame_bytes += record->frame_size;
        stat->frame_body += record->frame_body;
    }
    Q_TRY(names_learn(&stat->names, record));
    if (record->kind != QL_RECORD_BATCH) return Q_OK;
    struct qbatch batch;
    Q_TRY(qbatch_open(record->bytes, &batch));
    if (batch.subject_id >= stat->capacity) {
        uint64_t capacity = q_max_u64(64, stat->capacity);
        while (capacity <= batch.subject_id)
            capacity *= 2;
        struct subject_stat *subjects = realloc(stat->subjects, capacity * sizeof(*subjects));
        if (subjects == NULL) return Q_FAIL(Q_E_NOMEM, .what = "table of subjects");
        stat->subjects = subjects;
        stat->capacity = (uint32_t)capacity;
    }
    while (stat->count <= batch.subject_id)
        stat->subjects[stat->count++] = (struct subject_stat){ 0 };
    add_batch(&stat->subjects[batch.subject_id], &batch);
    add_batch(&stat->all, &batch);
    return Q_OK;
}

static void
add_batch(struct subject_stat *subject, const struct qbatch *batch)
{
    if (subject->messages == 0) {
        subject->first_ms = batch->store_time_ms;
        subject->smallest = UINT32_MAX;
    }
    subject->last_ms = batch->store_time_ms;
    subject->messages += batch->message_count;
    subject->batches++;
    subject->content += batch->content_length;
    subject->payload += batch->payload_length;
    subject->envelope += batch->envelope_length;
    for (uint32_t i = 0; i < batch->message_count; i++) {
        struct qbatch_entry entry;
        qbatch_entry_at(batch, i, &entry);
        if (entry.length < subject->smallest) subject->smallest = entry.length;
        if (entry.length > subject->largest) subject->largest = entry.length;
        unsigned class = entry.length == 0 ? 0 : 32 - (unsigned)__builtin_clz(entry.length);
        subject->classes[class < SIZE_CLASSES ? class : SIZE_CLASSES - 1]++;
    }
}

/* The largest size of the class that holds the quantile: right to a factor of two. */
static uint32_t
class_quantile(const struct subject_stat *subject, double quantile)
{
    uint64_t seen = 0;
    for (unsigned i = 0; i < SIZE_CLASSES; i++) {
        seen += subject->classes[i];
        if (subject->messages > 0 && (double)seen >= quantile * (double)subject->messages)
            return (uint32_t)q_min_u64(((uint64_t)1 << i) - 1, subject->largest);
    }
    return subject->largest;
}

static double
ratio(uint64_t a, uint64_t b)
{
    return b == 0 ? 0 : (double)a / (double)b;
}

static double
rate_of(const struct subject_stat *subject)
{
    return ratio(subject->messages * 1000, subject->last_ms - subject->first_ms);
}

static void
print_row(struct q_bytes name, const struct subject_stat *subject)
{
    char content[TEXT_SIZE];
    print_name(stdout, name);
    (void)printf(
        "%*s %12" PRIu64 " %10s %10.1f %8u %8.0f %8u %8u %7.1f %9.1f\n",
        name.size < 24 ? 24 - (int)name.size : 0, "", subject->messages,
        q_text_format_size(subject->content, content, sizeof(content)), rate_of(subject),
        subject->messages == 0 ? 0 : subject->smallest, ratio(subject->content, subject->messages),
        class_quantile(subject, 0.99), subject->largest, ratio(subject->messages, subject->batches),
        ratio(subject->payload, subject->content) * 100);
}

static void
print_text_deep(const struct stat_report *stat)
{
    char size[TEXT_SIZE];
    (void)printf(
        "%-24s %12s %10s %10s %8s %8s %8s %8s %7s %9s\n", "SUBJECT", "MESSAGES", "CONTENT",
        "PER SEC", "MIN", "MEAN", "P99<=", "MAX", "/BATCH", "STORED %");
    for (uint32_t i = 0; i < stat->count; i++)
        if (stat->subjects[i].messages > 0)
            print_row(
                names_of(&stat->names, (struct name_key){ NAME_SUBJECT, i, 0 }),
                &stat->subjects[i]);
    print_row(q_bytes_from_text("all"), &stat->all);
    (void)printf(
        "\nframes %" PRIu64 ", of %.0f bytes each, %.1f %% filled\n", stat->frames,
        ratio(stat->frame_bytes, stat->frames), ratio(stat->frame_body, stat->frame_bytes) * 100);
    (void)printf(
        "the log takes %s: %.1f bytes for each message, of which %.1f are its own, %.1f envelope, "
        "%.1f frames and padding\n",
        q_text_format_size(stat->frame_bytes, size, sizeof(size)),
        ratio(stat->frame_bytes, stat->all.messages), ratio(stat->all.payload, stat->all.messages),
        ratio(stat->all.envelope, stat->all.messages),
        ratio(stat->frame_bytes - stat->all.payload - stat->all.envelope, stat->all.messages));
    if (stat->damages > 0)
        (void)fprintf(
            stderr, "qlog: %" PRIu64 " damaged ranges: what they held is not counted\n",
            stat->damages);
    if (stat->state.live)
        (void)fprintf(stderr, "qlog: the directory is in use; read up to its durable mark\n");
}

static void
json_subject(struct json *json, const struct subject_stat *subject)
{
    json_number(json, "messages", subject->messages);
    json_number(json, "batches", subject->batches);
    json_number(json, "content_bytes", subject->content);
    json_number(json, "payload_bytes", subject->payload);
    json_number(json, "envelope_bytes", subject->envelope);
    json_real(json, "messages_per_second", rate_of(subject));
    json_number(json, "size_min", subject->messages == 0 ? 0 : subject->smallest);
    json_number(json, "size_p99_at_most", class_quantile(subject, 0.99));
    json_number(json, "size_max", subject->largest);
    json_open(json, "sizes", '[');
    for (unsigned i = 0; i < SIZE_CLASSES; i++) {
        if (subject->classes[i] == 0) continue;
        json_open(json, NULL, '{');
        json_number(json, "at_most", ((uint64_t)1 << i) - 1);
        json_number(json, "messages", subject->classes[i]);
        json_close(json, '}');
    }
    json_close(json, ']');
    if (subject->messages == 0) return;
    json_time(json, "first_stored", subject->first_ms);
    json_time(json, "last_stored", subject->last_ms);
}

static void
print_json_deep(const struct stat_report *stat)
{
    struct json json = { 0 };
    json_open(&json, NULL, '{');
    json_open(&json, "subjects", '[');
    for (uint32_t i = 0; i < stat->count; i++) {
        if (stat->subjects[i].messages == 0) continue;
        json_open(&json, NULL, '{');
        json_bytes(
            &json, "subject", names_of(&stat->names, (struct name_key){ NAME_SUBJECT, i, 0 }));
        json_subject(&json, &stat->subjects[i]);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_open(&json, "all", '{');
    json_subject(&json, &stat->all);
    json_close(&json, '}');
    json_number(&json, "frames", stat->frames);
    json_number(&json, "frame_bytes", stat->frame_bytes);
    json_number(&json, "frame_body_bytes", stat->frame_body);
    json_number(&json, "damages", stat->damages);
    json_bool(&json, "live", stat->state.live);
    json_close(&json, '}');
    (void)putchar('\n');
}

/* --- By index files. */

static enum tool_exit
stat_index(const struct command_line *line)
{
    struct ql_audit audit;
    struct ql_audit_source source;
    ql_audit_init(&audit);
    enum q_err err = ql_audit_read(&audit, line->directory, &source);
    if (err == Q_NOT_FOUND)
        err = Q_FAIL(
            Q_NOT_FOUND, .path = line->directory, .what = "this is no store: it has no message log",
            .hint = "qlog info DIR tells what it is");
    enum tool_exit code = TOOL_EXIT_OK;
    if (err != Q_OK) {
        code = report(err, line->json);
    } else {
        if (line->json)
            print_json(&audit, &source);
        else
            print_text(&audit, &source);
        if (source.unindexed > 0)
            (void)fprintf(
                stderr, "qlog: %u of %u segments have no good index file, and were read\n",
                source.unindexed, source.segments);
        if (source.damages > 0) code = TOOL_EXIT_CORRUPT;
    }
    ql_audit_fini(&audit);
    return code;
}

static struct q_bytes
audit_name(const struct ql_audit_subject *subject)
{
    if (subject->name_size > 0) return ql_audit_name(subject);
    return q_bytes_from_text(q_text("#%u", subject->id));
}

/* An index file tells times to the second. */
static uint64_t
second_of(uint64_t ms)
{
    return ms - ms % Q_MS_PER_S;
}

static double
audit_rate(const struct ql_audit_subject *subject)
{
    return ratio(
        subject->messages * Q_MS_PER_S, second_of(subject->last_ms) - second_of(subject->first_ms));
}

static struct ql_audit_subject
sum_of(const struct ql_audit *audit)
{
    struct ql_audit_subject all = { .first_ms = UINT64_MAX };
    for (uint32_t i = 0; i < audit->subject_count; i++) {
        const struct ql_audit_subject *subject = audit->subjects[i];
        if (subject == NULL || subject->messages == 0) continue;
        all.messages += subject->messages;
        all.batches += subject->batches;
        all.stored_bytes += subject->stored_bytes;
        all.envelope_bytes += subject->envelope_bytes;
        all.first_ms = q_min_u64(all.first_ms, subject->first_ms);
        all.last_ms = q_max_u64(all.last_ms, subject->last_ms);
    }
    if (all.messages == 0) all.first_ms = 0;
    return all;
}

static void
print_audit_row(struct q_bytes name, const struct ql_audit_subject *subject)
{
    char stored[TEXT_SIZE];
    print_name(stdout, name);
    (void)printf(
        "%*s %12" PRIu64 " %10" PRIu64 " %10s %10.1f %8.0f %7.1f\n",
        name.size < 24 ? 24 - (int)name.size : 0, "", subject->messages, subject->batches,
        q_text_format_size(subject->stored_bytes, stored, sizeof(stored)), audit_rate(subject),
        ratio(subject->stored_bytes, subject->messages),
        ratio(subject->messages, subject->batches));
}

static void
print_text(const struct ql_audit *audit, const struct ql_audit_source *source)
{
    char size[TEXT_SIZE];
    (void)printf(
        "%-24s %12s %10s %10s %10s %8s %7s\n", "SUBJECT", "MESSAGES", "BATCHES", "STORED",
        "PER SEC", "MEAN", "/BATCH");
    for (uint32_t i = 0; i < audit->subject_count; i++)
        if (audit->subjects[i] != NULL && audit->subjects[i]->messages > 0)
            print_audit_row(audit_name(audit->subjects[i]), audit->subjects[i]);
    struct ql_audit_subject all = sum_of(audit);
    print_audit_row(q_bytes_from_text("all"), &all);
    uint64_t own = all.stored_bytes + all.envelope_bytes;
    (void)printf(
        "\nthe log takes %s: %.1f bytes for each message, of which %.1f are its own, %.1f "
        "envelope, %.1f frames and padding\n",
        q_text_format_size(source->log_bytes, size, sizeof(size)),
        ratio(source->log_bytes, all.messages), ratio(all.stored_bytes, all.messages),
        ratio(all.envelope_bytes, all.messages),
        ratio(source->log_bytes > own ? source->log_bytes - own : 0, all.messages));
    if (source->damages > 0)
        (void)fprintf(
            stderr, "qlog: %" PRIu64 " damaged ranges: what they held is not counted\n",
            source->damages);
    if (audit->live)
        (void)fprintf(stderr, "qlog: the directory is in use; read up to its durable mark\n");
}

static void
json_audit_subject(struct json *json, const struct ql_audit_subject *subject)
{
    json_number(json, "messages", subject->messages);
    json_number(json, "batches", subject->batches);
    json_number(json, "stored_bytes", subject->stored_bytes);
    json_number(json, "envelope_bytes", subject->envelope_bytes);
    json_real(json, "messages_per_second", audit_rate(subject));
    if (subject->messages == 0) return;
    json_time(json, "first_stored", second_of(subject->first_ms));
    json_time(json, "last_stored", second_of(subject->last_ms));
}

static void
print_json(const struct ql_audit *audit, const struct ql_audit_source *source)
{
    struct json json = { 0 };
    json_open(&json, NULL, '{');
    json_open(&json, "subjects", '[');
    for (uint32_t i = 0; i < audit->subject_count; i++) {
        if (audit->subjects[i] == NULL || audit->subjects[i]->messages == 0) continue;
        json_open(&json, NULL, '{');
        json_bytes(&json, "subject", audit_name(audit->subjects[i]));
        json_audit_subject(&json, audit->subjects[i]);
        json_close(&json, '}');
    }
    json_close(&json, ']');
    struct ql_audit_subject all = sum_of(audit);
    json_open(&json, "all", '{');
    json_audit_subject(&json, &all);
    json_close(&json, '}');
    json_number(&json, "log_bytes", source->log_bytes);
    json_number(&json, "segments", source->segments);
    json_number(&json, "unindexed_segments", source->unindexed);
    json_number(&json, "damages", source->damages);
    json_bool(&json, "live", audit->live);
    json_close(&json, '}');
    (void)putchar('\n');
}
