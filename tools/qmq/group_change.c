/*
 * group_change.c: `qmq group seek`, `skip`, `pause`, `resume`, `set` and `delete`.
 *
 * What can cost somebody messages, or make them come twice, is told first and done when it was
 * agreed to: --yes, or an answer at the terminal. What can be undone says how.
 */
#include <string.h>

#include <qbase/clock.h>
#include <qbase/text.h>

#include "groups.h"
#include "start.h"

/* A change to one group of one subject. */
struct change {
    const struct command *command;
    struct qmq_client *client;
    const char *group;
    const char *subject; /* as it stands on the command line, then the one that is meant */
    const char *meta;
    bool yes;
    bool preview;
    const char *where; /* of a seek, as written */
    bool skips_all;
    struct qmq_control control;

    /* Of the broker group that is looked at; texts live for one call. */
    const char *now_at;
    uint64_t cursor;
};

typedef int change_fn(struct change *change);

static bool begin(struct change *change, struct group_rows *rows, const char *group, int *ret_exit);
static int finish(struct change *change, struct group_rows *rows, change_fn *run);
static int run_seek(struct change *change);
static void look_cursor(void *context, const struct qmq_lag *lag);
static void tell_seek(void *context, const struct qmq_controlled *controlled);
static void told_seek(void *context, const struct qmq_controlled *controlled);
static bool read_range(struct change *change, const char *text);
static int run_skip(struct change *change);
static void skip_all(void *context, const struct qmq_lag *lag);
static void tell_skip(void *context, const struct qmq_controlled *controlled);
static int simple_run(
    const struct command *command, int argc, char **argv, enum qmq_control_kind kind);
static int run_simple(struct change *change);
static int run_delete(struct change *change);
static void tell_delete(void *context, const struct qmq_lag *lag);
static bool read_backoff(const char *text, struct qmq_group_settings *settings);
static int run_set(struct change *change);

#define SUBJECT_OPTION(variable)                                                                   \
    {                                                                                              \
        "subject", 's', Q_OPT_TEXT, &(variable), "SUBJECT",                                        \
            "of this subject; needed when the group is on several", 0, 0                           \
    }
#define BROKER_OPTION(variable)                                                                    \
    {                                                                                              \
        "broker-group", 0, Q_OPT_TEXT, &(variable), "NAME", "only there (on all)", 0, 0            \
    }
#define YES_OPTION(variable)                                                                       \
    {                                                                                              \
        "yes", 'y', Q_OPT_FLAG, &(variable), NULL, "don't ask", 0, 0                               \
    }
#define PREVIEW_OPTION(variable)                                                                   \
    {                                                                                              \
        "preview", 0, Q_OPT_FLAG, &(variable), NULL, "tell what would happen, and change nothing", \
            0, 0                                                                                   \
    }

/* False: `*ret_exit` is to be returned. */
static bool
begin(struct change *change, struct group_rows *rows, const char *group, int *ret_exit)
{
    *rows = (struct group_rows){ .count = 0 };
    change->group = group;
    change->client = connect_to(change->meta, ret_exit);
    if (!change->client) return false;
    change->subject = groups_subject(change->client, change->subject, group, rows, ret_exit);
    if (change->subject) return true;
    groups_free(rows);
    qmq_client_free(change->client);
    return false;
}

static int
finish(struct change *change, struct group_rows *rows, change_fn *run)
{
    int exit_code = run(change);
    groups_free(rows);
    qmq_client_free(change->client);
    return exit_code;
}

/* --- Seek. */

int
group_seek_run(const struct command *command, int argc, char **argv)
{
    struct change change = {
        .command = command,
        .meta = meta_default(),
        .control = { .kind = QMQ_CONTROL_SEEK },
    };
    const struct q_opt options[] = {
        { "to", 0, Q_OPT_TEXT, &change.where, START_PARAM, "where to go", 0, 0 },
        SUBJECT_OPTION(change.subject),
        BROKER_OPTION(change.control.broker_group),
        PREVIEW_OPTION(change.preview),
        YES_OPTION(change.yes),
        META_OPTION(change.meta),
    };
    struct q_opts_result result;
    struct group_rows rows;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!change.where) return usage_error(command, "--to is missing");
    if (start_parse(change.where, &change.control.start, &change.control.at) != Q_OK)
        return report_error("seek");
    if (!begin(&change, &rows, result.args[0], &exit_code)) return exit_code;
    if (change.control.start == QMQ_START_SEQUENCE && !change.control.broker_group &&
        rows.rows[0].broker_groups > 1)
        exit_code = usage_error(
            command,
            "\"%s\" is on %u broker groups, and each counts its own sequences: --broker-group",
            change.subject, rows.rows[0].broker_groups);
    if (exit_code == EXIT_OK) return finish(&change, &rows, run_seek);
    groups_free(&rows);
    qmq_client_free(change.client);
    return exit_code;
}

