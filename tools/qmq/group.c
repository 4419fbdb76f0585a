/*
 * group.c: `qmq group list`, `lag` and `show`: look at groups. They change nothing.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/bytes.h>
#include <qbase/clock.h>

#include "groups.h"
#include "json.h"
#include "table.h"

enum {
    AGE_SIZE = 32
};

/* How many messages a consumer had been handed at the first of two looks. */
struct seen {
    char *broker_group;
    char *consumer;
    uint64_t handed_out;
};

struct look {
    struct qmq_client *client;
    bool is_json;
    bool with_settings;
    double interval_s; /* between two looks; 0: one is enough */
    struct seen *seen;
    size_t seen_count;
};

static void print_list(const struct group_rows *rows, bool is_json);
static const char *state_of(const struct group_row *row);
static int look_run(const struct command *command, int argc, char **argv, bool with_settings);
static int look_at(struct look *look, const char *subject, const char *group);
static void remember(void *context, const struct qmq_lag *lag);
static void forget(struct look *look);
static void print_lag(void *context, const struct qmq_lag *lag);
static void print_text(const struct look *look, const struct qmq_lag *lag);
static void print_held(const struct qmq_lag *lag);
static void print_settings(const struct qmq_group_settings *settings);
static void print_consumers(const struct look *look, const struct qmq_lag *lag);
static double rate_of(
    const struct look *look, const struct qmq_lag *lag, const struct qmq_lag_consumer *consumer);
static void print_json(const struct look *look, const struct qmq_lag *lag);
static void json_settings(struct json *json, const struct qmq_group_settings *settings);
static void json_consumers(struct json *json, const struct look *look, const struct qmq_lag *lag);

