/*
 * brokers.c: `qmq brokers`: who they are, and what became of one-way messages.
 */
#include "groups.h"
#include "json.h"
#include "table.h"

struct list {
    bool is_json;
    struct table table;
};

static void print_broker(void *context, const struct qmq_broker_info *info);
static void print_json(const struct qmq_broker_info *info);

static const struct table_head heads[] = {
    { "BROKER GROUP", false }, { "PROGRAM", false }, { "ROLES", false },
    { "ONE-WAY", true },       { "STORED", true },   { "BUSY", true },
    { "NO SPACE", true },      { "OTHER", true },    { "BAD CALLS", true },
};

int
brokers_run(const struct command *command, int argc, char **argv)
{
    const char *meta = meta_default();
    const char *format = "text";
    const struct q_opt options[] = {
        { "output", 'o', Q_OPT_TEXT, &format, "FORMAT", "text or json (text)", 0, 0 },
        META_OPTION(meta),
    };
    struct q_opts_result result;
    int exit_code = EXIT_OK;
    if (!command_parse(
            command, options, sizeof(options) / sizeof(options[0]), 0, 0, argc, argv, &result,
            &exit_code))
        return exit_code;
    struct list list = { .table = { .heads = heads,
                                    .column_count = sizeof(heads) / sizeof(heads[0]) } };
    if (!groups_format(command, format, &list.is_json)) return EXIT_USAGE;
    struct qmq_client *client = connect_to(meta, &exit_code);
    if (!client) return exit_code;

    if (qmq_brokers(client, print_broker, &list) != QMQ_OK) exit_code = report_error("ask brokers");
    table_print(&list.table);
    qmq_client_free(client);
    return exit_code;
}

static void
print_broker(void *context, const struct qmq_broker_info *info)
{
    struct list *list = context;
    if (list->is_json) {
        print_json(info);
        return;
    }
    const uint64_t numbers[] = { info->one_way_came, info->one_way_stored,  info->one_way_busy,
                                 info->one_way_full, info->one_way_refused, info->one_way_invalid };
    table_cell(&list->table, "%s", info->broker_group);
    table_cell(&list->table, "%s", info->program);
    table_cell(&list->table, "%s", info->roles);
    for (size_t index = 0; index < sizeof(numbers) / sizeof(numbers[0]); index++)
        table_cell(&list->table, "%llu", (unsigned long long)numbers[index]);
}

static void
print_json(const struct qmq_broker_info *info)
{
    struct json json = { .comma = false };
    json_open(&json, NULL, '{');
    json_text(&json, "broker_group", q_bytes_from_text(info->broker_group));
    json_text(&json, "program", q_bytes_from_text(info->program));
    json_text(&json, "node", q_bytes_from_text(info->node_id));
    json_text(&json, "roles", q_bytes_from_text(info->roles));
    json_number(&json, "cpu_us", info->cpu_us);
    json_open(&json, "one_way", '{');
    json_number(&json, "came", info->one_way_came);
    json_number(&json, "stored", info->one_way_stored);
    json_number(&json, "busy", info->one_way_busy);
    json_number(&json, "full", info->one_way_full);
    json_number(&json, "refused", info->one_way_refused);
    json_number(&json, "invalid_calls", info->one_way_invalid);
    json_close(&json, '}');
    json_close(&json, '}');
    (void)putchar('\n');
}
