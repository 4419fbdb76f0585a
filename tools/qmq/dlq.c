/*
 * dlq.c: `qmq dlq list` and `resend`.
 *
 * The dead letters of a group on a subject are a subject of their own, "%DEAD_RETRY%SUBJECT%GROUP".
 * A list reads it without a group. To send them again is to consume it in a group, "dlq-resend", whose
 * progress says which have been sent: so each goes once, however often the command is run. Where the
 * original is stored no more, the dead letter is published as a copy that only its group is given.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>
#include <qbase/text.h>

#include "groups.h"
#include "interrupt.h"
#include "json.h"
#include "table.h"

#define RESEND_GROUP "dlq-resend"

enum {
    SUBJECT_SIZE = 256,
    TEXT_SIZE = 300,
    TIME_SIZE = 32,
    BATCH = 512,
    WAIT_MS = 100,
    COLD_PAUSE_MS = 10, /* a broker reads an original back from its disk */
    COLD_MAX_MS = 30 * 1000,
    EXIT_SIGNAL_BASE = 128,
    TAGS_MAX = 10, /* of a message */
    KEYS_MAX = 8,
    PROPERTIES_MAX = 64,
};

/* What stands on a dead letter. */
struct letter {
    bool is_sound; /* it says where it came from */
    uint64_t sequence;
    uint64_t attempts; /* of which so many */
    uint64_t failed;
    uint64_t timed_out;
    uint64_t died;
    char reason[TEXT_SIZE];
    char error[TEXT_SIZE];
    char id[TEXT_SIZE]; /* of the message it is a copy of */
};

struct dlq {
    const char *group; /* NULL: all */
    struct qmq_client *client;
    bool is_json;
    uint64_t left;
    bool is_limited;
    struct table table;
    struct json json;

    bool again;
    uint64_t sent;
    uint64_t there;                /* the group had them, so they come anyhow */
    uint64_t gone;                 /* nobody says from where */
    uint64_t left_there;           /* their originals can't be read now */
    struct qmq_producer *producer; /* of copies; made with the first */
    uint64_t copied;
};

typedef int each_fn(struct dlq *dlq, const struct group_row *row, const char *dead_subject);

static int for_each_group(struct dlq *dlq, const char *subject, each_fn *each);
static int list_one(struct dlq *dlq, const struct group_row *row, const char *dead_subject);
static void print_letter(
    struct dlq *dlq, const struct group_row *row, const struct qmq_message *message);
static struct letter read_letter(const struct qmq_message *message);
static bool read_text(const struct qmq_message *message, const char *key, char out[TEXT_SIZE]);
static bool read_number(const struct qmq_message *message, const char *key, uint64_t *ret_number);
static int resend_one(struct dlq *dlq, const struct group_row *row, const char *dead_subject);
static int resend_all(struct dlq *dlq, const struct group_row *row, struct qmq_consumer *consumer);
static int resend_letter(
    struct dlq *dlq,
    const struct group_row *row,
    const struct qmq_message *message,
    bool *ret_done);
static int resend_original(
    struct dlq *dlq, const struct group_row *row, const struct qmq_control *control);
static int publish_copy(
    struct dlq *dlq, const struct group_row *row, const struct qmq_message *message);
static bool is_written(struct q_bytes key);
static void count_resent(void *context, const struct qmq_controlled *controlled);
static int say_resent(const struct dlq *dlq);