int
group_list_run(const struct command *command, int argc, char **argv)
{
    const char *meta = meta_default();
    const char *output = "text";
    const struct q_opt options[] = {
        { "output", 'o', Q_OPT_TEXT, &output, "text|json", "how to print it (text)", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    bool is_json;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!groups_format(command, output, &is_json)) return EXIT_USAGE;

    struct qmq_client *client = connect_to(meta, &exit_code);
    if (!client) return exit_code;
    struct group_rows rows;
    const char *subject = result.arg_count ? result.args[0] : NULL;
    exit_code = EXIT_OK;
    if (groups_find(client, subject, NULL, &rows) == QMQ_OK)
        print_list(&rows, is_json);
    else
        exit_code = report_error("list groups");
    groups_free(&rows);
    qmq_client_free(client);
    return exit_code;
}

static void
print_list(const struct group_rows *rows, bool is_json)
{
    static const struct table_head heads[] = {
        { "GROUP", false },  { "SUBJECT", false },  { "CONSUMERS", true }, { "WAITING", true },
        { "PENDING", true }, { "IN FLIGHT", true }, { "STATE", false },
    };
    struct table table = { .heads = heads, .column_count = sizeof(heads) / sizeof(heads[0]) };
    struct json json = { .comma = false };
    if (is_json) {
        json_open(&json, NULL, '{');
        json_open(&json, "groups", '[');
    }
    for (size_t index = 0; index < rows->count; index++) {
        const struct group_row *row = &rows->rows[index];
        if (is_json) {
            json_open(&json, NULL, '{');
            json_text(&json, "group", q_bytes_from_text(row->group));
            json_text(&json, "subject", q_bytes_from_text(row->subject));
            json_number(&json, "consumers", row->members);
            json_number(&json, "waiting", row->waiting);
            json_number(&json, "pending", row->pending);
            json_number(&json, "in_flight", row->in_flight);
            json_bool(&json, "broadcast", row->broadcast);
            json_bool(&json, "paused", row->paused);
            json_number(&json, "broker_groups", row->broker_groups);
            json_text(&json, "state", q_bytes_from_text(state_of(row)));
            json_close(&json, '}');
            continue;
        }
        table_cell(&table, "%s", row->group);
        table_cell(&table, "%s", row->subject);
        table_cell(&table, "%u", row->members);
        table_cell(&table, "%llu", (unsigned long long)row->waiting);
        table_cell(&table, "%llu", (unsigned long long)row->pending);
        table_cell(&table, "%llu", (unsigned long long)row->in_flight);
        table_cell(&table, "%s", state_of(row));
    }
    if (is_json) {
        json_close(&json, ']');
        json_close(&json, '}');
        (void)putchar('\n');
    } else {
        table_print(&table);
    }
}

static const char *
state_of(const struct group_row *row)
{
    if (row->paused) return "paused";
    if (row->members == 0) return "no consumer";
    return "ok";
}

/* --- One group. */

int
group_lag_run(const struct command *command, int argc, char **argv)
{
    return look_run(command, argc, argv, false);
}

int
group_show_run(const struct command *command, int argc, char **argv)
{
    return look_run(command, argc, argv, true);
}

static int
look_run(const struct command *command, int argc, char **argv, bool with_settings)
{
    const char *meta = meta_default();
    const char *output = "text";
    const char *subject = NULL;
    uint64_t interval_ns = Q_NS_PER_S;
    const struct q_opt options[] = {
        { "subject", 's', Q_OPT_TEXT, &subject, "SUBJECT", "only on this subject (all)", 0, 0 },
        { "interval", 0, Q_OPT_DURATION, &interval_ns, "D",
          "between the two looks that give rates; 0: one look, no rates (1s)", 0, 0 },
        { "output", 'o', Q_OPT_TEXT, &output, "text|json", "how to print it (text)", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code;
    struct look look = { .with_settings = with_settings };
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!groups_format(command, output, &look.is_json)) return EXIT_USAGE;
    look.interval_s = (double)interval_ns / (double)Q_NS_PER_S;

    look.client = connect_to(meta, &exit_code);
    if (!look.client) return exit_code;
    struct group_rows rows;
    const char *group = result.args[0];
    exit_code = EXIT_OK;
    if (groups_find(look.client, subject, group, &rows) != QMQ_OK) {
        exit_code = report_error("look for group \"%s\"", group);
    } else if (rows.count == 0) {
        (void)Q_FAIL(
            Q_NOT_FOUND, .what = q_text("no broker group knows a group \"%s\"", group),
            .hint = "qmq group list");
        exit_code = report_error("find group \"%s\"", group);
    }
    for (size_t index = 0; index < rows.count && exit_code == EXIT_OK; index++)
        exit_code = look_at(&look, rows.rows[index].subject, group);
    groups_free(&rows);
    qmq_client_free(look.client);
    return exit_code;
}

static int
look_at(struct look *look, const char *subject, const char *group)
{
    int code = QMQ_OK;
    if (look->interval_s > 0) {
        code = qmq_group_lag(look->client, subject, group, remember, look);
        const struct timespec interval = {
            .tv_sec = (time_t)look->interval_s,
            .tv_nsec = (long)((look->interval_s - (double)(time_t)look->interval_s) * 1e9),
        };
        /* Nobody has a rate where nobody is. */
        if (look->seen_count > 0) (void)nanosleep(&interval, NULL);
    }
    if (code == QMQ_OK) code = qmq_group_lag(look->client, subject, group, print_lag, look);
    forget(look);
    return code == QMQ_OK ? EXIT_OK
                          : report_error("look at group \"%s\" on \"%s\"", group, subject);
}

static void
remember(void *context, const struct qmq_lag *lag)
{
    struct look *look = context;
    size_t size = (look->seen_count + lag->consumer_count + 1) * sizeof(struct seen);
    struct seen *grown = realloc(look->seen, size);
    if (!grown) return;
    look->seen = grown;
    for (size_t index = 0; index < lag->consumer_count; index++)
        look->seen[look->seen_count++] = (struct seen){
            .broker_group = strdup(lag->broker_group),
            .consumer = strdup(lag->consumers[index].consumer),
            .handed_out = lag->consumers[index].handed_out,
        };
}

static void
forget(struct look *look)
{
    for (size_t index = 0; index < look->seen_count; index++) {
        free(look->seen[index].broker_group);
        free(look->seen[index].consumer);
    }
    free(look->seen);
    look->seen = NULL;
    look->seen_count = 0;
}

static void
print_lag(void *context, const struct qmq_lag *lag)
{
    const struct look *look = context;
    if (look->is_json)
        print_json(look, lag);
    else
        print_text(look, lag);
}

static void
print_text(const struct look *look, const struct qmq_lag *lag)
{
    char age[AGE_SIZE];
    (void)printf(
        "group %s on %s, broker group %s%s%s\n", lag->group, lag->subject, lag->broker_group,
        lag->broadcast ? ", broadcast" : "", lag->paused ? ", paused" : "");
    (void)printf(
        "  ready       %llu, of which %llu were never given out\n", (unsigned long long)lag->ready,
        (unsigned long long)lag->waiting);
    (void)printf("  in flight   %llu\n", (unsigned long long)lag->in_flight);
    (void)printf(
        "  pending     retry %llu, released %llu, key %llu, filter %llu, dying %llu\n",
        (unsigned long long)lag->pending_retry, (unsigned long long)lag->pending_released,
        (unsigned long long)lag->pending_key, (unsigned long long)lag->pending_filter,
        (unsigned long long)lag->pending_dying);
    (void)printf(
        "  so far      dead %llu, expired %llu, skipped %llu\n", (unsigned long long)lag->dead,
        (unsigned long long)lag->expired, (unsigned long long)lag->skipped);
    (void)printf(
        "  cursor      %llu of %llu, epoch %llu\n", (unsigned long long)lag->cursor,
        (unsigned long long)lag->end, (unsigned long long)lag->epoch);
    if (lag->has_oldest)
        (void)printf(
            "  oldest      %s, message %llu\n", table_age(lag->oldest_ms, age, sizeof(age)),
            (unsigned long long)lag->oldest);
    print_held(lag);
    if (look->with_settings) print_settings(&lag->settings);
    print_consumers(look, lag);
}

static void
print_held(const struct qmq_lag *lag)
{
    static const char *const whys[] = {
        [QMQ_HELD_PAUSED] = "it is paused",
        [QMQ_HELD_RETRY] = "too many messages wait to be tried again",
        [QMQ_HELD_RELEASED] = "too many messages of consumers that are gone wait for a pull",
        [QMQ_HELD_KEY] = "too many messages wait for one of their order key",
        [QMQ_HELD_FILTER] = "too many messages wait for a consumer that takes their tags",
        [QMQ_HELD_DYING] = "dead letters are to be written first",
        [QMQ_HELD_MEMORY] = "all groups together take as much memory as they may (--group-memory)",
    };
    if (lag->held == QMQ_HELD_NOT) return;
    (void)printf("  HELD        %s: %s", qmq_held_name(lag->held), whys[lag->held]);
    if (lag->held == QMQ_HELD_KEY)
        (void)printf(
            ": 0x%08x, held by message %llu", lag->held_key,
            (unsigned long long)lag->held_sequence);
    (void)printf("\n");
    const char *flags = lag->held == QMQ_HELD_PAUSED ? "resume" : "skip";
    if (lag->held == QMQ_HELD_PAUSED || lag->held == QMQ_HELD_KEY)
        (void)printf("              see: qmq group %s --help\n", flags);
}

static void
print_settings(const struct qmq_group_settings *settings)
{
    char age[AGE_SIZE];
    (void)printf(
        "  settings    order %s, ack %s, attempts %u, pending max %u, filter keep %s\n",
        settings->strict ? "strict" : "best-effort", settings->ack_sync ? "flushed" : "written",
        settings->attempts_max, settings->pending_max,
        table_age(settings->filter_keep_ms, age, sizeof(age)));
    (void)printf("  back-off    ");
    for (uint32_t index = 0; index < settings->backoff_count; index++)
        (void)printf(
            "%s%s", index ? ", " : "", table_age(settings->backoff_ms[index], age, sizeof(age)));
    (void)printf("\n");
}

static void
print_consumers(const struct look *look, const struct qmq_lag *lag)
{
    static const struct table_head heads[] = {
        { "  CONSUMER", false }, { "STATE", false },    { "IN FLIGHT", true },
        { "BYTES", true },       { "LAST SEEN", true }, { "RATE/S", true },
    };
    struct table table = { .heads = heads, .column_count = sizeof(heads) / sizeof(heads[0]) };
    for (size_t index = 0; index < lag->consumer_count; index++) {
        const struct qmq_lag_consumer *consumer = &lag->consumers[index];
        char age[AGE_SIZE];
        const char *state = !consumer->alive ? "gone" : consumer->waiting ? "waits" : "works";
        table_cell(&table, "  %s", consumer->consumer);
        table_cell(&table, "%s", state);
        table_cell(&table, "%llu", (unsigned long long)consumer->in_flight);
        table_cell(&table, "%llu", (unsigned long long)consumer->in_flight_bytes);
        table_cell(&table, "%s", table_age(consumer->last_seen_ms, age, sizeof(age)));
        if (look->interval_s > 0)
            table_cell(&table, "%.0f", rate_of(look, lag, consumer));
        else
            table_cell(&table, "-");
    }
    table_print(&table);
    if (lag->consumers_known > lag->consumer_count)
        (void)printf(
            "  and %llu more\n", (unsigned long long)lag->consumers_known - lag->consumer_count);
}

/* Messages handed out per second between the two looks. */
static double
rate_of(const struct look *look, const struct qmq_lag *lag, const struct qmq_lag_consumer *consumer)
{
    for (size_t index = 0; index < look->seen_count; index++) {
        const struct seen *seen = &look->seen[index];
        if (!seen->broker_group || strcmp(seen->broker_group, lag->broker_group) != 0) continue;
        if (!seen->consumer || strcmp(seen->consumer, consumer->consumer) != 0) continue;
        if (consumer->handed_out < seen->handed_out) return 0; /* the broker was started again */
        return (double)(consumer->handed_out - seen->handed_out) / look->interval_s;
    }
    return 0;
}

static void
print_json(const struct look *look, const struct qmq_lag *lag)
{
    struct json json = { .comma = false };
    json_open(&json, NULL, '{');
    json_text(&json, "group", q_bytes_from_text(lag->group));
    json_text(&json, "subject", q_bytes_from_text(lag->subject));
    json_text(&json, "broker_group", q_bytes_from_text(lag->broker_group));
    json_bool(&json, "broadcast", lag->broadcast);
    json_bool(&json, "paused", lag->paused);
    json_number(&json, "epoch", lag->epoch);
    json_number(&json, "cursor", lag->cursor);
    json_number(&json, "end", lag->end);
    json_number(&json, "ready", lag->ready);
    json_number(&json, "waiting", lag->waiting);
    json_number(&json, "in_flight", lag->in_flight);
    json_open(&json, "pending", '{');
    json_number(&json, "retry", lag->pending_retry);
    json_number(&json, "released", lag->pending_released);
    json_number(&json, "key", lag->pending_key);
    json_number(&json, "filter", lag->pending_filter);
    json_number(&json, "dying", lag->pending_dying);
    json_close(&json, '}');
    json_number(&json, "dead", lag->dead);
    json_number(&json, "expired", lag->expired);
    json_number(&json, "skipped", lag->skipped);
    if (lag->has_oldest) {
        json_number(&json, "oldest", lag->oldest);
        json_number(&json, "oldest_ms", lag->oldest_ms);
    }
    json_text(&json, "held", q_bytes_from_text(qmq_held_name(lag->held)));
    if (lag->held == QMQ_HELD_KEY) {
        json_number(&json, "held_key", lag->held_key);
        json_number(&json, "held_sequence", lag->held_sequence);
    }
    json_number(&json, "members", lag->members);
    json_number(&json, "filters", lag->filters);
    json_settings(&json, &lag->settings);
    json_consumers(&json, look, lag);
    json_close(&json, '}');
    (void)putchar('\n');
}

static void
json_settings(struct json *json, const struct qmq_group_settings *settings)
{
    json_open(json, "settings", '{');
    json_text(json, "order", q_bytes_from_text(settings->strict ? "strict" : "best-effort"));
    json_text(json, "ack", q_bytes_from_text(settings->ack_sync ? "flushed" : "written"));
    json_number(json, "attempts", settings->attempts_max);
    json_number(json, "pending_max", settings->pending_max);
    json_number(json, "filter_keep_ms", settings->filter_keep_ms);
    json_open(json, "backoff_ms", '[');
    for (uint32_t index = 0; index < settings->backoff_count; index++)
        json_number(json, NULL, settings->backoff_ms[index]);
    json_close(json, ']');
    json_close(json, '}');
}

static void
json_consumers(struct json *json, const struct look *look, const struct qmq_lag *lag)
{
    json_number(json, "consumers_known", lag->consumers_known);
    json_open(json, "consumers", '[');
    for (size_t index = 0; index < lag->consumer_count; index++) {
        const struct qmq_lag_consumer *consumer = &lag->consumers[index];
        json_open(json, NULL, '{');
        json_text(json, "consumer", q_bytes_from_text(consumer->consumer));
        json_bool(json, "alive", consumer->alive);
        json_bool(json, "waiting", consumer->waiting);
        json_number(json, "in_flight", consumer->in_flight);
        json_number(json, "in_flight_bytes", consumer->in_flight_bytes);
        json_number(json, "last_seen_ms", consumer->last_seen_ms);
        json_number(json, "handed_out", consumer->handed_out);
        json_number(json, "acked", consumer->acked);
        if (look->interval_s > 0) json_real(json, "rate_per_s", rate_of(look, lag, consumer));
        json_close(json, '}');
    }
    json_close(json, ']');
}
