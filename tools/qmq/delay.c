/*
 * delay.c: `qmq delay …`: messages that are kept until they are due.
 *
 * A message is named by its handle, as `qmq pub --delay` and `qmq delay list` print it,
 * DUE-SEQUENCE@DELAY_GROUP, or by its id with --due.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/clock.h>
#include <qbase/text.h>
#include <qbatch/id.h>

#include "bench.h"
#include "interrupt.h"
#include "when.h"

enum {
    BUCKETS_MAX = 1000,
    BAR_WIDTH = 40,
    HANDLE_MAX = 192
};

/* What a subcommand needs of the command line. */
struct options {
    const char *meta;
    const char *format;
    const char *due; /* of the message that an id names */
    const char *from;
    const char *to;
    const char *at;
    const char *subject;
    uint64_t delay_ns;
    uint64_t limit;
    uint64_t width_ns;
    uint64_t count;
    bool is_refused; /* only what was */
    bool is_json;
};

struct printing {
    const struct options *options;
    uint64_t printed;
};

static bool parse(
    const struct command *command,
    struct options *options,
    const struct q_opt *table,
    size_t count,
    unsigned args,
    int argc,
    char **argv,
    struct q_opts_result *ret_result,
    int *ret_exit);
static bool parse_name(
    const struct command *command,
    const struct options *options,
    const char *text,
    struct qmq_delay_name *ret_name);
static bool print_message(void *context, const struct qmq_delayed *message);
static void print_lag(void *context, const struct qmq_delay_lag *lag);

static uint64_t
wall_ms(void)
{
    return q_clock_wall_ms(q_clock_system());
}

#define OUTPUT_OPTION                                                                              \
    {                                                                                              \
        "output", 'o', Q_OPT_TEXT, &options.format, "FORMAT", "text or json", 0, 0                 \
    }
#define DUE_OPTION                                                                                 \
    {                                                                                              \
        "due", 0, Q_OPT_TEXT, &options.due, "TIME",                                                \
            "the message is named by its id, and due then", 0, 0                                   \
    }
#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

static struct options
options_default(void)
{
    return (struct options){
        .meta = meta_default(),
        .format = "text",
        .limit = 100,
        .width_ns = 60 * (uint64_t)Q_NS_PER_S,
        .count = 60,
    };
}