static int
run_seek(struct change *change)
{
    struct qmq_control preview = change->control;
    preview.preview = true;
    if (qmq_group_control(
            change->client, change->subject, change->group, &preview, tell_seek, change) != QMQ_OK)
        return report_error("look what a seek of group \"%s\" would do", change->group);
    int exit_code;
    if (change->preview) return EXIT_OK;
    if (!groups_confirm(change->command, change->yes, &exit_code)) return exit_code;
    if (qmq_group_control(
            change->client, change->subject, change->group, &change->control, told_seek, change) !=
        QMQ_OK)
        return report_error("seek group \"%s\"", change->group);
    return EXIT_OK;
}

/* The lag call inside tells where the group is now. */
static void
tell_seek(void *context, const struct qmq_controlled *controlled)
{
    struct change *change = context;
    unsigned long long to = controlled->cursor;
    change->now_at = controlled->broker_group;
    change->cursor = to;
    (void)qmq_group_lag(change->client, change->subject, change->group, look_cursor, change);
    unsigned long long from = change->cursor;
    (void)fprintf(
        stderr, "group %s on %s, broker group %s: from %llu to %llu: ", change->group,
        change->subject, controlled->broker_group, from, to);
    if (to < from)
        (void)fprintf(stderr, "%llu messages come again", from - to);
    else
        (void)fprintf(stderr, "%llu messages are left out", to - from);
    (void)fprintf(
        stderr, "; %llu are in consumers' hands, %s\n", (unsigned long long)controlled->affected,
        controlled->affected == 0 ? "none is taken back"
                                  : "whose acks will come too late: they come again if they lie "
                                    "behind it");
}

static void
look_cursor(void *context, const struct qmq_lag *lag)
{
    struct change *change = context;
    if (strcmp(lag->broker_group, change->now_at) == 0) change->cursor = lag->cursor;
}

static void
told_seek(void *context, const struct qmq_controlled *controlled)
{
    const struct change *change = context;
    (void)fprintf(
        stderr, "group %s on %s, broker group %s: at %llu, epoch %llu\n", change->group,
        change->subject, controlled->broker_group, (unsigned long long)controlled->cursor,
        (unsigned long long)controlled->epoch);
}

/* --- Skip. */

int
group_skip_run(const struct command *command, int argc, char **argv)
{
    struct change change = {
        .command = command,
        .meta = meta_default(),
        .control = { .kind = QMQ_CONTROL_SKIP },
    };
    const struct q_opt options[] = {
        SUBJECT_OPTION(change.subject), BROKER_OPTION(change.control.broker_group),
        PREVIEW_OPTION(change.preview), YES_OPTION(change.yes),
        META_OPTION(change.meta),
    };
    struct q_opts_result result;
    struct group_rows rows;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 2, 2, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!read_range(&change, result.args[1]))
        return usage_error(
            command, "'%s': a sequence, a range of them as 10-20, or all", result.args[1]);
    if (!begin(&change, &rows, result.args[0], &exit_code)) return exit_code;
    if (!change.skips_all && !change.control.broker_group && rows.rows[0].broker_groups > 1)
        exit_code = usage_error(
            command,
            "\"%s\" is on %u broker groups, and each counts its own sequences: --broker-group",
            change.subject, rows.rows[0].broker_groups);
    if (exit_code == EXIT_OK) return finish(&change, &rows, run_skip);
    groups_free(&rows);
    qmq_client_free(change.client);
    return exit_code;
}

/* "all", "12" or "12-20". */
static bool
read_range(struct change *change, const char *text)
{
    change->skips_all = strcmp(text, "all") == 0;
    if (change->skips_all) return true;
    const char *dash = strchr(text, '-');
    char first[24] = "";
    if (dash && (size_t)(dash - text) < sizeof(first)) memcpy(first, text, (size_t)(dash - text));
    const char *from = dash ? first : text;
    if (q_text_parse_u64(from, 0, UINT64_MAX - 1, &change->control.first) != Q_OK) return false;
    change->control.last = change->control.first;
    if (!dash) return true;
    return q_text_parse_u64(
               dash + 1, change->control.first, UINT64_MAX - 1, &change->control.last) == Q_OK;
}

static int
run_skip(struct change *change)
{
    /* First what would happen, then, agreed to, the same again. */
    for (int step = 0; step < 2; step++) {
        change->control.preview = step == 0;
        int code =
            change->skips_all
                ? qmq_group_lag(change->client, change->subject, change->group, skip_all, change)
                : qmq_group_control(
                      change->client, change->subject, change->group, &change->control, tell_skip,
                      change);
        if (code != QMQ_OK) return report_error("skip messages of group \"%s\"", change->group);
        int exit_code;
        if (change->preview) return EXIT_OK;
        if (step == 0 && !groups_confirm(change->command, change->yes, &exit_code))
            return exit_code;
    }
    return EXIT_OK;
}