int
dlq_list_run(const struct command *command, int argc, char **argv)
{
    static const struct table_head heads[] = {
        { "WHEN", false },   { "GROUP", false }, { "SUBJECT", false },
        { "SEQ", true },     { "TRIES", true },  { "FAILED/TIMED OUT/DIED", false },
        { "REASON", false }, { "ERROR", false }, { "ID", false },
    };
    struct dlq dlq = {
        .table = { .heads = heads, .column_count = sizeof(heads) / sizeof(heads[0]) },
    };
    const char *meta = meta_default();
    const char *output = "text";
    const struct q_opt options[] = {
        { "group", 'g', Q_OPT_TEXT, &dlq.group, "GROUP", "only of this group (all)", 0, 0 },
        { "count", 'n', Q_OPT_NUMBER, &dlq.left, "N", "at most N", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &output, "text|json", "how to print it (text)", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!groups_format(command, output, &dlq.is_json)) return EXIT_USAGE;
    dlq.is_limited = dlq.left > 0;
    dlq.client = connect_to(meta, &exit_code);
    if (!dlq.client) return exit_code;
    if (dlq.is_json) {
        json_open(&dlq.json, NULL, '{');
        json_open(&dlq.json, "dead_letters", '[');
    }
    exit_code = for_each_group(&dlq, result.arg_count ? result.args[0] : NULL, list_one);
    if (dlq.is_json) {
        json_close(&dlq.json, ']');
        json_close(&dlq.json, '}');
        (void)putchar('\n');
    } else {
        table_print(&dlq.table);
    }
    qmq_client_free(dlq.client);
    return exit_code;
}

static int
for_each_group(struct dlq *dlq, const char *subject, each_fn *each)
{
    struct group_rows rows;
    int exit_code = EXIT_OK;
    if (groups_find(dlq->client, subject, dlq->group, &rows) != QMQ_OK) {
        exit_code = report_error("look for groups");
    } else if (rows.count == 0 && dlq->group) {
        (void)Q_FAIL(
            Q_NOT_FOUND, .what = q_text("no broker group knows a group \"%s\"", dlq->group),
            .hint = "qmq group list");
        exit_code = report_error("find group \"%s\"", dlq->group);
    }
    for (size_t index = 0; index < rows.count && exit_code == EXIT_OK; index++) {
        const struct group_row *row = &rows.rows[index];
        char dead_subject[SUBJECT_SIZE];
        /* What fails on dead letters stays there. */
        if (row->subject[0] == '%') continue;
        if (dlq->is_limited && dlq->left == 0) break;
        (void)snprintf(
            dead_subject, sizeof(dead_subject), "%%DEAD_RETRY%%%s%%%s", row->subject, row->group);
        exit_code = each(dlq, row, dead_subject);
    }
    groups_free(&rows);
    return exit_code;
}

static int
list_one(struct dlq *dlq, const struct group_row *row, const char *dead_subject)
{
    const struct qmq_reader_options options = { .subject = dead_subject };
    struct qmq_reader *reader;
    if (qmq_reader_new(dlq->client, &options, &reader) != QMQ_OK)
        return report_error("read \"%s\"", dead_subject);
    int code = QMQ_OK;
    while (code == QMQ_OK && (!dlq->is_limited || dlq->left > 0)) {
        struct qmq_batch *batch;
        code = qmq_read(reader, BATCH, &batch);
        if (code != QMQ_OK) break;
        for (size_t index = 0; index < qmq_batch_count(batch); index++) {
            if (dlq->is_limited && dlq->left == 0) break;
            dlq->left -= dlq->is_limited;
            print_letter(dlq, row, qmq_batch_message(batch, index));
        }
        qmq_batch_free(batch);
    }
    /* Unknown: nothing has died there. */
    bool is_all = code == QMQ_OK || code == QMQ_AGAIN || code == QMQ_NOT_FOUND;
    int exit_code = is_all ? EXIT_OK : report_error("read \"%s\"", dead_subject);
    qmq_reader_free(reader);
    return exit_code;
}

static void
print_letter(struct dlq *dlq, const struct group_row *row, const struct qmq_message *message)
{
    struct letter letter = read_letter(message);
    char time[TIME_SIZE];
    if (dlq->is_json) {
        json_open(&dlq->json, NULL, '{');
        json_text(&dlq->json, "group", q_bytes_from_text(row->group));
        json_text(&dlq->json, "subject", q_bytes_from_text(row->subject));
        json_text(
            &dlq->json, "broker_group",
            q_bytes_from_text(qmq_source_name(dlq->client, message->source)));
        json_number(&dlq->json, "sequence", letter.sequence);
        json_text(&dlq->json, "id", q_bytes_from_text(letter.id));
        json_number(&dlq->json, "attempts", letter.attempts);
        json_number(&dlq->json, "failed", letter.failed);
        json_number(&dlq->json, "timed_out", letter.timed_out);
        json_number(&dlq->json, "consumer_died", letter.died);
        json_text(&dlq->json, "reason", q_bytes_from_text(letter.reason));
        json_text(&dlq->json, "error", q_bytes_from_text(letter.error));
        json_time(&dlq->json, "died", message->stored_ms);
        json_number(&dlq->json, "dead_sequence", message->sequence);
        json_close(&dlq->json, '}');
        return;
    }
    table_cell(&dlq->table, "%s", q_text_format_time(message->stored_ms, time, sizeof(time)));
    table_cell(&dlq->table, "%s", row->group);
    table_cell(&dlq->table, "%s", row->subject);
    table_cell(&dlq->table, "%llu", (unsigned long long)letter.sequence);
    table_cell(&dlq->table, "%llu", (unsigned long long)letter.attempts);
    table_cell(
        &dlq->table, "%llu/%llu/%llu", (unsigned long long)letter.failed,
        (unsigned long long)letter.timed_out, (unsigned long long)letter.died);
    table_cell(&dlq->table, "%s", letter.reason);
    table_cell(&dlq->table, "%s", letter.error);
    table_cell(&dlq->table, "%s", letter.id);
}

static struct letter
read_letter(const struct qmq_message *message)
{
    struct letter letter = { .sequence = 0 };
    letter.is_sound = read_number(message, "dead-sequence", &letter.sequence);
    (void)read_number(message, "dead-attempts", &letter.attempts);
    (void)read_number(message, "dead-failed", &letter.failed);
    (void)read_number(message, "dead-timed-out", &letter.timed_out);
    (void)read_number(message, "dead-died", &letter.died);
    (void)read_text(message, "dead-reason", letter.reason);
    (void)read_text(message, "dead-error", letter.error);
    (void)read_text(message, "dead-id", letter.id);
    return letter;
}

static bool
read_text(const struct qmq_message *message, const char *key, char out[TEXT_SIZE])
{
    struct qmq_bytes value;
    out[0] = '\0';
    if (!qmq_message_property(message, key, &value)) return false;
    size_t size = q_min_u64(value.size, TEXT_SIZE - 1);
    memcpy(out, value.data, size);
    out[size] = '\0';
    /* Whoever wrote it, it is one line here. */
    for (char *at = out; *at; at++)
        if ((unsigned char)*at < ' ') *at = ' ';
    return true;
}

static bool
read_number(const struct qmq_message *message, const char *key, uint64_t *ret_number)
{
    char text[TEXT_SIZE];
    return read_text(message, key, text) &&
           q_text_parse_u64(text, 0, UINT64_MAX, ret_number) == Q_OK;
}

/* --- Send again. */

int
dlq_resend_run(const struct command *command, int argc, char **argv)
{
    struct dlq dlq = { .client = NULL };
    const char *meta = meta_default();
    const struct q_opt options[] = {
        { "group", 'g', Q_OPT_TEXT, &dlq.group, "GROUP", "the group that gets them again", 0, 0 },
        { "count", 'n', Q_OPT_NUMBER, &dlq.left, "N", "at most N, oldest first", 0, 0 },
        { "again", 0, Q_OPT_FLAG, &dlq.again, NULL, "also those that were sent again before", 0,
          0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!dlq.group) return usage_error(command, "-g is missing: whose dead letters?");
    dlq.is_limited = dlq.left > 0;
    interrupt_block();
    dlq.client = connect_to(meta, &exit_code);
    if (!dlq.client) return exit_code;
    interrupt_here();
    exit_code = for_each_group(&dlq, result.arg_count ? result.args[0] : NULL, resend_one);
    qmq_producer_free(dlq.producer);
    qmq_client_free(dlq.client);
    int said = say_resent(&dlq);
    return exit_code == EXIT_OK ? said : exit_code;
}

static int
resend_one(struct dlq *dlq, const struct group_row *row, const char *dead_subject)
{
    const struct qmq_reader_options reader_options = { .subject = dead_subject };
    struct qmq_reader *reader;
    struct qmq_batch *batch;
    if (qmq_reader_new(dlq->client, &reader_options, &reader) != QMQ_OK)
        return report_error("read \"%s\"", dead_subject);
    int code = qmq_read(reader, 1, &batch);
    if (code == QMQ_OK) qmq_batch_free(batch);
    qmq_reader_free(reader);
    /* To consume a subject would make it. */
    if (code == QMQ_NOT_FOUND || code == QMQ_AGAIN) return EXIT_OK;
    if (code != QMQ_OK) return report_error("read \"%s\"", dead_subject);

    if (dlq->again) {
        const struct qmq_control seek = { .kind = QMQ_CONTROL_SEEK, .start = QMQ_START_EARLIEST };
        code = qmq_group_control(dlq->client, dead_subject, RESEND_GROUP, &seek, NULL, NULL);
        if (code != QMQ_OK && code != QMQ_NOT_FOUND)
            return report_error("go back in \"%s\"", dead_subject);
    }
    const struct qmq_consumer_options options = {
        .subject = dead_subject,
        .group = RESEND_GROUP,
        .no_prefetch = true,
    };
    struct qmq_consumer *consumer;
    if (qmq_consumer_new(dlq->client, &options, &consumer) != QMQ_OK)
        return report_error("join group \"" RESEND_GROUP "\" on \"%s\"", dead_subject);
    int exit_code = resend_all(dlq, row, consumer);
    qmq_consumer_free(consumer);
    return exit_code;
}

static int
resend_all(struct dlq *dlq, const struct group_row *row, struct qmq_consumer *consumer)
{
    while (!dlq->is_limited || dlq->left > 0) {
        if (interrupt_signal()) return EXIT_SIGNAL_BASE + interrupt_signal();
        uint64_t most = dlq->is_limited ? q_min_u64(dlq->left, BATCH) : BATCH;
        struct qmq_batch *batch;
        int code = qmq_pull(consumer, (uint32_t)most, WAIT_MS, &batch);
        if (code == QMQ_AGAIN) return EXIT_OK;
        if (code != QMQ_OK) return report_error("take dead letters of \"%s\"", row->group);
        int exit_code = EXIT_OK;
        for (size_t index = 0; index < qmq_batch_count(batch) && exit_code == EXIT_OK; index++) {
            bool is_done;
            exit_code = resend_letter(dlq, row, qmq_batch_message(batch, index), &is_done);
            if (exit_code != EXIT_OK) break;
            if (!is_done) continue;
            dlq->left -= dlq->is_limited;
            code = qmq_ack(consumer, batch, index, 1);
            if (code != QMQ_OK && code != QMQ_EXPIRED)
                exit_code = report_error("acknowledge a dead letter of \"%s\"", row->group);
        }
        qmq_batch_free(batch);
        if (exit_code != EXIT_OK) return exit_code;
    }
    return EXIT_OK;
}

/* Not done: the letter stays with the resend group, and the next run takes it up again. */
static int
resend_letter(
    struct dlq *dlq, const struct group_row *row, const struct qmq_message *message, bool *ret_done)
{
    struct letter letter = read_letter(message);
    const struct qmq_control control = {
        .kind = QMQ_CONTROL_RESEND,
        .broker_group = qmq_source_name(dlq->client, message->source),
        .first = letter.sequence,
        .last = letter.sequence,
    };
    *ret_done = true;
    if (!letter.is_sound) {
        dlq->gone++;
        return EXIT_OK;
    }
    int code = resend_original(dlq, row, &control);
    if (code == QMQ_OK) return EXIT_OK;
    if (code == QMQ_GONE || code == QMQ_E_CORRUPT) return publish_copy(dlq, row, message);
    int exit_code = report_error(
        "send message %llu of \"%s\" again", (unsigned long long)letter.sequence, row->subject);
    if (code != QMQ_E_IO && code != QMQ_BUSY) return exit_code;
    *ret_done = false;
    dlq->left_there++;
    return EXIT_OK;
}

static int
resend_original(struct dlq *dlq, const struct group_row *row, const struct qmq_control *control)
{
    const struct timespec pause = { .tv_nsec = COLD_PAUSE_MS * Q_NS_PER_MS };
    int code = QMQ_BUSY;
    for (unsigned waited = 0; waited <= COLD_MAX_MS; waited += COLD_PAUSE_MS) {
        code = qmq_group_control(dlq->client, row->subject, row->group, control, count_resent, dlq);
        if (code != QMQ_BUSY || interrupt_signal()) break;
        (void)nanosleep(&pause, NULL);
    }
    return code;
}

/* What the message brought, without what was written onto its dead letter. */
static int
publish_copy(struct dlq *dlq, const struct group_row *row, const struct qmq_message *message)
{
    struct qmq_bytes tags[TAGS_MAX];
    struct qmq_bytes keys[KEYS_MAX];
    struct qmq_property properties[PROPERTIES_MAX];
    struct qmq_outgoing copy = {
        .body = message->body,
        .tags = tags,
        .properties = properties,
        .keys = keys,
        .only = { row->group, strlen(row->group) },
    };
    while (copy.tag_count < TAGS_MAX &&
           qmq_message_tag(message, copy.tag_count, &tags[copy.tag_count]))
        copy.tag_count++;
    struct qmq_property property;
    for (size_t index = 0; qmq_message_property_at(message, index, &property); index++) {
        struct q_bytes key = q_bytes_from(property.key.data, property.key.size);
        if (q_bytes_equal(key, q_bytes_from_text("%order-key")))
            copy.order_key = property.value;
        else if (q_bytes_equal(key, q_bytes_from_text("%key")) && copy.key_count < KEYS_MAX)
            keys[copy.key_count++] = property.value;
        else if (!is_written(key) && copy.property_count < PROPERTIES_MAX)
            properties[copy.property_count++] = property;
    }
    int code = QMQ_OK;
    if (!dlq->producer) code = qmq_producer_new(dlq->client, NULL, &dlq->producer);
    if (code == QMQ_OK) code = qmq_send_wait(dlq->producer, row->subject, &copy, NULL);
    if (code != QMQ_OK)
        return report_error(
            "publish a copy of dead letter %llu of \"%s\"", (unsigned long long)message->sequence,
            row->group);
    dlq->copied++;
    return EXIT_OK;
}

/* By the queue: its own names, and what tells of a death. */
static bool
is_written(struct q_bytes key)
{
    static const char *const names[] = {
        "dead-subject",  "dead-group",    "dead-id",     "dead-reason",    "dead-error",
        "dead-sequence", "dead-attempts", "dead-failed", "dead-timed-out", "dead-died",
    };
    if (key.size > 0 && *(const char *)key.data == '%') return true;
    for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
        if (q_bytes_equal(key, q_bytes_from_text(names[index]))) return true;
    return false;
}

static void
count_resent(void *context, const struct qmq_controlled *controlled)
{
    struct dlq *dlq = context;
    dlq->sent += controlled->affected;
    dlq->there += controlled->affected == 0;
}

static int
say_resent(const struct dlq *dlq)
{
    (void)fprintf(stderr, "sent again  %llu messages", (unsigned long long)dlq->sent + dlq->copied);
    if (dlq->copied)
        (void)fprintf(stderr, "; %llu of them as copies", (unsigned long long)dlq->copied);
    if (dlq->there)
        (void)fprintf(stderr, "; %llu the group still has", (unsigned long long)dlq->there);
    if (dlq->gone)
        (void)fprintf(
            stderr, "; %llu do not say where they are from", (unsigned long long)dlq->gone);
    if (dlq->left_there)
        (void)fprintf(
            stderr, "; %llu can't be read now: try again later",
            (unsigned long long)dlq->left_there);
    (void)fprintf(stderr, "\n");
    return dlq->gone + dlq->left_there ? EXIT_PARTLY : EXIT_OK;
}