int
delay_list_run(const struct command *command, int argc, char **argv)
{
    struct options options = options_default();
    const struct q_opt table[] = {
        { "from", 0, Q_OPT_TEXT, &options.from, "TIME", "due from then on", 0, 0 },
        { "to", 0, Q_OPT_TEXT, &options.to, "TIME", "due before then", 0, 0 },
        { "subject", 0, Q_OPT_TEXT, &options.subject, "SUBJECT", "of this subject only", 0, 0 },
        { "refused", 0, Q_OPT_FLAG, &options.is_refused, NULL,
          "only what a broker group refused for good", 0, 0 },
        { "limit", 'n', Q_OPT_NUMBER, &options.limit, "N", "not more than so many (100)", 1, 0 },
        OUTPUT_OPTION,
        META_OPTION(options.meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!parse(command, &options, table, COUNT_OF(table), 0, argc, argv, &result, &exit_code))
        return exit_code;
    uint64_t from_ms = 0;
    uint64_t to_ms = 0;
    if ((options.from && when_parse(options.from, wall_ms(), &from_ms) != Q_OK) ||
        (options.to && when_parse(options.to, wall_ms(), &to_ms) != Q_OK))
        return usage_error(command, "%s", q_fault_last()->what);
    struct qmq_client *client = connect_to(options.meta, &exit_code);
    if (!client) return exit_code;
    struct printing printing = { .options = &options };
    if (qmq_delay_list(client, from_ms, to_ms, print_message, &printing) != QMQ_OK)
        exit_code = report_error("list delayed messages");
    qmq_client_free(client);
    return exit_code;
}

int
delay_show_run(const struct command *command, int argc, char **argv)
{
    struct options options = options_default();
    const struct q_opt table[] = { DUE_OPTION, OUTPUT_OPTION, META_OPTION(options.meta) };
    struct q_opts_result result;
    int exit_code;
    struct qmq_delay_name name;
    if (!parse(command, &options, table, COUNT_OF(table), 1, argc, argv, &result, &exit_code))
        return exit_code;
    if (!parse_name(command, &options, result.args[0], &name)) return EXIT_USAGE;
    struct qmq_client *client = connect_to(options.meta, &exit_code);
    if (!client) return exit_code;
    struct printing printing = { .options = &options };
    if (qmq_delay_show(client, &name, print_message, &printing) != QMQ_OK)
        exit_code = report_error("show %s", result.args[0]);
    qmq_client_free(client);
    return exit_code;
}

int
delay_cancel_run(const struct command *command, int argc, char **argv)
{
    struct options options = options_default();
    const struct q_opt table[] = { DUE_OPTION, OUTPUT_OPTION, META_OPTION(options.meta) };
    struct q_opts_result result;
    int exit_code;
    struct qmq_delay_name name;
    if (!parse(command, &options, table, COUNT_OF(table), 1, argc, argv, &result, &exit_code))
        return exit_code;
    if (!parse_name(command, &options, result.args[0], &name)) return EXIT_USAGE;
    struct qmq_client *client = connect_to(options.meta, &exit_code);
    if (!client) return exit_code;
    if (qmq_delay_cancel(client, &name) != QMQ_OK)
        exit_code = report_error("cancel %s", result.args[0]);
    else if (options.is_json)
        (void)printf("{\"cancelled\":true}\n");
    else
        (void)fprintf(stderr, "cancelled\n");
    qmq_client_free(client);
    return exit_code;
}

int
delay_reschedule_run(const struct command *command, int argc, char **argv)
{
    struct options options = options_default();
    const struct q_opt table[] = {
        { "delay", 0, Q_OPT_DURATION, &options.delay_ns, "D", "due in so long from now", 0, 0 },
        { "at", 0, Q_OPT_TEXT, &options.at, "TIME", "due then", 0, 0 },
        DUE_OPTION,
        OUTPUT_OPTION,
        META_OPTION(options.meta),
    };
    struct q_opts_result result;
    int exit_code;
    struct qmq_delay_name name;
    if (!parse(command, &options, table, COUNT_OF(table), 1, argc, argv, &result, &exit_code))
        return exit_code;
    if (!parse_name(command, &options, result.args[0], &name)) return EXIT_USAGE;
    if ((options.delay_ns == 0) == (options.at == NULL))
        return usage_error(command, "either --delay or --at");
    uint64_t due_ms = wall_ms() + options.delay_ns / Q_NS_PER_MS;
    if (options.at && when_parse(options.at, wall_ms(), &due_ms) != Q_OK)
        return usage_error(command, "%s", q_fault_last()->what);
    struct qmq_client *client = connect_to(options.meta, &exit_code);
    if (!client) return exit_code;
    if (qmq_delay_reschedule(client, &name, due_ms, &name) != QMQ_OK) {
        exit_code = report_error("reschedule %s", result.args[0]);
    } else {
        const char *handle = q_text(
            "%llu-%llu@%s", (unsigned long long)name.due_ms, (unsigned long long)name.sequence,
            name.delay_group);
        if (options.is_json)
            (void)printf("{\"handle\":\"%s\"}\n", handle);
        else
            (void)printf("%s\n", handle);
    }
    qmq_client_free(client);
    return exit_code;
}

int
delay_histogram_run(const struct command *command, int argc, char **argv)
{
    struct options options = options_default();
    const struct q_opt table[] = {
        { "from", 0, Q_OPT_TEXT, &options.from, "TIME", "the first stretch begins then (now)", 0,
          0 },
        { "width", 0, Q_OPT_DURATION, &options.width_ns, "D", "of a stretch (1m)", Q_NS_PER_MS, 0 },
        { "count", 'n', Q_OPT_NUMBER, &options.count, "N", "stretches (60)", 1, BUCKETS_MAX },
        OUTPUT_OPTION,
        META_OPTION(options.meta),
    };
    struct q_opts_result result;
    int exit_code;
    if (!parse(command, &options, table, COUNT_OF(table), 0, argc, argv, &result, &exit_code))
        return exit_code;
    uint64_t from_ms = 0;
    if (options.from && when_parse(options.from, wall_ms(), &from_ms) != Q_OK)
        return usage_error(command, "%s", q_fault_last()->what);
    struct qmq_client *client = connect_to(options.meta, &exit_code);
    if (!client) return exit_code;
    uint64_t counts[BUCKETS_MAX];
    uint64_t before;
    uint64_t after;
    uint64_t width_ms = options.width_ns / Q_NS_PER_MS;
    uint32_t count = (uint32_t)options.count;
    if (qmq_delay_histogram(client, &from_ms, width_ms, counts, count, &before, &after) != QMQ_OK)
        exit_code = report_error("count delayed messages");
    qmq_client_free(client);
    if (exit_code != EXIT_OK) return exit_code;
    if (options.is_json) {
        (void)printf(
            "{\"from_ms\":%llu,\"width_ms\":%llu,\"before\":%llu,\"counts\":[",
            (unsigned long long)from_ms, (unsigned long long)width_ms, (unsigned long long)before);
        for (uint32_t i = 0; i < count; i++)
            (void)printf("%s%llu", i == 0 ? "" : ",", (unsigned long long)counts[i]);
        (void)printf("],\"after\":%llu}\n", (unsigned long long)after);
        return EXIT_OK;
    }
    uint64_t most = 1;
    for (uint32_t i = 0; i < count; i++)
        if (counts[i] > most) most = counts[i];
    (void)printf("%-26s %12llu\n", "before", (unsigned long long)before);
    for (uint32_t i = 0; i < count; i++) {
        char time[32];
        if (counts[i] == 0) continue;
        (void)printf(
            "%-26s %12llu  %.*s\n", q_text_format_time(from_ms + i * width_ms, time, sizeof(time)),
            (unsigned long long)counts[i], (int)(counts[i] * BAR_WIDTH / most),
            "########################################");
    }
    (void)printf("%-26s %12llu\n", "after", (unsigned long long)after);
    return EXIT_OK;
}

int
delay_lag_run(const struct command *command, int argc, char **argv)
{
    struct options options = options_default();
    const struct q_opt table[] = { OUTPUT_OPTION, META_OPTION(options.meta) };
    struct q_opts_result result;
    int exit_code;
    if (!parse(command, &options, table, COUNT_OF(table), 0, argc, argv, &result, &exit_code))
        return exit_code;
    struct qmq_client *client = connect_to(options.meta, &exit_code);
    if (!client) return exit_code;
    struct printing printing = { .options = &options };
    if (qmq_delay_lag(client, print_lag, &printing) != QMQ_OK)
        exit_code = report_error("ask delay groups");
    qmq_client_free(client);
    return exit_code;
}

static bool
parse(
    const struct command *command,
    struct options *options,
    const struct q_opt *table,
    size_t count,
    unsigned args,
    int argc,
    char **argv,
    struct q_opts_result *ret_result,
    int *ret_exit)
{
    if (!command_parse(command, table, count, args, args, argc, argv, ret_result, ret_exit))
        return false;
    *ret_exit = EXIT_USAGE;
    if (!bench_format(command, options->format, &options->is_json)) return false;
    *ret_exit = EXIT_OK;
    return true;
}

/* The texts of the name are the arguments'. */
static bool
parse_name(
    const struct command *command,
    const struct options *options,
    const char *text,
    struct qmq_delay_name *ret_name)
{
    *ret_name = (struct qmq_delay_name){ .by_id = options->due != NULL };
    if (options->due) {
        struct qbatch_id id;
        if (qbatch_id_parse(text, &id) != Q_OK) {
            (void)usage_error(command, "'%s' is no id", text);
            return false;
        }
        if (when_parse(options->due, wall_ms(), &ret_name->due_ms) != Q_OK) {
            (void)usage_error(command, "%s", q_fault_last()->what);
            return false;
        }
        ret_name->id = (struct qmq_id){ id.time_ms, id.producer, id.counter };
        return true;
    }
    char handle[HANDLE_MAX];
    const char *at = strchr(text, '@');
    size_t length = at ? (size_t)(at - text) : strlen(text);
    if (length < sizeof(handle)) {
        memcpy(handle, text, length);
        handle[length] = '\0';
        char *dash = strchr(handle, '-');
        if (dash) *dash = '\0';
        bool is_handle = dash &&
                         q_text_parse_u64(handle, 1, UINT64_MAX, &ret_name->due_ms) == Q_OK &&
                         q_text_parse_u64(dash + 1, 0, UINT64_MAX, &ret_name->sequence) == Q_OK;
        ret_name->delay_group = at ? at + 1 : NULL;
        if (is_handle && at && at[1] != '\0') return true;
        if (is_handle) {
            (void)usage_error(
                command, "'%s' is a handle without its @DELAY_GROUP, as publish and list print it",
                text);
            return false;
        }
    }
    (void)usage_error(
        command, "'%s' is no handle (DUE-SEQUENCE@DELAY_GROUP); an id needs --due TIME beside it",
        text);
    return false;
}

/* Texts from servers and users: quoted for JSON, and for people as they are. */
static bool
print_message(void *context, const struct qmq_delayed *message)
{
    struct printing *printing = context;
    const struct options *options = printing->options;
    if (options->subject && strcmp(options->subject, message->subject) != 0) return true;
    if (options->is_refused && message->refused == QMQ_OK) return true;
    char id[QMQ_ID_TEXT_SIZE];
    char due[32];
    q_text_format_time(message->due_ms, due, sizeof(due));
    if (options->is_json) {
        (void)printf(
            "{\"handle\":\"%llu-%llu@%s\",\"due_ms\":%llu,\"due\":\"%s\",\"subject\":",
            (unsigned long long)message->due_ms, (unsigned long long)message->sequence,
            message->delay_group, (unsigned long long)message->due_ms, due);
        q_text_write_json(stdout, q_bytes_from_text(message->subject));
        (void)printf(
            ",\"id\":\"%s\",\"size\":%u,\"stored_ms\":%llu,\"being_delivered\":%s,"
            "\"refused\":\"%s\"}\n",
            qmq_id_text(&message->id, id), message->size, (unsigned long long)message->stored_ms,
            message->being_delivered ? "true" : "false", message->refused_name);
    } else {
        (void)printf(
            "%s  %s  %u B  %s  %llu-%llu@%s", due, message->subject, message->size,
            qmq_id_text(&message->id, id), (unsigned long long)message->due_ms,
            (unsigned long long)message->sequence, message->delay_group);
        if (message->being_delivered)
            (void)printf("  being delivered to %s", message->broker_group);
        if (message->refused != QMQ_OK)
            (void)printf("  refused by %s: %s", message->broker_group, message->refused_name);
        (void)printf("\n");
    }
    return ++printing->printed < options->limit;
}

static void
print_lag(void *context, const struct qmq_delay_lag *lag)
{
    const struct printing *printing = context;
    char oldest[32] = "";
    if (lag->oldest_due_ms > 0) q_text_format_time(lag->oldest_due_ms, oldest, sizeof(oldest));
    if (printing->options->is_json)
        (void)printf(
            "{\"delay_group\":\"%s\",\"pending\":%llu,\"overdue\":%llu,\"oldest_due\":\"%s\","
            "\"open\":%llu,\"accepted\":%llu,\"delivered\":%llu,\"cancelled\":%llu,"
            "\"damaged\":%llu,\"refused\":%llu,\"maybe_twice\":%llu,\"late_max_ms\":%llu,\"clock_"
            "off_ms\":%lld,\"failing_groups\":%u}\n",
            lag->delay_group, (unsigned long long)lag->pending, (unsigned long long)lag->overdue,
            oldest, (unsigned long long)lag->open, (unsigned long long)lag->accepted,
            (unsigned long long)lag->delivered, (unsigned long long)lag->cancelled,
            (unsigned long long)lag->damaged, (unsigned long long)lag->refused,
            (unsigned long long)lag->maybe_twice, (unsigned long long)lag->late_max_ms,
            (long long)lag->clock_off_ms, lag->failing);
    else
        (void)printf(
            "%s\n  pending %llu, overdue %llu %s\n  open %llu, accepted %llu, delivered %llu, "
            "cancelled %llu, damaged %llu, refused %llu, maybe twice %llu\n  latest by %llu ms, "
            "clock off by %lld ms, broker groups failing: %u\n",
            lag->delay_group, (unsigned long long)lag->pending, (unsigned long long)lag->overdue,
            oldest, (unsigned long long)lag->open, (unsigned long long)lag->accepted,
            (unsigned long long)lag->delivered, (unsigned long long)lag->cancelled,
            (unsigned long long)lag->damaged, (unsigned long long)lag->refused,
            (unsigned long long)lag->maybe_twice, (unsigned long long)lag->late_max_ms,
            (long long)lag->clock_off_ms, lag->failing);
}