/* All that is not done on one broker group now. */
static void
skip_all(void *context, const struct qmq_lag *lag)
{
    struct change *change = context;
    struct qmq_control control = change->control;
    if (control.broker_group && strcmp(control.broker_group, lag->broker_group) != 0) return;
    if (!lag->has_oldest || lag->end == 0) return;
    control.broker_group = lag->broker_group;
    control.first = lag->oldest;
    control.last = lag->end - 1;
    if (qmq_group_control(
            change->client, change->subject, change->group, &control, tell_skip, change) != QMQ_OK)
        (void)report_error("skip messages on broker group \"%s\"", lag->broker_group);
}

static void
tell_skip(void *context, const struct qmq_controlled *controlled)
{
    const struct change *change = context;
    (void)fprintf(
        stderr, "group %s on %s, broker group %s: %llu messages %s\n", change->group,
        change->subject, controlled->broker_group, (unsigned long long)controlled->affected,
        change->control.preview ? "would be done without being worked on" : "skipped");
}

/* --- Pause, resume, delete. */

int
group_pause_run(const struct command *command, int argc, char **argv)
{
    return simple_run(command, argc, argv, QMQ_CONTROL_PAUSE);
}

int
group_resume_run(const struct command *command, int argc, char **argv)
{
    return simple_run(command, argc, argv, QMQ_CONTROL_RESUME);
}

static int
simple_run(const struct command *command, int argc, char **argv, enum qmq_control_kind kind)
{
    struct change change = {
        .command = command,
        .meta = meta_default(),
        .control = { .kind = kind },
    };
    const struct q_opt options[] = {
        SUBJECT_OPTION(change.subject),
        BROKER_OPTION(change.control.broker_group),
        META_OPTION(change.meta),
    };
    struct q_opts_result result;
    struct group_rows rows;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!begin(&change, &rows, result.args[0], &exit_code)) return exit_code;
    return finish(&change, &rows, run_simple);
}

static int
run_simple(struct change *change)
{
    bool pauses = change->control.kind == QMQ_CONTROL_PAUSE;
    if (qmq_group_control(
            change->client, change->subject, change->group, &change->control, NULL, NULL) != QMQ_OK)
        return report_error("%s group \"%s\"", pauses ? "pause" : "resume", change->group);
    (void)fprintf(
        stderr, "group %s on %s %s\n", change->group, change->subject,
        pauses ? "is paused: nothing new is given out, acks go on" : "goes on");
    if (pauses) (void)fprintf(stderr, "  to undo: qmq group resume %s\n", change->group);
    return EXIT_OK;
}

int
group_delete_run(const struct command *command, int argc, char **argv)
{
    struct change change = {
        .command = command,
        .meta = meta_default(),
        .control = { .kind = QMQ_CONTROL_DELETE },
    };
    const struct q_opt options[] = {
        SUBJECT_OPTION(change.subject), BROKER_OPTION(change.control.broker_group),
        PREVIEW_OPTION(change.preview), YES_OPTION(change.yes),
        META_OPTION(change.meta),
    };
    struct q_opts_result result;
    struct group_rows rows;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    if (!begin(&change, &rows, result.args[0], &exit_code)) return exit_code;
    return finish(&change, &rows, run_delete);
}

static int
run_delete(struct change *change)
{
    if (qmq_group_lag(change->client, change->subject, change->group, tell_delete, change) !=
        QMQ_OK)
        return report_error("look at group \"%s\"", change->group);
    int exit_code;
    if (change->preview) return EXIT_OK;
    if (!groups_confirm(change->command, change->yes, &exit_code)) return exit_code;
    if (qmq_group_control(
            change->client, change->subject, change->group, &change->control, NULL, NULL) != QMQ_OK)
        return report_error("delete group \"%s\"", change->group);
    (void)fprintf(stderr, "group %s on %s is deleted\n", change->group, change->subject);
    return EXIT_OK;
}

static void
tell_delete(void *context, const struct qmq_lag *lag)
{
    const struct change *change = context;
    const char *only = change->control.broker_group;
    if (only && strcmp(only, lag->broker_group) != 0) return;
    (void)fprintf(
        stderr,
        "group %s on %s, broker group %s: its progress (%llu of %llu) is forgotten; %u consumers, "
        "%llu messages in flight\n",
        lag->group, lag->subject, lag->broker_group, (unsigned long long)lag->cursor,
        (unsigned long long)lag->end, lag->members, (unsigned long long)lag->in_flight);
}

/* --- Settings. */

struct set_texts {
    const char *order;
    const char *ack;
    const char *backoff;
    uint64_t attempts;
    uint64_t pending_max;
    uint64_t filter_keep_ns;
};

static void take_settings(void *context, const struct qmq_lag *lag);

int
group_set_run(const struct command *command, int argc, char **argv)
{
    struct change change = {
        .command = command,
        .meta = meta_default(),
        .control = { .kind = QMQ_CONTROL_SETTINGS },
    };
    struct set_texts texts = { .order = NULL };
    const struct q_opt options[] = {
        { "order", 0, Q_OPT_TEXT, &texts.order, "strict|best-effort",
          "whether later messages of an order key wait for one that failed (best-effort)", 0, 0 },
        { "ack", 0, Q_OPT_TEXT, &texts.ack, "written|flushed",
          "when an ack is answered; flushed survives power loss (written)", 0, 0 },
        { "attempts", 0, Q_OPT_NUMBER, &texts.attempts, "N", "then it is a dead letter (16)", 1,
          250 },
        { "backoff", 0, Q_OPT_TEXT, &texts.backoff, "D,D,…",
          "waits after the first, second, … failure (5s,10s,30s,1m,2m,5m,10m)", 0, 0 },
        { "pending-max", 0, Q_OPT_NUMBER, &texts.pending_max, "N",
          "messages out of turn above which nothing new is given (20000)", 1, UINT32_MAX },
        { "filter-keep", 0, Q_OPT_DURATION, &texts.filter_keep_ns, "D",
          "a filter is kept so long after its last consumer left (10m)", Q_NS_PER_MS,
          UINT32_MAX * (uint64_t)Q_NS_PER_MS },
        SUBJECT_OPTION(change.subject),
        META_OPTION(change.meta),
    };
    struct q_opts_result result;
    struct group_rows rows;
    int exit_code;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 1, 1, argc, argv, &result,
            &exit_code))
        return exit_code;
    bool is_strict = texts.order && strcmp(texts.order, "strict") == 0;
    bool is_flushed = texts.ack && strcmp(texts.ack, "flushed") == 0;
    if (texts.order && !is_strict && strcmp(texts.order, "best-effort") != 0)
        return usage_error(command, "--order '%s': strict or best-effort", texts.order);
    if (texts.ack && !is_flushed && strcmp(texts.ack, "written") != 0)
        return usage_error(command, "--ack '%s': written or flushed", texts.ack);
    if (!begin(&change, &rows, result.args[0], &exit_code)) return exit_code;

    /* What is not named stays as it is. */
    struct qmq_group_settings *settings = &change.control.settings;
    if (qmq_group_lag(change.client, change.subject, change.group, take_settings, settings) !=
        QMQ_OK)
        exit_code = report_error("look at group \"%s\"", change.group);
    if (texts.order) settings->strict = is_strict;
    if (texts.ack) settings->ack_sync = is_flushed;
    if (texts.attempts) settings->attempts_max = (uint32_t)texts.attempts;
    if (texts.pending_max) settings->pending_max = (uint32_t)texts.pending_max;
    if (texts.filter_keep_ns)
        settings->filter_keep_ms = (uint32_t)(texts.filter_keep_ns / Q_NS_PER_MS);
    if (exit_code == EXIT_OK && texts.backoff && !read_backoff(texts.backoff, settings))
        exit_code = usage_error(
            command, "--backoff '%s': up to %d durations as 5s,30s,5m", texts.backoff,
            QMQ_BACKOFF_MAX);
    if (exit_code == EXIT_OK) return finish(&change, &rows, run_set);
    groups_free(&rows);
    qmq_client_free(change.client);
    return exit_code;
}

static void
take_settings(void *context, const struct qmq_lag *lag)
{
    struct qmq_group_settings *settings = context;
    *settings = lag->settings;
}

static bool
read_backoff(const char *text, struct qmq_group_settings *settings)
{
    settings->backoff_count = 0;
    while (settings->backoff_count < QMQ_BACKOFF_MAX) {
        char word[24] = "";
        size_t length = strcspn(text, ",");
        uint64_t ns;
        if (length == 0 || length >= sizeof(word)) return false;
        memcpy(word, text, length);
        if (q_text_parse_duration(word, &ns) != Q_OK) return false;
        uint64_t ms = ns / Q_NS_PER_MS;
        if (ms > UINT32_MAX) return false;
        settings->backoff_ms[settings->backoff_count++] = (uint32_t)ms;
        if (text[length] == '\0') return true;
        text += length + 1;
    }
    return false;
}

static int
run_set(struct change *change)
{
    if (qmq_group_control(
            change->client, change->subject, change->group, &change->control, NULL, NULL) != QMQ_OK)
        return report_error("change the settings of group \"%s\"", change->group);
    (void)fprintf(
        stderr, "group %s on %s is changed; see: qmq group show %s\n", change->group,
        change->subject, change->group);
    return EXIT_OK;
}
